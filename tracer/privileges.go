// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/capability"
)

// A privilege is a capability with which nstrace sees more. The kernel itself says at once if one is
// missing that it wants for attaching.
type privilege struct {
	capability capability.Capability
	gives      string // what nstrace does not see without it
}

var privileges = []privilege{
	{unix.CAP_SYS_ADMIN, "parameters in other namespaces, and whether every hook works"},
	{unix.CAP_SYS_PTRACE, "names of users, and parameters in namespaces that only processes of others use"},
	{unix.CAP_DAC_READ_SEARCH, "names of containers that users run by themselves"},
}

// withoutPrivileges says what nstrace does not see because it lacks capabilities.
func withoutPrivileges() (missing []string) {
	for _, p := range privileges {
		if !capable(p.capability) {
			missing = append(missing, fmt.Sprintf("not seen without %v: %s", p.capability, p.gives))
		}
	}
	return missing
}

// capable reports whether the calling thread has a capability in effect.
func capable(c capability.Capability) bool {
	have, err := capability.Effective()
	return err != nil || have.Has(c) // unknown: the kernel will say
}

// canAttachToCgroups returns why programs of the type cgroup/sysctl cannot be loaded, nil if they can
// (is_net_admin_prog_type() in kernel/bpf/syscall.c).
func canAttachToCgroups() error {
	if capable(unix.CAP_NET_ADMIN) || capable(unix.CAP_SYS_ADMIN) {
		return nil
	}
	return errors.New("the kernel refuses cgroup/sysctl programs without CAP_NET_ADMIN")
}

// canReadTracefs returns why nstrace cannot find tracepoints in a tracefs that is mounted, nil if it can.
func canReadTracefs(dir string) error {
	// Not access(2), which asks for the real user.
	if err := unix.Faccessat2(unix.AT_FDCWD, dir+"/events", unix.R_OK|unix.X_OK, unix.AT_EACCESS); errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s can be read only by root or with CAP_DAC_READ_SEARCH", dir)
	}
	return nil
}

// lackingToLoad names what nstrace lacks and the kernel wants for loading programs, "" if it lacks nothing.
// CAP_SYS_ADMIN includes the first three (bpf_capable() and perfmon_capable()).
func lackingToLoad() string {
	var names []string
	for _, c := range []capability.Capability{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN} {
		if !capable(c) && !capable(unix.CAP_SYS_ADMIN) {
			names = append(names, c.String())
		}
	}
	var memlock unix.Rlimit
	if len(names) == 0 && !capable(unix.CAP_SYS_RESOURCE) && unix.Getrlimit(unix.RLIMIT_MEMLOCK, &memlock) == nil && memlock.Max != unix.RLIM_INFINITY {
		names = []string{"CAP_SYS_RESOURCE or a higher limit on locked memory"} // before 5.11
	}
	if len(names) == 0 {
		return ""
	}
	return ": it wants " + list(names)
}
