// SPDX-License-Identifier: Apache-2.0

package history

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A pending is a packed event that waits to be written. A million of them must fit in memory, so it
// takes a third of the size of an Event and its Clone: it refers to what many events share.
type pending struct {
	time, lastTime int64 // nanoseconds since 1970; lastTime is 0 if there is none
	seq, count     uint64
	origin         *origin
	kind           *kind
	process        *event.Process
	container      *event.Container
	pod            *event.Pod
	unit           string
	param          *parameter
	view           *view
	details        *destroyDetails
	values         string // old, new and after, concatenated
	length         [3]int32
	from, child    uint32
	bytes          uint32 // about how much memory it needs, and as much in the database
	truncated      bool
	late           bool   // it can come after an event that happened later
	noEffect       bool   // a write that changed nothing, see hadNoEffect
	line           string // the event's JSON line, if the other fields cannot hold everything
}

// absent is the length of a value that is not known.
const absent = -1

// The values that pending events share. row.id is a row's id in the writer's epoch. Only the
// goroutine that writes uses row.
type (
	row struct {
		epoch uint64
		id    int64
	}
	originKey struct{ host, bootID, runID string }
	origin    struct {
		row
		originKey
		boot   *origin // an origin of the same boot without a run id, perhaps itself
		asBoot row     // see writer.bootID
	}
	kindKey struct {
		typ        event.Type
		outcome    event.Outcome
		error, via string
	}
	kind struct {
		row
		kindKey
	}
	parameterKey struct{ name, path string }
	parameter    struct {
		row
		parameterKey
	}
	// A namespaceKey identifies a namespace within one boot.
	namespaceKey struct {
		typ   event.NSType
		inode uint32
		uid   string
	}
	// A view is what an event knew about a namespace.
	view struct {
		row
		namespaceID int64
		namespaceKey
		name   string
		host   bool
		userNS uint32
		owner  *event.Owner
	}
	// destroyDetails are the fields of a namespace that only namespace.destroy has.
	destroyDetails struct {
		created  time.Time
		lifetime *int64
		creator  *event.Actor
		detected string
	}
)

// maxShared limits each cache. A few values are in use all the time. Most processes and namespaces
// are never seen again.
const maxShared = 1 << 13

// A cache holds the values that were read or written last: between maxShared/2 and maxShared of
// them.
type cache[K comparable, V any] struct{ latest, before map[K]V }

func (c *cache[K, V]) get(key K) (V, bool) {
	v, ok := c.latest[key]
	if !ok {
		if v, ok = c.before[key]; ok {
			c.put(key, v)
		}
	}
	return v, ok
}

func (c *cache[K, V]) put(key K, v V) {
	if c.latest == nil || len(c.latest) >= maxShared/2 {
		c.latest, c.before = make(map[K]V), c.latest
	}
	c.latest[key] = v
}

func (c *cache[K, V]) remove(key K) {
	delete(c.latest, key)
	delete(c.before, key)
}

func (c *cache[K, V]) clear() { *c = cache[K, V]{} }

// A packer packs events and caches what they share.
type packer struct {
	origin *origin
	kinds  cache[kindKey, *kind]
	params cache[parameterKey, *parameter]
	views  cache[namespaceKey, *view]
	users  cache[*event.Process, struct{}] // whose bytes an event has
	encode *event.Encoder
	line   []byte
}

func newPacker() *packer {
	return &packer{encode: new(event.Encoder)}
}

// pack returns a packed copy of e.
func (p *packer) pack(e *event.Event) pending {
	q := pending{
		time: e.Time.UnixNano(), seq: e.Seq, count: e.Count, process: e.Process,
		container: e.Container, pod: e.Pod, unit: e.Unit, child: e.ChildPID, late: isLate(e), length: [3]int32{absent, absent, absent},
	}
	if !e.LastTime.IsZero() {
		q.lastTime = e.LastTime.UnixNano()
	}
	q.origin = p.originOf(e)
	q.kind = share(&p.kinds, kindKey{e.Type, e.Outcome, e.Error, e.Via}, func(k kindKey) *kind { return &kind{kindKey: k} })
	ns := e.Namespace
	if s := e.Sysctl; s != nil {
		q.param = share(&p.params, parameterKey{s.Name, s.Path}, func(k parameterKey) *parameter {
			return &parameter{parameterKey: parameterKey{strings.Clone(k.name), strings.Clone(k.path)}}
		})
		q.truncated, q.noEffect = s.Truncated, hadNoEffect(e)
		q.setValues(s.Old, s.New, s.After)
		if ns == nil {
			ns = s.Namespace
		}
	}
	if ns != nil {
		q.view, q.from = p.viewOf(ns), ns.From
		if !ns.Created.IsZero() || ns.LifetimeMS != nil || ns.Creator != nil || ns.Detected != "" {
			q.details = &destroyDetails{ns.Created, ns.LifetimeMS, ns.Creator, ns.Detected}
		}
	}
	if !fits(e) {
		p.line = p.encode.Append(p.line[:0], e)
		q.line = string(p.line)
	}
	q.bytes = uint32(p.bytes(e, &q))
	return q
}

