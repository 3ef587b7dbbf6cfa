// SPDX-License-Identifier: Apache-2.0

// Package nsdiff compares the parameters of two namespaces of a type, or of a namespace and a fresh one.
//
// Nothing says which parameters belong to namespaces, so it has no list of them: it compares what a task
// in one namespace reads with what a task in the other one reads, several times in turn. What keeps
// differing belongs to the namespaces. How a new namespace gets a parameter is found by making some, which
// end at once.
package nsdiff

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/output"
)

// ReadTime is how long a comparison may take.
const ReadTime = 10 * time.Second

// A Side is one of the two namespaces.
type Side struct {
	Namespace *inventory.Namespace // nil for a fresh one
	Name      string               // of the namespace, if it has one
	File      *os.File             // its file; nil for a fresh one
}

// Has reports whether namespaces of a type have parameters that this package can read.
func Has(typ event.NSType) bool { return params.Enterable(typ) || inChild(typ) }

// Types returns the types for which Has is true.
func Types() []event.NSType {
	return slices.DeleteFunc(event.NSTypes(), func(t event.NSType) bool { return !Has(t) })
}

// compare returns the parameters in which two namespaces of a type differ, by name, and those of which
// that is unknown. If only is set, it compares no other parameter. If origins is set, it also says how a new
// namespace gets them. The error says why nothing could be compared.
func (p *pair) compare(ctx context.Context, only string, origins bool) ([]*output.Diff, error) {
	ctx, cancel := context.WithTimeout(ctx, ReadTime)
	defer cancel()
	c := comparison{typ: p.typ, sides: [2]Side{p.a, p.b}, host: p.host, only: only}
	defer c.close()
	if err := c.read(ctx); err != nil {
		return nil, err
	}
	if err := c.confirm(ctx); err != nil {
		return nil, err
	}
	rows := c.rows()
	if !origins {
		return rows, nil
	}
	if err := c.explain(ctx, rows); err != nil {
		return nil, err
	}
	return rows, nil
}

type comparison struct {
	typ   event.NSType
	sides [2]Side
	host  Side
	only  string // the one parameter to compare, "" for all
	views [2]view
	found [2]map[string]reading

	devices    [2]map[string]int // how many parameters each has
	candidates []string          // paths that differed
	changing   map[string]bool   // paths whose value changed between two reads
}

func (c *comparison) close() {
	for _, v := range c.views {
		if v != nil {
			v.close()
		}
	}
}

// both does something for both sides at the same time.
func both(do func(i int) error) error {
	var errs [2]error
	var done sync.WaitGroup
	for i := range errs {
		done.Go(func() { errs[i] = do(i) })
	}
	done.Wait()
	return cmp.Or(errs[0], errs[1])
}

