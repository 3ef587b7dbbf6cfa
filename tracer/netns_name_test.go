// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A namesDir is a directory of names for a netnsDir.
type namesDir struct {
	t *testing.T
	netnsDir
	now time.Time
}

func newNamesDir(t *testing.T) *namesDir {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	return &namesDir{t: t, netnsDir: netnsDir{path: t.TempDir()}, now: time.Now()}
}

func (d *namesDir) touch(name string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// mount mounts this process's namespace of a type on a name, and returns the number of the namespace.
func (d *namesDir) mount(typ event.NSType, name string) uint32 {
	d.t.Helper()
	file := filepath.Join(d.path, name)
	if err := unix.Mount("/proc/self/ns/"+string(typ), file, "", unix.MS_BIND, ""); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
	id, err := procfs.NamespaceOf("self", typ)
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

// after looks at the directory some time later, and returns the name of a namespace.
func (d *namesDir) after(while time.Duration, id uint32) string {
	d.now = d.now.Add(while)
	d.refresh(d.now)
	return d.name(id, bootNow())
}

// TestNetnsNames has names in the states that ip netns and CNI leave them in.
func TestNetnsNames(t *testing.T) {
	const soon, later = 50 * time.Millisecond, 5 * time.Second
	d := newNamesDir(t)
	d.touch("net")
	if got := d.after(later, 1); got != "" {
		t.Errorf("namespace 1 is %q", got)
	}
	id := d.mount(event.NSTypeNet, "net")
	if got := d.after(soon, id); got != "net" {
		t.Errorf("a moment after the file was made, the name is %q", got)
	}
	// A file that remains bare is looked at again, but not with each event.
	d.touch("old")
	d.after(soon, id)
	d.after(later, id)
	uts := d.mount(event.NSTypeUTS, "old")
	if got := d.after(soon, uts); got != "" {
		t.Errorf("an old bare file was looked at at once: %q", got)
	}
	if got := d.after(later, uts); got != "old" {
		t.Errorf("an old bare file was not looked at again: %q", got)
	}
	// umount(8) without a change of the directory.
	if err := unix.Unmount(filepath.Join(d.path, "net"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if got := d.after(soon, id); got != "" {
		t.Errorf("after its end, the namespace is %q", got)
	}
	if err := os.Remove(filepath.Join(d.path, "net")); err != nil {
		t.Fatal(err)
	}
	if got := d.after(later, uts); got != "old" || len(d.bare) > 0 {
		t.Errorf("the other name is %q, and %q are bare", got, d.bare)
	}
}

// TestNetnsNamesMany has thousands of bare files, as from a program that failed as often. Looking at them
// with each event takes a part of the time. While the directory changes, no name is out of date.
func TestNetnsNamesMany(t *testing.T) {
	d := newNamesDir(t)
	for i := range 5000 {
		d.touch(fmt.Sprint(i))
	}
	id := d.mount(event.NSTypeNet, "7")
	if got := d.after(0, id); got != "7" {
		t.Fatalf("the name is %q", got)
	}
	looks := 0
	for range 1000 { // for 10 seconds
		d.now = d.now.Add(10 * time.Millisecond)
		before := d.nextLook
		d.refresh(d.now)
		if d.nextLook != before {
			looks++
		}
	}
	if looks == 0 || looks > 110 { // all in the first second, and then one in each
		t.Errorf("%d looks", looks)
	}
	d.touch("new")
	d.nextRead = d.now.Add(time.Second)
	if got := d.after(10*time.Millisecond, id); got != "" {
		t.Errorf("before the changed directory was read, the name is %q", got)
	}
	if got := d.after(2*time.Second, id); got != "7" {
		t.Errorf("then it is %q", got)
	}
}

// TestNetnsNamesTwo unmounts two namespaces. Neither keeps its name because the other one was looked at.
func TestNetnsNamesTwo(t *testing.T) {
	d := newNamesDir(t)
	d.touch("net")
	d.touch("uts")
	net, uts := d.mount(event.NSTypeNet, "net"), d.mount(event.NSTypeUTS, "uts")
	n := netnsNames{dirs: []netnsDir{d.netnsDir}}
	find := func(id uint32, at uint64) string {
		look := at >= n.last
		if look {
			n.last = bootNow()
			n.dirs[0].refresh(time.Now())
		}
		return n.dirs[0].name(id, at)
	}
	if find(net, bootNow()) != "net" || find(uts, bootNow()) != "uts" {
		t.Fatal("the names are not found")
	}
	for _, name := range []string{"net", "uts"} {
		if err := unix.Unmount(filepath.Join(d.path, name), unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	at := bootNow()
	if first, second := find(net, bootNow()), find(uts, at); first != "" || second != "" {
		t.Errorf("after their end, the names are %q and %q", first, second)
	}
}
