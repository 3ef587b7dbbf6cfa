// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/capability"
)

// Work is what a process that traces does besides tracing, and needs privileges for.
type Work struct {
	Files bool // it writes and rotates files: --output-file, --sink
	// Network means that it connects to other hosts: --sink.
	Network bool
	Child   bool // it passes signals on to the command of nstrace run
	// User is the user of the resolver, 0 if that has none of its own.
	User uint32
}

// Tracing returns the profile of a process that traces. It starts the resolver again if that ended, and
// nstrace top starts systemctl.
func Tracing(w Work) *Profile {
	p := &Profile{Exec: true, User: w.User, Network: w.Network, Keep: []Kept{
		{unix.CAP_DAC_OVERRIDE, "connect to the container runtimes of users, and rotate files in folders of others", ""},
		{unix.CAP_DAC_READ_SEARCH, "read what is in /proc of other users, and open cgroups and namespaces by handle", ""},
		{unix.CAP_SYS_PTRACE, "read the namespaces, program and arguments of every process", ""},
		{unix.CAP_SYS_ADMIN, "enter namespaces to read their parameters, and prove that the hooks work", ""},
		{unix.CAP_SYS_RESOURCE, "attach again: before Linux 5.11, BPF maps count as locked memory", ""},
		{unix.CAP_PERFMON, "attach again", ""},
		{unix.CAP_BPF, "attach again", ""},
	}}
	if Chrooted() {
		p.Keep = append(p.Keep, Kept{unix.CAP_SYS_CHROOT, "mount tracefs and cgroup v2 for itself", "in a chroot"})
	}
	if w.Files {
		p.Keep = append(p.Keep, Kept{unix.CAP_CHOWN, "give a rotated file the owner of the one before", "--output-file and --sink file"})
	}
	if w.User != 0 {
		kill := "end the resolver if it hangs"
		if w.Child {
			kill += ", and pass signals of nstrace run on to a command that has become another user"
		}
		p.Keep = append(p.Keep,
			Kept{unix.CAP_SETUID, "start the resolver again as a user of its own", ""},
			Kept{unix.CAP_SETGID, "start the resolver again as a user of its own", ""},
			Kept{unix.CAP_KILL, kill, ""})
	} else if w.Child {
		p.Keep = append(p.Keep, Kept{unix.CAP_KILL, "pass signals on to a command that has become another user", "nstrace run"})
	}
	if had, err := capability.Permitted(); err == nil && had.Has(unix.CAP_NET_ADMIN) && !had.Has(unix.CAP_SYS_ADMIN) {
		p.Keep = append(p.Keep, Kept{unix.CAP_NET_ADMIN, "attach again to sysctl writes, without CAP_SYS_ADMIN", ""})
	}
	return p
}

// Chrooted reports whether the root of the process is no mount point, so that the process must leave it to
// mount anything (do_change_type() in fs/namespace.c).
func Chrooted() bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 4 && string(fields[4]) == "/" {
			return false
		}
	}
	return true
}
