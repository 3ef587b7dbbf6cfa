// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/output"
)

// BenchmarkFile writes events to a file as fast as the sink takes them.
func BenchmarkFile(b *testing.B) {
	to, err := OpenFile(filepath.Join(b.TempDir(), "events"), output.Rotation{})
	if err != nil {
		b.Fatal(err)
	}
	s := New(Options{Name: "file", Destination: to, Report: func(s string) { b.Log(s) }})
	set := NewSet(s)
	var sysctl *event.Event
	for _, e := range eventtest.Sample() {
		if e.Type == event.SysctlWrite && e.Process != nil {
			sysctl = e
			break
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		sysctl.Seq++
		set.Write(sysctl)
		if sysctl.Seq%1024 == 0 {
			set.Flush()
			for full := true; full; runtime.Gosched() {
				s.mu.Lock()
				full = len(s.queue) > maxEvents/2
				s.mu.Unlock()
			}
		}
	}
	if err := set.Close(); err != nil {
		b.Error(err)
	}
}
