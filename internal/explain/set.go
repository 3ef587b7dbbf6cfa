// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"slices"

	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/resolve"
	"github.com/nstrace/nstrace/output"
)

// CompareSet is Compare for expectations. The field Config of Options has no effect.
func CompareSet(ctx context.Context, o Options, set *baseline.Set) (*Comparison, error) {
	o.Parameter, o.Target = "net.", nil // those of the host's network namespace
	host, err := o.netns()
	if err != nil {
		return nil, err
	}
	defer host.close()
	all := &Comparison{Count: map[output.DeclaredState]int{}}
	limited, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	err = host.in(func(root *params.Root) error {
		seen := map[string]bool{}
		err := root.Walk(limited, params.Dir, func(file string) {
			if name, err := params.Name(file); err == nil {
				seen[name] = true
				all.check(root, set, name)
			}
		})
		for _, name := range set.Names() {
			if !seen[name] && err == nil {
				all.check(root, set, name)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all.Rows, func(a, b *output.Declared) int { return cmp.Compare(a.Parameter, b.Parameter) })
	if o.DB == nil || len(all.Rows) == 0 {
		return all, nil
	}
	return all, all.blame(ctx, &o)
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
