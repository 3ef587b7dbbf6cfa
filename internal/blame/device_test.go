// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"errors"
	"fmt"
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
