// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/netfacts"
)

// A maker makes graphs by hand, also of kinds of devices that a kernel may not have.
type maker struct {
	g    *Graph
	next uint32
}

func newMaker() *maker {
	return &maker{&Graph{Host: "server1", Time: time.Date(2026, 5, 4, 12, 30, 0, 0, time.UTC)}, 4026532000}
}

func (m *maker) namespace(name string) *Namespace {
	m.next++
	n := &Namespace{
		Namespace: &inventory.Namespace{Ref: inventory.Ref{Type: event.NSTypeNet, ID: m.next}, Name: name},
		Network:   &netfacts.Namespace{ID: m.next},
	}
	m.device(n, netfacts.Device{Name: "lo", Loopback: true, Up: true, Carrier: true}, "127.0.0.1/8", "::1/128")
	m.g.Namespaces = append(m.g.Namespaces, n)
	return n
}

func (m *maker) host() *Namespace {
	n := m.namespace("")
	n.Namespace.Host = true
	n.Processes = 180
	n.Oldest = &inventory.Process{PID: 1, Comm: "systemd"}
	return n
}

func (m *maker) container(name, comm string) *Namespace {
	n := m.namespace("")
	n.Owner = &event.Owner{Container: &event.Container{ID: fmt.Sprintf("%064x", m.next), Name: name, Image: name + ":latest", Runtime: "docker"}}
	n.Processes = 2
	n.Oldest = &inventory.Process{PID: m.next % 10000, Comm: comm}
	return n
}

// device adds a device and returns its index.
func (m *maker) device(n *Namespace, d netfacts.Device, addresses ...string) int {
	d.Index = len(n.Network.Devices) + 1
	if d.MTU == 0 {
		d.MTU = 1500
	}
	for _, a := range addresses {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(a))
	}
	n.Network.Devices = append(n.Network.Devices, d)
	return d.Index
}

// up is a device that can transmit.
func up(name, kind string) netfacts.Device {
	return netfacts.Device{Name: name, Kind: kind, Up: true, Carrier: true}
}

// pair adds a veth pair. The device of a belongs to master.
func (m *maker) pair(a *Namespace, name string, master int, b *Namespace, other string, addresses ...string) (i, j int) {
	x, y := up(name, "veth"), up(other, "veth")
	x.Master = master
	i = m.device(a, x)
	j = m.device(b, y, addresses...)
	m.g.deviceAt(a, i).Link = &netfacts.Link{Index: j, NS: b.ID}
	m.g.deviceAt(b, j).Link = &netfacts.Link{Index: i, NS: a.ID}
	return i, j
}

func (g *Graph) deviceAt(n *Namespace, i int) *netfacts.Device { return &n.Network.Devices[i-1] }

// upon adds a device that lies upon another one.
func (m *maker) upon(n *Namespace, d netfacts.Device, below *Namespace, index int, addresses ...string) int {
	d.Link = &netfacts.Link{Index: index, NS: below.ID}
	return m.device(n, d, addresses...)
}

func (m *maker) graph() *Graph {
	m.g.findHost()
	m.g.connect()
	return m.g
}

