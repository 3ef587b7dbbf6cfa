// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
)

// A Listing writes the namespaces of an inventory as a table or as lines of JSON.
type Listing struct {
	Inventory *inventory.Inventory
	// User returns the name of a user, "" for none. nil: show numbers only.
	User func(uid uint32) string
	// Now is the time that ages are relative to.
	Now time.Time

	// For tables only.
	Columns    []string // names from ListColumns; nil for the usual ones
	NoHeadings bool
	Tree       Tree
	Wide       bool // show every column, and cut nothing
	Color      bool
	Width      int // of the terminal; 0: cut nothing

	users map[uint32]string // as user returned them
}

// Tree says what the rows of a table hang below.
type Tree string

// Trees.
const (
	NoTree     Tree = ""
	TreeParent Tree = "parent" // PID and user namespaces below their parents
	TreeOwner  Tree = "owner"  // namespaces below the user namespaces that own them
)

// A listColumn is a column of the table.
type listColumn struct {
	name  string
	usage string
	right bool // numbers are aligned at the right
	usual bool // shown without --columns and -o wide
	// max is the most columns of the terminal that it takes, except in wide tables; 0: any number.
	max  int
	text func(l *Listing, n *inventory.Namespace) (string, style)
	less func(a, b *inventory.Namespace) int // nil: by text
}

var listColumns = []listColumn{
	{name: "type", usage: "type of the namespace", usual: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return string(n.Type), normal
	}, less: func(a, b *inventory.Namespace) int { return inventory.CompareTypes(a.Type, b.Type) }},
	{name: "id", usage: "inode number", right: true, usual: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return number(n.ID), strong
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.ID, b.ID) }},
	{name: "uid", usage: "id that the kernel never uses again", right: true, text: func(l *Listing, n *inventory.Namespace) (string, style) {
		return l.Inventory.EventNamespace(n).UID, normal
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.KernelID, b.KernelID) }},
	{name: "owner", usage: "container, pod, name of ip netns, or systemd unit that it belongs to", usual: true, max: 24, text: (*Listing).owner},
	{name: "procs", usage: "number of processes", right: true, usual: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return number(uint64(n.Processes)), normal
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.Processes, b.Processes) }},
	{name: "pid", usage: "oldest process", right: true, usual: true, text: ofOldest(func(_ *Listing, p *inventory.Process) string {
		return number(p.PID)
	}), less: byOldest(func(p *inventory.Process) uint32 { return p.PID })},
	{name: "ppid", usage: "its parent", right: true, text: ofOldest(func(_ *Listing, p *inventory.Process) string {
		return number(p.PPID)
	}), less: byOldest(func(p *inventory.Process) uint32 { return p.PPID })},
	{name: "parent", usage: "command name of its parent", usual: true, max: 16, text: ofOldest(func(l *Listing, p *inventory.Process) string {
		if parent := l.Inventory.Process(p.PPID); parent != nil {
			return escapeName(parent.Comm, "")
		}
		return ""
	})},
	{name: "user", usage: "its user", usual: true, max: 16, text: ofOldest(func(l *Listing, p *inventory.Process) string {
		return l.user(p.UID)
	})},
	{name: "command", usage: "its arguments, or the command name of a kernel thread", usual: true, max: 40, text: ofOldest(func(_ *Listing, p *inventory.Process) string {
		return commandOf(p)
	})},
	{name: "user-ns", usage: "inode number of the user namespace that owns it", right: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return orNone(n.UserNS), normal
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.UserNS, b.UserNS) }},
	{name: "parent-ns", usage: "inode number of the parent of a PID or user namespace", right: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return orNone(n.Parent), normal
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.Parent, b.Parent) }},
	{name: "made-by", usage: "user who made a user namespace", max: 16, text: func(l *Listing, n *inventory.Namespace) (string, style) {
		if n.OwnerUID == nil {
			return "", normal
		}
		return l.user(*n.OwnerUID), normal
	}},
	{name: "age", usage: "time since it was made, if the history has that", right: true, text: func(l *Listing, n *inventory.Namespace) (string, style) {
		if n.Created.IsZero() {
			return "", normal
		}
		return duration(max(l.Now.Sub(n.Created), 0)), normal
	}, less: func(a, b *inventory.Namespace) int { return b.Created.Compare(a.Created) }},
	{name: "creator", usage: "process that made it, if the history has that", max: 24, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		if n.Creator == nil {
			return "", normal
		}
		return actor(n.Creator.Comm, n.Creator.PID), normal
	}},
	{name: "held-by", usage: "what keeps it alive other than processes", usual: true, text: func(_ *Listing, n *inventory.Namespace) (string, style) {
		return heldBy(n, 2), normal
	}, less: func(a, b *inventory.Namespace) int { return cmp.Compare(a.Holders(), b.Holders()) }},
}

