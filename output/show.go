// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/netfacts"
)

// A Page is what nstrace show shows.
type Page struct {
	Target     string // what the argument means
	Namespaces []*Details
	Isolation  []Isolation // of a unit
	Incomplete []string    // what could not be read
}

// Details are what is known of one namespace.
type Details struct {
	Namespace   *inventory.Namespace
	Processes   []*inventory.Process
	Network     *netfacts.Namespace // of a network namespace; nil if it was not read
	Listeners   []Listener
	Peers       map[int]Peer // by the index of the device here
	Differences []*Diff      // parameters that differ from the host's
	Events      []*event.Event
}

// A Peer is the device on the other side of a pair, or the one below a device.
type Peer struct {
	NS     *inventory.Namespace // nil if unknown
	Device *netfacts.Device     // nil if unknown
}

// A Listener is a listening socket.
type Listener struct {
	netfacts.Socket
	Processes []*inventory.Process // that have it open, as far as they were found
}

// Isolation says whether a unit has the namespace that a setting of it promises.
type Isolation struct {
	Setting, Value string
	Type           event.NSType
	Actual         uint32 // the namespace that its main process is in
	Holds          bool
	Why            string
}

// PageWriter writes a Page.
type PageWriter struct {
	Listing *Listing
	Lines   TableOptions // for the events
	b       bytes.Buffer
}

// maxShown is how many rows of a section the text shows. JSON has all.
const maxShown = 20

// WriteText writes the page for people to read.
func (w *PageWriter) WriteText(to io.Writer, page *Page) error {
	for i, d := range page.Namespaces {
		if i > 0 {
			w.b.WriteByte('\n')
		}
		w.details(d, len(page.Namespaces) == 1)
	}
	if len(page.Isolation) > 0 {
		rows := [][]string{{"SETTING", "VALUE", "NAMESPACE", "HOLDS", ""}}
		for _, i := range page.Isolation {
			holds := "yes"
			if !i.Holds {
				holds = "NO"
			}
			rows = append(rows, []string{i.Setting, escapeName(i.Value, ""), string(i.Type) + " " + number(i.Actual), holds, i.Why})
		}
		w.section("ISOLATION", len(page.Isolation), rows)
	}
	_, err := to.Write(w.b.Bytes())
	return err
}

func (w *PageWriter) details(d *Details, full bool) {
	n := d.Namespace
	title := string(n.Type) + " namespace " + number(n.ID)
	if n.Name != "" {
		title += " " + escapeName(n.Name, "")
	}
	if n.Host {
		title += " (host)"
	}
	w.b.WriteString(w.bold(title) + "\n")
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&w.b, "  %-11s %s\n", name, value)
		}
	}
	l := w.Listing
	if owner, _ := l.owner(n); !n.Host {
		field("owner", owner)
	}
	if o := n.Owner; o != nil && o.Container != nil {
		field("container", strings.TrimSpace(escapeName(o.Container.ID, "")+" "+escape(o.Container.Runtime)+" "+escape(o.Container.Image)))
	}
	field("uid", l.Inventory.EventNamespace(n).UID)
	if n.Parent != 0 {
		field("parent", number(n.Parent))
	}
	if n.Type != event.NSTypeUser && n.UserNS != 0 {
		field("user ns", number(n.UserNS)+l.hostMark(event.NSTypeUser, n.UserNS))
	}
	if n.OwnerUID != nil {
		field("made by", l.user(*n.OwnerUID))
	}
	if !n.Created.IsZero() {
		made := n.Created.Local().Format("2006-01-02 15:04:05") + " (" + duration(max(l.Now.Sub(n.Created), 0)) + " ago)"
		if n.Creator != nil {
			made += " by " + actor(n.Creator.Comm, n.Creator.PID)
		}
		field("made", made)
	}
	if !full {
		if p := n.Oldest; p != nil {
			field("processes", number(uint64(n.Processes))+", the oldest "+number(p.PID)+" "+commandOf(p))
		}
	} else {
		w.processes(d)
	}
	if !n.Host {
		w.holders(n)
	}
	if d.Network != nil && d.Network.Err == nil {
		w.network(d)
	}
	if len(d.Differences) > 0 {
		w.differences(d)
	}
	if len(d.Events) > 0 {
		w.section("LATEST EVENTS", len(d.Events), nil)
		t := NewTable(&w.b, w.Lines)
		for _, e := range d.Events {
			_ = t.Write(e) // to memory
		}
		_ = t.Close()
	}
}

func (w *PageWriter) bold(s string) string {
	if w.Listing.Color {
		return styles[strong] + s + resetStyle
	}
	return s
}

func (l *Listing) hostMark(typ event.NSType, id uint32) string {
	if l.Inventory.Host[typ] == id {
		return " (host)"
	}
	return ""
}

