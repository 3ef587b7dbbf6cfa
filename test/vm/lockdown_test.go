// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/test/vm/wire"
)

// locked locks the kernel down, which nothing can undo, and runs nstrace. For each command it prints a
// line: the mode, the exit status, whether there was any output, the command, and standard error.
const locked = `
set -u
[ -e /sys/kernel/security/lockdown ] || mount -t securityfs securityfs /sys/kernel/security
try() {
	"$@" >/tmp/out 2>/tmp/err
	status=$?
	[ -s /tmp/out ] && out=output || out=nothing
	echo "$mode|$status|$out|$*|$(paste -s -d ~ /tmp/err)"
}
for mode in integrity confidentiality; do
	echo $mode >/sys/kernel/security/lockdown
	grep -F "[$mode]" /sys/kernel/security/lockdown >/dev/null || exit 9
	try nstrace run -o json -O /tmp/$mode -- unshare --net sysctl -qw net.ipv4.ip_default_ttl=61
	try nstrace --duration 1s -o json
	try nstrace record --duration 1s --db /tmp/$mode.db
	try nstrace check
	try nstrace list
	try nstrace show 1
	try nstrace graph
done
grep -o '"namespace.create"\|"sysctl.write"\|"old":"64"' /tmp/integrity
`

// TestLockdown checks that nstrace works under lockdown=integrity. Under lockdown=confidentiality it
// must name that in one line, and show what it can read from /proc. 5.10 refuses to read memory when
// a program runs, later kernels when it is loaded.
func TestLockdown(t *testing.T) {
	t.Parallel()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("takes long: make test-all")
	}
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	trackInputs(t)
	series := []string{"5.10", "6.12"}
	if only := runFilter(1); only != "" && !strings.ContainsAny(only, "^$") {
		series = []string{only}
	}
	nstrace := filepath.Join(t.TempDir(), "nstrace")
	if err := goBuild(t.Context(), amd64, "../..", nstrace, "./cmd/nstrace", false); err != nil {
		t.Fatal(err)
	}
	for _, s := range series {
		t.Run(s, func(t *testing.T) {
			guests <- struct{}{}
			defer func() { <-guests }()
			kernels := &Kernels{Log: t.Logf}
			kernel, err := kernels.Get(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			root, err := NewGuestRoot(t.Context(), ".", kernel)
			if err != nil {
				t.Fatal(err)
			}
			root.AddProgram(nstrace, guestTracer)
			limit, err := timeLimit(t)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			guest := Guest{
				Kernel: kernel, Root: root, CPUs: 1, Log: t.Logf, Stdout: &out,
				Job: wire.Job{Args: []string{"sh", "-c", locked}, Merge: true}, Limit: limit,
			}
			if _, err := guest.Start(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			checkLocked(t, out.String())
		})
	}
}

func checkLocked(t *testing.T, out string) {
	const message = "nstrace: this host can't: the kernel lets no BPF program read its memory, because of lockdown=confidentiality"
	commands := 0
	var events []string
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, "|", 5)
		if len(f) != 5 {
			events = append(events, line)
			continue
		}
		commands++
		mode, status, output, command, stderr := f[0], f[1], f[2], f[3], f[4]
		verb := strings.Fields(command)[1]
		ok := status == "0"
		switch {
		case slices.Contains([]string{"list", "show", "graph"}, verb):
			ok = ok && output == "output"
		case mode == "confidentiality":
			ok = status == "3" && output == "nothing" && stderr == message
		case verb == "run":
			ok = ok && stderr == ""
		case verb == "check":
			ok = ok && output == "output"
		}
		if !ok {
			t.Errorf("%s", line)
		}
	}
	if want := []string{`"namespace.create"`, `"sysctl.write"`, `"old":"64"`}; commands != 14 || !slices.Equal(events, want) {
		t.Errorf("%d commands, under integrity %q, want %q:\n%s", commands, events, want, out)
	}
}
