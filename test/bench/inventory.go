// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inventoryResult has the times of commands that show what exists, from start to end, beside those of
// lsns(8).
type inventoryResult struct {
	Processes  int                `json:"processes"`
	Namespaces int                `json:"net_namespaces"`
	Commands   []inventoryCommand `json:"commands"`
}

type inventoryCommand struct {
	Command string  `json:"command"` // with its arguments
	MS      spread  `json:"ms"`
	Peak    float64 `json:"peak_rss_mib"`
	// Than is the command that it is compared with, and Faster how many times faster it is, by the
	// medians; "" and 0 for none.
	Than   string  `json:"than,omitempty"`
	Faster float64 `json:"faster,omitempty"`
}

// runInventory runs the commands in turns, so that a machine whose speed drifts affects them alike.
func (b *bench) runInventory(ctx context.Context) error {
	r := &inventoryResult{Processes: b.inventory, Namespaces: b.inventory * 2 / 5}
	progress("what exists: %d processes, %d network namespaces", r.Processes, r.Namespaces)
	g, err := newGang([]*job{{Do: "crowd", Processes: r.Processes, Namespaces: r.Namespaces, Flags: unix.CLONE_NEWNET}})
	if err != nil {
		return err
	}
	defer g.end()
	if _, err := exec.LookPath("lsns"); err != nil {
		b.leaveOut("lsns", err.Error())
		return nil
	}
	commands := [][]string{
		{"lsns", "-t", "net"}, {b.nstrace, "list", "-t", "net", "--runtime-socket", "none"},
		{"lsns"}, {b.nstrace, "list", "--runtime-socket", "none"},
	}
	times := make([][]float64, len(commands))
	peaks := make([]float64, len(commands))
	for range b.rounds {
		for i, args := range commands {
			if err := ctx.Err(); err != nil {
				return err
			}
			start := time.Now()
			cmd := command(args[0], args[1:]...)
			text, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
			}
			if lines := strings.Count(string(text), "\n"); lines < r.Namespaces {
				return fmt.Errorf("%s: %d lines for %d namespaces", strings.Join(args, " "), lines, r.Namespaces)
			}
			times[i] = append(times[i], float64(time.Since(start).Microseconds())/1000)
			if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				peaks[i] = max(peaks[i], float64(usage.Maxrss)/1024)
			}
		}
	}
	for i, args := range commands {
		name := strings.Join(args, " ")
		if args[0] == b.nstrace {
			name = "nstrace " + strings.Join(slices.DeleteFunc(args[1:], func(a string) bool { return a == "--runtime-socket" || a == "none" }), " ")
		}
		c := inventoryCommand{Command: name, MS: summarize(times[i]), Peak: peaks[i]}
		if i%2 == 1 {
			c.Than, c.Faster = r.Commands[i-1].Command, r.Commands[i-1].MS.Median/c.MS.Median
		}
		r.Commands = append(r.Commands, c)
	}
	b.report.Inventory = r
	return nil
}

func (r *report) inventoryTable() string {
	i := r.Inventory
	if i == nil {
		return ""
	}
	return "\n" + table(func(line func(...any)) {
		line(fmt.Sprintf("%d processes, %d network namespaces", i.Processes, i.Namespaces), "time", "peak memory", "")
		for _, c := range i.Commands {
			faster := ""
			if c.Than != "" {
				faster = fmt.Sprintf("%.1f times as fast as %s", c.Faster, c.Than)
			}
			line(c.Command, fmt.Sprintf("%.0f ms (%.0f to %.0f)", c.MS.Median, c.MS.Min, c.MS.Max), fmt.Sprintf("%.0f MiB", c.Peak), faster)
		}
	})
}
