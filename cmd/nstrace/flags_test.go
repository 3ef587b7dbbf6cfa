// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// parse returns the options of a command line.
func parse(args ...string) (tracer.Options, *streamFlags, error) {
	var f streamFlags
	var o tracer.Options
	cmd := &cobra.Command{
		Use: "nstrace", Args: noArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(*cobra.Command, []string) (err error) {
			if o, err = f.options(); err == nil {
				_, err = f.rotation()
			}
			return err
		},
	}
	f.register(cmd)
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetArgs(args)
	return o, &f, cmd.Execute()
}

// TestMistakes gives each flag an invalid value. The message must be one line that names the flag,
// with the exit status 2 of a mistake on the command line.
func TestMistakes(t *testing.T) {
	for args, want := range map[string]string{
		"-e sysctll":           `did you mean "sysctl"`,
		"-e namespace.creat":   `did you mean "namespace.create"`,
		"-t network":           "mnt, net, ipc, user, pid, uts, cgroup, time",
		"-o xml":               "table, wide, json",
		"--backend ebpf":       "auto, fentry, kprobe, tracepoint",
		"-p 0":                 "1 to 4194303",
		"-p 4194304":           "1 to 4194303",
		"-p self":              "1 to 4194303",
		"-u no-such-user-here": "no user",
		"-c a-name-of-16-byte": "15 bytes",
		"--sysctl [":           "pattern",
		"--ring-size 100000":   "power of two",
		"--ring-size 32KiB":    "power of two",
		"--ring-size 2GiB":     "power of two",
		"--ring-size many":     "power of two",
		"-n many":              "whole number",
		"-n -1":                "whole number",
		"--duration 30":        "30s",
		"--duration -1s":       "negative",
		"--rotate-size 10MiB":  "--output-file",
		"-O x --rotate-size 1": "1MiB",
		"-O x --rotate-keep 3": "--rotate-size",
		"--evnt sysctl":        `did you mean "--event"`,
		"-Z":                   "unknown flag",
		"-e":                   "--event needs a value",
		"--netns /etc/passwd":  "is not a namespace file",
		"--netns /no/such":     "no such file",
		"--netns 4194305":      "nor the pid of a process",
		"--filter procss":      `--filter: unknown field "procss" at column 1`,
		"--filter process.pid": "not a boolean",
		"--filter=":            "empty expression",
	} {
		t.Run(args, func(t *testing.T) {
			_, _, err := parse(strings.Fields(args)...)
			var usage usageError
			if !errors.As(err, &usage) {
				t.Fatalf("%v is no usage error", err)
			}
			if msg := err.Error(); !strings.Contains(msg, want) || strings.Contains(msg, "\n") {
				t.Errorf("%q, want one line with %q", msg, want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	o, _, err := parse("-e", "sysctl,namespace.enter", "-t", "net", "-t", "mnt,uts", "-p", "1,2", "-c", "runc",
		"-u", "0", "--failed", "--ring-size", "1MiB", "--backend", "kprobe")
	if err != nil {
		t.Fatal(err)
	}
	f := o.Filter
	if !f.Types[event.SysctlWrite] || !f.Types[event.NamespaceEnter] || f.Types[event.NamespaceCreate] {
		t.Errorf("events %v", f.Types)
	}
	if len(f.NSTypes) != 3 || !f.NSTypes["net"] || !f.NSTypes["mnt"] || !f.NSTypes["uts"] {
		t.Errorf("namespace types %v", f.NSTypes)
	}
	if !slices.Equal(f.PIDs, []uint32{1, 2}) || !slices.Equal(f.Comms, []string{"runc"}) || !slices.Equal(f.UIDs, []uint32{0}) {
		t.Errorf("processes %v %v %v", f.PIDs, f.Comms, f.UIDs)
	}
	if !f.Failed || o.RingSize != 1<<20 || o.Backend != tracer.Kprobe {
		t.Errorf("%+v", o)
	}
	// --sysctl without -e selects only events of parameters.
	if o, _, err = parse("--sysctl", "net.*"); err != nil || len(o.Filter.Types) != 4 || !o.Filter.Types[event.SysctlWrite] || !o.Filter.Types[event.SysctlDrift] {
		t.Errorf("--sysctl alone: %v, %v", o.Filter.Types, err)
	}
	if o, _, err = parse(); err != nil || o.Filter.Types != nil || o.Filter.NSTypes != nil {
		t.Errorf("no flags: %+v, %v", o.Filter, err)
	}
}

// nstrace --version prints what nstrace version prints.
func TestVersion(t *testing.T) {
	want := fmt.Sprintf("nstrace %s %s/%s %s\n", buildVersion(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	for _, args := range [][]string{{"version"}, {"--version"}, {"--version", "x"}} {
		var out strings.Builder
		root := newRoot(commandsFor(nil)...)
		root.SetOut(&out)
		root.SetArgs(args)
		if err := root.Execute(); err != nil || out.String() != want {
			t.Errorf("%q: %v, %q, want %q", args, err, out.String(), want)
		}
	}
}
