// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/internal/netfacts"
)

// DefaultFold is how many namespaces a picture shows one by one, if others are similar.
const DefaultFold = 40

// Bounds of a picture.
const (
	keep      = 3    // of what is folded, at most this many are shown before the others
	maxBoxes  = 400  // of namespaces that are all different
	maxRows   = 512  // of devices of a namespace
	maxAll    = 8192 // of devices of all namespaces
	maxLonely = 64   // of devices of a namespace that are connected to nothing
	maxLocal  = 8    // of devices of a namespace that are the same and connected to nothing
	maxLines  = 3    // of addresses of a device
	maxTitle  = 34   // cells of a namespace's name
	maxDevice = 24   // cells of a device's name: 15, and more if some are escaped
)

// Formats returns the names of the formats.
func Formats() []string { return []string{"svg", "dot", "mermaid", "json"} }

// Write writes the graph in one of Formats. A picture of more than fold namespaces folds similar ones;
// 0 folds none.
func (g *Graph) Write(w io.Writer, format string, fold int) error {
	switch format {
	case "svg":
		return g.WriteSVG(w, fold)
	case "dot":
		return g.WriteDOT(w, fold)
	case "mermaid":
		return g.WriteMermaid(w, fold)
	case "json":
		return g.WriteJSON(w)
	}
	return fmt.Errorf("unknown format %q: want one of %s", format, strings.Join(Formats(), ", "))
}

// A picture is what is drawn of a Graph.
type picture struct {
	g     *Graph
	boxes []*box
	edges []*edge
	notes []string // what is not drawn, and why
}

// A box stands for a namespace, or for several similar ones.
type box struct {
	all        []*Namespace
	name, kind string // as Namespace.title
	facts      string
	tip        string // shown when the mouse rests on it
	rows       []*row
	pairs      []*box // the boxes that pairs connect it with
	note       string // instead of rows, or below them
	missing    int    // devices that are not drawn
	each       int    // it stands for groups of this many namespaces that are connected to each other

	layout
}

// A row stands for a device, or for several similar ones.
type row struct {
	box    *box
	device *netfacts.Device // the first one; nil for hardware that was moved away
	name   string
	label  string   // what it is
	lines  []string // addresses
	tip    string
	n      int // how many devices it stands for

	parent *row // what it belongs to or lies upon in the same box
	via    Kind // how
	depth  int
	ends   []*row // what edges connect it to in other boxes, in the order of edges
	loose  bool   // it has an edge that leads to no other box

	y, h float64
}

// An edge connects two rows. It stands for n links.
type edge struct {
	kind     Kind
	from, to *row // to is nil if it is unknown
	n        int
	lane     float64 // if it stays in its column: how far it leaves the boxes
}

// draw makes the picture of a graph.
func (g *Graph) draw(fold int) *picture {
	p := &picture{g: g, notes: slices.Clone(g.Incomplete)}
	d := &drafter{picture: p, links: map[*netfacts.Device][]*Link{}, boxOf: map[*Namespace]*box{}, rowOf: map[*netfacts.Device]*row{}, moved: map[*netfacts.Device]*row{}, each: map[*Namespace]int{}, seed: maphash.MakeSeed(), hashes: map[*Namespace]string{}}
	for i := range g.Links {
		l := &g.Links[i]
		d.links[l.From.Device] = append(d.links[l.From.Device], l)
		if l.To.Device != nil {
			d.links[l.To.Device] = append(d.links[l.To.Device], l)
		}
	}
	d.makeBoxes(fold)
	for _, b := range p.boxes {
		d.makeRows(b)
	}
	d.connect()
	for _, n := range g.Namespaces {
		for _, line := range n.Network.Incomplete {
			p.notes = append(p.notes, fmt.Sprintf("net:[%d]: %s", n.ID, line))
		}
	}
	return p
}

// A drafter makes a picture.
type drafter struct {
	*picture
	links map[*netfacts.Device][]*Link
	boxOf map[*Namespace]*box
	rowOf map[*netfacts.Device]*row
	moved map[*netfacts.Device]*row // in the host's box
	each  map[*Namespace]int        // see box

	rows   int // of all boxes
	seed   maphash.Seed
	hashes map[*Namespace]string
}