// hadNoEffect reports whether a write of another value left a parameter as it was, and nstrace does not know whether
// it failed. So it did not set what the parameter has.
func hadNoEffect(e *event.Event) bool {
	s := e.Sysctl
	return e.Outcome == "" && s.Old != nil && s.New != nil && s.After != nil && !s.Truncated && *s.After == *s.Old && !event.SameValue(*s.New, *s.Old)
}

// bytes returns about how much memory a pending event needs.
func (p *packer) bytes(e *event.Event, q *pending) int {
	n := 256 + len(q.values) + len(q.line)
	if q.param != nil {
		n += len(q.param.name) + len(q.param.path)
	}
	u := e.Process
	if u == nil {
		return n
	}
	if _, ok := p.users.get(u); ok { // other events share it
		return n
	}
	p.users.put(u, struct{}{})
	n += 256 + len(u.Exe) + len(u.Cgroup)
	for _, a := range u.Args {
		n += 16 + len(a)
	}
	for i := range u.Ancestors {
		n += 32 + len(u.Ancestors[i].Comm)
	}
	return n
}

// originOf returns the event's origin. Consecutive events of a run share it.
func (p *packer) originOf(e *event.Event) *origin {
	key := originKey{e.Host, e.BootID, e.RunID}
	if p.origin != nil && p.origin.originKey == key {
		return p.origin
	}
	var boot *origin
	if p.origin != nil && p.origin.bootID == e.BootID && (e.BootID != "" || p.origin.host == e.Host) {
		boot = p.origin.boot // the host can have got another name
	} else {
		boot = newOrigin(originKey{host: e.Host, bootID: e.BootID})
		p.views.clear() // in another boot, the same inode and UID are another namespace
	}
	if p.origin = boot; boot.originKey != key {
		p.origin = &origin{originKey: key, boot: boot}
	}
	return p.origin
}

// newOrigin returns an origin without a run id.
func newOrigin(key originKey) *origin {
	o := &origin{originKey: key}
	o.boot = o
	return o
}

func (q *pending) setValues(values ...*string) {
	var room [3 * 1024]byte
	text := room[:0]
	for i, v := range values {
		if v != nil {
			text = append(text, *v...)
			q.length[i] = int32(len(*v))
		}
	}
	q.values = string(text)
}

func share[K comparable, V any](known *cache[K, *V], key K, make func(K) *V) *V {
	v, ok := known.get(key)
	if !ok {
		v = make(key)
		known.put(key, v)
	}
	return v
}

// viewOf returns the view of a namespace. Events share it while it does not change.
func (p *packer) viewOf(ns *event.Namespace) *view {
	key := namespaceKey{ns.Type, ns.ID, ns.UID}
	v, ok := p.views.get(key)
	if ok && v.name == ns.Name && v.host == ns.Host && v.userNS == ns.UserNS && sameOwner(v.owner, ns.Owner) {
		return v
	}
	v = &view{namespaceKey: key, name: ns.Name, host: ns.Host, userNS: ns.UserNS, owner: ns.Owner}
	p.views.put(key, v)
	return v
}

func sameOwner(a, b *event.Owner) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.Unit == b.Unit && a.Source == b.Source && equalValues(a.Container, b.Container) && equalValues(a.Pod, b.Pod)
}

func equalValues[T comparable](a, b *T) bool { return a == b || (a != nil && b != nil && *a == *b) }