// section writes a heading, and rows whose first one has the titles of the columns. Of more rows than
// maxShown it says how many there are.
func (w *PageWriter) section(title string, n int, rows [][]string) {
	fmt.Fprintf(&w.b, "\n%s\n", w.bold(fmt.Sprintf("%s (%d)", title, n)))
	left := 0
	if len(rows) > maxShown+1 {
		left, rows = len(rows)-maxShown-1, rows[:maxShown+1]
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], textWidth(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		line.WriteString(" ")
		for i, cell := range row {
			line.WriteString(" " + cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-textWidth(cell)+1))
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if width := w.Listing.Width; width > 0 {
			text = shorten(text, width)
		}
		w.b.WriteString(text + "\n")
	}
	if left > 0 {
		fmt.Fprintf(&w.b, "  ... and %d more: -o json shows all\n", left)
	}
}

func (w *PageWriter) processes(d *Details) {
	rows := [][]string{{"PID", "PPID", "USER", "COMMAND"}}
	for _, p := range d.Processes {
		rows = append(rows, []string{number(p.PID), number(p.PPID), w.Listing.user(p.UID), commandOf(p)})
	}
	if len(rows) > 1 {
		w.section("PROCESSES", d.Namespace.Processes, rows)
	}
}

// holders says what keeps the namespace alive, and what ends that.
func (w *PageWriter) holders(n *inventory.Namespace) {
	rows := [][]string{{"HOLDER", "IT LETS GO WHEN"}}
	if n.Processes > 0 {
		rows = append(rows, []string{counted(n.Processes, "process", "processes"), "all of them have ended or moved to another namespace"})
	}
	for _, m := range n.Mounts {
		how := "you run umount " + shellWord(m.Path)
		switch host := w.Listing.Inventory.Host[event.NSTypeMnt]; {
		case host != 0 && m.MountNS != host:
			how = fmt.Sprintf("you run nsenter -t %d -m umount %s, or that mount namespace ends", m.PID, shellWord(m.Path))
		case n.Type == event.NSTypeNet && strings.HasPrefix(m.Path, "/run/netns/"):
			how = "you run ip netns delete " + shellWord(strings.TrimPrefix(m.Path, "/run/netns/"))
		}
		rows = append(rows, []string{"mount " + escapeName(m.Path, " ") + " in mount namespace " + number(m.MountNS), how})
	}
	for _, t := range n.Threads {
		rows = append(rows, []string{fmt.Sprintf("thread %d of process %d (%s)", t.TID, t.PID, escapeName(t.Comm, "")), "the thread ends or moves to another namespace"})
	}
	for _, t := range n.ForChildren {
		rows = append(rows, []string{fmt.Sprintf("thread %d of process %d (%s), for its next child", t.TID, t.PID, escapeName(t.Comm, "")), "the thread ends or chooses another namespace"})
	}
	for _, d := range n.Descriptors {
		rows = append(rows, []string{fmt.Sprintf("file descriptor %d of process %d (%s)", d.FD, d.PID, escapeName(d.Comm, "")), "the process closes it or ends"})
	}
	for _, d := range n.Sockets {
		rows = append(rows, []string{fmt.Sprintf("socket %d of process %d (%s)", d.FD, d.PID, escapeName(d.Comm, "")), "the process closes it or ends"})
	}
	for _, r := range n.Children {
		rows = append(rows, []string{fmt.Sprintf("child %s namespace %d", r.Type, r.ID), "that namespace ends"})
	}
	for _, r := range n.Owned {
		rows = append(rows, []string{fmt.Sprintf("%s namespace %d, which it owns", r.Type, r.ID), "that namespace ends"})
	}
	if n.Unseen || len(rows) == 1 {
		rows = append(rows, []string{"nothing that can be seen", "a descriptor that is on its way through a Unix socket, or a mount in a mount namespace without processes, may hold it"})
	}
	w.section("HELD BY", len(rows)-1, rows)
}

func counted(n int, one, many string) string {
	return number(uint64(n)) + " " + plural(uint64(n), one, many)
}

