// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/runtimes"
	"github.com/nstrace/nstrace/internal/show"
)

// inventoryFlags are the flags of the commands that show what exists.
type inventoryFlags struct {
	runtimes    []string
	runtimeWait time.Duration
	db          string
	source      string
}

func (f *inventoryFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	registerRuntimes(fs, &f.runtimes)
	registerRuntimeWait(fs, &f.runtimeWait)
	registerDB(fs, &f.db)
	sources := []string{"auto", string(inventory.Iterators), string(inventory.Proc)}
	fs.StringVar(&f.source, "source", sources[0], "where to read processes and open files: "+strings.Join(sources, ", "))
	complete(cmd, "source", sources)
}

// options checks the flags.
func (f *inventoryFlags) options() (inventory.Options, error) {
	if err := checkRuntimeWait(f.runtimeWait); err != nil {
		return inventory.Options{}, err
	}
	if f.source == "auto" {
		return inventory.Options{}, nil
	}
	return inventory.Options{Source: inventory.Source(f.source)}, oneOf("--source", f.source, []string{"auto", string(inventory.Iterators), string(inventory.Proc)})
}

// registerRuntimes adds --runtime-socket.
func registerRuntimes(fs *pflag.FlagSet, to *[]string) {
	fs.StringArrayVar(to, "runtime-socket", nil, "socket of a container runtime to query for names: docker:PATH, podman:PATH, cri:PATH or PATH; may be repeated (\"none\": query no runtime; default: all runtimes found on the host)")
}

// registerRuntimeWait adds --runtime-wait. Each user can have a runtime, and make it slow.
func registerRuntimeWait(fs *pflag.FlagSet, to *time.Duration) {
	spanVar(fs, to, "runtime-wait", 3*time.Second, "how long to wait for the answers of container runtimes")
}

func checkRuntimeWait(wait time.Duration) error {
	if wait <= 0 {
		return usagef("--runtime-wait: invalid time %v: want more than 0s, for example 10s", wait)
	}
	return nil
}

// name adds to namespaces what container runtimes and the history know.
func (f *inventoryFlags) name(ctx context.Context, inv *inventory.Inventory, all []*inventory.Namespace) (err error) {
	if err := f.nameContainers(ctx, inv, all); err != nil {
		return err
	}
	db, err := f.history(ctx)
	if db == nil || err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := show.Date(ctx, db, inv, all); err != nil {
		return interrupted(fmt.Errorf("--db: %w", err))
	}
	return nil
}

// nameContainers adds to namespaces what container runtimes know.
func (f *inventoryFlags) nameContainers(ctx context.Context, inv *inventory.Inventory, all []*inventory.Namespace) error {
	ctx, cancel := context.WithTimeout(ctx, f.runtimeWait)
	defer cancel()
	return inv.NameContainers(all, func(named []*event.Namespace) error {
		if len(named) == 0 && len(f.runtimes) == 0 { // a wrong socket is a mistake even then
			return nil
		}
		stage, err := runtimes.New(f.runtimes, runtimes.DefaultWait)
		if err != nil {
			return usagef("--runtime-socket: %w", err)
		}
		// The list of all containers costs a runtime hardly more than one of them.
		list, cancel := context.WithTimeout(ctx, f.runtimeWait/2)
		defer cancel()
		stage.AwaitList(list)
		if !stage.NameNamespaces(ctx, named) && !errors.Is(ctx.Err(), context.Canceled) {
			warn(fmt.Sprintf("a container runtime did not answer in %v: names of containers can be missing (see --runtime-wait)", f.runtimeWait))
		}
		return stage.Close()
	})
}

// history opens the history; nil if there is none at the usual place, or if the caller may not read it.
func (f *inventoryFlags) history(ctx context.Context) (*history.DB, error) {
	db, err := history.OpenContext(ctx, f.db)
	if f.db == defaultDB && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil, nil
	}
	if err != nil {
		return nil, interrupted(fmt.Errorf("--db: %w", err))
	}
	warnUntrusted(f.db, db)
	return db, nil
}