// everything is a graph with each kind of link.
func everything() *Graph {
	m := newMaker()
	h := m.host()
	eth0 := m.device(h, netfacts.Device{Name: "eth0", Bus: "pci", MAC: "02:00:00:00:00:01", Up: true, Carrier: true}, "192.0.2.10/24", "2001:db8::10/64", "fe80::1/64")
	v := up("eth0.10", "vlan")
	v.VLAN = 10
	m.upon(h, v, h, eth0, "198.51.100.1/24")
	bond := up("bond0", "bond")
	bond.Mode = "active-backup"
	b := m.device(h, bond, "203.0.113.5/24")
	for _, name := range []string{"eth1", "eth2"} {
		m.device(h, netfacts.Device{Name: name, Bus: "pci", Up: true, Carrier: name == "eth1", Master: b})
	}
	br := m.device(h, up("docker0", "bridge"), "172.17.0.1/16")
	for i, name := range []string{"web", "database", "cache"} {
		c := m.container(name, []string{"nginx", "postgres", "redis-server"}[i])
		m.pair(h, fmt.Sprintf("veth%d", i), br, c, "eth0", fmt.Sprintf("172.17.0.%d/16", i+2))
	}
	vrf := up("vrf-red", "vrf")
	vrf.Table = 100
	red := m.device(h, vrf)
	router := m.namespace("router")
	m.pair(h, "to-router", red, router, "uplink", "10.1.0.2/30")
	for _, name := range []string{"site-a", "site-b"} {
		s := m.namespace(name)
		m.pair(router, name, 0, s, "eth0", "10.2.0.2/30")
	}
	m.pair(m.g.Namespaces[5], "direct", 0, m.g.Namespaces[6], "direct")
	mac := m.namespace("scanner")
	d := up("mv0", "macvlan")
	d.Mode = "bridge"
	m.upon(mac, d, h, eth0, "192.0.2.77/24")
	sriov := m.container("packet-engine", "vpp")
	m.device(sriov, netfacts.Device{Name: "enp3s0f1", Bus: "pci", Up: true, Carrier: true}, "192.0.2.99/24")
	m.pair(h, "loop-a", 0, h, "loop-b")
	lost := m.namespace("orphan")
	x := up("eth0", "veth")
	x.Link = &netfacts.Link{Index: 7}
	m.device(lost, x, "10.9.9.9/24")
	a, c := m.namespace("left"), m.namespace("right")
	m.pair(a, "v0", 0, c, "v0", "10.3.0.2/30")
	m.namespace("empty")
	m.namespace("gone").Network.Err = fmt.Errorf("read network namespace 1: enter it: operation not permitted")
	m.device(h, netfacts.Device{Name: "sit0", Kind: "sit"})
	return m.graph()
}

// star is a graph of a bridge with n namespaces.
func star(n int) *Graph {
	m := newMaker()
	h := m.host()
	m.device(h, netfacts.Device{Name: "eth0", Bus: "pci", Up: true, Carrier: true}, "192.0.2.10/24")
	br := m.device(h, up("br0", "bridge"), "10.0.0.1/16")
	for i := range n {
		m.pair(h, fmt.Sprintf("v%d", i), br, m.namespace(fmt.Sprintf("web-%d", i)), "eth0", fmt.Sprintf("10.0.%d.%d/16", i/250, i%250+2))
	}
	return m.graph()
}

// hostile is a graph whose names try to break out of each format.
func hostile() *Graph {
	m := newMaker()
	h := m.host()
	m.g.Host = hostileNames[0]
	br := m.device(h, up("br\"><b>", "bridge"))
	for i, name := range hostileNames {
		n := m.namespace(name)
		if i%2 == 1 {
			n = m.container(name, name)
		}
		m.pair(h, name[:min(len(name), 15)], br, n, name[:min(len(name), 15)], "10.0.0.1/8")
		m.g.deviceAt(n, 2).Alias = name
	}
	m.g.Incomplete = append(m.g.Incomplete, hostileNames...)
	return m.graph()
}

// TestDraw writes pictures to the directory in NSTRACE_PICTURES, to look at.
func TestDraw(t *testing.T) {
	dir := os.Getenv("NSTRACE_PICTURES")
	if dir == "" {
		t.Skip("NSTRACE_PICTURES is not set")
	}
	for name, g := range map[string]*Graph{"all": everything(), "3": star(3), "30": star(30), "300": star(300), "hostile": hostile(), "pairs": pairs(150), "compose": compose(), "bridges": bridges(17), "mesh": mesh(6)} {
		for _, format := range Formats() {
			f, err := os.Create(filepath.Join(dir, name+"."+format))
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Write(f, format, DefaultFold); err != nil {
				t.Error(err)
			}
			f.Close()
		}
	}
}

