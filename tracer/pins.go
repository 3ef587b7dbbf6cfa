// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A pin is a bind mount of a namespace's file, which keeps the namespace alive.
type pin struct {
	ns    *liveNS
	path  string
	maker *event.Actor // nil: from before the tracer started, or found by looking
}

// A pinPlace is where which namespace is mounted.
type pinPlace struct {
	path string
	id   uint32
}

func (p pinPlace) compare(q pinPlace) int {
	return cmp.Or(cmp.Compare(p.path, q.path), cmp.Compare(p.id, q.id))
}

// takePins learns which pins there are in nstrace's own mount namespace. The kernel tells
// of the end of those that it has the numbers of.
func (t *Tracer) takePins(boot uint64) error {
	known := t.loaded.coll.Maps[bpf.NstraceMapPinned]
	for _, p := range procfs.Pinned() {
		ns, _ := t.reg.see(p.Type, p.ID, p.KernelID, 0, boot)
		t.names.learn(ns, boot)
		if t.watch != nil {
			if at := (pinPlace{p.Path, p.ID}); t.watch.pins[at] == nil { // see comparePins
				t.watch.add(at, ns)
			}
			continue
		}
		if t.opts.Follow {
			continue // nobody followed has made it
		}
		t.pins[p.MountID] = &pin{ns: ns, path: p.Path}
		// More than the map has room for end without a word, as they were made.
		if err := known.Put(p.MountID, uint8(1)); err != nil && !errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("note a namespace's mount: %w", err)
		}
	}
	return nil
}

// handlePin reports that a namespace was pinned or unpinned, or that somebody tried.
func (t *Tracer) handlePin(h Handler, r *record, typ event.Type) error {
	who := t.caller(&r.pin.Caller)
	ns, err := t.see(h, &r.pin.Ns, r.head.Time)
	if err != nil {
		return err
	}
	if ns == nil {
		return fmt.Errorf("%w: a namespace was mounted that has no inode number", ErrRecord)
	}
	if err := t.own(ns); err != nil {
		return err
	}
	var path string
	if r.has(bpf.NstraceRecordFlagF_PATH_AS_GIVEN) {
		path = namedPath(r.path)
	} else {
		path = absPath(r.path, r.has(bpf.NstraceRecordFlagF_PATH_CUT))
	}
	if typ == event.NamespacePin && !r.failed() && who.p.NS["mnt"] == t.reg.host["mnt"] {
		t.names.mounted(ns, path)
	}
	e := t.begin(r, typ, who)
	e.Namespace = t.show(ns)
	e.Namespace.Path = path
	if id := r.pin.MntId; id != 0 && !r.failed() {
		delete(t.pins, id)
		if typ == event.NamespacePin {
			t.pins[id] = &pin{ns: ns, path: e.Namespace.Path, maker: &event.Actor{PID: who.p.PID, UID: who.p.UID, Comm: who.p.Comm}}
		}
	}
	return t.give(h, e, nil)
}

// namedPath is a path as a caller named it, if that says where it is: not a relative one.
func namedPath(b []byte) string {
	if len(b) < 2 || b[0] != '/' {
		return ""
	}
	return string(b[:len(b)-1])
}

// handlePinEnd reports the end of a pin that nobody unmounted.
func (t *Tracer) handlePinEnd(h Handler, r *record) error {
	p := t.pins[r.pinEnd.MntId]
	delete(t.pins, r.pinEnd.MntId)
	if p == nil {
		// The record of its beginning was lost.
		if p = (&pin{ns: t.reg.live[r.pinEnd.Inum]}); p.ns == nil {
			t.filtered++
			return nil
		}
	}
	return t.givePin(h, event.NamespaceUnpin, p, r.head.Time, "")
}

// givePin emits the beginning or the end of a pin, which no process is known to have
// caused.
func (t *Tracer) givePin(h Handler, typ event.Type, p *pin, boot uint64, detected string) error {
	e := &t.ev
	*e = event.Event{Type: typ, Time: t.clock.wall(boot), Namespace: t.show(p.ns)}
	e.Namespace.Path, e.Namespace.Detected = p.path, detected
	return t.give(h, e, p.maker)
}