// other returns the end of a link that is not at a device.
func (l *Link) other(d *netfacts.Device) *End {
	if l.From.Device == d {
		return &l.To
	}
	return &l.From
}

// plain reports whether a device says nothing: a loopback as in every namespace, or one that nobody
// uses, such as the tunnels that some modules make in every namespace.
func (d *drafter) plain(dev *netfacts.Device) bool {
	if len(d.links[dev]) > 0 || len(addresses(dev)) > 0 {
		return false
	}
	return dev.Loopback || !dev.Up && !dev.Physical()
}

// signature describes the devices of a namespace and what they are connected to, without names and
// addresses. Namespaces with the same signature are similar.
func (d *drafter) signature(n *Namespace) string {
	return d.shape(n, func(o *Namespace) string { return fmt.Sprint(o.ID) })
}

// shape is a signature in which name says what another namespace is.
func (d *drafter) shape(n *Namespace, name func(*Namespace) string) string {
	_, kind := n.title()
	lines := []string{kind, fmt.Sprint(n.Network.Err != nil)}
	for i := range n.Devices() {
		if dev := &n.Devices()[i]; !d.plain(dev) {
			lines = append(lines, d.deviceShape(n, dev, name))
		}
	}
	slices.Sort(lines[2:])
	return strings.Join(lines, "\n")
}

func (d *drafter) deviceShape(n *Namespace, dev *netfacts.Device, name func(*Namespace) string) string {
	parts := []string{fmt.Sprintf("%q %v %t", dev.Kind, state(dev), len(addresses(dev)) > 0)}
	for _, l := range d.links[dev] {
		o := l.other(dev)
		end := fmt.Sprintf("%s %t", l.Kind, o == &l.To)
		switch {
		case o.NS == nil:
			end += " unknown"
		case o.NS == n && o.Device != nil:
			end += fmt.Sprintf(" here %q", o.Device.Kind)
		case o.Device == nil:
			end += " hardware"
		case o.Device.Pair() && l.Kind != Upper:
			// Of a pair it counts what the other end belongs to.
			end += fmt.Sprintf(" %q master %d", name(o.NS), o.Device.Master)
		default:
			end += fmt.Sprintf(" %q device %d", name(o.NS), o.Device.Index)
		}
		parts = append(parts, end)
	}
	slices.Sort(parts[1:])
	return strings.Join(parts, "; ")
}

// makeBoxes makes a box for each namespace. If there are more than fold, similar ones share one.
func (d *drafter) makeBoxes(fold int) {
	similar := map[string][]*Namespace{}
	for _, n := range d.g.Namespaces {
		if !n.host {
			s := d.signature(n)
			similar[s] = append(similar[s], n)
		}
	}
	groups := slices.SortedFunc(maps.Values(similar), func(a, b []*Namespace) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a[0].ID, b[0].ID))
	})
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b *Namespace) int {
			x, _ := a.title()
			y, _ := b.title()
			return compareNatural(x, y)
		})
	}
	var folded map[*Namespace][]*Namespace
	left := len(d.g.Namespaces)
	for show := keep; show > 0 && fold > 0 && left > fold; show-- {
		folded, left = map[*Namespace][]*Namespace{}, len(d.g.Namespaces)
		for _, group := range groups {
			if left <= fold || len(group) <= show+1 {
				break
			}
			for _, n := range group[show:] {
				folded[n] = group[show:]
			}
			left -= len(group) - show - 1
		}
		left -= d.foldGroups(folded, left-fold, show)
	}
	missing := 0
	for _, n := range d.g.Namespaces {
		group, ok := folded[n]
		switch {
		case ok && d.boxOf[group[0]] != nil:
		case len(d.boxes) >= maxBoxes:
			missing++
		case ok:
			d.addBox(group)
		default:
			d.addBox([]*Namespace{n})
		}
	}
	if missing > 0 {
		d.notes = append(d.notes, count(missing, "more namespace"))
	}
}