func (w *PageWriter) network(d *Details) {
	rows := [][]string{{"DEVICE", "KIND", "STATE", "MTU", "ADDRESSES", "CONNECTED TO"}}
	for i := range d.Network.Devices {
		dev := &d.Network.Devices[i]
		kind := cmp.Or(dev.Kind, "physical")
		if dev.Loopback {
			kind = "loopback"
		}
		state := "down"
		switch {
		case dev.Up && dev.Carrier:
			state = "up"
		case dev.Up:
			state = "no carrier"
		}
		var addresses []string
		for _, a := range dev.Addresses {
			addresses = append(addresses, a.String())
		}
		rows = append(rows, []string{escapeName(dev.Name, ""), escape(kind), state, number(uint64(max(dev.MTU, 0))), strings.Join(addresses, " "), w.connected(d, dev)})
	}
	w.section("DEVICES", len(d.Network.Devices), rows)

	rows = [][]string{{"DESTINATION", "VIA", "DEVICE", "TABLE"}}
	for _, r := range d.Network.Routes {
		to := r.Destination.String()
		if r.Destination.Bits() == 0 {
			to = "default"
		}
		if r.Type != "unicast" {
			to = r.Type + " " + to
		}
		var via, devices []string
		for _, h := range r.Hops {
			if h.Gateway.IsValid() {
				via = append(via, h.Gateway.String())
			}
			if dev := d.Network.Device(h.Device); dev != nil {
				devices = append(devices, escapeName(dev.Name, ""))
			}
		}
		rows = append(rows, []string{to, strings.Join(via, " "), strings.Join(devices, " "), number(uint32(r.Table))})
	}
	if len(rows) > 1 {
		w.section("ROUTES", len(rows)-1, rows)
	}

	rows = [][]string{{"SOCKET", "LOCAL", "PROCESS"}}
	for _, s := range d.Listeners {
		var who []string
		for _, p := range s.Processes {
			who = append(who, actor(p.Comm, p.PID))
		}
		rows = append(rows, []string{s.Protocol, s.Local.String(), strings.Join(who, " ")})
	}
	if len(rows) > 1 {
		w.section("LISTENING", len(rows)-1, rows)
	}

	rows = [][]string{{"FIREWALL", "FAMILY", "TABLE", "CHAINS"}}
	for _, t := range d.Network.Tables {
		chains := ""
		if t.Firewall == "nftables" {
			chains = number(uint64(max(t.Chains, 0)))
		}
		rows = append(rows, []string{t.Firewall, t.Family, escapeName(t.Name, ""), chains})
	}
	if len(rows) > 1 {
		w.section("FIREWALL TABLES", len(rows)-1, rows)
	}
}

// connected says where the other end of a device is.
func (w *PageWriter) connected(d *Details, dev *netfacts.Device) string {
	if master := d.Network.Device(dev.Master); dev.Master != 0 && master != nil {
		return "part of " + escapeName(master.Name, "")
	}
	peer, ok := d.Peers[dev.Index]
	if !ok || peer.Device == nil {
		return ""
	}
	name := escapeName(peer.Device.Name, "")
	switch {
	case peer.NS == nil:
		return name
	case peer.NS.ID == d.Namespace.ID:
		return name + " here"
	}
	owner, _ := w.Listing.owner(peer.NS)
	return strings.TrimSpace(name + " in " + number(peer.NS.ID) + " " + owner)
}

func (w *PageWriter) differences(d *Details) {
	rows := [][]string{{"PARAMETER", "HERE", "HOST"}}
	n := 0
	for _, x := range d.Differences {
		if x.State != Different {
			continue
		}
		n++
		cell := func(v DiffValue) string {
			if v.Text == nil {
				return unknown
			}
			return escapeName(*v.Text, "")
		}
		rows = append(rows, []string{escapeName(x.Parameter, ""), cell(x.Values[0]), cell(x.Values[1])})
	}
	w.section("PARAMETERS THAT DIFFER FROM THE HOST'S", n, rows)
	fmt.Fprintf(&w.b, "  nstrace diff %d shows more\n", d.Namespace.ID)
}

// pageJSON is a page as JSON.
type pageJSON struct {
	Target     event.JSONString   `json:"target"`
	Namespaces []detailsJSON      `json:"namespaces"`
	Isolation  []isolationJSON    `json:"isolation,omitempty"`
	Incomplete []event.JSONString `json:"incomplete,omitempty"`
}

type detailsJSON struct {
	listedNamespace
	All         []listedProcess   `json:"all_processes,omitempty"`
	Devices     []deviceJSON      `json:"devices,omitempty"`
	Routes      []routeJSON       `json:"routes,omitempty"`
	Listening   []listenerJSON    `json:"listening,omitempty"`
	Firewall    []firewallJSON    `json:"firewall,omitempty"`
	Differences []json.RawMessage `json:"differences,omitempty"`
	Events      []json.RawMessage `json:"events,omitempty"`
}

type isolationJSON struct {
	Setting string           `json:"setting"`
	Value   event.JSONString `json:"value"`
	Type    event.NSType     `json:"type"`
	Actual  uint32           `json:"actual"`
	Holds   bool             `json:"holds"`
	Why     event.JSONString `json:"why"`
}

