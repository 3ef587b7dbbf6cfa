// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// confineSelf takes every privilege from the calling thread, for ever, and so from the program that it
// executes next. The child keeps no capability: the process that started it opens what needs one, and
// sends the descriptor.
func confineSelf() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := 0; ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		// EINVAL: the kernel has no more. EPERM: without CAP_SETPCAP the set stays, and no_new_privs keeps
		// the program from gaining any of it.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop the ambient capabilities: %w", err)
	}
	var none [2]unix.CapUserData
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("drop the capabilities: %w", err)
	}
	return nil
}

// confined reports whether the calling thread has been through confineSelf.
func confined() bool {
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || noNew != 1 {
		return false
	}
	var has [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &has[0]) != nil {
		return false
	}
	return has == [2]unix.CapUserData{}
}
