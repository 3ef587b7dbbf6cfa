// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestSelectNetdev holds that a device's move is about where it was and where it is,
// and about whose these are.
func TestSelectNetdev(t *testing.T) {
	const id = 0xf0000042
	web := &event.Container{ID: strings.Repeat("c", 64), Name: "web-1"}
	host := &event.Namespace{Type: "net", ID: id - 1, Host: true}
	inside := &event.Namespace{Type: "net", ID: id, Name: "blue", Owner: &event.Owner{Container: web}}
	to := &event.Event{Type: event.NetdevMove, Netdev: &event.Netdev{Name: "eth0", From: host, To: inside}}
	back := &event.Event{Type: event.NetdevMove, Netdev: &event.Netdev{Name: "eth0", From: inside, To: host}}
	other := &event.Event{Type: event.NetdevMove, Netdev: &event.Netdev{Name: "eth0", From: host}}
	for _, row := range []struct {
		containers, netns []string
		other             bool
	}{
		{netns: []string{"blue"}},
		{netns: []string{"web-1"}},
		{netns: []string{"4026531906"}},
		{containers: []string{"web-1"}},
		{containers: []string{"cccc"}, netns: []string{"blue"}},
		{netns: []string{"4026531905"}, other: true},
		{other: true},
	} {
		s, err := newSelection(row.containers, row.netns)
		if err != nil {
			t.Fatal(err)
		}
		if !s.match(to) || !s.match(back) {
			t.Errorf("%q, %q: there %v, back %v", row.containers, row.netns, s.match(to), s.match(back))
		}
		if s.match(other) != row.other {
			t.Errorf("%q, %q: another device %v", row.containers, row.netns, !row.other)
		}
	}
}
