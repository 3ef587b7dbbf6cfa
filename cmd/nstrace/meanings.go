// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// A meaning says what something stands for.
type meaning struct{ what, means string }

// tableMeanings are what a reader of the table wants to know. See docs/usage.md for more.
var tableMeanings = []meaning{
	{"7200 → 600", "the value before, and the value that was written"},
	{"600 → 100000 (now 32767)", "the kernel changed the value that was written"},
	{"2 → 0 (expected 1)", "record --baseline: the parameter is not as expected any more"},
	{"?", "nstrace does not know the result, or what stands there"},
	{"FAILED EPERM", "the kernel refused it, for this reason"},
	{"×120 in 3s", "the line stands for 120 identical events"},
	{"bash > sudo > sysctl[4712] alice as root", "the process, its ancestors, and the user behind sudo"},
	{"x[742/745] of y", "thread 745 of process 742, whose program is y"},
	{"in web-1", "the container or systemd unit that the process is in"},
	{"(host)", "the host's own namespace"},
	{"!! LOST, !! SELF, gap", "events are missing, tampering, nothing was recorded"},
}

// colorMeanings are what the colours stand for. They only repeat what the words say.
const colorMeanings = `Colors: green created, cyan entered, magenta ended, blue written or moved, yellow unknown
or doubtful, red failed, white on red an alarm, dim details; NO_COLOR or --color never
turns them off.`

// tableTitle begins tableHelp.
const tableTitle = "In the table:"

// tableHelp is the text about the table in --help.
func tableHelp() string {
	var b strings.Builder
	b.WriteString(tableTitle + "\n")
	for _, m := range tableMeanings {
		fmt.Fprintf(&b, "  %-42s%s\n", m.what, m.means)
	}
	return b.String() + colorMeanings
}

var exitMeanings = []meaning{
	{"0", "success"},
	{"1", "an error at run time; history verify: events were removed or changed; diff: something differs"},
	{"2", "a mistake on the command line; diff: also an error at run time"},
	{"3", "nstrace cannot run on this host, or lacks privileges"},
	{"126, 127, 128+N", "run: the command could not be executed, was not found, was ended by signal N; otherwise the status is the command's"},
}

var fileMeanings = []meaning{
	{defaultDB, "the history of nstrace record"},
	{defaultDB + "-lock, -sock, -wal, -shm", "belong to it"},
	{"/run/netns, /run/docker/netns", "names of network namespaces"},
	{"/sys/kernel/btf/vmlinux", "the types of the kernel, which nstrace needs"},
}
