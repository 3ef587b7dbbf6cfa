// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nstrace/nstrace/test/vm"
	"github.com/nstrace/nstrace/test/vm/wire"
)

// inGuest runs this program in a virtual machine, with the same flags.
func inGuest(ctx context.Context, c *config, scratch string) (int, error) {
	kernels := vm.Kernels{Log: progress}
	kernel, err := kernels.Get(ctx, c.vm)
	if err != nil {
		return 0, err
	}
	self := filepath.Join(scratch, "bench") // static: a guest may lack libraries
	if err := goBuild(ctx, self, "github.com/nstrace/nstrace/test/bench"); err != nil {
		return 0, err
	}
	root, err := vm.NewGuestRoot(ctx, ".", kernel)
	if err != nil {
		return 0, err
	}
	root.AddProgram(self, "/usr/bin/bench")
	root.AddProgram(c.nstrace, "/usr/bin/nstrace")
	for _, p := range []struct{ name, to string }{
		{"bpftrace", "/usr/bin/bpftrace"}, {"auditd", "/usr/sbin/auditd"}, {"auditctl", "/usr/sbin/auditctl"},
		{"runc", "/usr/bin/runc"}, {"busybox", "/usr/bin/busybox"},
	} {
		// A program that is missing here is also missing in the guest, where it is reported.
		if path, err := lookPath(p.name); err == nil {
			root.AddProgram(path, p.to)
		}
	}
	args := []string{"bench", "-nstrace=/usr/bin/nstrace"}
	flag.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"nstrace", "vm", "cpus", "counted"}, f.Name) {
			args = append(args, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	env := vm.DefaultEnv
	if c.counted {
		env = append(slices.Clone(env), countedEnv+"=1")
	}
	guest := vm.Guest{
		Kernel: kernel,
		Root:   root,
		Job:    wire.Job{Args: args, Env: env},
		CPUs:   c.cpus,

		Counted: c.counted,
		Memory:  3072, // bpftrace is large, and is in memory twice while the guest boots
		Limit:   3 * time.Hour,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Log:     progress,
	}
	result, err := guest.Start(ctx)
	if err != nil {
		var ge *vm.GuestError
		if errors.As(err, &ge) && !ge.Init && ctx.Err() == nil {
			os.Stderr.Write(ge.Console)
		}
		return 0, err
	}
	return result.Code, nil
}
