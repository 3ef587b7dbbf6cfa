// SPDX-License-Identifier: Apache-2.0

// Package show collects all that is known of one namespace, or of the namespaces of a container, pod,
// unit or process.
package show

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/netfacts"
	"github.com/nstrace/nstrace/internal/nsdiff"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// Options say what to collect.
type Options struct {
	Inventory *inventory.Inventory
	Resolver  *resolve.Resolver
	History   *history.DB // nil for none
	Events    int         // how many events of each namespace to show
}

// Bounds of what is collected.
const (
	maxProcesses = 1000
	fdTime       = time.Second // to find the processes of sockets
	diffTime     = 5 * time.Second
)

// Collect collects what is known of a target. Parts that cannot be read are named in Incomplete.
func Collect(ctx context.Context, t *resolve.Target, o Options) (*output.Page, error) {
	page := &output.Page{Target: t.String()}
	if t.Namespace != nil {
		page.Namespaces = []*output.Details{{Namespace: t.Namespace}}
	} else {
		for _, typ := range t.Types() {
			n, err := t.In(typ)
			if errors.Is(err, resolve.ErrNoNamespace) {
				continue
			}
			if err != nil {
				page.Incomplete = append(page.Incomplete, err.Error())
				continue
			}
			page.Namespaces = append(page.Namespaces, &output.Details{Namespace: n})
		}
		if len(page.Namespaces) == 0 {
			return nil, fmt.Errorf("%s: %w", t, resolve.ErrNoNamespace)
		}
	}
	for _, d := range page.Namespaces {
		d.Processes = o.Inventory.ProcessesIn(d.Namespace.Ref)
		d.Processes = d.Processes[:min(len(d.Processes), maxProcesses)]
		if err := o.events(ctx, d); err != nil {
			return nil, err
		}
		if d.Namespace.Host {
			continue
		}
		o.differences(ctx, page, d)
		if d.Namespace.Type == event.NSTypeNet {
			o.network(ctx, page, d)
		}
	}
	// The network of the host is what a user asks for only by its own name.
	if t.Namespace != nil && t.Namespace.Host && t.Namespace.Type == event.NSTypeNet {
		o.network(ctx, page, page.Namespaces[0])
	}
	if t.What == resolve.Unit {
		isolation(ctx, page, t.ID, o.Inventory)
	}
	return page, nil
}

// events adds the latest events about a namespace.
func (o *Options) events(ctx context.Context, d *output.Details) error {
	if o.History == nil || o.Events <= 0 {
		return nil
	}
	ns := o.Inventory.EventNamespace(d.Namespace)
	q := history.Query{
		Namespace: &history.NamespaceQuery{Type: ns.Type, ID: ns.ID, UID: ns.UID, BootID: o.Inventory.Boot},
		Limit:     o.Events, Reverse: true,
	}
	for s, err := range o.History.Events(ctx, q) {
		if err != nil {
			return fmt.Errorf("read the history: %w", err)
		}
		d.Events = append(d.Events, s.Event)
	}
	slices.Reverse(d.Events)
	return nil
}

// differences adds the parameters that differ from the host's.
func (o *Options) differences(ctx context.Context, page *output.Page, d *output.Details) {
	if !nsdiff.Has(d.Namespace.Type) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	c, err := nsdiff.New(o.Resolver, []*resolve.Target{o.Resolver.Target(d.Namespace)}, false, []event.NSType{d.Namespace.Type})
	if err == nil {
		defer c.Close()
		c.NoOrigins = true // who looks at the host does not change it
		d.Differences, err = c.Run(ctx)
	}
	if err != nil {
		page.Incomplete = append(page.Incomplete, fmt.Sprintf("the parameters of %s namespace %d: %v", d.Namespace.Type, d.Namespace.ID, err))
	}
}

// network adds what a network namespace contains.
func (o *Options) network(ctx context.Context, page *output.Page, d *output.Details) {
	target := func(n *inventory.Namespace) netfacts.Target {
		return netfacts.Target{ID: n.ID, Open: func() (*os.File, error) { return o.Inventory.Open(n) }}
	}
	d.Network = netfacts.Read(ctx, []netfacts.Target{target(d.Namespace)}, netfacts.Options{Routes: true, Sockets: true, Firewall: true})[0]
	if d.Network.Err != nil {
		page.Incomplete = append(page.Incomplete, d.Network.Err.Error())
		return
	}
	page.Incomplete = append(page.Incomplete, d.Network.Incomplete...)
	d.Listeners = o.listeners(ctx, page, d)

	// The other end of a pair can be in any namespace.
	if !slices.ContainsFunc(d.Network.Devices, func(x netfacts.Device) bool { return x.Link != nil }) {
		return
	}
	var all []netfacts.Target
	for _, n := range o.Inventory.Namespaces() {
		if n.Type == event.NSTypeNet {
			all = append(all, target(n))
		}
	}
	found := netfacts.Read(ctx, all, netfacts.Options{})
	of := map[uint32]*netfacts.Namespace{}
	for _, n := range found {
		of[n.ID] = n
	}
	d.Peers = map[int]output.Peer{}
	for _, dev := range d.Network.Devices {
		self := of[d.Namespace.ID]
		if self == nil {
			continue
		}
		same := self.Device(dev.Index)
		if same == nil || same.Name != dev.Name || same.Link == nil || same.Link.NS == 0 {
			continue
		}
		peer := output.Peer{NS: o.Inventory.Find(inventory.Ref{Type: event.NSTypeNet, ID: same.Link.NS})}
		if other := of[same.Link.NS]; other != nil && same.Link.Index != 0 {
			peer.Device = other.Device(same.Link.Index)
		}
		d.Peers[dev.Index] = peer
	}
}

// listeners returns the listening sockets with the processes that have them open, as far as these are
// in the namespace or hold one of its sockets.
func (o *Options) listeners(ctx context.Context, page *output.Page, d *output.Details) (all []output.Listener) {
	byInode := map[uint32]int{}
	for _, s := range d.Network.Sockets {
		byInode[s.Inode] = len(all)
		all = append(all, output.Listener{Socket: s})
	}
	pids := map[uint32]bool{}
	for _, p := range d.Processes {
		pids[p.PID] = true
	}
	for _, s := range d.Namespace.Sockets {
		pids[s.PID] = true
	}
	deadline := time.Now().Add(fdTime)
	for pid := range pids {
		if len(byInode) == 0 {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			page.Incomplete = append(page.Incomplete, "the processes of some sockets: no time")
			break
		}
		dir := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/fd"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			target, err := os.Readlink(dir + "/" + fd.Name())
			number, ok := strings.CutPrefix(target, "socket:[")
			if err != nil || !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
			if err != nil {
				continue
			}
			if i, ok := byInode[uint32(inode)]; ok {
				if p := o.Inventory.Process(pid); p != nil && !slices.Contains(all[i].Processes, p) {
					all[i].Processes = append(all[i].Processes, p)
				}
			}
		}
	}
	for i := range all {
		slices.SortFunc(all[i].Processes, func(a, b *inventory.Process) int { return int(a.PID) - int(b.PID) })
	}
	return all
}
