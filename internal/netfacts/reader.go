// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A reader reads namespaces on a thread of its own, and sends what it finds.
type reader struct {
	ctx     context.Context
	o       Options
	targets []Target
	done    chan done
	nsids   map[nsidKey]uint32

	current uint32 // the network namespace of the thread
	devices int    // how many were read
}

// done is what a reader finds: a namespace, or in the end the namespaces that links lead to.
type done struct {
	i     int
	ns    *Namespace
	links map[nsidKey]uint32
}

// An nsidKey is the kernel's number for a namespace in one of the targets.
type nsidKey struct{ target, nsid int }

// run reads all namespaces. It closes done at the end.
func (r *reader) run() {
	defer close(r.done)
	_ = params.OnThread(func(*params.Thread) error {
		r.all()
		return nil
	})
}

// send hands over what was found, unless nobody waits for it any more.
func (r *reader) send(d done) bool {
	select {
	case r.done <- d:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// all reads all namespaces. It keeps their files open until the links between them are resolved.
func (r *reader) all() {
	r.current, _ = procfs.NamespaceOf("thread-self", event.NSTypeNet)
	files := make([]*os.File, len(r.targets))
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	ends := make([]ends, len(r.targets))
	for i, t := range r.targets {
		n := &Namespace{ID: t.ID}
		var err error
		if i >= maxNamespaces {
			err = fmt.Errorf("there are more than %d namespaces", maxNamespaces)
		} else if files[i], err = t.Open(); err == nil {
			err = r.read(files[i], n)
		}
		if err != nil {
			n.Err = fmt.Errorf("read network namespace %d: %w", t.ID, err)
		}
		ends[i] = endsOf(n)
		if !r.send(done{i: i, ns: n}) {
			return
		}
	}
	r.send(done{links: r.resolve(files, ends)})
}

// enter makes a namespace the one of the thread. Without the privilege to enter others, a thread
// can still read its own.
func (r *reader) enter(f *os.File, id uint32) error {
	if id == r.current {
		return nil
	}
	if err := netns.Set(netns.NsHandle(f.Fd())); err != nil {
		return fmt.Errorf("enter it: %w", err)
	}
	r.current = id
	return nil
}

// read reads one namespace.
func (r *reader) read(f *os.File, n *Namespace) error {
	if err := r.enter(f, n.ID); err != nil {
		return err
	}
	deadline := time.Now().Add(r.o.Time)
	route, err := dial(r.ctx, unix.NETLINK_ROUTE, deadline)
	if err != nil {
		return err
	}
	defer route.Close()
	limit := min(maxDevices, maxAllDevices-r.devices)
	if err := route.devices(n, limit); err != nil {
		return fmt.Errorf("list its devices: %w", err)
	}
	r.devices += len(n.Devices)
	note := func(what string, err error) {
		if err != nil {
			n.incomplete("%s: %v", what, err)
		}
	}
	note("addresses", route.addresses(n))
	if r.o.Routes {
		note("routes", route.routes(n))
	}
	if r.o.Sockets {
		note("listening sockets", readSockets(r.ctx, deadline, n))
	}
	if r.o.Firewall {
		note("tables of nftables", readNftables(r.ctx, deadline, n))
		note("tables of iptables", readIptables(n))
	}
	return nil
}

// ends are the links of a namespace that lead to other ones, and the devices that such links can lead
// to.
type ends struct {
	wanted  []end
	indexes []int       // of all devices
	pairs   map[int]int // ends of pairs: the index of the other end, by their own
}

// An end is a link to another namespace.
type end struct {
	from, to, nsid int
	pair           bool
}

func endsOf(n *Namespace) ends {
	e := ends{pairs: map[int]int{}}
	for i := range n.Devices {
		d := &n.Devices[i]
		e.indexes = append(e.indexes, d.Index)
		if d.Link == nil || d.Link.NSID < 0 {
			continue
		}
		e.wanted = append(e.wanted, end{d.Index, d.Link.Index, d.Link.NSID, d.Pair()})
		if d.Pair() {
			e.pairs[d.Index] = d.Link.Index
		}
	}
	return e
}

// A candidate is what a namespace must have so that a link can lead to it: a device with an index, and
// for a pair one whose other end has the index of this one.
type candidate struct{ index, other int }

// resolve finds the namespaces that links lead to. A link has the index of a device, which many
// namespaces have, and the kernel's number for its namespace, which differs in each namespace that it is
// used in (RTM_GETNSID in net/core/net_namespace.c of the kernel). The kernel says which number a namespace has
// whose file one has, so resolve asks for each one that has a device that fits.
func (r *reader) resolve(files []*os.File, all []ends) map[nsidKey]uint32 {
	fit := map[candidate][]int{}
	for i, e := range all {
		for _, index := range e.indexes {
			fit[candidate{index, 0}] = append(fit[candidate{index, 0}], i)
		}
		for index, other := range e.pairs {
			fit[candidate{index, other}] = append(fit[candidate{index, other}], i)
		}
	}
	found := map[nsidKey]uint32{}
	for i := range all {
		if len(all[i].wanted) == 0 || files[i] == nil || r.ctx.Err() != nil {
			continue
		}
		if r.enter(files[i], r.targets[i].ID) != nil {
			continue
		}
		s, err := dial(r.ctx, unix.NETLINK_ROUTE, time.Now().Add(r.o.Time))
		if err != nil {
			continue
		}
		r.resolveOne(s, i, files, all[i].wanted, fit, found)
		s.Close()
	}
	return found
}

// resolveOne finds the namespaces that links of one namespace lead to.
func (r *reader) resolveOne(s *socket, i int, files []*os.File, wanted []end, fit map[candidate][]int, found map[nsidKey]uint32) {
	asked := map[int]bool{i: true}
	for _, e := range wanted {
		c := candidate{e.to, 0}
		if e.pair {
			c.other = e.from
		}
		for _, j := range fit[c] {
			if found[nsidKey{i, e.nsid}] != 0 {
				break
			}
			if asked[j] || files[j] == nil {
				continue
			}
			asked[j] = true
			nsid, err := s.nsid(int(files[j].Fd()))
			if errors.Is(err, unix.ENOENT) {
				continue // it has no number here
			}
			if err != nil {
				return
			}
			found[nsidKey{i, nsid}] = r.targets[j].ID
		}
	}
}
