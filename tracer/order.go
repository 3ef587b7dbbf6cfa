// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"container/heap"
	"time"

	"github.com/nstrace/nstrace/event"
)

const (
	// orderWindow is how long an event is held back when tracepoints report it, so that events that
	// arrive later but happened before can go first. It is longer than a program is usually preempted
	// between the moment that it takes the time and the ring.
	orderWindow = 80 * time.Millisecond
	// maxHeld and maxHeldText bound what an order holds. Beyond them the oldest events go early.
	maxHeld     = 16384
	maxHeldText = 8 << 20 // bytes of values
	// hurriedHeld is how many events an order holds when the reader hurries.
	hurriedHeld = 512
	// maxSpare is how many held events an order keeps for later when it holds none.
	maxSpare = 1024
)

// An order holds events for a while and hands them on sorted by the time at which they happened. Events of
// the same time keep the order in which they came.
type order struct {
	next func(e *event.Event, read *afterRead) error

	held  heldQueue
	spare []*heldEvent
	hurry bool   // the ring fills: hold few events
	text  int    // bytes of values in held
	came  uint64 // how many events came
	read  uint64 // every record older than this has been read; CLOCK_BOOTTIME
	last  uint64 // time of the newest event handed on
}

// A heldEvent is an event with a copy of all that its maker uses again. In a storm there are thousands, so the parts
// that few events have are apart.
type heldEvent struct {
	boot  uint64 // when it happened, CLOCK_BOOTTIME
	place uint64 // in which it came
	event event.Event
	read  *afterRead // the value that is read for it, nil for none

	sysctl     event.Sysctl
	namespace  event.Namespace // of the event, or of sysctl
	old, value string
	after      string
	text       []byte // of old, value and after
	rare       *heldParts
}

// heldParts are what few events have.
type heldParts struct {
	sysctlNS event.Namespace // if the event has a namespace as well
	cause    event.Cause
	netdev   event.Netdev
	from, to event.Namespace
}

// take copies e.
func (h *heldEvent) take(e *event.Event) {
	h.event = *e
	h.text = h.text[:0]
	h.event.Namespace = copyInto(&h.namespace, e.Namespace)
	s, d := e.Sysctl, e.Netdev
	if h.rare == nil && (d != nil || s != nil && (s.Cause != nil || s.Namespace != nil && e.Namespace != nil)) {
		h.rare = new(heldParts)
	}
	if s = copyInto(&h.sysctl, s); s != nil {
		h.event.Sysctl = s
		size := 0
		for _, v := range [...]*string{s.Old, s.New, s.After} {
			if v != nil {
				size += len(*v)
			}
		}
		if cap(h.text) < size {
			h.text = make([]byte, 0, size) // append would move what view refers to
		}
		s.Old, s.New, s.After = h.keep(&h.old, s.Old), h.keep(&h.value, s.New), h.keep(&h.after, s.After)
		if e.Namespace == nil {
			s.Namespace = copyInto(&h.namespace, s.Namespace)
		} else if s.Namespace != nil {
			s.Namespace = copyInto(&h.rare.sysctlNS, s.Namespace)
		}
		if s.Cause != nil {
			s.Cause = copyInto(&h.rare.cause, s.Cause)
		}
	}
	if d != nil {
		d = copyInto(&h.rare.netdev, d)
		h.event.Netdev = d
		d.From, d.To = copyInto(&h.rare.from, d.From), copyInto(&h.rare.to, d.To)
	}
}

// keep copies a value into h.text. to is set to it.
func (h *heldEvent) keep(to, from *string) *string {
	if from == nil {
		return nil
	}
	start := len(h.text)
	h.text = append(h.text, *from...)
	*to = view(h.text[start:])
	return to
}

// copyInto copies from, if it is not nil, and returns the copy.
func copyInto[T any](to, from *T) *T {
	if from == nil {
		return nil
	}
	*to = *from
	return to
}

// hold takes an event that happened at the time boot, and the value that is read for it.
func (o *order) hold(e *event.Event, boot uint64, read *afterRead) error {
	var h *heldEvent
	if n := len(o.spare); n > 0 {
		h, o.spare = o.spare[n-1], o.spare[:n-1]
	} else {
		h = new(heldEvent)
	}
	o.came++
	h.boot, h.place, h.read = boot, o.came, read
	h.take(e)
	o.text += len(h.text)
	heap.Push(&o.held, h)
	for len(o.held) > maxHeld || o.text > maxHeldText {
		if err := o.pop(); err != nil {
			return err
		}
	}
	for i := 0; i < 2 && o.hurry && len(o.held) > hurriedHeld; i++ { // all at once would take too long
		if err := o.pop(); err != nil {
			return err
		}
	}
	return nil
}

// pop hands the oldest event on.
func (o *order) pop() error {
	h := heap.Pop(&o.held).(*heldEvent)
	o.text -= len(h.text)
	h.event.Late = h.boot < o.last
	o.last = max(o.last, h.boot)
	err := o.next(&h.event, h.read)
	h.event, h.read = event.Event{}, nil // it must not keep a process
	o.spare = append(o.spare, h)
	if len(o.held) == 0 && len(o.spare) > maxSpare {
		o.spare = append(make([]*heldEvent, 0, maxSpare), o.spare[:maxSpare]...)
	}
	return err
}

// seen notes that every record older than boot has been read.
func (o *order) seen(boot uint64) { o.read = max(o.read, boot) }

// release hands on the events that happened more than orderWindow before the reader has come to, and before
// the time limit.
func (o *order) release(limit uint64) error {
	horizon := o.horizon(limit)
	for len(o.held) > 0 && o.held[0].boot <= horizon {
		if err := o.pop(); err != nil {
			return err
		}
	}
	return nil
}

// horizon returns the time up to which release hands events on.
func (o *order) horizon(limit uint64) uint64 {
	read := min(o.read, limit)
	return read - min(read, uint64(orderWindow))
}

// passed reports whether all events that happened before boot and were read have been handed on.
func (o *order) passed(boot uint64) bool {
	return o.read >= boot && (len(o.held) == 0 || o.held[0].boot > boot)
}

// flush hands on all events.
func (o *order) flush() error {
	for len(o.held) > 0 {
		if err := o.pop(); err != nil {
			return err
		}
	}
	return nil
}

// A heldQueue is a heap with the oldest event first.
type heldQueue []*heldEvent

func (q heldQueue) Len() int { return len(q) }

func (q heldQueue) Less(i, j int) bool {
	if q[i].boot != q[j].boot {
		return q[i].boot < q[j].boot
	}
	return q[i].place < q[j].place
}

func (q heldQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *heldQueue) Push(h any) { *q = append(*q, h.(*heldEvent)) }

func (q *heldQueue) Pop() any {
	n := len(*q) - 1
	h := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	return h
}
