// SPDX-License-Identifier: Apache-2.0

package blame

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// errOtherPath is the error for a parameter whose path in the history is that of another one.
var errOtherPath = errors.New("the path belongs to another parameter")

// errNotEntered is the error for a namespace that cannot be entered.
var errNotEntered = errors.New("the namespace cannot be entered")

// A reader reads the current values of parameters, also in other namespaces.
type reader struct {
	db     History
	boot   string
	synced error // of Options.Sync
	host   map[event.NSType]uint32
	own    map[event.NSType]uint32 // the namespaces of this process
	take   func() (*inventory.Inventory, error)
	root   *params.Root // in the namespaces of this process, nil before the first use
	lives  map[lifeKey]presence

	devices map[uint32]map[string]uint32 // indexes by namespace and name
	// For lastMove, which looks at the events after movesFrom.
	wanted    map[deviceKey]bool
	moved     map[deviceKey]int64 // the last move of each; nil before the first use
	movesFrom int64

	initialLeft time.Duration // for initial
}

func newReader(ctx context.Context, db History, host map[event.NSType]uint32) *reader {
	return &reader{
		db: db, boot: procfs.BootID(), host: host, own: procfs.NamespacesOf("self"), lives: map[lifeKey]presence{}, devices: map[uint32]map[string]uint32{},
		initialLeft: initialTime,
		take:        sync.OnceValues(func() (*inventory.Inventory, error) { return inventory.Take(ctx, inventory.Options{}) }),
	}
}

func (r *reader) close() {
	if r.root != nil {
		r.root.Close()
		r.root = nil
	}
}

// isHost reports whether a namespace that an event of a boot is about is the host's own.
func (r *reader) isHost(ns *event.Namespace, bootID string) bool {
	// Process 1 holds it for the whole boot, so that no other namespace gets its number.
	return ns.Host || bootID == r.boot && ns.ID != 0 && r.host[ns.Type] == ns.ID
}

// A presence says whether a namespace exists.
type presence int

const (
	uncertain presence = iota
	ended
	exists
)

// A place is where the parameters of a namespace can be read.
type place struct {
	state presence
	ns    *event.Namespace // nil: the parameters of this process
	file  *os.File         // of the namespace, nil if this process is in it or it cannot be opened
}

func (p *place) close() {
	if p.file != nil {
		p.file.Close()
	}
}

// A lifeKey identifies a recorded namespace of this boot.
type lifeKey struct {
	typ event.NSType
	id  uint32
	uid string
}

// find finds the namespace of a write among those that exist. The kernel uses the numbers of namespaces
// again, so the number alone does not identify it.
func (r *reader) find(ctx context.Context, w *history.LastWrite) (*place, error) {
	ns := w.Namespace
	switch {
	case ns == nil:
		return &place{state: exists}, nil
	case r.isHost(ns, w.Event.BootID):
		host := &event.Namespace{Type: ns.Type, ID: r.host[ns.Type]}
		if host.ID == 0 && w.Event.BootID == r.boot {
			host.ID = ns.ID
		}
		return r.living(host), nil
	case w.Event.BootID != r.boot || w.Ended:
		return &place{state: ended}, nil
	}
	k := lifeKey{ns.Type, ns.ID, ns.UID}
	if state, ok := r.lives[k]; ok && state != exists {
		return &place{state: state}, nil
	}
	p, err := r.lookFor(ctx, ns, w.ID)
	if err == nil {
		r.lives[k] = p.state
	}
	return p, err
}