// foldGroups folds groups of namespaces that are connected to each other and to no others, if there are
// many similar groups, until there are not tooMany boxes. folded has what is folded already. Of each
// kind of group, foldGroups leaves show. It returns how many boxes it saves.
func (d *drafter) foldGroups(folded map[*Namespace][]*Namespace, tooMany, show int) (saved int) {
	if tooMany <= 0 {
		return 0
	}
	similar := map[string][][]*Namespace{}
	for _, group := range d.groups(folded) {
		var lines []string
		for _, n := range group {
			lines = append(lines, d.shape(n, d.hash))
		}
		slices.Sort(lines)
		s := strings.Join(lines, "\n\n")
		similar[s] = append(similar[s], group)
	}
	for _, groups := range slices.SortedFunc(maps.Values(similar), func(a, b [][]*Namespace) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a[0][0].ID, b[0][0].ID))
	}) {
		if saved >= tooMany || len(groups) <= show+1 || len(groups[0]) == 1 {
			continue
		}
		all := slices.Concat(groups[show:]...)
		for _, n := range all {
			folded[n] = all
			d.each[n] = len(groups[0])
		}
		saved += len(all) - 1
	}
	return saved
}

// hash returns a hash of what a namespace looks like, without what it is connected to.
func (d *drafter) hash(n *Namespace) string {
	h, ok := d.hashes[n]
	if !ok {
		h = fmt.Sprint(maphash.String(d.seed, d.shape(n, func(*Namespace) string { return "" })))
		d.hashes[n] = h
	}
	return h
}

// groups returns the groups of namespaces that links connect, without that of the host and those with
// folded namespaces.
func (d *drafter) groups(folded map[*Namespace][]*Namespace) [][]*Namespace {
	next := map[*Namespace][]*Namespace{}
	for i := range d.g.Links {
		if l := &d.g.Links[i]; l.To.NS != nil && l.To.NS != l.From.NS {
			next[l.From.NS] = append(next[l.From.NS], l.To.NS)
			next[l.To.NS] = append(next[l.To.NS], l.From.NS)
		}
	}
	var all [][]*Namespace
	seen := map[*Namespace]bool{}
	for _, n := range d.g.Namespaces {
		if seen[n] {
			continue
		}
		seen[n] = true
		group := []*Namespace{n}
		use := true
		for i := 0; i < len(group); i++ {
			use = use && !group[i].host && folded[group[i]] == nil
			for _, o := range next[group[i]] {
				if !seen[o] {
					seen[o] = true
					group = append(group, o)
				}
			}
		}
		if use {
			all = append(all, group)
		}
	}
	return all
}