// ListColumns returns the names of the columns and what they show.
func ListColumns() (names, usages []string) {
	for _, c := range listColumns {
		names, usages = append(names, c.name), append(usages, c.usage)
	}
	return names, usages
}

func ofOldest(text func(*Listing, *inventory.Process) string) func(*Listing, *inventory.Namespace) (string, style) {
	return func(l *Listing, n *inventory.Namespace) (string, style) {
		if n.Oldest == nil {
			return "", normal
		}
		return text(l, n.Oldest), normal
	}
}

func byOldest(key func(*inventory.Process) uint32) func(a, b *inventory.Namespace) int {
	of := func(n *inventory.Namespace) uint32 {
		if n.Oldest == nil {
			return 0
		}
		return key(n.Oldest)
	}
	return func(a, b *inventory.Namespace) int { return cmp.Compare(of(a), of(b)) }
}

func orNone(id uint32) string {
	if id == 0 {
		return ""
	}
	return number(id)
}

// user returns the name of a user, or else the uid. It asks once for each user.
func (l *Listing) user(uid uint32) string {
	if name, ok := l.users[uid]; ok {
		return name
	}
	name := number(uid)
	if l.User != nil {
		if known := l.User(uid); known != "" {
			name = escapeName(known, "")
		}
	}
	if l.users == nil {
		l.users = map[uint32]string{}
	}
	l.users[uid] = name
	return name
}

// owner returns who a namespace belongs to, as text.
func (l *Listing) owner(n *inventory.Namespace) (string, style) {
	if n.Host {
		return "(host)", faint
	}
	name := ownerName(n)
	if name == "" {
		return "", normal
	}
	return escapeName(name, "()"), normal
}

// ownerName returns who a namespace belongs to, "" for nobody. Docker and CNI plugins give network
// namespaces names that say nothing, so the names of containers and pods go first.
func ownerName(n *inventory.Namespace) string {
	o := n.Owner
	switch {
	case o != nil && o.Container != nil && o.Container.Name != "":
		return o.Container.Name
	case o != nil && o.Pod != nil && o.Pod.Name != "":
		return o.Pod.Path()
	case n.Name != "" || o == nil:
		return n.Name
	case o.Container != nil:
		return short(o.Container.ID)
	case o.Pod != nil:
		return "pod " + short(o.Pod.UID)
	}
	return o.Unit
}

// commandOf returns the arguments of a process as a shell would take them, or its name if it has none,
// such as a kernel thread.
func commandOf(p *inventory.Process) string {
	if len(p.Args) == 0 {
		return "[" + escapeName(p.Comm, "") + "]"
	}
	size := 0
	for _, a := range p.Args {
		size += len(a) + 1
	}
	var b strings.Builder
	b.Grow(size)
	for i, a := range p.Args {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(escapeName(a, "\"' "))
	}
	return b.String()
}

// heldBy describes what holds a namespace other than processes, up to limit holders by name.
func heldBy(n *inventory.Namespace, limit int) string {
	all := HolderLines(n, limit)
	if more := n.Holders() - len(all); more > 0 {
		all = append(all, fmt.Sprintf("%d more", more))
	}
	if n.Unseen {
		all = append(all, "something that cannot be seen")
	}
	return strings.Join(all, ", ")
}

