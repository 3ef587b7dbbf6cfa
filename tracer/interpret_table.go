// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

const (
	// tableQuiet is how long after the last table of an event it is emitted. No record says that a module or
	// a device has registered all its tables.
	tableQuiet = 200 * time.Millisecond
	// moduleQuiet is the same for a module. To unload one takes the kernel longer.
	moduleQuiet = time.Second
	// tableSettled is how long after its last table an event is probably complete.
	tableSettled = 50 * time.Millisecond
	// tableLongest is the longest time from the first table of an event until it is emitted.
	tableLongest = 5 * time.Second
	// maxTableEvents bounds the events that wait, and maxTableEventsOf those of one thread: each further table
	// is compared with all of them.
	maxTableEvents   = 256
	maxTableEventsOf = 16
)

// tableRecords are of tables of parameters that the kernel registered or unregistered. It sends one for each
// table. Those that one process caused at one time make one event, or one for each device.
type tableRecords struct {
	in         *interpreter
	vanish     bool
	wire       bpf.NstraceTableRecord
	dir, names []byte
}

func newAppearRecords(in *interpreter) recordInterpreter { return &tableRecords{in: in} }

func newVanishRecords(in *interpreter) recordInterpreter { return &tableRecords{in: in, vanish: true} }

func (t *tableRecords) parse(r *record) (err error) {
	if err := fixed(&r.rest, &t.wire); err != nil {
		return err
	}
	if t.dir, err = cut(&r.rest, int(t.wire.DirLen)); err != nil {
		return err
	}
	t.names, err = cut(&r.rest, int(t.wire.NamesLen))
	return err
}

func (t *tableRecords) interpret(r *record) error {
	in := t.in
	ns, err := in.lookup(&t.wire.Ns, r.head.Time)
	if err != nil {
		return err
	}
	parts := components(t.dir)
	slices.Reverse(parts)
	prefix := ""
	if len(parts) > 0 {
		prefix, _ = event.SysctlName(event.SysctlDir + "/" + strings.Join(parts, "/"))
	}
	one := table{ns: ns, vanish: t.vanish, ParameterTable: event.ParameterTable{Prefix: prefix}, count: uint64(t.wire.Nparams)}
	for _, name := range components(t.names) {
		if len(one.Names) == event.MaxTableNames {
			break
		}
		if strings.ContainsAny(name, "./") {
			name, _ = event.SysctlName(event.SysctlDir + "/" + name)
		}
		one.Names = append(one.Names, name)
	}
	one.device = event.SysctlDevice(event.SysctlPath(prefix) + "/x")
	via := tableVia(&t.wire, one.device)
	device := one.device
	if slices.Contains(moduleCalls, via) {
		device = "" // all is of one cause: a module that has parameters for devices, or devices
	}
	w := &in.tables
	g := w.open(&one, t.wire.Caller.Tid, via, device)
	if g == nil {
		if err := in.emitTables(w.takeTooMany(t.wire.Caller.Tid)); err != nil {
			return err
		}
		g = &tableEvent{
			began: r.head.Time, tid: t.wire.Caller.Tid, via: via, vanish: t.vanish, device: device, ns: ns,
			who: &caller{workload: attribution.NoWorkload}, latest: w.now().Add(tableLongest),
		}
		if t.wire.Caller.Who != 0 {
			c := *in.caller(&t.wire.Caller)
			g.who = &c
		}
		w.waiting = append(w.waiting, g)
	}
	if one.device != "" && t.wire.Device != 0 && g.key == 0 {
		g.describe(&t.wire)
		w.pair(g)
	}
	g.add(&one)
	if g.records++; g.records > 1 {
		in.accounts.joined++
	}
	g.last = r.head.Time
	quiet := tableQuiet
	if slices.Contains(moduleCalls, via) {
		quiet = moduleQuiet
	}
	g.due = w.now().Add(quiet)
	if g.due.After(g.latest) {
		g.due = g.latest
	}
	if g.pair != nil {
		g.pair.due = g.due
	}
	return nil
}

// moduleCalls are the system calls that load and unload modules.
var moduleCalls = []string{event.ViaInitModule, event.ViaFinitModule, event.ViaDeleteModule}

// tableVia returns what caused a table to come or go, "" if it is unknown.
func tableVia(r *bpf.NstraceTableRecord, device string) string {
	if r.Syscall == 0 {
		return ""
	}
	switch r.Syscall - 1 {
	case unix.SYS_INIT_MODULE:
		return event.ViaInitModule
	case unix.SYS_FINIT_MODULE:
		return event.ViaFinitModule
	case unix.SYS_DELETE_MODULE:
		return event.ViaDeleteModule
	case unix.SYS_IOCTL:
		return event.ViaIoctl
	case unix.SYS_SENDMSG, unix.SYS_SENDTO:
		if device != "" {
			return event.ViaNetlink
		}
	}
	return ""
}

// A table is one table of parameters.
type table struct {
	event.ParameterTable
	ns     *liveNS // nil for those of the host
	vanish bool
	device string // the network device that the parameters belong to
	count  uint64 // of parameters; Names can have fewer
}

