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

// A pending event waits to be written. A million of them have to have room in memory,
// so it takes a third of what an Event and its Clone do: what is the same in many is
// referred to.
type pending struct {
	time, lastTime int64 // nanoseconds since 1970; 0 in lastTime for none
	seq, count     uint64
	origin         *origin
	kind           *kind
	process        *event.Process
	container      *event.Container
	pod            *event.Pod
	unit           string
	param          *parameter
	view           *view
	end            *end
	values         string // old, new and after, one behind the other
	length         [3]int32
	from, child    uint32
	truncated      bool
	line           string // the event's own line, where the rest can't say all
}

// absent is the length of a value that is not known.
const absent = -1

// What pending events refer to. id is the row's, in the recorder's epoch; only the
// goroutine that writes touches these two.
type (
	row struct {
		epoch uint64
		id    int64
	}
	origin struct {
		row
		host, bootID string
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
	// namespaceKey is what makes a namespace that one, within one boot.
	namespaceKey struct {
		typ   event.NSType
		inode uint32
		uid   string
	}
	// A view is what an event knew of a namespace.
	view struct {
		row
		namespaceID int64
		namespaceKey
		name   string
		host   bool
		userNS uint32
		owner  *event.Owner
	}
	// An end is what else a namespace.destroy knows.
	end struct {
		created  time.Time
		lifetime *int64
		creator  *event.Actor
		detected string
	}
)

// maxShared is how many of each are known: a few that are used all the time, and those of
// processes and namespaces that are never seen again.
const maxShared = 1 << 13

// A cache knows the values that were asked for or put there last, half of maxShared at
// least and maxShared at most.
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

// A packer makes pending events of events, and knows what they share.
type packer struct {
	origin *origin
	kinds  cache[kindKey, *kind]
	params cache[parameterKey, *parameter]
	views  cache[namespaceKey, *view]
	encode *event.Encoder
	line   []byte
}

func newPacker() *packer {
	return &packer{encode: new(event.Encoder)}
}

// pack returns e to keep.
func (p *packer) pack(e *event.Event) pending {
	q := pending{
		time: e.Time.UnixNano(), seq: e.Seq, count: e.Count, process: e.Process,
		container: e.Container, pod: e.Pod, unit: e.Unit, child: e.ChildPID, length: [3]int32{absent, absent, absent},
	}
	if !e.LastTime.IsZero() {
		q.lastTime = e.LastTime.UnixNano()
	}
	if p.origin == nil || p.origin.host != e.Host || p.origin.bootID != e.BootID {
		p.origin = &origin{host: e.Host, bootID: e.BootID}
		p.views.clear() // the same number and uid are another namespace in another boot
	}
	q.origin = p.origin
	q.kind = share(&p.kinds, kindKey{e.Type, e.Outcome, e.Error, e.Via}, func(k kindKey) *kind { return &kind{kindKey: k} })
	ns := e.Namespace
	if s := e.Sysctl; s != nil {
		q.param = share(&p.params, parameterKey{s.Name, s.Path}, func(k parameterKey) *parameter {
			return &parameter{parameterKey: parameterKey{strings.Clone(k.name), strings.Clone(k.path)}}
		})
		q.truncated = s.Truncated
		q.setValues(s.Old, s.New, s.After)
		if ns == nil {
			ns = s.Namespace
		}
	}
	if ns != nil {
		q.view, q.from = p.see(ns), ns.From
		if !ns.Created.IsZero() || ns.LifetimeMS != nil || ns.Creator != nil || ns.Detected != "" {
			q.end = &end{ns.Created, ns.LifetimeMS, ns.Creator, ns.Detected}
		}
	}
	if !fits(e) {
		p.line = p.encode.Append(p.line[:0], e)
		q.line = string(p.line)
	}
	return q
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

// see returns what is known of a namespace.
func (p *packer) see(ns *event.Namespace) *view {
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
	return a != nil && b != nil && a.Unit == b.Unit && a.Source == b.Source && same(a.Container, b.Container) && same(a.Pod, b.Pod)
}

func same[T comparable](a, b *T) bool { return a == b || (a != nil && b != nil && *a == *b) }

// The fields that have columns. An event in which any other is set, such as one that a
// later version adds, is kept as its line besides.
var (
	otherOfEvent = others[event.Event]("V", "Time", "LastTime", "Seq", "Host", "BootID", "Type", "Outcome", "Error", "Via",
		"Namespace", "Sysctl", "Process", "Container", "Pod", "Unit", "ChildPID", "Count")
	otherOfNamespace = others[event.Namespace]("Type", "ID", "UID", "Name", "Host", "From", "UserNS", "Owner", "Created", "LifetimeMS", "Creator", "Detected")
	otherOfSysctl    = others[event.Sysctl]("Name", "Path", "Old", "New", "After", "Namespace", "Truncated")
	otherOfProcess   = others[event.Process]("PID", "TID", "StartTime", "Comm", "Exe", "Args", "PPID", "UID", "GID", "User", "LoginUID", "LoginUser",
		"SessionID", "SudoUID", "SudoUser", "TTY", "Role", "Cgroup", "NS", "Ancestors")
)

// others returns the fields of T that are not among names.
func others[T any](names ...string) (other []int) {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if !slices.Contains(names, t.Field(i).Name) {
			other = append(other, i)
		}
	}
	return other
}

// anySet says whether v has any of the fields.
func anySet[T any](v *T, fields []int) bool {
	if v == nil || len(fields) == 0 {
		return false
	}
	s := reflect.ValueOf(v).Elem()
	return slices.ContainsFunc(fields, func(i int) bool { return !s.Field(i).IsZero() })
}

// fits says whether columns can hold all of e.
func fits(e *event.Event) bool {
	if e.V != event.SchemaVersion || !keepable(e.Time) || (!e.LastTime.IsZero() && (!keepable(e.LastTime) || e.LastTime.UnixNano() == 0)) {
		return false
	}
	if anySet(e, otherOfEvent) || (e.Namespace != nil && e.Sysctl != nil) {
		return false
	}
	ns := e.Namespace
	if e.Sysctl != nil {
		ns = e.Sysctl.Namespace
	}
	if ns != nil && !ns.Created.IsZero() && !keepable(ns.Created) {
		return false
	}
	if p := e.Process; p != nil && !p.StartTime.IsZero() && !keepable(p.StartTime) {
		return false
	}
	return !anySet(ns, otherOfNamespace) && !anySet(e.Sysctl, otherOfSysctl) && !anySet(e.Process, otherOfProcess) &&
		e.Seq <= math.MaxInt64 && e.Count <= math.MaxInt64
}

// keepable says whether a time's nanoseconds since 1970 are an int64.
func keepable(t time.Time) bool { return t.Year() > 1678 && t.Year() < 2262 }

// unpacked is where an event is made again of what was packed. One that is kept as a
// line is not made so.
type unpacked struct {
	event event.Event
	ns    event.Namespace
	sys   event.Sysctl
	value [3]string
}

func (u *unpacked) fill(q *pending) *event.Event {
	e := &u.event
	*e = event.Event{
		V: event.SchemaVersion, Time: nanos(q.time), LastTime: nanosOrZero(q.lastTime), Seq: q.seq, Host: q.origin.host, BootID: q.origin.bootID,
		Type: q.kind.typ, Outcome: q.kind.outcome, Error: q.kind.error, Via: q.kind.via,
		Process: q.process, Container: q.container, Pod: q.pod, Unit: q.unit, ChildPID: q.child, Count: q.count,
	}
	var ns *event.Namespace
	if v := q.view; v != nil {
		ns = &u.ns
		*ns = event.Namespace{Type: v.typ, ID: v.inode, UID: v.uid, Name: v.name, Host: v.host, From: q.from, UserNS: v.userNS, Owner: v.owner}
		if q.end != nil {
			ns.Created, ns.LifetimeMS, ns.Creator, ns.Detected = q.end.created, q.end.lifetime, q.end.creator, q.end.detected
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