// HolderLines describes what holds a namespace other than processes, one line for each of at most limit
// holders. Names in it are escaped.
func HolderLines(n *inventory.Namespace, limit int) (all []string) {
	add := func(format string, args ...any) bool {
		if len(all) < limit {
			all = append(all, fmt.Sprintf(format, args...))
		}
		return len(all) < limit
	}
	for _, m := range n.Mounts {
		if !add("mount %s", escapeName(m.Path, ", ")) {
			return all
		}
	}
	for _, t := range n.Threads {
		if !add("thread %d of %d %s", t.TID, t.PID, escapeName(t.Comm, ", ")) {
			return all
		}
	}
	for _, d := range n.Descriptors {
		if !add("fd %d of %d %s", d.FD, d.TID, escapeName(d.Comm, ", ")) {
			return all
		}
	}
	for _, d := range n.Sockets {
		if !add("socket %d of %d %s", d.FD, d.TID, escapeName(d.Comm, ", ")) {
			return all
		}
	}
	for _, t := range n.ForChildren {
		if !add("children of %d %s", t.TID, escapeName(t.Comm, ", ")) {
			return all
		}
	}
	for _, r := range n.Children {
		if !add("child %d", r.ID) {
			return all
		}
	}
	for _, r := range n.Owned {
		if !add("owned %s %d", r.Type, r.ID) {
			return all
		}
	}
	return all
}

// SortNamespaces sorts namespaces by columns. A minus sign before a name reverses the order. The
// error names the column that does not exist.
func (l *Listing) SortNamespaces(all []*inventory.Namespace, columns []string) error {
	var compare []func(a, b *inventory.Namespace) int
	for _, name := range columns {
		name, reverse := strings.CutPrefix(name, "-")
		c := findColumn(name)
		if c == nil {
			return fmt.Errorf("no column %q", name)
		}
		f := c.less
		if f == nil {
			f = func(a, b *inventory.Namespace) int {
				x, _ := c.text(l, a)
				y, _ := c.text(l, b)
				return strings.Compare(x, y)
			}
		}
		if reverse {
			compare = append(compare, func(a, b *inventory.Namespace) int { return f(b, a) })
		} else {
			compare = append(compare, f)
		}
	}
	slices.SortStableFunc(all, func(a, b *inventory.Namespace) int {
		for _, f := range compare {
			if c := f(a, b); c != 0 {
				return c
			}
		}
		return 0
	})
	return nil
}

func findColumn(name string) *listColumn {
	for i := range listColumns {
		if listColumns[i].name == name {
			return &listColumns[i]
		}
	}
	return nil
}

// columns returns the columns to show.
func (l *Listing) columns(all []*inventory.Namespace) (shown []*listColumn) {
	if l.Columns == nil {
		for i := range listColumns {
			c := &listColumns[i]
			known := c.name == "age" && slices.ContainsFunc(all, func(n *inventory.Namespace) bool { return !n.Created.IsZero() })
			if c.usual || known || l.Wide {
				shown = append(shown, c)
			}
		}
		return shown
	}
	for _, name := range l.Columns {
		if c := findColumn(name); c != nil {
			shown = append(shown, c)
		}
	}
	return shown
}

// A listCell is a cell of the table.
type listCell struct {
	text  string
	style style
}

