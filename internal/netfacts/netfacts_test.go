// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// namespace makes a network namespace and returns its target.
func namespace(t *testing.T, name string) Target {
	t.Helper()
	ip(t, "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	path := "/run/netns/" + name
	id, err := procfs.NamespaceInode(path)
	if err != nil {
		t.Fatal(err)
	}
	return Target{ID: id, Open: func() (*os.File, error) { return os.Open(path) }}
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// A link is a device as ip -j -d address shows it.
type link struct {
	Ifindex   int
	Ifname    string
	Mtu       int
	Address   string
	Linkinfo  struct{ Info_kind string }
	Addr_info []struct {
		Local     string
		Prefixlen int
	}
}

// same fails if the devices of a namespace are not what ip shows.
func same(t *testing.T, name string, n *Namespace) {
	t.Helper()
	var links []link
	if err := json.Unmarshal([]byte(ip(t, "-n", name, "-j", "-d", "address")), &links); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, l := range links {
		line := fmt.Sprint(l.Ifindex, l.Ifname, l.Mtu, l.Linkinfo.Info_kind)
		for _, a := range l.Addr_info {
			line += fmt.Sprintf(" %s/%d", a.Local, a.Prefixlen)
		}
		want = append(want, line)
	}
	for _, d := range n.Devices {
		line := fmt.Sprint(d.Index, d.Name, d.MTU, d.Kind)
		for _, a := range d.Addresses {
			line += " " + a.String()
		}
		got = append(got, line)
	}
	if n.Err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: error %v, devices %q, but ip shows %q", name, n.Err, got, want)
	}
}

// TestPairs has pairs between namespaces whose devices all have the same indexes.
func TestPairs(t *testing.T) {
	needRoot(t)
	names := []string{"nfp-a", "nfp-b", "nfp-c", "nfp-d"}
	var targets []Target
	for _, name := range names {
		targets = append(targets, namespace(t, name))
	}
	// a-b, c-d and a-d, b-c: of each, index 10 leads to index 10, or 11 to 11.
	for _, p := range [][3]string{{"nfp-a", "nfp-b", "10"}, {"nfp-c", "nfp-d", "10"}, {"nfp-a", "nfp-d", "11"}, {"nfp-b", "nfp-c", "11"}} {
		ip(t, "-n", p[0], "link", "add", "v"+p[2], "index", p[2], "type", "veth", "peer", "name", "v"+p[2], "index", p[2], "netns", p[1])
	}
	ip(t, "-n", "nfp-a", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
	ip(t, "-n", "nfp-a", "address", "add", "192.0.2.1/24", "dev", "v10")
	ip(t, "-n", "nfp-a", "address", "add", "2001:db8::1/64", "dev", "v10", "nodad")
	ip(t, "-n", "nfp-a", "link", "add", "br0", "type", "bridge")
	ip(t, "-n", "nfp-a", "link", "set", "v11", "master", "br0", "up")

	all := Read(context.Background(), targets, Options{})
	id := func(i int) uint32 { return targets[i].ID }
	for i, name := range names {
		same(t, name, all[i])
	}
	for _, c := range []struct{ ns, index, peer int }{
		{0, 10, 1}, {1, 10, 0}, {2, 10, 3}, {3, 10, 2}, {0, 11, 3}, {3, 11, 0}, {1, 11, 2}, {2, 11, 1},
	} {
		d := all[c.ns].Device(c.index)
		if d == nil || d.Link == nil || d.Link.NS != id(c.peer) || d.Link.Index != c.index || !d.Pair() {
			t.Errorf("device %d of %s is %+v with link %+v, want one to %d in %d", c.index, names[c.ns], d, d.Link, c.index, id(c.peer))
		}
	}
	for _, d := range all[0].Devices {
		switch d.Name {
		case "x0", "x1":
			if o := all[0].Device(d.Link.Index); d.Link.NS != id(0) || d.Link.NSID >= 0 || o == nil || !strings.HasPrefix(o.Name, "x") {
				t.Errorf("%s has link %+v", d.Name, d.Link)
			}
		case "v11":
			if m := all[0].Device(d.Master); m == nil || m.Name != "br0" {
				t.Errorf("v11 has master %+v", m)
			}
		}
	}

	// Without the other namespaces, a link leads to none that is known.
	alone := Read(context.Background(), targets[:1], Options{})[0]
	if d := alone.Device(10); d.Link == nil || d.Link.NS != 0 || d.Link.NSID < 0 {
		t.Errorf("v10 read alone has link %+v", d.Link)
	}
}

// TestUnreadable has a namespace that is gone among others.
func TestUnreadable(t *testing.T) {
	needRoot(t)
	good := namespace(t, "nfp-good")
	gone := Target{ID: 1, Open: func() (*os.File, error) { return nil, os.ErrNotExist }}
	notOne := Target{ID: 2, Open: func() (*os.File, error) { return os.Open("/dev/null") }}
	all := Read(context.Background(), []Target{gone, good, notOne}, Options{Routes: true, Sockets: true, Firewall: true})
	if all[0].Err == nil || all[1].Err != nil || all[2].Err == nil {
		t.Errorf("errors: %v, %v, %v", all[0].Err, all[1].Err, all[2].Err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if n := Read(ctx, []Target{good}, Options{})[0]; n == nil || n.Err == nil {
		t.Errorf("read with a context that ended: %+v", n)
	}
}

// TestRest reads routes, listening sockets and tables.
func TestRest(t *testing.T) {
	needRoot(t)
	target := namespace(t, "nfp-rest")
	ip(t, "-n", "nfp-rest", "link", "set", "lo", "up")
	ip(t, "-n", "nfp-rest", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
	ip(t, "-n", "nfp-rest", "link", "set", "x0", "up")
	ip(t, "-n", "nfp-rest", "address", "add", "192.0.2.1/24", "dev", "x0")
	ip(t, "-n", "nfp-rest", "route", "add", "default", "via", "192.0.2.254", "metric", "7")
	ip(t, "-n", "nfp-rest", "route", "add", "blackhole", "198.51.100.0/24", "table", "42")
	n := Read(context.Background(), []Target{target}, Options{Routes: true, Sockets: true, Firewall: true})[0]
	if n.Err != nil || len(n.Incomplete) > 0 {
		t.Fatalf("error %v, incomplete %q", n.Err, n.Incomplete)
	}
	var got []string
	for _, r := range n.Routes {
		if r.Destination.Addr().Is4() {
			got = append(got, fmt.Sprintf("%s %s table %d %s metric %d hops %d", r.Type, r.Destination, r.Table, r.Protocol, r.Priority, len(r.Hops)))
		}
	}
	slices.Sort(got)
	want := []string{
		"blackhole 198.51.100.0/24 table 42 boot metric 0 hops 0",
		"unicast 0.0.0.0/0 table 254 boot metric 7 hops 1", "unicast 192.0.2.0/24 table 254 kernel metric 0 hops 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q\nip shows %s", got, want, ip(t, "-n", "nfp-rest", "route", "show", "table", "all"))
	}
	if len(n.Sockets) != 0 {
		t.Errorf("sockets in a new namespace: %+v", n.Sockets)
	}

	// A socket of this process in this namespace.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own, err := procfs.NamespaceInode("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	here := Read(context.Background(), []Target{{own, func() (*os.File, error) { return os.Open("/proc/self/ns/net") }}}, Options{Sockets: true})[0]
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var link string
	_ = raw.Control(func(fd uintptr) { link, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)) })
	if !slices.ContainsFunc(here.Sockets, func(s Socket) bool {
		return s.Protocol == "tcp" && s.Local.String() == l.Addr().String() && fmt.Sprintf("socket:[%d]", s.Inode) == link
	}) {
		t.Errorf("%s with %s is not among %+v", l.Addr(), link, here.Sockets)
	}
}

// TestFirewall compares tables with those that the programs of each firewall made.
func TestFirewall(t *testing.T) {
	needRoot(t)
	target := namespace(t, "nfp-fire")
	var want []string
	for _, c := range []struct{ program, want string }{
		{"iptables-legacy", "iptables ip filter"}, {"ip6tables-legacy", "iptables ip6 filter"},
		{"iptables-nft", "nftables ip filter"}, {"ip6tables-nft", "nftables ip6 filter"},
	} {
		out, err := exec.Command("ip", "netns", "exec", "nfp-fire", c.program, "-A", "INPUT", "-j", "DROP").CombinedOutput()
		if err != nil {
			t.Logf("without %s: %v: %s", c.program, err, out)
			continue
		}
		want = append(want, c.want)
	}
	if len(want) == 0 {
		t.Skip("no program for a firewall works here")
	}
	n := Read(context.Background(), []Target{target}, Options{Firewall: true})[0]
	var got []string
	for _, table := range n.Tables {
		got = append(got, table.Firewall+" "+table.Family+" "+table.Name)
		if table.Firewall == "nftables" && table.Chains != 1 && table.Chains != 3 {
			t.Errorf("%+v has %d chains", table, table.Chains)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if n.Err != nil || len(n.Incomplete) > 0 || !slices.Equal(got, want) {
		t.Errorf("tables %q, want %q; error %v, incomplete %q", got, want, n.Err, n.Incomplete)
	}
	if other := Read(context.Background(), []Target{namespace(t, "nfp-fire2")}, Options{Firewall: true})[0]; len(other.Tables) != 0 {
		t.Errorf("another namespace has tables %+v", other.Tables)
	}
}

// TestBounds has more routes and addresses than Read returns, and no time.
func TestBounds(t *testing.T) {
	needRoot(t)
	target := namespace(t, "nfp-many")
	var batch strings.Builder
	batch.WriteString("link add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up\n")
	for i := range maxAddresses + 10 {
		fmt.Fprintf(&batch, "address add 10.1.0.%d/32 dev x0\n", i+1)
	}
	for i := range maxRoutes + 100 {
		fmt.Fprintf(&batch, "route add 10.2.%d.%d/32 dev x0\n", i/250, i%250+1)
	}
	cmd := exec.Command("ip", "-n", "nfp-many", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n := Read(context.Background(), []Target{target}, Options{Routes: true, Sockets: true})[0]
	if n.Err != nil || len(n.Routes) != maxRoutes || len(n.Incomplete) != 2 {
		t.Errorf("error %v, %d routes, incomplete %q", n.Err, len(n.Routes), n.Incomplete)
	}
	for _, d := range n.Devices {
		if d.Name == "x0" && len(d.Addresses) != maxAddresses {
			t.Errorf("%d addresses, want %d", len(d.Addresses), maxAddresses)
		}
	}
	if n := Read(context.Background(), []Target{target}, Options{Time: time.Nanosecond})[0]; !errors.Is(n.Err, context.DeadlineExceeded) && !errors.Is(n.Err, os.ErrDeadlineExceeded) {
		t.Errorf("without time the error is %v", n.Err)
	}
}

// TestHoldsNothing deletes a namespace after it was read. The kernel must free it.
func TestHoldsNothing(t *testing.T) {
	needRoot(t)
	a, b := namespace(t, "nfp-a"), namespace(t, "nfp-b")
	ip(t, "-n", "nfp-a", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", "nfp-b")
	ns := procfs.Namespace{Type: event.NSTypeNet, ID: a.ID, KernelID: procfs.HandleID("/run/netns/nfp-a")}
	if ns.KernelID == 0 {
		t.Skip("the kernel has no ids of namespaces (before 6.18)")
	}
	Read(context.Background(), []Target{a, b}, Options{Routes: true, Sockets: true, Firewall: true})
	if err := procfs.Alive(ns); err != nil {
		t.Fatalf("the namespace is gone too early: %v", err)
	}
	ip(t, "netns", "del", "nfp-a")
	// The kernel frees the file of a socket in its own time, but soon.
	for deadline := time.Now().Add(10 * time.Second); procfs.Alive(ns) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the namespace is still alive")
		}
	}
}

// TestEnded ends the context while namespaces are read: each one has an error, also if the thread that
// reads is the first to end.
func TestEnded(t *testing.T) {
	for range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		open := func() (*os.File, error) { return nil, os.ErrNotExist }
		last := func() (*os.File, error) { cancel(); return open() }
		for i, n := range Read(ctx, []Target{{1, open}, {2, last}, {3, open}}, Options{}) {
			if n == nil || n.Err == nil {
				t.Fatalf("namespace %d: %+v", i, n)
			}
		}
	}
}

// TestPimreg has a multicast router: its device has no kind, but is no hardware.
func TestPimreg(t *testing.T) {
	needRoot(t)
	target := namespace(t, "nstrace-pimreg")
	made, done := make(chan error), make(chan bool)
	defer close(done)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the namespace
		made <- func() error {
			f, err := target.Open()
			if err != nil {
				return err
			}
			defer f.Close()
			if err := netns.Set(netns.NsHandle(f.Fd())); err != nil {
				return err
			}
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP)
			if err != nil {
				return err
			}
			go func() { <-done; unix.Close(s) }()
			// MRT_INIT, and MRT_ADD_VIF with a struct vifctl that has VIFF_REGISTER, from
			// include/uapi/linux/mroute.h.
			if err := unix.SetsockoptInt(s, unix.IPPROTO_IP, 200, 1); err != nil {
				return err
			}
			return unix.SetsockoptString(s, unix.IPPROTO_IP, 202, "\x00\x00\x04\x01"+strings.Repeat("\x00", 12))
		}()
	}()
	if err := <-made; errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EINVAL) {
		t.Skipf("the kernel cannot route multicast: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	n := Read(t.Context(), []Target{target}, Options{})[0]
	i := slices.IndexFunc(n.Devices, func(d Device) bool { return d.Name == "pimreg" })
	if i < 0 || n.Devices[i].Physical() {
		t.Errorf("%+v %v", n.Devices, n.Err)
	}
}