// hostileNames are names that try to end a string, to add elements, scripts and links, or to hide.
var hostileNames = []string{
	`"><script>alert(1)</script>`, `]]></style><script>`, "a\x00b\x1b[31m\x7f", "\u202egnp.exe\u202c", "שלום", "</svg>",
	`\" ]; evil [label="x`, `"]; click d0_0 "javascript:alert(1)"`, "end\n  subgraph", "&lt;&amp;#quot;", "\xff\xfe\xc0", "%s%n{{.}}", "日本語の名前日本語の名前日本語の名前",
	string(make([]byte, 4096)), longName(4096), "`whoami`$(id)", "<img src=x onerror=alert(1)>", "http://example.com/", "é́́́́́́́́",
}

func longName(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return string(b)
}

// pairs is a graph of n pairs of namespaces.
func pairs(n int) *Graph {
	m := newMaker()
	m.device(m.host(), netfacts.Device{Name: "eth0", Bus: "pci", Up: true, Carrier: true}, "192.0.2.10/24")
	for i := range n {
		m.pair(m.namespace(fmt.Sprintf("a-%d", i)), "v0", 0, m.namespace(fmt.Sprintf("b-%d", i)), "v0", "10.0.0.2/30")
	}
	return m.graph()
}

// compose is a graph of two bridges, with containers on either and on both.
func compose() *Graph {
	m := newMaker()
	h := m.host()
	eth0 := m.device(h, netfacts.Device{Name: "eth0", Bus: "pci", Up: true, Carrier: true}, "192.0.2.10/24")
	front := m.device(h, up("br-front", "bridge"), "172.18.0.1/16")
	back := m.device(h, up("br-back", "bridge"), "172.19.0.1/16")
	for i := range 8 {
		c := m.container([]string{"proxy", "api", "worker", "mail", "db", "cache", "search", "metrics"}[i], "app")
		if i < 5 {
			m.pair(h, fmt.Sprintf("vethf%d", i), front, c, "eth0", fmt.Sprintf("172.18.0.%d/16", i+2))
		}
		if i > 1 {
			m.pair(h, fmt.Sprintf("vethb%d", i), back, c, "eth1", fmt.Sprintf("172.19.0.%d/16", i+2))
		}
	}
	for i := range 6 {
		d := up("mv0", "macvlan")
		d.Mode = "bridge"
		m.upon(m.namespace(fmt.Sprintf("lab-%d", i)), d, h, eth0, fmt.Sprintf("192.0.2.%d/24", i+20))
	}
	for i := range 12 {
		m.device(h, netfacts.Device{Name: fmt.Sprintf("dummy%d", i), Kind: "dummy", Up: true, Carrier: true}, fmt.Sprintf("10.99.0.%d/32", i))
	}
	return m.graph()
}

// bridges is a graph of many bridges, each with as many namespaces.
func bridges(n int) *Graph {
	m := newMaker()
	h := m.host()
	for i := range n {
		br := m.device(h, up(fmt.Sprintf("br%d", i), "bridge"), fmt.Sprintf("10.%d.0.1/16", i))
		for j := range n {
			m.pair(h, fmt.Sprintf("v%d-%d", i, j), br, m.namespace(fmt.Sprintf("net%d-%d", i, j)), "eth0", fmt.Sprintf("10.%d.0.%d/16", i, j+2))
		}
	}
	return m.graph()
}

// mesh is a graph of namespaces that are all connected to all others, and to the host.
func mesh(n int) *Graph {
	m := newMaker()
	h := m.host()
	var all []*Namespace
	for i := range n {
		all = append(all, m.namespace(fmt.Sprintf("node-%d", i)))
		m.pair(h, fmt.Sprintf("to-%d", i), 0, all[i], "up", "10.0.0.2/30")
		for j := range i {
			m.pair(all[i], fmt.Sprintf("to-%d", j), 0, all[j], fmt.Sprintf("to-%d", i))
		}
	}
	return m.graph()
}

// linkTo is a link to a device in the same namespace.
func linkTo(n *Namespace, index int) *netfacts.Link {
	return &netfacts.Link{Index: index, NS: n.ID, NSID: -1}
}
