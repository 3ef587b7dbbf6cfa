// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A graphed host is what nstrace graph --format json prints, in part.
type graphed struct {
	Namespaces []struct {
		ID        uint32
		UID       string
		Name      string
		Host      bool
		Processes int
		Oldest    struct {
			PID  int
			Comm string
		}
		Error   string
		Devices []struct {
			Ifindex   int
			Name      string
			Kind      string
			Physical  bool
			Up        bool
			MTU       int
			Addresses []string
			VLAN      int
			Table     int
			Mode      string
		}
	}
	Links []struct {
		Kind     string
		From, To struct {
			Namespace uint32
			Name      string
		}
	}
}

// graph runs nstrace graph --format json.
func graph(t *testing.T, args ...string) (g graphed) {
	t.Helper()
	text := output(t, nstraceBin, append([]string{"graph", "--format", "json", "--runtime-socket", "none"}, args...)...)
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return g
}

// An ipLink is a device as ip -j -d address shows it.
type ipLink struct {
	Ifindex   int
	Ifname    string
	Flags     []string
	Mtu       int
	Master    string // name
	Link      string // name, in the same namespace
	LinkIndex int    `json:"link_index"`
	LinkNetns *int   `json:"link_netnsid"`
	Linkinfo  struct {
		Kind string `json:"info_kind"`
		Data struct {
			ID    int
			Table int
			Mode  any
		} `json:"info_data"`
	}
	Addresses []struct {
		Local     string
		Prefixlen int
	} `json:"addr_info"`
}