// The fields that have columns. If an event has any other field, such as one that a later version
// adds, the row also contains the event's line.
var (
	otherOfEvent = otherFields[event.Event]("V", "Time", "LastTime", "RunID", "Seq", "Host", "BootID", "Type", "Outcome", "Error", "Via",
		"Namespace", "Sysctl", "Process", "Container", "Pod", "Unit", "ChildPID", "Count")
	otherOfNamespace = otherFields[event.Namespace]("Type", "ID", "UID", "Name", "Host", "From", "UserNS", "Owner", "Created", "LifetimeMS", "Creator", "Detected")
	otherOfSysctl    = otherFields[event.Sysctl]("Name", "Path", "Old", "New", "After", "Namespace", "Truncated")
	otherOfProcess   = otherFields[event.Process]("PID", "TID", "StartTime", "Comm", "Exe", "Args", "PPID", "UID", "GID", "User", "LoginUID", "LoginUser",
		"SessionID", "SudoUID", "SudoUser", "TTY", "Role", "Cgroup", "NS", "Ancestors")
)

// otherFields returns the indexes of T's fields that the JSON contains and that are not among
// names.
func otherFields[T any](names ...string) (other []int) {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("json") != "-" && !slices.Contains(names, f.Name) {
			other = append(other, i)
		}
	}
	return other
}

// anySet reports whether any of the fields of v is set.
func anySet[T any](v *T, fields []int) bool {
	if v == nil || len(fields) == 0 {
		return false
	}
	s := reflect.ValueOf(v).Elem()
	return slices.ContainsFunc(fields, func(i int) bool { return !s.Field(i).IsZero() })
}

// fits reports whether the columns can hold all of e.
func fits(e *event.Event) bool {
	if e.V != event.SchemaVersion || !fitsNanos(e.Time) || (!e.LastTime.IsZero() && (!fitsNanos(e.LastTime) || e.LastTime.UnixNano() == 0)) {
		return false
	}
	if anySet(e, otherOfEvent) || (e.Namespace != nil && e.Sysctl != nil) {
		return false
	}
	ns := e.Namespace
	if e.Sysctl != nil {
		ns = e.Sysctl.Namespace
	}
	if ns != nil && !ns.Created.IsZero() && !fitsNanos(ns.Created) {
		return false
	}
	if p := e.Process; p != nil && !p.StartTime.IsZero() && !fitsNanos(p.StartTime) {
		return false
	}
	return !anySet(ns, otherOfNamespace) && !anySet(e.Sysctl, otherOfSysctl) && !anySet(e.Process, otherOfProcess) &&
		e.Seq <= math.MaxInt64 && e.Count <= math.MaxInt64
}

// fitsNanos reports whether an int64 can hold t as nanoseconds since 1970.
func fitsNanos(t time.Time) bool { return t.Year() > 1678 && t.Year() < 2262 }

// unpacked is the memory for one event that fill makes from a pending one. It is not used for an
// event that is kept as its line.
type unpacked struct {
	event event.Event
	ns    event.Namespace
	sys   event.Sysctl
	value [3]string
}

func (u *unpacked) fill(q *pending) *event.Event {
	e := &u.event
	*e = event.Event{
		V: event.SchemaVersion, Time: nanos(q.time), LastTime: nanosOrZero(q.lastTime),
		RunID: q.origin.runID, Seq: q.seq, Host: q.origin.host, BootID: q.origin.bootID,
		Type: q.kind.typ, Outcome: q.kind.outcome, Error: q.kind.error, Via: q.kind.via,
		Process: q.process, Container: q.container, Pod: q.pod, Unit: q.unit, ChildPID: q.child, Count: q.count,
	}
	var ns *event.Namespace
	if v := q.view; v != nil {
		ns = &u.ns
		*ns = event.Namespace{Type: v.typ, ID: v.inode, UID: v.uid, Name: v.name, Host: v.host, From: q.from, UserNS: v.userNS, Owner: v.owner}
		if q.details != nil {
			ns.Created, ns.LifetimeMS, ns.Creator, ns.Detected = q.details.created, q.details.lifetime, q.details.creator, q.details.detected
		}
	}
	if q.param == nil {
		e.Namespace = ns
		return e
	}
	u.sys = event.Sysctl{Name: q.param.name, Path: q.param.path, Namespace: ns, Truncated: q.truncated}
	e.Sysctl = &u.sys
	text := q.values
	for i, to := range [...]**string{&u.sys.Old, &u.sys.New, &u.sys.After} {
		if n := q.length[i]; n != absent {
			u.value[i], text = text[:n], text[n:]
			*to = &u.value[i]
		}
	}
	return e
}

func nanos(n int64) time.Time { return time.Unix(0, n).UTC() }

func nanosOrZero(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return nanos(n)
}

// isLate reports whether an event can come after one that happened later.
func isLate(e *event.Event) bool { return e.Late || e.Count > 1 }
