// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/capability"
)

// The ids of users that exist only as long as a service runs: those that systemd gives to a unit with
// DynamicUser= (https://systemd.io/UIDS-GIDS). By that convention, no user who logs in has one.
const firstUser, lastUser = 61184, 65519

// ErrNoUser is the error if the child cannot have a user of its own.
var ErrNoUser = errors.New("the process that looks up names has no user of its own")

// FreeUser returns the id of a user that is not in /etc/passwd, that systemd has not given to a unit, and that no
// process has. It does not ask for users on servers. The error, which wraps
// [ErrNoUser], says why nstrace cannot start a child as such a user, or cannot end it afterwards.
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
	const tries = 100
	for range tries {
		if id := firstUser + rand.Uint32N(lastUser-firstUser+1); !exists(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: %d ids between %d and %d are taken", ErrNoUser, tries, firstUser, lastUser)
}

// exists reports whether this host knows a user with an id, or the user has a process.
func exists(id uint32) bool {
	// ESRCH: no process has it (getpriority(2)).
	if _, err := unix.Getpriority(unix.PRIO_USER, int(id)); !errors.Is(err, unix.ESRCH) {
		return true
	}
	// systemd has a file for each that it has given to a unit.
	if _, err := os.Lstat(fmt.Sprintf("/run/systemd/dynamic-uid/%d", id)); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	return attribution.NameInPasswd(id) != ""
}