// WriteTable writes namespaces as a table.
func (l *Listing) WriteTable(w io.Writer, all []*inventory.Namespace) error {
	columns := l.columns(all)
	cut := l.Width > 0 && !l.Wide
	indents := make([]string, len(all))
	if l.Tree != NoTree {
		all, indents = treeOf(all, l.Tree)
	}
	// A list can have many rows, and memory that is used for the first time costs more than all else here.
	cells := make([]listCell, 0, (1+len(all))*len(columns))
	if !l.NoHeadings {
		for _, c := range columns {
			cells = append(cells, listCell{strings.ToUpper(strings.ReplaceAll(c.name, "-", " ")), normal})
		}
	}
	for i, n := range all {
		for j, c := range columns {
			text, style := c.text(l, n)
			if j == 0 {
				text = indents[i] + text
			}
			if c.max > 0 && cut {
				text = shorten(text, c.max)
			}
			cells = append(cells, listCell{text, style})
		}
	}
	widths := make([]int, len(columns))
	for i := range cells {
		j := i % len(columns)
		widths[j] = max(widths[j], textWidth(cells[i].text))
	}
	if cut {
		narrow(widths, columns, l.Width)
	}
	out := bufio.NewWriterSize(w, 16<<10)
	var line []byte
	for row := range slices.Chunk(cells, max(1, len(columns))) {
		line = line[:0]
		for j, cell := range row {
			if j > 0 {
				line = append(line, listGap...)
			}
			text := cell.text
			if cut {
				text = shorten(text, widths[j])
			}
			pad := widths[j] - textWidth(text)
			if columns[j].right {
				line = appendBlanks(line, pad)
			}
			if st := styles[cell.style]; l.Color && st != "" && text != "" {
				line = append(append(append(line, st...), text...), resetStyle...)
			} else {
				line = append(line, text...)
			}
			if !columns[j].right {
				line = appendBlanks(line, pad)
			}
		}
		line = append(bytes.TrimRight(line, " "), '\n')
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

func appendBlanks(line []byte, n int) []byte {
	for range n {
		line = append(line, ' ')
	}
	return line
}

const listGap = "  "

// minCut is the least width that narrow leaves to a column.
const minCut = 8

// narrow makes columns narrower until a row fits, the widest of those that may be cut first.
func narrow(widths []int, columns []*listColumn, width int) {
	total := len(listGap) * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for total > width {
		widest := -1
		for j, c := range columns {
			if !c.right && c.name != "type" && widths[j] > minCut && (widest < 0 || widths[j] > widths[widest]) {
				widest = j
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
		total--
	}
}

// treeOf orders namespaces so that each follows what it hangs below, and returns the lines of the
// tree that stand before them.
func treeOf(all []*inventory.Namespace, tree Tree) (order []*inventory.Namespace, indents []string) {
	listed := map[inventory.Ref]*inventory.Namespace{}
	for _, n := range all {
		listed[n.Ref] = n
	}
	below := map[*inventory.Namespace][]*inventory.Namespace{}
	var roots []*inventory.Namespace
	for _, n := range all {
		up := inventory.Ref{Type: n.Type, ID: n.Parent}
		if tree == TreeOwner {
			up = inventory.Ref{Type: event.NSTypeUser, ID: n.UserNS}
		}
		if parent := listed[up]; parent != nil && up.ID != 0 {
			below[parent] = append(below[parent], n)
		} else {
			roots = append(roots, n)
		}
	}
	var add func(n *inventory.Namespace, indent, next string)
	add = func(n *inventory.Namespace, indent, next string) {
		order, indents = append(order, n), append(indents, indent)
		for i, child := range below[n] {
			if i == len(below[n])-1 {
				add(child, next+"└─", next+"  ")
			} else {
				add(child, next+"├─", next+"│ ")
			}
		}
	}
	for _, n := range roots {
		add(n, "", "")
	}
	return order, indents
}

// listedNamespace is a namespace in JSON.
type listedNamespace struct {
	Namespace json.RawMessage `json:"namespace"` // as in events
	OwnerUID  *uint32         `json:"owner_uid,omitempty"`
	Parent    uint32          `json:"parent,omitempty"`
	Processes int             `json:"processes"`
	Oldest    *listedProcess  `json:"oldest,omitempty"`
	Held      *listedHolders  `json:"held_by,omitempty"`
	Unseen    bool            `json:"unseen,omitempty"`
}

type listedProcess struct {
	PID    uint32             `json:"pid"`
	PPID   uint32             `json:"ppid"`
	UID    uint32             `json:"uid"`
	User   event.JSONString   `json:"user,omitempty"`
	Comm   event.JSONString   `json:"comm"`
	Args   []event.JSONString `json:"args,omitempty"`
	Cgroup event.JSONString   `json:"cgroup,omitempty"`
	Parent *listedParent      `json:"parent,omitempty"`
}

type listedParent struct {
	PID  uint32           `json:"pid"`
	Comm event.JSONString `json:"comm"`
}

type listedHolders struct {
	Threads     []listedTask       `json:"threads,omitempty"`
	ForChildren []listedTask       `json:"for_children,omitempty"`
	Mounts      []listedMount      `json:"mounts,omitempty"`
	Descriptors []listedDescriptor `json:"descriptors,omitempty"`
	Sockets     []listedDescriptor `json:"sockets,omitempty"`
	Children    []listedRef        `json:"children,omitempty"`
	Owned       []listedRef        `json:"owned,omitempty"`
}

type listedTask struct {
	PID  uint32           `json:"pid"`
	TID  uint32           `json:"tid"`
	Comm event.JSONString `json:"comm"`
}

type listedMount struct {
	Path    event.JSONString `json:"path"`
	MountNS uint32           `json:"mount_ns"`
	PID     uint32           `json:"pid"`
}

type listedDescriptor struct {
	PID  uint32           `json:"pid"`
	TID  uint32           `json:"tid"`
	FD   uint32           `json:"fd"`
	Comm event.JSONString `json:"comm"`
}

type listedRef struct {
	Type event.NSType `json:"type"`
	ID   uint32       `json:"id"`
}

// listed returns a namespace for JSON.
func (l *Listing) listed(n *inventory.Namespace) listedNamespace {
	var enc event.Encoder
	o := listedNamespace{
		Namespace: enc.AppendNamespace(nil, l.Inventory.EventNamespace(n)), OwnerUID: n.OwnerUID, Parent: n.Parent,
		Processes: n.Processes, Unseen: n.Unseen,
	}
	if n.Oldest != nil {
		o.Oldest = l.listedProcess(n.Oldest)
	}
	if n.Held() {
		o.Held = newListedHolders(n)
	}
	return o
}

func (l *Listing) listedProcess(p *inventory.Process) *listedProcess {
	o := &listedProcess{PID: p.PID, PPID: p.PPID, UID: p.UID, Comm: event.JSONString(p.Comm), Cgroup: event.JSONString(p.Cgroup)}
	for _, a := range p.Args {
		o.Args = append(o.Args, event.JSONString(a))
	}
	if l.User != nil {
		o.User = event.JSONString(l.User(p.UID))
	}
	if parent := l.Inventory.Process(p.PPID); parent != nil {
		o.Parent = &listedParent{parent.PID, event.JSONString(parent.Comm)}
	}
	return o
}

func newListedHolders(n *inventory.Namespace) *listedHolders {
	h := &listedHolders{}
	for _, t := range n.Threads {
		h.Threads = append(h.Threads, listedTask{t.PID, t.TID, event.JSONString(t.Comm)})
	}
	for _, t := range n.ForChildren {
		h.ForChildren = append(h.ForChildren, listedTask{t.PID, t.TID, event.JSONString(t.Comm)})
	}
	for _, m := range n.Mounts {
		h.Mounts = append(h.Mounts, listedMount{event.JSONString(m.Path), m.MountNS, m.PID})
	}
	for _, d := range n.Descriptors {
		h.Descriptors = append(h.Descriptors, listedDescriptor{d.PID, d.TID, d.FD, event.JSONString(d.Comm)})
	}
	for _, d := range n.Sockets {
		h.Sockets = append(h.Sockets, listedDescriptor{d.PID, d.TID, d.FD, event.JSONString(d.Comm)})
	}
	for _, r := range n.Children {
		h.Children = append(h.Children, listedRef(r))
	}
	for _, r := range n.Owned {
		h.Owned = append(h.Owned, listedRef(r))
	}
	return h
}

// WriteJSON writes one line for each namespace.
func (l *Listing) WriteJSON(w io.Writer, all []*inventory.Namespace) error {
	var b bytes.Buffer
	to := json.NewEncoder(&b)
	to.SetEscapeHTML(false)
	for _, n := range all {
		if err := to.Encode(l.listed(n)); err != nil {
			return err
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}