// compareNatural compares names, and digits in them as numbers.
func compareNatural(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := digits(a[i:]), digits(b[i:])
		if x > 0 && y > 0 && x != y {
			return cmp.Compare(x, y)
		}
		if a[i] != b[i] {
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// digits returns how many digits a string begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

func (d *drafter) addBox(all []*Namespace) {
	b := &box{all: all}
	for _, n := range all {
		d.boxOf[n] = b
	}
	d.boxes = append(d.boxes, b)
	n := all[0]
	name, kind := n.title()
	b.kind = kind
	if len(all) == 1 {
		b.name = clean(name, maxTitle)
		b.facts = n.facts()
		b.tip = n.describe()
		return
	}
	b.name = fmt.Sprintf("%d more", len(all))
	first, _ := all[0].title()
	last, _ := all[len(all)-1].title()
	b.facts = clean(first, 20) + " … " + clean(last, 20)
	var names []string
	for _, n := range all[:min(len(all), 40)] {
		name, _ := n.title()
		names = append(names, clean(name, 60))
	}
	b.tip = fmt.Sprintf("%d more namespaces like the others: the same devices, connected to the same\n%s", len(all), strings.Join(names, ", "))
	if b.each = d.each[n]; b.each > 0 {
		groups := len(all) / b.each
		b.name = fmt.Sprintf("%d more groups", groups)
		b.note = fmt.Sprintf("of %d namespaces that are connected to each other, like the others", b.each)
		b.tip = fmt.Sprintf("%d more groups %s\n%s", groups, b.note, strings.Join(names, ", "))
	}
	if more := len(all) - len(names); more > 0 {
		b.tip += fmt.Sprintf(" and %d more", more)
	}
}

// describe returns all that is known of a namespace, for the title that appears when the mouse is above.
func (n *Namespace) describe() string {
	name, kind := n.title()
	lines := []string{kind + " " + clean(name, maxName), n.facts()}
	if n.Name != "" && kind != "netns" {
		lines = append(lines, "name: "+clean(n.Name, maxName))
	}
	if o := n.Owner; o != nil && o.Container != nil {
		line := "container " + clean(o.Container.ID, 80)
		if o.Container.Image != "" {
			line += ", image " + clean(o.Container.Image, 80)
		}
		lines = append(lines, line)
	}
	if o := n.Owner; o != nil && o.Unit != "" {
		lines = append(lines, "unit "+clean(o.Unit, 80))
	}
	if n.Oldest != nil {
		lines = append(lines, fmt.Sprintf("oldest process: %s (%d)", clean(n.Oldest.Comm, 64), n.Oldest.PID))
	}
	if !n.Created.IsZero() {
		line := "created " + n.Created.UTC().Format("2006-01-02 15:04:05 UTC")
		if c := n.Creator; c != nil {
			line += fmt.Sprintf(" by %s (%d)", clean(c.Comm, 64), c.PID)
		}
		lines = append(lines, line)
	}
	if n.Network.Err != nil {
		lines = append(lines, clean(n.Network.Err.Error(), maxName))
	}
	return strings.Join(lines, "\n")
}

// makeRows makes the rows of a box.
func (d *drafter) makeRows(b *box) {
	n := b.all[0]
	switch {
	case n.Network.Err != nil:
		b.note = "could not be read"
		return
	case b.each > 0:
		return
	case len(b.all) == 1:
		d.ownRows(b, n)
	default:
		d.sharedRows(b)
	}
	d.arrange(b)
	var unused []string
	for i := range n.Devices() {
		if dev := &n.Devices()[i]; d.plain(dev) && !dev.Loopback {
			unused = append(unused, clean(dev.Name, maxDevice))
		}
	}
	switch {
	case len(unused) > 0 && len(b.all) == 1:
		more := ""
		if len(unused) > 4 {
			more = fmt.Sprintf(" and %d more", len(unused)-3)
			unused = unused[:3]
		}
		b.note = "unused: " + strings.Join(unused, ", ") + more
	case len(b.rows) == 0:
		b.note = "only lo"
	}
	if b.missing > 0 {
		b.note = strings.TrimPrefix(b.note+" · "+count(b.missing, "more device"), " · ")
	}
}

// ownRows makes the rows of one namespace. Devices that lead to the same folded box share a row, and
// so do many that are the same and lead nowhere.
func (d *drafter) ownRows(b *box, n *Namespace) {
	shared := map[string]*row{}
	seen := map[string]int{}
	lonely := 0
	for i := range n.Devices() {
		dev := &n.Devices()[i]
		if d.plain(dev) {
			continue
		}
		key, local := d.shareKey(n, dev)
		if local {
			seen[key]++
		}
		if len(d.links[dev]) == 0 {
			lonely++
		}
		r := shared[key]
		switch {
		case key != "" && (!local || seen[key] > maxLocal) && r != nil:
			r.add(dev)
			d.rowOf[dev] = r
		case len(b.rows) >= maxRows || d.rows >= maxAll || len(d.links[dev]) == 0 && lonely > maxLonely:
			b.missing++
		case key != "" && (!local || seen[key] > maxLocal):
			shared[key] = d.addRow(b, dev)
		default:
			d.addRow(b, dev)
		}
	}
	for _, r := range shared {
		r.share()
	}
	if !n.host {
		return
	}
	for i := range d.g.Links {
		l := &d.g.Links[i]
		if l.Kind != Moved || l.To.NS != n {
			continue
		}
		if len(b.rows) >= 2*maxRows || d.rows >= maxAll {
			b.missing++
			continue
		}
		r := &row{box: b, name: clean(l.From.Device.Name, maxDevice), label: "moved away", n: 1, tip: "hardware of the host that is in another namespace"}
		b.rows = append(b.rows, r)
		d.rows++
		d.moved[l.From.Device] = r
	}
}

// shareKey returns what devices that can share a row have in common; "" for none. local says that
// they lead nowhere, and share a row only if they are many.
func (d *drafter) shareKey(n *Namespace, dev *netfacts.Device) (key string, local bool) {
	to := ""
	for _, l := range d.links[dev] {
		o := l.other(dev)
		switch {
		case o.NS == nil:
			to += " unknown"
		case o.NS == n && o.Device != nil && o.Device == d.masterOf(n, dev):
		case o.NS == n:
			return "", false // something lies upon it
		case len(d.links[dev]) <= 2 && d.boxOf[o.NS] != nil && len(d.boxOf[o.NS].all) > 1:
			to += fmt.Sprintf(" %p", d.boxOf[o.NS])
		default:
			return "", false
		}
	}
	key = fmt.Sprintf("%q %s %d%s", dev.Kind, state(dev), dev.Master, to)
	if dev.Physical() {
		return "", false
	}
	return key, !strings.Contains(to, "0x")
}

func (d *drafter) masterOf(n *Namespace, dev *netfacts.Device) *netfacts.Device {
	for _, l := range d.links[dev] {
		if l.From.Device == dev && l.To.NS == n && l.To.Device != nil && l.To.Device.Index == dev.Master {
			return l.To.Device
		}
	}
	return nil
}

// sharedRows makes the rows of a box that stands for similar namespaces. All have the same devices but
// for names and addresses.
func (d *drafter) sharedRows(b *box) {
	for _, dev := range d.inOrder(b.all[0]) {
		if d.rows >= maxAll {
			b.missing++
			continue
		}
		d.addRow(b, dev)
	}
	for _, n := range b.all[1:] {
		for i, dev := range d.inOrder(n) {
			if i < len(b.rows) {
				b.rows[i].add(dev)
				d.rowOf[dev] = b.rows[i]
			}
		}
	}
	for _, r := range b.rows {
		r.share()
	}
}

// inOrder returns the devices of a namespace that are drawn, the same ones of similar namespaces in the
// same order.
func (d *drafter) inOrder(n *Namespace) []*netfacts.Device {
	type signed struct {
		dev *netfacts.Device
		s   string
	}
	var all []signed
	for i := range n.Devices() {
		if dev := &n.Devices()[i]; !d.plain(dev) {
			all = append(all, signed{dev, d.deviceShape(n, dev, func(o *Namespace) string { return fmt.Sprint(o.ID) })})
		}
	}
	slices.SortStableFunc(all, func(a, b signed) int { return cmp.Compare(a.s, b.s) })
	devices := make([]*netfacts.Device, 0, len(all))
	for _, s := range all[:min(len(all), maxRows)] {
		devices = append(devices, s.dev)
	}
	return devices
}

func (d *drafter) addRow(b *box, dev *netfacts.Device) *row {
	r := &row{box: b, device: dev, name: clean(dev.Name, maxDevice), label: kindLabel(dev), n: 1, tip: describe(dev)}
	r.lines = addresses(dev)
	if more := len(r.lines) - maxLines; more > 0 {
		r.lines = append(r.lines[:maxLines-1:maxLines-1], fmt.Sprintf("and %d more", more+1))
	}
	b.rows = append(b.rows, r)
	d.rows++
	d.rowOf[dev] = r
	return r
}

// add has a row stand for one more device.
func (r *row) add(dev *netfacts.Device) {
	r.n++
	if dev.Name != r.device.Name {
		r.name = ""
	}
	if kindLabel(dev) != r.label {
		r.label = "devices"
	}
	if r.n <= 40 {
		all := addresses(dev)
		r.tip += "\n" + clean(dev.Name, 64) + " " + strings.Join(all[:min(len(all), 2)], " ")
	}
}

// share completes the row of several devices.
func (r *row) share() {
	if r.n == 1 {
		return
	}
	r.lines = nil
	if r.name == "" {
		r.name = fmt.Sprintf("%d more", r.n)
	}
	if r.n > 40 {
		r.tip += fmt.Sprintf("\nand %d more", r.n-40)
	}
}

// arrange finds the parents of rows, and orders them: each below its parent.
func (d *drafter) arrange(b *box) {
	if len(b.rows) == 0 {
		return
	}
	children := map[*row][]*row{}
	for _, r := range b.rows {
		r.parent, r.via = d.parent(r)
	}
	// A device can belong to one that lies upon it: cut such circles.
	for _, r := range b.rows {
		steps := 0
		for up := r.parent; up != nil; up = up.parent {
			if steps++; up == r || steps > len(b.rows) {
				r.parent = nil
				break
			}
		}
	}
	for _, r := range b.rows {
		children[r.parent] = append(children[r.parent], r)
	}
	rank := func(r *row) int {
		switch {
		case r.device == nil:
			return 3
		case r.n > 1:
			return 2
		case r.device.Physical():
			return 0
		}
		return 1
	}
	rows := b.rows
	b.rows = make([]*row, 0, len(rows))
	var visit func(parent *row, depth int)
	visit = func(parent *row, depth int) {
		slices.SortStableFunc(children[parent], func(x, y *row) int {
			return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.via, y.via))
		})
		for _, r := range children[parent] {
			r.depth = depth
			b.rows = append(b.rows, r)
			visit(r, depth+1)
		}
	}
	visit(nil, 0)
}

