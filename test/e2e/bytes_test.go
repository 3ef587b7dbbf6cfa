// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestBytes runs two programs whose names differ only in a byte that is not UTF-8. The stream tells them apart,
// and so do a filter, the history, and the history's export.
func TestBytes(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(unshare)
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t, 0o755)
	names := map[string]string{"n\xe9": `n\xe9`, "n\xea": `n\xea`}
	db := filepath.Join(t.TempDir(), "history.db")
	const one = `bytes["process.comm"] == "n\\xe9"`
	all := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	some := startStream(t, "--filter", one, "--runtime-socket", "none")
	all.awaitStart(t)
	some.awaitStart(t)
	all.awaitSnapshot(t, db) // else it can say that it had no time for one
	for name := range names {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		output(t, path, "-u", "true")
	}
	for _, s := range []*stream{all, some} {
		s.interrupt(t)
		s.checkEnd(t, true)
	}
	got := map[string]int{}
	count := func(e *event.Event) {
		if e.Type != event.NamespaceCreate || len(e.Bytes) == 0 {
			return
		}
		name := e.Bytes["process.comm"]
		if e.Process.Comm != "n\ufffd" || e.Bytes["process.exe"] != filepath.Join(dir, name) || e.Bytes["process.args.0"] != filepath.Join(dir, name) {
			t.Errorf("got %q in %q", e.Process.Comm, e.Bytes)
		}
		got[name]++
	}
	for _, e := range all.since(0) {
		count(&e.Event)
	}
	for _, name := range names {
		if got[name] != 1 {
			t.Errorf("%d events of %s, want 1", got[name], name)
		}
	}
	for _, events := range [][]*emitted{some.since(0), pastEvents(t, db, "--filter", one)} {
		clear(got)
		for _, e := range events {
			count(&e.Event)
		}
		if len(got) != 1 || got[`n\xe9`] != 1 {
			t.Errorf("%s finds %v", one, got)
		}
	}
	clear(got)
	for _, e := range pastEvents(t, db, "--comm", "n\xea") {
		count(&e.Event)
	}
	if len(got) != 1 || got[`n\xea`] != 1 {
		t.Errorf("history --comm finds %v", got)
	}
}
