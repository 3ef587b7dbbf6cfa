// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// A mistake is one line that says what is taken, and exit status 2; what is wrong with the
// database is 1.
func TestHistoryMistakes(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	r, err := history.Create(history.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing.db")
	for _, tt := range []struct {
		args  string
		usage bool
		want  string
	}{
		{"history --since soon --db " + db, true, "--since: \"soon\" is no time; it takes one such as"},
		{"history --until 25:00 --db " + db, true, "--until:"},
		{"history --since now --until yesterday --db " + db, true, "before --since"},
		{"history --grep ( --db " + db, true, "--grep:"},
		{"history --follow --reverse --db " + db, true, "--follow"},
		{"history --event sysctl.wrote --db " + db, true, "did you mean \"sysctl.write\""},
		{"history sysct net --db " + db, true, "did you mean \"sysctl\""},
		{"history sysctl --db " + db, true, "takes a parameter's name"},
		{"history ns --db " + db, true, "takes a namespace's number"},
		{"history import --db " + db, true, "takes a file"},
		{"history --db " + missing, false, "nstrace record makes it"},
		{"history import " + missing + " --db " + db, false, "no such file"},
		{"blame [ --db " + db, true, "glob"},
		{"blame --output xml --db " + db, true, "--output"},
		{"blame --netns web --all-netns --db " + db, true, "exclude each other"},
		{"blame --db " + missing, false, "nstrace record makes it"},
		{"record --keep forever --db " + db, true, "--keep: \"forever\" is no time; it takes one such as 90d"},
		{"record --keep-size 1KiB --db " + db, true, "--keep-size"},
		{"record x --db " + db, true, "takes no arguments"},
	} {
		root := newRoot()
		root.SetArgs(strings.Fields(tt.args))
		err := root.Execute()
		var usage usageError
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &usage) != tt.usage {
			t.Errorf("%s: %v (a mistake: %v), want %q", tt.args, err, errors.As(err, &usage), tt.want)
		}
	}
}

func TestAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "12h": 12 * time.Hour, "0": 0, "0d": 0, "1h30m": 90 * time.Minute} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "1y", "99999999d", "1.5d"} {
		if got, err := parseAge(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

// What the history could not take is told in the stream, with a number of its own, and the
// numbers of the rest move.
func TestUnkeptIsTold(t *testing.T) {
	db := filepath.Join(t.TempDir(), "history.db")
	var r *history.Recorder
	for range 2 { // there was a run before
		var err error
		if r != nil {
			err = r.Close()
		}
		if err == nil {
			r, err = history.Create(history.Options{Path: db, Buffer: 2, Delay: time.Hour})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out := &numbered{}
	h := &sinkHandler{sink: out, history: r}
	seq := uint64(0)
	give := func(typ event.Type) {
		seq++
		if err := h.Event(&event.Event{V: 1, Seq: seq, Type: typ, Time: time.Unix(int64(seq), 0), Host: "here", Trace: &event.Trace{Totals: &event.Totals{}}}); err != nil {
			t.Fatal(err)
		}
	}
	give(event.TraceStart) // and the gap: the buffer is full
	for range 3 {
		give(event.SysctlWrite)
	}
	if err := r.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := h.Idle(); err != nil {
		t.Fatal(err)
	}
	give(event.TraceStop)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	want := []event.Type{event.TraceStart, event.TraceGap, event.SysctlWrite, event.SysctlWrite, event.SysctlWrite, event.TraceLoss, event.TraceStop}
	if len(out.types) != len(want) {
		t.Fatalf("%v", out.types)
	}
	for i := range want {
		if out.types[i] != want[i] || out.seqs[i] != uint64(i+1) {
			t.Errorf("line %d: %s with the number %d, want %s", i+1, out.types[i], out.seqs[i], want[i])
		}
	}
	if out.lost != 3 {
		t.Errorf("%d are told as lost", out.lost)
	}
}

// numbered is a sink that keeps types and numbers.
type numbered struct {
	types []event.Type
	seqs  []uint64
	lost  uint64
}

func (n *numbered) Write(e *event.Event) error {
	n.types, n.seqs = append(n.types, e.Type), append(n.seqs, e.Seq)
	if e.Loss != nil {
		n.lost += e.Loss.Records[event.SysctlWrite]
	}
	return nil
}
func (n *numbered) Flush() error { return nil }
func (n *numbered) Close() error { return nil }