// parent returns the row in the same box that a row belongs to, or else the one that it lies upon.
func (d *drafter) parent(r *row) (*row, Kind) {
	var below *row
	var via Kind
	for _, l := range d.links[r.device] {
		if r.device == nil || l.From.Device != r.device || l.To.Device == nil || r.device.Pair() && (l.Kind == Veth || l.Kind == Netkit) {
			continue
		}
		to := d.rowOf[l.To.Device]
		if to == nil || to.box != r.box || to == r {
			continue
		}
		if l.To.Device.Index == r.device.Master {
			return to, l.Kind
		}
		below, via = to, l.Kind
	}
	return below, via
}

// connect makes the edges. What a row and its parent say needs none.
func (d *drafter) connect() {
	type key struct {
		kind     Kind
		from, to *row
	}
	edges := map[key]*edge{}
	for i := range d.g.Links {
		l := &d.g.Links[i]
		from, to := d.rowOf[l.From.Device], d.rowOf[l.To.Device]
		if l.Kind == Moved {
			to = d.moved[l.From.Device]
		}
		if from == nil || to == nil && l.To.NS != nil || to != nil && from.parent == to && from.via == l.Kind {
			continue
		}
		k := key{l.Kind, from, to}
		e := edges[k]
		if e == nil {
			e = &edge{kind: l.Kind, from: from, to: to}
			edges[k] = e
			d.edges = append(d.edges, e)
			if to != nil && to.box != from.box {
				from.ends = append(from.ends, to)
				to.ends = append(to.ends, from)
				if paired(from, to) {
					from.box.pairs = append(from.box.pairs, to.box)
					to.box.pairs = append(to.box.pairs, from.box)
				}
			} else {
				from.loose = true
				if to != nil {
					to.loose = true
				}
			}
		}
		e.n++
	}
}

