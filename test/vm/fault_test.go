// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"regexp"
	"slices"
	"testing"
)

// A kernel that finds a fault in itself prints a report and goes on. nstrace runs in the kernel, so each
// report fails the tests.
var (
	// reportBegins matches the first line of a report, and traceBegins that of the stack in it.
	reportBegins = regexp.MustCompile(`WARNING: |BUG: |Oops: |rcu: INFO: `)
	traceBegins  = regexp.MustCompile(`Call Trace:`)

	// slow matches the first line of RCU's reports that a processor made no progress for 21 seconds.
	// The host decides that: the processors of a guest are threads of a busy host.
	slow = regexp.MustCompile(`rcu: INFO: rcu_\w+ (self-)?detected (expedited )?stall|rcu: INFO: rcu_\w+ detected stalls|rcu_\w+ kthread (starved|timer wakeup)`)
)

// traceWithin is how many lines after its first line the stack of a report begins at the latest.
const traceWithin = 60

// faults returns the lines of a kernel's console that say that the kernel found a fault: the first
// lines of reports, and of stacks that belong to no report.
func faults(console []byte) (lines []string) {
	excused := 0 // for so many lines, a stack is part of a report that says nothing
	for line := range bytes.Lines(console) {
		line = bytes.TrimRight(line, "\r\n")
		excused--
		switch {
		case slow.Match(line):
			excused = traceWithin
		case reportBegins.Match(line), traceBegins.Match(line) && excused <= 0:
			lines = append(lines, string(line))
			excused = 0
		}
	}
	return lines
}

func TestFaults(t *testing.T) {
	for _, row := range []struct {
		name, console string
		want          []string
	}{
		{"none", "[    0.000000] Linux version 6.12.118\n[    1.5] Run /init as init process\n", nil},
		{
			"warning", "[   10.0] WARNING: CPU: 0 PID: 80 at kernel/trace/ftrace.c:2133 ftrace_bug+0x1a\n[   10.1] Call Trace:\n[   10.1]  <TASK>\n",
			[]string{
				"[   10.0] WARNING: CPU: 0 PID: 80 at kernel/trace/ftrace.c:2133 ftrace_bug+0x1a",
				"[   10.1] Call Trace:",
			},
		},
		{
			"sleeping", "[   10.0] BUG: sleeping function called from invalid context at kernel/locking/spinlock_rt.c:48\r\n",
			[]string{"[   10.0] BUG: sleeping function called from invalid context at kernel/locking/spinlock_rt.c:48"},
		},
		{"stack alone", "[   10.0] Call Trace:\n", []string{"[   10.0] Call Trace:"}},
		{
			"stall", "[   60.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n[   60.0] rcu: \t1-...!: (0 ticks this GP)\n[   60.1] Call Trace:\n",
			nil,
		},
		{
			"stall and warning", "[   60.0] rcu: INFO: rcu_sched self-detected stall on CPU\n[   60.1] WARNING: CPU: 1 PID: 3 at mm/slub.c:1\n[   60.1] Call Trace:\n",
			[]string{"[   60.1] WARNING: CPU: 1 PID: 3 at mm/slub.c:1", "[   60.1] Call Trace:"},
		},
	} {
		if got := faults([]byte(row.console)); !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