// lookFor finds the namespace that an event of this boot is about.
func (r *reader) lookFor(ctx context.Context, ns *event.Namespace, id int64) (*place, error) {
	if kernel, err := strconv.ParseUint(ns.UID, 10, 64); err == nil && ns.ID != 0 && kernel != 0 {
		// From Linux 6.18 on the kernel finds it by its id, whatever holds it.
		f, err := procfs.OpenHandle(procfs.Namespace{Type: ns.Type, ID: ns.ID, KernelID: kernel})
		switch {
		case err == nil:
			return &place{exists, ns, f}, nil
		case errors.Is(err, unix.ESTALE):
			return &place{state: ended}, nil
		}
	}
	p := r.living(ns)
	if p.state != exists {
		return p, nil
	}
	if now := r.uid(p); now != "" && ns.KernelUID() {
		if now != ns.UID {
			p.close()
			return &place{state: ended}, nil
		}
		return p, nil
	}
	life, err := r.db.LifeOf(ctx, ns, r.boot)
	if err != nil || life.Ended {
		p.close()
		return &place{state: ended}, err
	}
	// The kernel does not say which namespace has the number. A recorder that still watches would have
	// seen the end of the recorded one.
	if r.synced == nil && !life.Unsure {
		if watched, err := r.db.WatchedSince(ctx, id); err != nil || watched {
			return p, err
		}
	}
	p.close()
	return &place{state: uncertain}, nil
}

// exists reports whether a namespace of a type has a number now.
func (r *reader) exists(typ event.NSType, id uint32) bool {
	p := r.living(&event.Namespace{Type: typ, ID: id})
	defer p.close()
	return p.state == exists
}

// living finds the namespace that has the number of ns now, nil for those of this process.
func (r *reader) living(ns *event.Namespace) *place {
	switch {
	case ns == nil:
		return &place{state: exists}
	case ns.ID == 0:
		return &place{state: uncertain}
	case r.own[ns.Type] == ns.ID:
		return &place{state: exists, ns: ns}
	}
	inv, err := r.take()
	if err != nil {
		return &place{state: uncertain}
	}
	n := inv.Find(inventory.Ref{Type: ns.Type, ID: ns.ID})
	if n == nil {
		if inv.Cut || len(inv.Incomplete) > 0 || os.Geteuid() != 0 {
			return &place{state: uncertain}
		}
		return &place{state: ended}
	}
	p := &place{state: exists, ns: ns}
	if p.file, err = inv.Open(n); err != nil {
		return &place{state: uncertain} // it can have ended since
	}
	return p
}

// uid returns the kernel's id of the namespace at a place, "" if the kernel does not say it.
func (r *reader) uid(p *place) (uid string) {
	if p.file != nil {
		if id := procfs.HandleIDOf(int(p.file.Fd())); id != 0 {
			return strconv.FormatUint(id, 10)
		}
	} else if id := procfs.HandleID("/proc/self/ns/" + string(p.ns.Type)); id != 0 {
		return strconv.FormatUint(id, 10)
	}
	if p.ns.Type == event.NSTypeNet {
		_ = r.in(p, func(*params.Root) { uid = netCookie() })
	}
	return uid
}

// netCookie returns the id of the thread's network namespace before Linux 6.18, as events have it; "" before
// 5.14.
func netCookie() string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return ""
	}
	return "net:" + strconv.FormatUint(cookie, 10)
}

// read returns the value of a parameter at a place. Name and path come from the history, which can be
// forged: the path is opened only if it belongs to the name.
func (r *reader) read(name, path string, p *place) (value *params.Value, err error) {
	if of, err := params.Name(path); err != nil {
		return nil, err
	} else if of != name {
		return nil, errOtherPath
	}
	var readErr error
	err = r.in(p, func(root *params.Root) {
		var v params.Value
		if v, readErr = root.Read(path); readErr == nil {
			value = &v
		}
	})
	return value, errors.Join(err, readErr)
}

// in calls do with the parameters at a place.
func (r *reader) in(p *place, do func(*params.Root)) error {
	if p.state != exists {
		return errNotEntered
	}
	if p.file == nil {
		if r.root == nil {
			root, err := params.Open()
			if err != nil {
				return errNotEntered
			}
			r.root = root
		}
		do(r.root)
		return nil
	}
	if !params.Enterable(p.ns.Type) {
		return errNotEntered
	}
	return params.OnThread(func(t *params.Thread) error {
		root, err := t.Enter(p.ns.Type, p.ns.ID, []string{fmt.Sprintf("/proc/self/fd/%d", p.file.Fd())})
		if err != nil {
			return errNotEntered
		}
		do(root)
		return nil
	})
}