type deviceJSON struct {
	Index     int              `json:"index"`
	Name      event.JSONString `json:"name"`
	Kind      event.JSONString `json:"kind,omitempty"`
	Up        bool             `json:"up"`
	Carrier   bool             `json:"carrier"`
	MTU       int              `json:"mtu"`
	MAC       string           `json:"mac,omitempty"`
	Addresses []string         `json:"addresses,omitempty"`
	Master    event.JSONString `json:"master,omitempty"`
	Peer      *peerJSON        `json:"peer,omitempty"`
}

type peerJSON struct {
	Device event.JSONString `json:"device,omitempty"`
	Index  int              `json:"index,omitempty"`
	ID     uint32           `json:"namespace_id,omitempty"`
	Host   bool             `json:"namespace_host,omitempty"`
	Owner  event.JSONString `json:"namespace_owner,omitempty"`
}

type routeJSON struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Table       int      `json:"table"`
	Via         []string `json:"via,omitempty"`
	Devices     []int    `json:"devices,omitempty"`
}

type listenerJSON struct {
	Protocol  string   `json:"protocol"`
	Local     string   `json:"local"`
	Processes []uint32 `json:"pids,omitempty"`
}

type firewallJSON struct {
	Firewall string           `json:"firewall"`
	Family   string           `json:"family"`
	Name     event.JSONString `json:"name"`
	Chains   int              `json:"chains,omitempty"`
}

// WriteJSON writes the page as one object on one line.
func (w *PageWriter) WriteJSON(to io.Writer, page *Page) error {
	p := pageJSON{Target: event.JSONString(page.Target)}
	for _, d := range page.Namespaces {
		p.Namespaces = append(p.Namespaces, w.detailsJSON(d))
	}
	for _, i := range page.Isolation {
		p.Isolation = append(p.Isolation, isolationJSON{i.Setting, event.JSONString(i.Value), i.Type, i.Actual, i.Holds, event.JSONString(i.Why)})
	}
	for _, line := range page.Incomplete {
		p.Incomplete = append(p.Incomplete, event.JSONString(line))
	}
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	return enc.Encode(&p)
}

func (w *PageWriter) detailsJSON(d *Details) detailsJSON {
	l := w.Listing
	var enc event.Encoder
	j := detailsJSON{listedNamespace: l.listed(d.Namespace)}
	for _, p := range d.Processes {
		j.All = append(j.All, *l.listedProcess(p))
	}
	if d.Network != nil {
		for i := range d.Network.Devices {
			dev := &d.Network.Devices[i]
			x := deviceJSON{Index: dev.Index, Name: event.JSONString(dev.Name), Kind: event.JSONString(dev.Kind), Up: dev.Up, Carrier: dev.Carrier, MTU: dev.MTU, MAC: dev.MAC}
			for _, a := range dev.Addresses {
				x.Addresses = append(x.Addresses, a.String())
			}
			if m := d.Network.Device(dev.Master); dev.Master != 0 && m != nil {
				x.Master = event.JSONString(m.Name)
			}
			if peer, ok := d.Peers[dev.Index]; ok {
				x.Peer = &peerJSON{}
				if peer.Device != nil {
					x.Peer.Device, x.Peer.Index = event.JSONString(peer.Device.Name), peer.Device.Index
				}
				if peer.NS != nil {
					x.Peer.ID, x.Peer.Host, x.Peer.Owner = peer.NS.ID, peer.NS.Host, event.JSONString(ownerName(peer.NS))
				}
			}
			j.Devices = append(j.Devices, x)
		}
		for _, r := range d.Network.Routes {
			x := routeJSON{Destination: r.Destination.String(), Type: r.Type, Table: r.Table}
			for _, h := range r.Hops {
				if h.Gateway.IsValid() {
					x.Via = append(x.Via, h.Gateway.String())
				}
				x.Devices = append(x.Devices, h.Device)
			}
			j.Routes = append(j.Routes, x)
		}
		for _, t := range d.Network.Tables {
			j.Firewall = append(j.Firewall, firewallJSON{t.Firewall, t.Family, event.JSONString(t.Name), t.Chains})
		}
	}
	for _, s := range d.Listeners {
		x := listenerJSON{Protocol: s.Protocol, Local: s.Local.String()}
		for _, p := range s.Processes {
			x.Processes = append(x.Processes, p.PID)
		}
		j.Listening = append(j.Listening, x)
	}
	for _, x := range d.Differences {
		// A value of strings and numbers, so encoding cannot fail.
		line, _ := diffObject(&enc, x)
		j.Differences = append(j.Differences, bytes.TrimSpace(line))
	}
	for _, e := range d.Events {
		j.Events = append(j.Events, slices.Clone(enc.Append(nil, e)))
	}
	return j
}