// read reads both namespaces. It does not read the parameters of a device that only one of them has.
func (c *comparison) read(ctx context.Context) error {
	var listed [2][]string
	err := both(func(i int) (err error) {
		var id uint32
		if ns := c.sides[i].Namespace; ns != nil {
			id = ns.ID
		}
		if c.views[i], err = openView(c.typ, id, c.sides[i].File); err != nil {
			return err
		}
		if c.only != "" {
			listed[i] = []string{event.SysctlPath(c.only)}
			return nil
		}
		listed[i], err = c.views[i].list(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for i := range listed {
		c.devices[i] = map[string]int{}
		for _, path := range listed[i] {
			if name := device(path); name != "" {
				c.devices[i][name]++
			}
		}
	}
	err = both(func(i int) (err error) {
		paths := slices.DeleteFunc(listed[i], func(path string) bool { return c.onlyDevice(path) != "" })
		c.found[i], err = c.views[i].read(ctx, paths)
		return err
	})
	if err != nil {
		return err
	}
	for i, found := range c.found {
		other := c.found[1-i]
		for path, r := range found {
			o, ok := other[path]
			if !ok {
				o = reading{err: syscall.ENOENT}
				other[path] = o
			} else if i == 1 {
				continue // the first pass had it
			}
			if !r.same(o) {
				c.candidates = append(c.candidates, path)
			}
		}
	}
	slices.Sort(c.candidates)
	c.candidates = slices.Compact(c.candidates)
	return nil
}

// rounds is how often each side is read again.
const rounds = 3

// confirm reads the candidates again, one namespace after the other. A parameter that belongs to all
// namespaces has the same value for every reader, but can change between two reads.
func (c *comparison) confirm(ctx context.Context) error {
	c.changing = map[string]bool{}
	for range rounds {
		for i := range c.views {
			now, err := c.views[i].read(ctx, c.candidates)
			if err != nil {
				return err
			}
			for _, path := range c.candidates {
				if r := now[path]; !r.same(c.found[i][path]) {
					c.changing[path] = true
					c.found[i][path] = r
				}
			}
		}
	}
	c.candidates = slices.DeleteFunc(c.candidates, func(path string) bool {
		if c.changing[path] && c.typ != event.NSTypeNet {
			return true // most likely the host's
		}
		return c.found[0][path].same(c.found[1][path])
	})
	return nil
}

// device returns the device that the parameter at a path belongs to, "" for none. The kernel makes a
// folder for each device in the folders conf and neigh of a protocol; no device is called all or default.
func device(path string) string {
	rest, ok := strings.CutPrefix(path, params.Dir+"/net/")
	if !ok {
		return ""
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 4 || parts[1] != "conf" && parts[1] != "neigh" || parts[2] == "all" || parts[2] == "default" {
		return ""
	}
	return parts[2]
}

// onlyDevice returns the device of a parameter if only one of the namespaces has the device.
func (c *comparison) onlyDevice(path string) string {
	if name := device(path); name != "" && (c.devices[0][name] > 0) != (c.devices[1][name] > 0) {
		return name
	}
	return ""
}

// rows returns what differs, by name.
func (c *comparison) rows() []*output.Diff {
	var rows []*output.Diff
	ns := [2]*event.Namespace{c.sides[0].event(c.host), c.sides[1].event(c.host)}
	for i, devices := range c.devices {
		for name, n := range devices {
			if c.devices[1-i][name] == 0 {
				rows = append(rows, &output.Diff{Type: c.typ, Namespaces: ns, Device: name, Parameters: n, State: output.OnlyIn, In: i})
			}
		}
	}
	for _, path := range c.candidates {
		a, b := c.found[0][path], c.found[1][path]
		name, err := params.Name(path)
		if err != nil {
			continue // no parameter has such a path
		}
		row := &output.Diff{
			Type: c.typ, Namespaces: ns, Parameter: name, State: output.Different, Values: [2]output.DiffValue{a.value(), b.value()},
		}
		switch {
		case c.changing[path]:
			row.State = output.Changing
		case a.absent() || b.absent():
			row.State = output.OnlyIn
			if a.absent() {
				row.In = 1
			}
		case a.err != nil || b.err != nil:
			if row.State = output.NotRead; c.typ != event.NSTypeNet {
				continue // most likely the host's, which not everybody may read
			}
		}
		rows = append(rows, row)
	}
	rows = append(rows, c.unreadable(ns)...)
	slices.SortFunc(rows, compareRows)
	return rows
}

// compareRows sorts by name. Of what only one namespace has, the parameters of a folder follow each other.
func compareRows(x, y *output.Diff) int {
	folder := func(d *output.Diff) string {
		if d.State != output.OnlyIn {
			return ""
		}
		return d.Parameter[:strings.LastIndexByte(d.Parameter, '.')+1]
	}
	return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(folder(x), folder(y)), cmp.Compare(x.In, y.In),
		cmp.Compare(x.Device, y.Device), cmp.Compare(x.Parameter, y.Parameter))
}

// rank sorts what differs before what only one namespace has, and before what is unknown.
func rank(d *output.Diff) int {
	switch d.State {
	case output.Different:
		return 0
	case output.OnlyIn:
		if d.Device != "" {
			return 2
		}
		return 1
	}
	return 3
}

// unreadable returns the parameters that could not be read on either side. A parameter of which the
// kernel says on both sides that it has no value is the same.
func (c *comparison) unreadable(ns [2]*event.Namespace) (rows []*output.Diff) {
	for path, a := range c.found[0] {
		b := c.found[1][path]
		// Most of what is outside of net is the host's, and there are files that can only be written.
		denied := errors.Is(a.err, os.ErrPermission) && c.typ == event.NSTypeNet
		if a.err == nil || !a.same(b) || !denied && !errors.Is(a.err, context.DeadlineExceeded) {
			continue
		}
		if name, err := params.Name(path); err == nil {
			rows = append(rows, &output.Diff{
				Type: c.typ, Namespaces: ns, State: output.NotRead, Parameter: name, Values: [2]output.DiffValue{a.value(), b.value()},
			})
		}
	}
	return rows
}

// value returns the reading for a row.
func (r reading) value() output.DiffValue {
	switch {
	case r.absent():
		return output.DiffValue{}
	case r.err != nil:
		return output.DiffValue{Error: reason(r.err)}
	}
	return output.DiffValue{Text: &r.text, Truncated: r.cut}
}

// event returns the namespace of a side for a row, nil for a fresh one.
func (s *Side) event(host Side) *event.Namespace {
	if s.Namespace == nil {
		return nil
	}
	n := s.Namespace
	isHost := n.Host || host.Namespace != nil && host.Namespace.ID == n.ID
	return &event.Namespace{Type: n.Type, ID: n.ID, Name: cmp.Or(s.Name, n.Name), Host: isHost, UserNS: n.UserNS, Owner: n.Owner}
}