// A tableEvent is an event that waits for further tables.
type tableEvent struct {
	began, last uint64 // when its tables came and went, CLOCK_BOOTTIME
	due, latest time.Time
	tid         uint32 // 0: a worker of the kernel
	via         string
	vanish      bool
	device      string
	ns          *liveNS
	who         *caller
	sealed      bool       // further tables are of another event
	urgent      bool       // an event that comes after it is at hand
	unmet       *unmetRead // nil: not asked for

	records    int
	tables     []table
	cut        uint64 // parameters in tables that are not in tables
	namespaces map[*liveNS]bool

	// Of the device, if it is known.
	key     uint64
	ifindex uint32
	kind    string
	now     string      // the name that it has by now
	pair    *tableEvent // the other half: a device that moves or gets another name loses and gets parameters
}

// describe adds what a record says of the device.
func (g *tableEvent) describe(r *bpf.NstraceTableRecord) {
	g.key, g.ifindex, g.now = r.Device, r.Ifindex, cString(r.Name[:])
	g.kind = cString(r.Kind[:])
}

// has reports whether g has a table of the same directory, namespace and names.
func (g *tableEvent) has(t *table) bool {
	return slices.ContainsFunc(g.tables, func(o table) bool {
		return o.ns == t.ns && o.Prefix == t.Prefix && slices.Equal(o.Names, t.Names)
	})
}

func (g *tableEvent) add(t *table) {
	if t.ns != nil {
		if g.namespaces == nil {
			g.namespaces = map[*liveNS]bool{}
		}
		g.namespaces[t.ns] = true
	}
	// A module registers the same table in each network namespace.
	if slices.ContainsFunc(g.tables, func(o table) bool {
		return o.ns != t.ns && o.ns != nil && t.ns != nil && o.Prefix == t.Prefix && slices.Equal(o.Names, t.Names)
	}) {
		return
	}
	if len(g.tables) == event.MaxTables {
		if first := g.parametersOf(); t.ns == nil || t.ns == first {
			g.cut += t.count
		}
		return
	}
	g.tables = append(g.tables, *t)
}

// tableEvents are the events that wait, in the order in which they began.
type tableEvents struct {
	waiting []*tableEvent
	now     func() time.Time
	unmet   *unmetReader // nil: nothing is expected of parameters
}

// open returns the event that a table belongs to, nil if it begins one.
func (w *tableEvents) open(t *table, tid uint32, via, device string) (found *tableEvent) {
	for _, g := range w.waiting {
		if g.unmet != nil && g.has(t) { // it must not wait any longer: it comes before the event of t
			g.due, g.urgent = time.Time{}, true
		}
		if g.sealed {
			continue
		}
		if g.vanish != t.vanish || g.has(t) {
			// The same parameters appear after they vanished, or the other way round.
			g.sealed = slices.ContainsFunc(g.tables, func(o table) bool { return o.ns == t.ns && o.Prefix == t.Prefix && slices.Equal(o.Names, t.Names) })
			continue
		}
		if g.tid == tid && g.via == via && g.device == device && (device == "" || g.ns == t.ns) {
			found = g
		}
	}
	return found
}

// pair joins g with the event of the parameters that its device lost just before, by the same process.
func (w *tableEvents) pair(g *tableEvent) {
	if g.vanish || g.pair != nil {
		return
	}
	for _, v := range slices.Backward(w.waiting) {
		if v.vanish && v.tid == g.tid && v.key == g.key && v.pair == nil && (v.ns != g.ns || v.device != g.device && v.ifindex == g.ifindex) {
			g.pair, v.pair = v, g
			return
		}
	}
}

// below returns the name of a parameter without the prefix of t, if it has that.
func (t *table) below(name string) (string, bool) {
	if t.Prefix == "" {
		return name, true
	}
	rest, ok := strings.CutPrefix(name, t.Prefix)
	if !ok || rest == "" || rest[0] != '.' {
		return "", false
	}
	return rest[1:], true
}

// dueBefore makes the events due that have a parameter of that name.
func (w *tableEvents) dueBefore(name string) {
	for _, g := range w.waiting {
		for i := range g.tables {
			if below, ok := g.tables[i].below(name); ok && slices.Contains(g.tables[i].Names, below) {
				g.due, g.urgent = time.Time{}, true
			}
		}
	}
}

// next returns when the next event is due, the zero time for never.
func (w *tableEvents) next() (next time.Time) {
	for _, g := range w.waiting {
		if next.IsZero() || g.due.Before(next) {
			next = g.due
		}
	}
	return next
}

// ended makes the events due that takeOf returns.
func (w *tableEvents) ended(tid uint32, boot uint64) {
	is := w.of(tid, boot)
	for _, g := range w.waiting {
		if is(g) && g.unmet == nil {
			g.due = time.Time{}
		}
	}
}

// takeOf returns the events of a thread, and those before them that are probably complete at the time boot.
func (w *tableEvents) takeOf(tid uint32, boot uint64) []*tableEvent { return w.take(w.of(tid, boot)) }

