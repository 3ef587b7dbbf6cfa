// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// A storm makes the events of a busy host: writes, most of them by a few processes to a few
// parameters, and short-lived processes that create a namespace.
type storm struct {
	n      int
	writes []*event.Event // templates from real runs
	users  []*event.Process
	at     time.Time
	run    string
	value  [3]string
	sys    event.Sysctl
	ns     event.Namespace
}

func newStorm(tb testing.TB) *storm {
	tb.Helper()
	s, err := stormOf("../../tracer/testdata")
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func stormOf(dir string) (*storm, error) {
	s := &storm{run: "5a17c0de5a17c0de5a17c0de5a17c0de", at: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	events, err := capturedIn(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Type == event.SysctlWrite && e.Outcome == event.Success && e.Bytes == nil { // most strings are UTF-8
			s.writes = append(s.writes, e)
		}
	}
	for i := range 64 {
		p := *s.writes[i%len(s.writes)].Process
		p.PID += uint32(i)
		p.TID = p.PID
		s.users = append(s.users, &p)
	}
	return s, nil
}

// next returns the next event. One in ten is about a namespace that a new process creates.
func (s *storm) next() *event.Event {
	n := s.n
	s.n++
	s.at = s.at.Add(9973 * time.Nanosecond)
	t := s.writes[n%len(s.writes)]
	e := *t
	e.RunID, e.Seq, e.Time = s.run, uint64(n+1), s.at
	if n%10 == 9 {
		p := *t.Process
		p.PID = uint32(n%4_000_000) + 300
		p.TID, p.StartTime = p.PID, s.at.Add(-3*time.Millisecond)
		e.Process, e.Sysctl, e.Type, e.Via = &p, nil, event.NamespaceCreate, "unshare"
		s.ns = event.Namespace{Type: "net", ID: 4026532000 + uint32(n%100_000), UID: fmt.Sprint(n), UserNS: 4026531837}
		e.Namespace = &s.ns
		return &e
	}
	e.Process = s.users[n%len(s.users)]
	s.value = [3]string{fmt.Sprint(n % 977), fmt.Sprint((n + 1) % 977), fmt.Sprint((n + 1) % 977)}
	s.sys = *t.Sysctl
	s.sys.Name = fmt.Sprintf("net.ipv4.neigh.eth%d.%s", n%200, "base_reachable_time_ms")
	s.sys.Path = fmt.Sprintf("/proc/sys/net/ipv4/neigh/eth%d/base_reachable_time_ms", n%200)
	s.sys.Old, s.sys.New, s.sys.After = &s.value[0], &s.value[1], &s.value[2]
	e.Sysctl = &s.sys
	return &e
}

// BenchmarkRecord measures a storm of b.N events, until they are on the disk.
func BenchmarkRecord(b *testing.B) {
	path := filepath.Join(b.TempDir(), "history.db")
	r := create(b, history.Options{Path: path})
	s := newStorm(b)
	began := cpuTime()
	b.ResetTimer()
	for range b.N {
		if err := r.Append(s.next()); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if l := r.TakeLoss(); l != nil {
		b.Errorf("lost: %v", l.Records)
	}
	size := int64(0)
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(path + suffix); err == nil {
			size += info.Size()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/event")
	b.ReportMetric(float64(size)/float64(b.N), "bytes/event")
}

// cpuTime returns the CPU time of this process. Unlike the elapsed time, it does not depend on the
// other work of the machine.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend measures Append alone, without writes to the database.
func BenchmarkAppend(b *testing.B) {
	r := create(b, history.Options{Batch: 1 << 30, Delay: time.Hour, Buffer: b.N + 1})
	s := newStorm(b)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := r.Append(s.next()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

var stored = flag.Int("stored", 1_000_000, "how many events the history of BenchmarkBlame and BenchmarkParameter has")

// largeHistory makes the database of the next two benchmarks, once. TestMain removes it.
var largeHistory = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nstrace-history-bench-")
	if err != nil {
		return "", err
	}
	askedDir = dir
	s, err := stormOf("../../tracer/testdata")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "history.db")
	r, err := history.Create(history.Options{Path: path, Buffer: *stored})
	if err != nil {
		return "", err
	}
	// The parameter to look up was written at regular intervals.
	for n := range *stored {
		e := s.next()
		if n%(*stored/1000+1) == 0 && e.Sysctl != nil {
			e.Sysctl.Name, e.Sysctl.Path = "net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"
		}
		if err := r.Append(e); err != nil {
			return "", err
		}
	}
	return path, r.Close()
})

var askedDir string

func openAsked(b *testing.B) *history.DB {
	b.Helper()
	path, err := largeHistory()
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	return open(b, path)
}

// BenchmarkBlame reads the last write to each parameter, as nstrace blame does.
func BenchmarkBlame(b *testing.B) {
	db := openAsked(b)
	n := 0
	for range b.N {
		for _, err := range db.LastWrites(context.Background(), nil) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/float64(b.N), "parameters")
}

// BenchmarkBoots counts the events of each boot.
func BenchmarkBoots(b *testing.B) {
	db := openAsked(b)
	for range b.N {
		if boots, err := db.Boots(); err != nil || len(boots) != 1 || boots[0].Events != uint64(*stored) {
			b.Fatal(boots, err)
		}
	}
}

// BenchmarkParameter reads all writes to one parameter, as nstrace history sysctl does.
func BenchmarkParameter(b *testing.B) {
	db := openAsked(b)
	n := 0
	for range b.N {
		for _, err := range db.Events(context.Background(), history.Query{Parameter: "net.ipv4.ip_forward"}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/float64(b.N), "events")
}

// BenchmarkBurst measures the memory of a million events that wait.
func BenchmarkBurst(b *testing.B) {
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r := create(b, history.Options{Batch: 1 << 30, Delay: time.Hour})
		s := newStorm(b)
		for range history.DefaultBuffer {
			if err := r.Append(s.next()); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/history.DefaultBuffer, "bytes/event")
		if l := r.TakeLoss(); l != nil {
			b.Errorf("lost: %v", l.Records)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
