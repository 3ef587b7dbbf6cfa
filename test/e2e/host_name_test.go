// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// TestRenamedHost gives the host another name while nstrace runs. Each event has the name of its time, with
// and without an event that shows the change. To the history it is one boot, with one copy of each parameter.
func TestRenamedHost(t *testing.T) {
	if os.Getenv("NSTRACE_BIN") == "" {
		t.Skip("not in a guest, and the host needs its name")
	}
	before, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	rename := func(to string) {
		if err := unix.Sethostname([]byte(to)); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { rename(before) })
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			rename("host-0")
			db := filepath.Join(t.TempDir(), "history.db")
			rec := startStream(t, "record", "--db", db, "--backend", string(b), "--runtime-socket", "none")
			rec.awaitStart(t)
			enters := startStream(t, "-e", "namespace", "--backend", string(b), "--runtime-socket", "none")
			enters.awaitStart(t)
			at := rec.len()
			made := func(n int) func([]*emitted) bool {
				return func(all []*emitted) bool {
					return len(slices.DeleteFunc(slices.Clone(all), func(e *emitted) bool {
						return e.Type != event.NamespaceCreate || e.Namespace.Type != event.NSTypeUTS || own(e)
					})) >= n
				}
			}
			old := strings.TrimSpace(readFile(t, "/proc/sys/vm/stat_interval"))
			for i, by := range []string{"hostname host-1", "echo host-2 >/proc/sys/kernel/hostname", "hostname host-3"} {
				output(t, "sh", "-e", "-c", "echo 2 >/proc/sys/vm/stat_interval; unshare --uts true; "+by+"; unshare --uts true; echo "+old+" >/proc/sys/vm/stat_interval")
				rec.awaitFrom(t, at, "the namespaces", made(2*i+2))
				enters.await(t, "the namespaces", made(2*i+2))
			}
			check := func(name string, events []*emitted, more ...string) {
				t.Helper()
				var hosts []string
				for _, e := range events {
					if e.Type == event.NamespaceCreate && e.Namespace.Type == event.NSTypeUTS && !own(e) {
						hosts = append(hosts, e.Host)
					}
				}
				if want := append([]string{"host-0", "host-1", "host-1", "host-2", "host-2", "host-3"}, more...); !slices.Equal(hosts, want) {
					t.Errorf("%s: the names are %q, want %q", name, hosts, want)
				}
			}
			check("all events", rec.since(at))
			// That stream has no event of a change.
			output(t, "unshare", "--uts", "true")
			enters.await(t, "the last namespace", made(7))
			all := enters.since(0)
			if last := all[len(all)-1]; last.Host != "host-3" {
				t.Errorf("only namespaces: the name is %q in the end", last.Host)
			}
			got := blame(t, db, "vm.stat_interval")
			if len(got) != 1 || got[0].Writes != 6 || got[0].State != "recorded" || got[0].Event.Host != "host-3" {
				t.Errorf("blame: %+v", got)
			}
			past := pastEvents(t, db)
			check("history", past, "host-3")
			uts := map[string]bool{}
			for _, l := range blame(t, db, "kernel.hostname") {
				uts[l.Event.Host] = true
			}
			if len(uts) != 1 || !uts["host-2"] {
				t.Errorf("blame kernel.hostname: last set on %v, want once, on host-2", uts)
			}
		})
	}
}