// TestGraph has network namespaces with devices of each kind that the kernel has, and compares the
// devices and links that nstrace finds with those that ip(8) shows in each namespace.
func TestGraph(t *testing.T) {
	names := []string{"nstrace-e2e-g-a", "nstrace-e2e-g-b", "nstrace-e2e-g-c"}
	nameOf := map[uint32]string{}
	events := startStream(t, "-e", "namespace.create", "-t", "net", "--runtime-socket", "none")
	events.awaitStart(t)
	for _, name := range names {
		nameOf[mustID(t, "/run/netns/"+addNetns(t, name))] = name
	}
	made := map[uint32]*event.Namespace{}
	events.await(t, "the new namespaces", func(all []*emitted) bool {
		for _, e := range all {
			if e.Type == event.NamespaceCreate && nameOf[e.Namespace.ID] != "" {
				made[e.Namespace.ID] = e.Namespace
			}
		}
		return len(made) == len(names)
	})
	events.interrupt(t)
	a, b, c := names[0], names[1], names[2]
	ip := func(ns, args string) error {
		out, err := exec.Command("ip", append([]string{"-n", ns}, strings.Fields(args)...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip -n %s %s: %w: %s", ns, args, err, out)
		}
		return nil
	}
	must := func(ns, args string) {
		t.Helper()
		if err := ip(ns, args); err != nil {
			t.Fatal(err)
		}
	}
	// All ends have the same two indexes, so that an index says nothing.
	must(a, "link add ab index 40 type veth peer name ab index 40 netns "+b)
	must(b, "link add bc index 41 type veth peer name bc index 40 netns "+c)
	must(c, "link add ca index 41 type veth peer name ca index 41 netns "+a)
	must(c, "link add own0 type veth peer name own1")
	must(a, "address add 192.0.2.1/24 dev ab")
	must(a, "address add 2001:db8::1/64 dev ab nodad")
	must(b, "link set ab mtu 1400 up")
	must(a, "link set ab up")
	kinds := map[string]bool{"veth": true}
	var links []string // that the test makes
	for _, k := range []struct {
		kind, link string
		make       []string
	}{
		{"bridge", "a/ca a/br0", []string{a + " link add br0 type bridge", a + " link set ca master br0"}},
		{"vlan", "a/ab.30 a/ab", []string{a + " link add link ab name ab.30 type vlan id 30"}},
		{"vlan", "c/ab.31 a/ab", []string{a + " link add link ab name ab.31 type vlan id 31", a + " link set ab.31 netns " + c}},
		{"vrf", "b/bc b/red", []string{b + " link add red type vrf table 100", b + " link set bc master red"}},
		{"bond", "c/own0 c/bond0", []string{c + " link add bond0 type bond mode active-backup", c + " link set own0 master bond0"}},
		{"macvlan", "c/mv0 a/ab", []string{a + " link add link ab name mv0 type macvlan mode bridge", a + " link set mv0 netns " + c}},
		{"ipvlan", "b/iv1 b/ab", []string{b + " link add link ab name iv1 type ipvlan mode l3"}},
		{"ipvlan", "a/iv0 b/ab", []string{b + " link add link ab name iv0 type ipvlan mode l3", b + " link set iv0 netns " + a}},
		{"dummy", "", []string{c + " link add du0 type dummy", c + " link add du1 type dummy", c + " link set du1 netns " + a}},
		{"vxlan", "", []string{b + " link add vx0 type vxlan id 77 dev ab dstport 4789"}},
	} {
		t.Run(k.kind, func(t *testing.T) {
			for i, args := range k.make {
				ns, args, _ := strings.Cut(args, " ")
				if err := ip(ns, args); err != nil && i == 0 && !guestHasModules() {
					t.Skipf("no %s can be made here: %v", k.kind, err)
				} else if err != nil {
					t.Error(err)
				}
			}
			kinds[k.kind] = true
			if k.link != "" {
				links = append(links, k.kind+" "+strings.NewReplacer("a/", a+"/", "b/", b+"/", "c/", c+"/").Replace(k.link))
			}
		})
	}
	t.Run("netkit", func(t *testing.T) {
		if !strings.Contains(readFile(t, "/proc/kallsyms"), " netkit_new_link\n") {
			t.Skip("the kernel has no netkit, which came with 6.7")
		}
		addNetkit(t, a, "nk0", "nk1")
		must(a, "link set nk0 netns "+c)
		kinds["netkit"] = true
		links = append(links, "netkit "+a+"/nk1 "+c+"/nk0")
	})
	all := t // the card goes back at the end
	t.Run("moved", func(t *testing.T) {
		card := physical(t)
		if !guestHasModules() {
			t.Skip("not in a guest, and the host uses its network card")
		}
		if card == "" {
			t.Fatal("this guest has no network card")
		}
		output(t, "ip", "link", "set", card, "netns", c, "name", "card0")
		all.Cleanup(func() { output(all, "ip", "-n", c, "link", "set", "card0", "netns", "1", "name", card) })
		links = append(links, "moved "+c+"/card0 /")
	})
	for _, source := range listSources {
		t.Run(source, func(t *testing.T) {
			// The kernel adds link-local addresses in its own time.
			devices, shown := witness(t, names, kinds, links)
			for range 20 {
				g := graph(t, "--source", source)
				after, shownAfter := witness(t, names, kinds, links)
				if slices.Equal(devices, after) && slices.Equal(shown, shownAfter) {
					checkGraph(t, g, nameOf, devices, shown)
					checkUIDs(t, g, source, made)
					return
				}
				devices, shown = after, shownAfter
			}
			t.Error("what ip shows never stayed the same")
		})
	}
}

// guestHasModules reports whether this is a guest that has the modules of all kinds of devices.
func guestHasModules() bool { return os.Getenv("NSTRACE_BIN") != "" && hasModules }

// addNetkit makes a pair that ip(8) cannot make before version 6.7.
func addNetkit(t *testing.T, ns, name, peer string) {
	t.Helper()
	f, err := netns.GetFromName(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := netlink.NewHandleAt(f, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	pair := &netlink.Netkit{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.NETKIT_MODE_L3}
	pair.SetPeerAttrs(&netlink.LinkAttrs{Name: peer})
	if err := h.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
}

// checkUIDs compares the ids in a graph and in nstrace list with those in events.
func checkUIDs(t *testing.T, g graphed, source string, made map[uint32]*event.Namespace) {
	t.Helper()
	listed := map[uint32]string{}
	for _, n := range list(t, "--source", source, "-t", "net") {
		listed[n.Namespace.ID] = n.Namespace.UID
	}
	found := 0
	for _, n := range g.Namespaces {
		ns := made[n.ID]
		if ns == nil {
			continue
		}
		found++
		// Before 6.18, the id is not in /proc.
		want := ns.UID
		if !ns.KernelUID() || source == "proc" && n.UID == "" && strings.Contains(want, ":") {
			want = ""
		}
		if n.UID != want || listed[n.ID] != want {
			t.Errorf("namespace %d has the uid %q in the graph, %q in the list, and %q in events", n.ID, n.UID, listed[n.ID], ns.UID)
		}
	}
	if found != len(made) {
		t.Errorf("%d of %d namespaces are in the graph", found, len(made))
	}
}

// witness asks ip what is in namespaces. made are the links that must be there. Of those, ip cannot see
// that a device was moved.
func witness(t *testing.T, names []string, kinds map[string]bool, made []string) (devices, links []string) {
	t.Helper()
	all := map[string][]ipLink{}
	for _, name := range names {
		var read []ipLink
		text := output(t, "ip", "-n", name, "-j", "-d", "address")
		if err := json.Unmarshal([]byte(text), &read); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		all[name] = read
	}
	seen := map[string]bool{}
	for _, name := range names {
		var ids []struct {
			NSID int
			Name string
		}
		// What kind of namespace a number is for, ip finds out by the names.
		if err := json.Unmarshal([]byte(output(t, "ip", "-n", name, "-j", "netns", "list-id")), &ids); err != nil {
			t.Fatal(err)
		}
		for _, l := range all[name] {
			devices = append(devices, deviceLine(name, l))
			seen[l.Linkinfo.Kind] = true
			kind := linkKinds[l.Linkinfo.Kind]
			if l.Master != "" {
				i := slices.IndexFunc(all[name], func(m ipLink) bool { return m.Ifname == l.Master })
				links = append(links, all[name][i].Linkinfo.Kind+" "+name+"/"+l.Ifname+" "+name+"/"+l.Master)
			}
			other, index := name, l.LinkIndex
			if l.LinkNetns != nil {
				i := slices.IndexFunc(ids, func(id struct {
					NSID int
					Name string
				}) bool {
					return id.NSID == *l.LinkNetns
				})
				if i < 0 {
					t.Fatalf("%s: ip does not know the namespace %d of %s", name, *l.LinkNetns, l.Ifname)
				}
				other = ids[i].Name
			}
			i := slices.IndexFunc(all[other], func(o ipLink) bool { return o.Ifindex == index || index == 0 && l.Link != "" && o.Ifname == l.Link })
			if kind == "" || i < 0 {
				continue
			}
			from, to := name+"/"+l.Ifname, other+"/"+all[other][i].Ifname
			if (kind == "veth" || kind == "netkit") && from > to {
				continue // each pair is there twice
			}
			links = append(links, kind+" "+from+" "+to)
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("ip shows no %s", kind)
		}
	}
	for _, l := range made {
		if strings.HasPrefix(l, "moved ") {
			links = append(links, l)
		} else if !slices.Contains(links, l) {
			t.Errorf("ip does not show %s, but %s", l, strings.Join(links, ", "))
		}
	}
	slices.Sort(devices)
	slices.Sort(links)
	return devices, links
}

// linkKinds are the kinds of links by the kinds of devices that have them.
var linkKinds = map[string]string{"veth": "veth", "netkit": "netkit", "vlan": "vlan", "macvlan": "macvlan", "ipvlan": "ipvlan", "vxlan": "upper"}

// deviceLine is a device in one line.
func deviceLine(name string, l ipLink) string {
	line := fmt.Sprintf("%s/%s index %d kind %q up %t mtu %d", name, l.Ifname, l.Ifindex, l.Linkinfo.Kind, slices.Contains(l.Flags, "UP"), l.Mtu)
	var addresses []string
	for _, a := range l.Addresses {
		addresses = append(addresses, fmt.Sprintf("%s/%d", a.Local, a.Prefixlen))
	}
	slices.Sort(addresses)
	if l.Linkinfo.Kind == "vlan" {
		line += fmt.Sprintf(" id %d", l.Linkinfo.Data.ID)
	}
	if l.Linkinfo.Kind == "vrf" {
		line += fmt.Sprintf(" table %d", l.Linkinfo.Data.Table)
	}
	if mode, ok := l.Linkinfo.Data.Mode.(string); ok && l.Linkinfo.Kind != "netkit" {
		line += " mode " + mode
	}
	return line + " " + strings.Join(addresses, " ")
}

// checkGraph compares what nstrace found in namespaces with what ip showed.
func checkGraph(t *testing.T, g graphed, nameOf map[uint32]string, wantDevices, wantLinks []string) {
	t.Helper()
	var devices, links []string
	for _, n := range g.Namespaces {
		name := nameOf[n.ID]
		if name == "" {
			continue
		}
		if n.Name != name || n.Error != "" {
			t.Errorf("namespace %d has name %q and error %q, want name %q", n.ID, n.Name, n.Error, name)
		}
		for _, d := range n.Devices {
			if d.Physical != (d.Name == "card0") {
				t.Errorf("%s/%s: physical is %t", name, d.Name, d.Physical)
			}
			line := fmt.Sprintf("%s/%s index %d kind %q up %t mtu %d", name, d.Name, d.Ifindex, d.Kind, d.Up, d.MTU)
			if d.VLAN != 0 {
				line += fmt.Sprintf(" id %d", d.VLAN)
			}
			if d.Table != 0 {
				line += fmt.Sprintf(" table %d", d.Table)
			}
			if d.Mode != "" {
				line += " mode " + d.Mode
			}
			slices.Sort(d.Addresses)
			devices = append(devices, line+" "+strings.Join(d.Addresses, " "))
		}
	}
	for _, l := range g.Links {
		from, to := nameOf[l.From.Namespace], nameOf[l.To.Namespace]
		if from == "" && to == "" {
			continue
		}
		x, y := from+"/"+l.From.Name, to+"/"+l.To.Name
		if (l.Kind == "veth" || l.Kind == "netkit") && x > y {
			x, y = y, x
		}
		links = append(links, l.Kind+" "+x+" "+y)
	}
	slices.Sort(devices)
	slices.Sort(links)
	if !slices.Equal(devices, wantDevices) {
		t.Errorf("devices:\n%s\nip shows:\n%s", strings.Join(devices, "\n"), strings.Join(wantDevices, "\n"))
	}
	if !slices.Equal(links, wantLinks) {
		t.Errorf("links:\n%s\nip shows:\n%s", strings.Join(links, "\n"), strings.Join(wantLinks, "\n"))
	}
}

// TestGraphPicture draws the host, with names that would break out of each format, and a namespace that
// only a process is in.
func TestGraphPicture(t *testing.T) {
	anyKernel(t)
	const name = "nstrace-e2e-\"><script>\x1b[31m&end"
	addNetns(t, name)
	id := mustID(t, "/run/netns/"+name)
	output(t, "ip", "-n", name, "link", "add", `"><b>\"]`, "type", "veth", "peer", "name", "x0")
	h := &host{}
	w := h.start(t, "unshare", []string{"--net", "sh", "-c", "echo ready=yes; read x || exit 0"})
	w.value(t, "ready")
	g := graph(t)
	found := 0
	for _, n := range g.Namespaces {
		switch {
		case n.ID == id:
			found++
			if n.Name != name || !slices.ContainsFunc(g.Links, func(l struct {
				Kind     string
				From, To struct {
					Namespace uint32
					Name      string
				}
			}) bool {
				return l.Kind == "veth" && l.From.Namespace == id && l.To.Namespace == id && l.From.Name+l.To.Name == `x0"><b>\"]`
			}) {
				t.Errorf("%+v, links %+v", n, g.Links)
			}
		case n.Oldest.PID == w.pid:
			found++
			if n.Oldest.Comm != "sh" || n.Processes != 1 || len(n.Devices) == 0 {
				t.Errorf("%+v", n)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d of 2 namespaces are in the graph", found)
	}

	dir := t.TempDir()
	for file, check := range map[string]func(t *testing.T, path string){
		"host.svg": checkXML,
		"host.dot": func(t *testing.T, path string) {
			if _, err := exec.LookPath("dot"); err != nil {
				t.Skip("dot (graphviz) is not installed")
			}
			if text := output(t, "dot", "-Tdot", path); !strings.Contains(text, "subgraph") {
				t.Error(text)
			}
		},
		"host.mmd": func(t *testing.T, path string) {
			if text := readFile(t, path); !strings.HasPrefix(text, "flowchart LR\n") || strings.ContainsAny(text, "\x1b") {
				t.Errorf("%q", text)
			}
		},
		"host.json": func(t *testing.T, path string) {
			if !json.Valid([]byte(readFile(t, path))) {
				t.Error("it is no JSON")
			}
		},
	} {
		t.Run(file, func(t *testing.T) {
			path := filepath.Join(dir, file)
			if text := output(t, nstraceBin, "graph", "--runtime-socket", "none", "--fold", "0", "-O", path); text != "" {
				t.Errorf("it printed %q", text)
			}
			check(t, path)
		})
	}
	w.stdin.Close()
	w.end(t)
}

// checkXML parses a picture, and looks for the names of TestGraphPicture.
func checkXML(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var texts []string
	d := xml.NewDecoder(f)
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.CharData:
			texts = append(texts, string(e))
		case xml.StartElement:
			if e.Name.Local == "script" || e.Name.Local == "a" || e.Name.Local == "b" {
				t.Errorf("element %s", e.Name.Local)
			}
		}
	}
	for _, want := range []string{`"><b>\\"]`, `nstrace-e2e-"><script>\x1b[31m&end`} {
		if !slices.Contains(texts, want) {
			t.Errorf("no text of the picture is %s", want)
		}
	}
}

// TestGraphMistakes has mistakes on the command line.
func TestGraphMistakes(t *testing.T) {
	anyKernel(t)
	for _, row := range []struct {
		args, want string
		status     int
	}{
		{"--format png", `nstrace: --format: invalid value "png": want one of svg, dot, mermaid, json`, 2},
		{"--fold -1", "nstrace: --fold: -1 is negative: want a number of namespaces, or 0 to fold none", 2},
		{"--source files", `nstrace: --source: invalid value "files"`, 2},
		{"host.svg", `nstrace: nstrace graph: unexpected argument "host.svg": want none`, 2},
		{"-O /nonexistent/host.svg", "nstrace: --output-file: open /nonexistent/host.svg: no such file or directory", 2},
	} {
		out, err := exec.Command(nstraceBin, append([]string{"graph"}, strings.Fields(row.args)...)...).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != row.status || len(out) > 0 || !strings.HasPrefix(string(exit.Stderr), row.want) || strings.Count(string(exit.Stderr), "\n") != 1 {
			t.Errorf("graph %s: %v, stdout %q, stderr %q", row.args, err, out, errorText(err))
		}
	}
}
