// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/internal/config"
)

// TestExampleConfig checks that record can use the example in the documentation.
func TestExampleConfig(t *testing.T) {
	var f recordFlags
	cmd := f.command()
	c, err := config.Load(cmd.Flags(), config.Options{Path: "../../docs/config.example.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.check(); err != nil {
		t.Fatal(c.Locate(err))
	}
	if f.program == nil || f.alerts == nil || len(f.sinks) != 1 || !f.changed {
		t.Error("the example sets nothing")
	}
}

// TestReloadable checks that the flags that a reload can change exist.
func TestReloadable(t *testing.T) {
	var f recordFlags
	var names []string
	config.Flags(f.command().Flags(), func(f *pflag.Flag) { names = append(names, f.Name) })
	for _, name := range reloadable {
		if !slices.Contains(names, name) {
			t.Errorf("no flag %s", name)
		}
	}
}

// TestGive hands a command line on to another command.
func TestGive(t *testing.T) {
	var f recordFlags
	from := f.command().Flags()
	if err := from.Parse([]string{"--keep=3d", "--sink=journald,filter=type in [1,2]", "-e", "sysctl,netdev", "--changed", "--self-test=0"}); err != nil {
		t.Fatal(err)
	}
	var g recordFlags
	to := g.command().Flags()
	if err := give(to, valuesOf(from)); err != nil {
		t.Fatal(err)
	}
	from.VisitAll(func(f *pflag.Flag) {
		if got := to.Lookup(f.Name); got.Changed != f.Changed || !slices.Equal(config.Values(got), config.Values(f)) {
			t.Errorf("%s: %v, want %v", f.Name, config.Values(got), config.Values(f))
		}
	})
}
