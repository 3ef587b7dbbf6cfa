// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/nstrace/nstrace/internal/blame"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// compareTime is how long Compare may read parameters: each device has its own, and users can make any number of
// devices.
const compareTime = 10 * time.Second

// A Comparison is the declared parameters and their values.
type Comparison struct {
	Rows  []*output.Declared // those that are not as declared, by name
	Count map[output.DeclaredState]int
}

// Total is the number of declared parameters.
func (c *Comparison) Total() (n int) {
	for _, count := range c.Count {
		n += count
	}
	return n
}

// Compare compares all parameters of the host with what files declare. The other fields of Options than Config,
// Program, Resolver, DB and Sync have no effect.
func Compare(ctx context.Context, o Options) (*Comparison, error) {
	return compareAll(ctx, o, o.Config.Names(o.Program), func(c *Comparison, root *params.Root, name string) { c.add(root, &o, name) })
}

// compareAll has add compare each parameter of the host, and those of names that do not exist.
func compareAll(ctx context.Context, o Options, names []string, add func(c *Comparison, root *params.Root, name string)) (*Comparison, error) {
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
				add(all, root, name)
			}
		})
		if err != nil {
			return err
		}
		for _, name := range names {
			if !seen[name] {
				add(all, root, name)
			}
		}
		return nil
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

// add compares a parameter.
func (c *Comparison) add(root *params.Root, o *Options, name string) {
	ruling := o.Config.By(o.Program, name)
	winner := ruling.Winner()
	if winner == nil {
		return
	}
	row := &output.Declared{Parameter: name, By: winner}
	var err error
	if row.Value, err = readValue(root, name); err != nil {
		row.Error = reason(err)
	}
	row.State = Of(row.Value, errors.Is(err, os.ErrNotExist), winner)
	c.Count[row.State]++
	if row.State != output.AsDeclared {
		c.Rows = append(c.Rows, row)
	}
}

// blame adds the last writes of this boot.
func (c *Comparison) blame(ctx context.Context, o *Options) error {
	rows := map[string]*output.Declared{}
	find := blame.Options{Sync: o.Sync}
	for _, row := range c.Rows {
		rows[row.Parameter] = row
		find.Names = append(find.Names, row.Parameter)
	}
	found, err := blame.Find(ctx, o.DB, find)
	boot := procfs.BootID()
	for _, b := range found {
		if b.Last != nil && b.Last.BootID == boot && b.State != output.Gone { // gone: of another device with the name
			rows[b.Parameter].Last, rows[b.Parameter].Blame = b.Last, b.State
		}
	}
	return err
}
