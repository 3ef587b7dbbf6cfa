// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// TestInitial asks for the value before the first write to a parameter of the host in a boot, among many writes in
// namespaces of users, which it does not read.
func TestInitial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	host := &event.Namespace{Type: event.NSTypeNet, ID: 1, UID: "1", Host: true}
	const name, user = "net.ipv4.ip_forward", 4242
	var seq uint64
	for i, boot := range []string{"b1", "b2", "b3"} {
		r := create(t, history.Options{Path: path, BootID: boot})
		write := func(ns *event.Namespace, pid uint32, old, value string) {
			seq++
			if err := r.Append(&event.Event{
				V: event.SchemaVersion, Time: time.Now(), Seq: seq, BootID: boot, Type: event.SysctlWrite, Outcome: event.Success, Via: event.ViaWrite, Process: &event.Process{PID: pid, Comm: "x"},
				Sysctl: &event.Sysctl{Name: name, Path: event.SysctlPath(name), Old: &old, New: &value, After: &value, Namespace: ns},
			}); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 300 {
			write(&event.Namespace{Type: event.NSTypeNet, ID: uint32(10 + n%7), UID: fmt.Sprint(10 + n%7)}, user, "7", fmt.Sprint(n))
		}
		if boot != "b3" {
			write(host, 1, fmt.Sprint("old", i), "x")
			write(host, 1, "x", "y")
		}
		if err := errors.Join(r.Sync(), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	text := export(t, path)
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Now the events of the user cannot be read.
	if err := sqlitex.Execute(conn, "DELETE FROM process WHERE pid = ?", &sqlitex.ExecOptions{Args: []any{user}}); err != nil {
		t.Fatal(err)
	}
	check := func(path string, wants map[string]string) {
		t.Helper()
		db := open(t, path)
		for boot, want := range wants {
			got := "unknown"
			if v, err := db.Initial(t.Context(), name, boot); err != nil {
				t.Error(err)
			} else if v != nil {
				got = *v
			}
			if got != want {
				t.Errorf("in %s: %s, want %s", boot, got, want)
			}
		}
		if n, err := db.LeftOut(); n > 0 {
			t.Errorf("it reads %d events in other namespaces: %v", n, err)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := db.Initial(ended, name, "b3"); !errors.Is(err, context.Canceled) {
			t.Errorf("without time: %v", err)
		}
	}
	wants := map[string]string{"b1": "old0", "b2": "old1", "b3": "unknown", "b4": "unknown"}
	check(path, wants)
	imported := filepath.Join(t.TempDir(), "history.db")
	if _, err := history.Import(t.Context(), imported, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	check(imported, wants)
	// Retention dropped the beginning of b1 and b2.
	if err := sqlitex.Execute(conn, `INSERT INTO anchor SELECT 1, 0, zeroblob(32), max(started) - 1, 1, 'age', 0, zeroblob(32) FROM run`, nil); err != nil {
		t.Fatal(err)
	}
	check(path, map[string]string{"b1": "unknown", "b2": "unknown", "b3": "unknown"})
}
