// SPDX-License-Identifier: Apache-2.0

package nsdiff

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// ErrTypes is wrapped by the error for targets without namespaces of the same type to compare.
var ErrTypes = errors.New("nothing to compare")

// A Comparison is what is to be compared: pairs of namespaces of one type each. It keeps files of them
// open until Close.
type Comparison struct {
	// LeftOut says which types are not compared and why.
	LeftOut []string
	// NoOrigins leaves out how a new namespace gets a parameter. Finding that out takes new namespaces.
	NoOrigins bool
	// Only is the one parameter to compare, "" for all.
	Only string

	pairs []pair
}

type pair struct {
	typ  event.NSType
	a, b Side
	host Side
	same bool // they are one namespace
}

// New returns the comparison of one target with a fresh namespace or with the host's, or of two targets,
// in the namespaces of types. The errors are about the targets.
func New(r *resolve.Resolver, targets []*resolve.Target, fresh bool, types []event.NSType) (*Comparison, error) {
	c := &Comparison{}
	one := "" // the type that a target is
	for _, t := range targets {
		if t.Namespace == nil {
			continue
		}
		typ := t.Namespace.Type
		switch {
		case !Has(typ):
			return nil, fmt.Errorf("%q: %w: %s namespaces have no parameters that nstrace can compare: want one of %s", t.Text, ErrTypes, typ, join(Types()))
		case one != "" && one != string(typ):
			return nil, fmt.Errorf("%q is a namespace of type %s and %q of type %s: %w", targets[0].Text, one, t.Text, typ, ErrTypes)
		case !slices.Contains(types, typ):
			return nil, fmt.Errorf("%q: %w: it is a namespace of type %s: want one of %s", t.Text, ErrTypes, typ, join(types))
		}
		one = string(typ)
	}
	for _, typ := range types {
		if one != "" && one != string(typ) {
			continue
		}
		if err := c.add(r, targets, fresh, typ); err != nil {
			if one != "" || len(types) == 1 {
				c.Close()
				return nil, err
			}
			c.LeftOut = append(c.LeftOut, err.Error())
		}
	}
	if len(c.pairs) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrTypes, strings.Join(c.LeftOut, "; "))
	}
	return c, nil
}

func join(types []event.NSType) string {
	var names []string
	for _, t := range types {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

// add adds the pair of a type.
func (c *Comparison) add(r *resolve.Resolver, targets []*resolve.Target, fresh bool, typ event.NSType) (err error) {
	p := pair{typ: typ}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for i, t := range targets {
		ns, err := t.In(typ)
		if err != nil {
			return err
		}
		f, err := r.Open(ns)
		if err != nil {
			return err
		}
		*[]*Side{&p.a, &p.b}[i] = Side{Namespace: ns, Name: t.Name, File: f}
	}
	host, hostErr := r.Host(typ)
	if hostErr == nil {
		p.host.Namespace = host
		p.host.File, hostErr = r.Open(host)
	}
	if len(targets) == 1 && !fresh {
		if hostErr != nil {
			return hostErr
		}
		p.b = Side{Namespace: host, File: p.host.File}
	}
	p.same = !fresh && p.a.Namespace.ID == p.b.Namespace.ID
	c.pairs = append(c.pairs, p)
	return nil
}

func (p *pair) close() {
	for _, f := range []*os.File{p.a.File, p.b.File, p.host.File} {
		if f != nil {
			_ = f.Close() // closing it twice is an error without an effect
		}
	}
}

// Close closes the files of the namespaces.
func (c *Comparison) Close() {
	for i := range c.pairs {
		c.pairs[i].close()
	}
}

// Run compares the namespaces. It returns the rows by type, and an error for each type that could not be
// compared.
func (c *Comparison) Run(ctx context.Context) (rows []*output.Diff, err error) {
	for _, p := range c.pairs {
		if p.same || ctx.Err() != nil {
			continue
		}
		found, failed := p.compare(ctx, c.Only, !c.NoOrigins)
		rows, err = append(rows, found...), errors.Join(err, failed)
	}
	return rows, cmp.Or(ctx.Err(), err)
}
