// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os/exec"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// TestOrder has processes make and enter namespaces and write parameters at the same time, in storms too. With
// tracepoints the lines are sorted by time, except those marked as late. All lines about a namespace
// come between its creation and its end.
func TestOrder(t *testing.T) {
	const (
		lives = `for i in 1 2 3 4 5 6 7 8; do unshare -un sh -c 'echo 60 > /proc/sys/net/ipv4/ip_default_ttl; nsenter -n/proc/self/ns/net true; unshare -n true'; done`
		write = `i=0; while [ $i -lt 4000 ]; do echo 1 > /proc/sys/kernel/domainname; i=$((i+1)); done`
	)
	s := startStream(t, "--backend", "tracepoint", "--ring-size", "64KiB", "--runtime-socket", "none")
	s.awaitStart(t)
	var all []*exec.Cmd
	for _, args := range [][]string{{"sh", "-c", lives}, {"sh", "-c", lives}, {"unshare", "-u", "sh", "-c", write}, {"unshare", "-u", "sh", "-c", write}} {
		cmd := exec.Command(args[0], args[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
	}
	s.interrupt(t)
	s.checkEnd(t, false)

	type life struct {
		typ event.NSType
		uid string
	}
	var last time.Time
	var late, folded int
	seen, ended := map[life]bool{}, map[life]bool{}
	for _, e := range s.since(0) {
		if e.Count > 1 {
			folded++
		}
		switch {
		case e.Late:
			late++
		case e.Time.Before(last):
			t.Errorf("before %v: %s", last, e.line)
		default:
			last = e.Time
		}
		for _, ns := range e.Namespaces() {
			if ns == nil || ns.UID == "" || e.Late {
				continue
			}
			l := life{ns.Type, ns.UID}
			if ended[l] {
				t.Errorf("after the end of its namespace: %s", e.line)
			}
			if e.Type == event.NamespaceCreate && seen[l] {
				t.Errorf("behind another line about the namespace: %s", e.line)
			}
			seen[l] = true
			ended[l] = ended[l] || e.Type == event.NamespaceDestroy
		}
	}
	if len(ended) < 32 || folded == 0 {
		t.Errorf("%d namespaces ended, want at least 32; %d lines stand for several events", len(ended), folded)
	}
	if n := s.len(); late > n/20 {
		t.Errorf("%d of %d lines are late", late, n)
	}
}
