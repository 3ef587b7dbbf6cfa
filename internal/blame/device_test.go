// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// TestDevice has writes to a parameter of a device that exists, with what is known of the device.
func TestDevice(t *testing.T) {
	name := fmt.Sprintf("bd%d", os.Getpid()%1000000)
	if out, err := exec.Command("ip", "link", "add", name, "type", "veth").CombinedOutput(); err != nil {
		t.Skipf("no device: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	id, err := procfs.NamespaceOf("self", event.NSTypeNet)
	if err != nil {
		t.Fatal(err)
	}
	ns := &event.Namespace{Type: event.NSTypeNet, ID: id, UID: "1", Host: true}
	index := uint32(link.Index)
	param := "net.ipv4.conf." + name + ".arp_ignore" // its value is 0
	now := "0"
	for _, tt := range []struct {
		name    string
		ifindex uint32
		value   string
		move    *event.Netdev
		want    output.State
	}{
		{"the same device", index, now, nil, output.AsRecorded},
		{"the same device with another value", index, "2", nil, output.Drifted},
		{"another index", index + 1, now, nil, output.Gone},
		{"an unknown device", 0, now, nil, output.AsRecorded},
		{"an unknown device with another value", 0, "2", nil, output.Unknown},
		{"it moved away", index, now, &event.Netdev{Name: name, From: ns, To: &event.Namespace{Type: event.NSTypeNet, ID: 1}}, output.Gone},
		{"it came", 0, now, &event.Netdev{Name: "eth0", NewName: name, From: &event.Namespace{Type: event.NSTypeNet, ID: 1}, To: ns}, output.Gone},
		{"another one moved", index, now, &event.Netdev{Name: "eth0", From: ns, To: &event.Namespace{Type: event.NSTypeNet, ID: 1}}, output.AsRecorded},
	} {
		path := filepath.Join(t.TempDir(), "history.db")
		r, err := history.Create(history.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		e := event.Event{
			V: 1, Time: time.Now(), Seq: 1, BootID: procfs.BootID(), Type: event.SysctlWrite, Outcome: event.Success, Via: event.ViaWrite, Process: &event.Process{PID: 1, Comm: "x"},
			Sysctl: &event.Sysctl{Name: param, Path: event.SysctlPath(param), New: &tt.value, After: &tt.value, Namespace: ns, Ifindex: tt.ifindex},
		}
		err = r.Append(&e)
		if tt.move != nil {
			e.Type, e.Sysctl, e.Netdev, e.Seq = event.NetdevMove, nil, tt.move, 2
			err = errors.Join(err, r.Append(&e))
		}
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if b := row(t, path); b == nil || b.State != tt.want || (b.Value == nil) != (tt.want == output.Gone) {
			t.Errorf("%s: %+v, want %s", tt.name, b, tt.want)
		}
	}
}

// moves is a history of moves of devices.
type moves struct {
	History
	all []history.Stored
}

func (m moves) Events(_ context.Context, q history.Query) iter.Seq2[history.Stored, error] {
	return func(yield func(history.Stored, error) bool) {
		for _, s := range m.all {
			if s.ID > q.After && q.Types[s.Event.Type] && q.Match(s.Event) && !yield(s, nil) {
				return
			}
		}
	}
}

// TestMovesKept has moves of two devices in question among many others, of which the reader keeps nothing.
func TestMovesKept(t *testing.T) {
	host, user := &event.Namespace{Type: event.NSTypeNet, ID: 1, UID: "1", Host: true}, &event.Namespace{Type: event.NSTypeNet, ID: 2, UID: "2"}
	other := &event.Namespace{Type: event.NSTypeNet, ID: 3, UID: "3"}
	var db moves
	boot := procfs.BootID()
	move := func(boot string, outcome event.Outcome, d event.Netdev) (id int64) {
		id = int64(100 + len(db.all))
		db.all = append(db.all, history.Stored{ID: id, Event: &event.Event{Type: event.NetdevMove, BootID: boot, Outcome: outcome, Netdev: &d}})
		return id
	}
	for i := range 1000 {
		move(boot, event.Success, event.Netdev{Name: "eth0", From: other, To: &event.Namespace{Type: event.NSTypeNet, ID: uint32(10 + i), UID: "4"}})
		move(boot, event.Success, event.Netdev{Name: fmt.Sprint("d", i), From: host, To: user})
	}
	went := move(boot, event.Success, event.Netdev{Name: "eth0", From: host, To: other})
	came := move(boot, event.Success, event.Netdev{Name: "eth5", NewName: "eth1", From: other, To: user})
	move(boot, event.Failure, event.Netdev{Name: "eth0", From: host, To: other})
	move("another boot", event.Success, event.Netdev{Name: "eth0", From: host, To: other})
	move(boot, event.Success, event.Netdev{Name: "eth1", Created: true, From: user, To: other})
	r := newReader(t.Context(), db, map[event.NSType]uint32{event.NSTypeNet: 1})
	defer r.close()
	write := func(id int64, name string, ns *event.Namespace) history.LastWrite {
		e := &event.Event{BootID: boot, Sysctl: &event.Sysctl{Path: "/proc/sys/net/ipv4/conf/" + name + "/arp_ignore"}}
		return history.LastWrite{Namespace: ns, Stored: history.Stored{ID: id, Event: e}}
	}
	r.wantMoves([]history.LastWrite{write(60, "eth1", user), write(50, "eth0", host), write(70, "eth9", host)})
	for _, tt := range []struct {
		name string
		ns   *event.Namespace
		want int64
	}{{"eth0", host, went}, {"eth1", user, came}, {"eth9", host, 0}} {
		if id, err := r.lastMove(t.Context(), r.deviceKey(tt.name, tt.ns)); id != tt.want || err != nil {
			t.Errorf("%s: the last move is %d (%v), want %d", tt.name, id, err, tt.want)
		}
	}
	if len(r.moved) != 2 {
		t.Errorf("it keeps %d moves, want 2", len(r.moved))
	}
}
