// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// CompareSet is Compare for expectations. The field Config of Options has no effect.
func CompareSet(ctx context.Context, o Options, set *baseline.Set) (*Comparison, error) {
	return compareAll(ctx, o, set.Names(), func(c *Comparison, root *params.Root, name string) { c.check(root, set, name) })
}

// check compares a parameter with what is expected of it.
func (c *Comparison) check(root *params.Root, set *baseline.Set, name string) {
	x := set.Of(name)
	if x == nil {
		return
	}
	row := &output.Declared{Parameter: name, Expected: x, State: output.NotComparable}
	var err error
	if row.Value, err = readValue(root, name); err != nil {
		row.Error = reason(err)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		row.State = output.Missing
	case row.Value == nil || row.Value.Truncated:
	case x.Judge(*row.Value.Text) == declared.Equal:
		row.State = output.AsDeclared
	case x.Judge(*row.Value.Text) == declared.Different:
		row.State = output.OtherValue
	}
	c.Count[row.State]++
	if row.State != output.AsDeclared {
		c.Rows = append(c.Rows, row)
	}
}

// HostValue returns the value that a parameter of the host has now, nil if it cannot be read.
func HostValue(r *resolve.Resolver, name string) *string {
	o := Options{Parameter: name, Resolver: r}
	host, err := o.netns()
	if err != nil {
		return nil
	}
	defer host.close()
	v, err := host.read(name)
	if err != nil || v.Truncated {
		return nil
	}
	return v.Text
}

// HostIndex returns the index of a network device of the host, 0 if there is none or if it is unknown.
func HostIndex(r *resolve.Resolver, device string) (index uint32) {
	o := Options{Parameter: "net.", Resolver: r}
	host, err := o.netns()
	if err != nil {
		return 0
	}
	defer host.close()
	_ = host.in(func(*params.Root) error {
		if d, err := net.InterfaceByName(device); err == nil {
			index = uint32(d.Index)
		}
		return nil
	})
	return index
}
