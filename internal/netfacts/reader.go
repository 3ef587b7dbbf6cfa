// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
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
	wanted []end             // what links lead to
	has    map[int]*[2]int32 // pairs, by their index: the other end, and the kernel's number for its namespace
	err    bool
}

// An end is a link to another namespace.
type end struct{ from, to, nsid int }

func endsOf(n *Namespace) ends {
	e := ends{has: map[int]*[2]int32{}, err: n.Err != nil}
	for i := range n.Devices {
		d := &n.Devices[i]
		if d.Link == nil || d.Link.NSID < 0 {
			continue
		}
		e.wanted = append(e.wanted, end{d.Index, d.Link.Index, d.Link.NSID})
		if d.Pair() {
			e.has[d.Index] = &[2]int32{int32(d.Link.Index), int32(d.Link.NSID)}
		}
	}
	return e
}

// resolve finds the namespaces that links lead to. A link has the index of a device, which says nothing
// alone, and the kernel's number for its namespace, which differs in each namespace that it is used
// in (net_namespaces(7) does not mention it; RTM_GETNSID is in net/core/net_namespace.c). The kernel
// tells the number of a namespace whose file one has, so resolve asks for one after the other: first for
// those that have an end that fits, then for those that others were found in, then for all others.
func (r *reader) resolve(files []*os.File, all []ends) map[nsidKey]uint32 {
	found := map[nsidKey]uint32{}
	byPair := map[[2]int][]int{} // namespaces with a pair's end, by its index and the other one's
	for i := range all {
		for index, other := range all[i].has {
			key := [2]int{index, int(other[0])}
			byPair[key] = append(byPair[key], i)
		}
	}
	popular := map[int]int{} // how often a namespace was the answer
	for i := range all {
		missing := map[int]bool{}
		for _, e := range all[i].wanted {
			missing[e.nsid] = true
		}
		if len(missing) == 0 || files[i] == nil || r.ctx.Err() != nil {
			continue
		}
		if r.enter(files[i], r.targets[i].ID) != nil {
			continue
		}
		s, err := dial(r.ctx, unix.NETLINK_ROUTE, time.Now().Add(r.o.Time))
		if err != nil {
			continue
		}
		asked := map[int]bool{i: true}
		ask := func(j int) bool {
			if asked[j] || files[j] == nil {
				return true
			}
			asked[j] = true
			nsid, err := s.nsid(int(files[j].Fd()))
			if err != nil {
				// A namespace without a number here is no error.
				return !errors.Is(err, os.ErrDeadlineExceeded) && r.ctx.Err() == nil
			}
			if missing[nsid] {
				delete(missing, nsid)
				found[nsidKey{i, nsid}] = r.targets[j].ID
				popular[j]++
			}
			return len(missing) > 0
		}
		r.candidates(all, i, byPair, popular, ask)
		s.Close()
	}
	return found
}

// candidates calls ask with namespaces that links of one can lead to, the likely ones first, until it
// returns false.
func (r *reader) candidates(all []ends, i int, byPair map[[2]int][]int, popular map[int]int, ask func(int) bool) {
	favorites := slices.SortedFunc(maps.Keys(popular), func(a, b int) int { return popular[b] - popular[a] })
	for _, j := range favorites[:min(len(favorites), 4)] {
		if !ask(j) {
			return
		}
	}
	const most = 8 // of each pair: many namespaces can have the same two indexes
	for _, e := range all[i].wanted {
		fits := byPair[[2]int{e.to, e.from}]
		for _, j := range fits[:min(len(fits), most)] {
			if !ask(j) {
				return
			}
		}
	}
	for _, j := range favorites {
		if !ask(j) {
			return
		}
	}
	for j := range all {
		if !ask(j) {
			return
		}
	}
}
