// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestJoinOptional has the flags that can have a value, with and without one, and what only looks like them.
func TestJoinOptional(t *testing.T) {
	for args, want := range map[string]string{
		"--group open":                       "--group=open",
		"--group open history -n 3":          "--group=open history -n 3",
		"history --group off --alert":        "history --group=off --alert",
		"history --alert default -r":         "history --alert=default -r",
		"history --alert rules.yaml":         "history --alert=rules.yaml",
		"history --alert -r":                 "history --alert -r",
		"history --alert verify":             "history --alert verify",
		"history -b -1 -r":                   "history -b=-1 -r",
		"history --boot 0":                   "history --boot=0",
		"history -b sysctl x":                "history -b sysctl x",
		"history sysctl x -rb 1":             "history sysctl x -rb=1",
		"history -b -n 1":                    "history -b -n 1",
		"--group":                            "--group",
		"--group x":                          "--group x",
		"--group=open closed":                "--group=open closed",
		"-O --group open":                    "-O --group open",
		"-v --color never":                   "-v --color=never",
		"-vn 3 --color never":                "-vn 3 --color=never",
		"-c --color never":                   "-c --color never",
		"list --tree owner":                  "list --tree=owner",
		"blame --group open vm.*":            "blame --group=open vm.*",
		"blame -- --group open":              "blame -- --group open",
		"run --group open -- x --group open": "run --group=open -- x --group open",
		"run -n 3 --group open":              "run -n 3 --group=open",
		"run x --group open":                 "run x --group open",
		"run -c run x --group open":          "run -c run x --group open",
		"nonsense --group open":              "nonsense --group=open",
	} {
		if got := joinOptional(newRoot(commandsFor(nil)...), strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// TestEmptyValues gives flags empty values, as an unset variable of a script does.
func TestEmptyValues(t *testing.T) {
	for _, args := range [][]string{
		{"--container", ""}, {"-e", ""}, {"-e", "sysctl,"}, {"--sysctl="}, {"-O", ""}, {"run", "--comm=", "--", "true"}, {"history", "--since", ""},
		{"history", "ns", "x", "--grep", ""}, {"blame", "--db", ""}, {"blame", "--netns", ""}, {"list", "--columns", ""}, {"graph", "--format", ""},
		{"--filter", ""}, {"--alert", ""}, {"record", "--keep-size", ""}, {"diff", "x", "-t", ""},
	} {
		root := newRoot(commandsFor(nil)...)
		root.SetArgs(joinOptional(root, args))
		err := root.Execute()
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), ": empty value: want ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestSysctlArg has the ways to write the name of a parameter.
func TestSysctlArg(t *testing.T) {
	for arg, want := range map[string]string{
		"net.ipv4.ip_forward":                         "net.ipv4.ip_forward",
		"net/ipv4/ip_forward":                         "net.ipv4.ip_forward",
		"/proc/sys/net/ipv4/ip_forward":               "net.ipv4.ip_forward",
		"net.ipv4.conf.eth0/100.forwarding":           "net.ipv4.conf.eth0/100.forwarding",
		"net/ipv4/conf/eth0.100/forwarding":           "net.ipv4.conf.eth0/100.forwarding",
		"/proc/sys/net/ipv4/conf/eth0.100/forwarding": "net.ipv4.conf.eth0/100.forwarding",
		"net/ipv4/*": "net.ipv4.*",
		"vm.*":       "vm.*",
		"*":          "*",
	} {
		if got := sysctlArg(arg); got != want {
			t.Errorf("%s: %s, want %s", arg, got, want)
		}
	}
}

// TestMissingParameters has names and globs that match no parameter, and some that do.
func TestMissingParameters(t *testing.T) {
	for glob, want := range map[string]string{
		"vm.swappiness":  "",
		"vm.*":           "",
		"vm.swapiness":   `"vm.swapiness" now (did you mean "vm.swappiness"?)`,
		"kernel":         `"kernel" now (did you mean "kernel.*"?)`,
		"no.such.*":      `"no.such.*" now`,
		"no.such.thing2": `"no.such.thing2" now`,
	} {
		got := strings.Join(missingParameters([]string{glob}, false), "\n")
		if want == "" && got != "" || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", glob, got, want)
		}
	}
	if got := missingParameters([]string{"kernel"}, true); got != nil {
		t.Errorf("parameters below kernel: %q", got)
	}
}