// paired reports whether two rows that an edge connects are the ends of a pair.
func paired(a, b *row) bool {
	return a.device != nil && b.device != nil && a.device.Pair() && b.device.Pair()
}

// tip describes an edge.
func (e *edge) tip() string {
	from := e.from.box.name + ": " + e.from.name
	to := "a namespace that nstrace cannot see"
	if e.to != nil {
		to = e.to.box.name + ": " + e.to.name
	}
	text := fmt.Sprintf("%s\n%s\n%s", kindNames[e.kind], from, to)
	if e.n > 1 {
		text = fmt.Sprintf("%d × %s", e.n, text)
	}
	return text
}

// kindNames are what the legend calls kinds, in the order in which it lists them.
var kindNames = map[Kind]string{
	Veth: "veth pair", Netkit: "netkit pair", Bridge: "port of a bridge", Bond: "part of a bond", VRF: "part of a VRF",
	Member: "part of another device", VLAN: "VLAN upon a device", Macvlan: "macvlan upon a device", IPVLAN: "ipvlan upon a device",
	Upper: "upon another device", Moved: "hardware moved away from the host",
}

// kinds returns the kinds of links that the picture has.
func (p *picture) kinds() []Kind {
	var used []Kind
	for _, k := range []Kind{Veth, Netkit, Bridge, Bond, VRF, Member, VLAN, Macvlan, IPVLAN, Upper, Moved} {
		if slices.ContainsFunc(p.edges, func(e *edge) bool { return e.kind == k }) ||
			slices.ContainsFunc(p.boxes, func(b *box) bool {
				return slices.ContainsFunc(b.rows, func(r *row) bool { return r.parent != nil && r.via == k })
			}) {
			used = append(used, k)
		}
	}
	return used
}