// of returns a function that says which events takeOf returns. It has to be called for each that waits, in order.
func (w *tableEvents) of(tid uint32, boot uint64) func(*tableEvent) bool {
	end := 0
	for i, g := range w.waiting {
		if tid != 0 && g.tid == tid {
			end = i + 1
		}
	}
	i := -1
	return func(g *tableEvent) bool {
		i++
		return i < end && (g.tid == tid || g.last+uint64(tableSettled) < boot)
	}
}

// take returns the events that is selects. They do not wait any more.
func (w *tableEvents) take(is func(*tableEvent) bool) (taken []*tableEvent) {
	w.waiting = slices.DeleteFunc(w.waiting, func(g *tableEvent) bool {
		if !is(g) {
			return false
		}
		taken = append(taken, g)
		return true
	})
	return taken
}

// takeTooMany makes room for another event of a thread. It returns the oldest half of those that the thread has if
// they are too many, and all events if there are too many of all threads.
func (w *tableEvents) takeTooMany(tid uint32) []*tableEvent {
	if len(w.waiting) >= maxTableEvents {
		return w.takeAll()
	}
	n := 0
	for _, g := range w.waiting {
		if g.tid == tid {
			n++
		}
	}
	if n < maxTableEventsOf {
		return nil
	}
	n = maxTableEventsOf / 2
	return w.take(func(g *tableEvent) bool {
		if g.tid == tid {
			n--
		}
		return g.tid == tid && n >= 0
	})
}

// takeDue returns the events that are due.
func (w *tableEvents) takeDue() []*tableEvent {
	now := w.now()
	return w.take(func(g *tableEvent) bool { return !g.due.After(now) && !w.unmet.holds(g, now) })
}

// takeAll returns all events.
func (w *tableEvents) takeAll() []*tableEvent { return w.take(func(*tableEvent) bool { return true }) }

func (in *interpreter) emitTables(events []*tableEvent) error {
	for _, g := range events {
		if err := in.emitTable(g); err != nil {
			return err
		}
	}
	return nil
}

func (in *interpreter) emitTable(g *tableEvent) error {
	var r record
	r.head.Time, r.head.Flags = g.began, uint16(bpf.NstraceRecordFlagF_RET_KNOWN)
	typ := event.SysctlAppear
	if g.vanish {
		typ = event.SysctlVanish
	}
	if in.follow && g.tid == 0 {
		in.accounts.filtered++
		return nil
	}
	if g.ns != nil {
		if err := in.resolveOwner(g.ns); err != nil {
			return err
		}
	}
	e := in.begin(&r, typ, g.who)
	e.Via = g.via
	e.Late = e.Time.Before(in.newest)
	p := &event.Parameters{Count: g.cut}
	for i := range g.tables {
		p.Count += g.tables[i].count
		p.Tables = append(p.Tables, g.tables[i].ParameterTable)
	}
	if len(g.namespaces) > 1 {
		p.Namespaces = uint64(len(g.namespaces))
	}
	if g.unmet != nil && g.unmet.done.Load() {
		p.Unmet = g.unmet.found
	}
	e.Sysctl = &event.Sysctl{Name: p.Pattern(), Parameters: p}
	e.Sysctl.Path = event.SysctlPath(e.Sysctl.Name)
	if ns := g.parametersOf(); ns != nil {
		e.Sysctl.Namespace = in.show(ns)
	}
	if err := in.showDevice(g, e); err != nil {
		return err
	}
	return in.offer(e, nil)
}

// parametersOf returns the namespace of the parameters: of those in several, the first one.
func (g *tableEvent) parametersOf() *liveNS {
	if g.ns != nil {
		return g.ns
	}
	for i := range g.tables {
		if ns := g.tables[i].ns; ns != nil {
			return ns
		}
	}
	return nil
}

// showDevice sets the device of an event, if all parameters are of one.
func (in *interpreter) showDevice(g *tableEvent, e *event.Event) error {
	device := g.tables[0].device
	if device == "" || slices.ContainsFunc(g.tables, func(t table) bool { return t.device != device || t.ns != g.tables[0].ns }) {
		return nil
	}
	e.Netdev = &event.Netdev{Name: device, Kind: g.kind, Ifindex: g.ifindex}
	e.Sysctl.Ifindex = g.ifindex
	if g.pair == nil {
		if g.vanish && g.key != 0 && g.now != device {
			e.Netdev.NewName = g.now // the kernel renames it
		}
		return nil
	}
	was, is, d := g, g.pair, e.Netdev
	if !g.vanish {
		was, is = g.pair, g
	}
	d.Name, d.Ifindex = was.device, was.ifindex
	if is.device != was.device {
		d.NewName = is.device
	}
	if is.ifindex != was.ifindex {
		d.NewIfindex = is.ifindex
	}
	if was.ns == is.ns || was.ns == nil || is.ns == nil {
		return nil
	}
	for ns, into := range map[*liveNS]**event.Namespace{was.ns: &d.From, is.ns: &d.To} {
		if err := in.resolveOwner(ns); err != nil {
			return err
		}
		*into = in.registry.show(ns, new(event.Namespace))
	}
	return nil
}