// comparePins reports which pins had come and gone, when it was looked last, in nstrace's own
// mount namespace. What the kernel told until then is read: else a namespace that has the
// number of one that ended would be taken for that.
func (t *Tracer) comparePins(h Handler) error {
	boot := bootNow()
	there := map[pinPlace]procfs.Namespace{}
	found, looked := t.watch.take()
	for _, id := range found {
		// Several on one place are one to those who look: ip netns add makes two, since
		// /run/netns is mounted on itself.
		there[pinPlace{id.Path, id.ID}] = id
	}
	var gone, came []pinPlace
	for at := range t.watch.pins {
		if _, ok := there[at]; !ok {
			gone = append(gone, at)
		}
	}
	for at := range there {
		if t.watch.pins[at] == nil {
			came = append(came, at)
		}
	}
	slices.SortFunc(gone, pinPlace.compare)
	for _, at := range gone {
		if err := t.foundPin(h, event.NamespaceUnpin, t.watch.remove(at), boot); err != nil {
			return err
		}
	}
	slices.SortFunc(came, pinPlace.compare)
	for _, at := range came {
		id := there[at]
		ns := t.reg.live[id.ID]
		if ns != nil && ns.bootNS > looked {
			continue // what was mounted ended since, and this has its number
		}
		// The kernel's id can only be had through the mount, which is then busy for whoever
		// unmounts it just now.
		if ns == nil || ns.typ != id.Type {
			id.KernelID = procfs.HandleID(id.Path)
		}
		ns, err := t.see(h, &bpf.NstraceNsChange{Kind: uint8(slices.Index(nsTypes[:], id.Type)), Inum: id.ID, NsId: id.KernelID}, boot)
		if err != nil {
			return err
		}
		if err := t.foundPin(h, event.NamespacePin, t.watch.add(at, ns), boot); err != nil {
			return err
		}
	}
	return nil
}

// endPins reports the end of the pins of a namespace that ended, which it was not looked for
// yet.
func (t *Tracer) endPins(h Handler, ns *liveNS, boot uint64) error {
	if len(ns.places) == 0 {
		return nil
	}
	t.watch.look.Store(true) // there may be another one in its place
	for len(ns.places) > 0 {
		if err := t.foundPin(h, event.NamespaceUnpin, t.watch.remove(ns.places[0]), boot); err != nil {
			return err
		}
	}
	return nil
}

// foundPin reports what was found by looking, if it is wanted.
func (t *Tracer) foundPin(h Handler, typ event.Type, p *pin, boot uint64) error {
	t.scanned++
	if t.opts.Follow && !p.ns.follow {
		t.filtered++
		return nil
	}
	return t.givePin(h, typ, p, boot, "scan")
}

// A mountWatch is told by the kernel when anything in nstrace's mount namespace is mounted
// or unmounted, not what. A nil one is never told.
type mountWatch struct {
	pins   map[pinPlace]*pin
	look   atomic.Bool // something changed
	looked uint64      // CLOCK_BOOTTIME; 0 once found is compared
	found  []procfs.Namespace
	file   *os.File // of ownMountinfo, polled
	end    int      // an eventfd that ends the watch
	done   sync.WaitGroup
}

func newMountWatch() *mountWatch {
	w := &mountWatch{pins: map[pinPlace]*pin{}, end: -1}
	w.look.Store(true)
	return w
}

// start has wake called after each change. Where that can't be had, it is looked when
// the scanner does.
func (w *mountWatch) start(wake func()) {
	if w == nil {
		return
	}
	var err error
	if w.file, err = os.Open(procfs.OwnMountinfo); err != nil {
		return
	}
	if w.end, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return
	}
	w.done.Go(func() {
		// Fd, not the file's own poller: a change is POLLPRI (mounts_poll() in
		// fs/proc_namespace.c), which that does not know.
		fds := []unix.PollFd{{Fd: int32(w.file.Fd()), Events: unix.POLLPRI}, {Fd: int32(w.end), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents != 0 && !w.look.Swap(true) {
				wake()
			}
		}
	})
}

// due says whether there is something to do: to look, or to compare what was found.
func (w *mountWatch) due() bool { return w != nil && (w.looked != 0 || w.look.Load()) }

// see looks at the mounts, for comparePins.
func (w *mountWatch) see() {
	w.look.Store(false)
	w.looked, w.found = bootNow(), procfs.PinnedIn(procfs.OwnMountinfo)
}

// take returns what was found, once, and when it was looked.
func (w *mountWatch) take() (found []procfs.Namespace, looked uint64) {
	found, looked = w.found, w.looked
	w.found, w.looked = nil, 0
	return found, looked
}

// add notes that ns is mounted at a place, where nothing was known to be.
func (w *mountWatch) add(at pinPlace, ns *liveNS) *pin {
	p := &pin{ns: ns, path: at.path}
	w.pins[at] = p
	ns.places = append(ns.places, at)
	return p
}

// remove forgets what is mounted at a place, and returns it.
func (w *mountWatch) remove(at pinPlace) *pin {
	p := w.pins[at]
	delete(w.pins, at)
	p.ns.places = slices.DeleteFunc(p.ns.places, func(other pinPlace) bool { return other == at })
	return p
}

func (w *mountWatch) close() {
	if w == nil {
		return
	}
	if w.end >= 0 {
		_, _ = unix.Write(w.end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		w.done.Wait()
		unix.Close(w.end)
		w.end = -1
	}
	if w.file != nil {
		w.file.Close()
	}
}
