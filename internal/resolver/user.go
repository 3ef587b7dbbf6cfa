// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/internal/procfs"
)

// The ids of users that exist only as long as a service runs: those that systemd gives to a unit with
// DynamicUser= (https://systemd.io/UIDS-GIDS). By that convention, no user who logs in has one.
const firstUser, lastUser = 61184, 65519

// ErrNoUser is the error if the child cannot have a user of its own.
var ErrNoUser = errors.New("the process that looks up names has no user of its own")

// FreeUser returns an id that is of no user in /etc/passwd and of no group in /etc/group, that systemd has not
// given to a unit, and that no process has as its user or as one of its groups. It does not ask for users on
// servers: the start does not wait for them. The error, which wraps [ErrNoUser], says why nstrace cannot start a
// child as such a user, or cannot end it afterwards.
func FreeUser() (uint32, error) {
	have, err := capability.Effective()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoUser, err)
	}
	for _, c := range []capability.Capability{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_KILL} {
		if !have.Has(c) {
			return 0, fmt.Errorf("%w without %v", ErrNoUser, c)
		}
	}
	if info, err := os.Stat("/proc/self/exe"); err == nil && info.Mode()&0o001 == 0 {
		return 0, fmt.Errorf("%w: other users cannot execute nstrace, whose mode is %v", ErrNoUser, info.Mode().Perm())
	}
	groups := groupsOfProcesses()
	const tries = 100
	for range tries {
		if id := firstUser + rand.Uint32N(lastUser-firstUser+1); !exists(id) && !groups[id] {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: %d ids between %d and %d are taken", ErrNoUser, tries, firstUser, lastUser)
}

// groupTime limits how long the start looks at the groups of processes.
const groupTime = 5 * time.Millisecond

// groupsOfProcesses returns the groups of processes that could be the child's.
func groupsOfProcesses() map[uint32]bool {
	groups := map[uint32]bool{}
	pids, _ := procfs.PIDs() // without /proc, no process is known
	for end := time.Now().Add(groupTime); len(pids) > 0 && time.Now().Before(end); pids = pids[1:] {
		for _, id := range procfs.Groups(pids[0]) {
			if id >= firstUser && id <= lastUser {
				groups[id] = true
			}
		}
	}
	return groups
}

// exists reports whether this host knows a user or a group with an id, or the user has a process.
func exists(id uint32) bool {
	// ESRCH: no process has it (getpriority(2)).
	if _, err := unix.Getpriority(unix.PRIO_USER, int(id)); !errors.Is(err, unix.ESRCH) {
		return true
	}
	// systemd has a file for each that it has given to a unit.
	if _, err := os.Lstat(fmt.Sprintf("/run/systemd/dynamic-uid/%d", id)); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return attribution.NameInPasswd(id) != "" || attribution.NameInGroup(id) != ""
}
