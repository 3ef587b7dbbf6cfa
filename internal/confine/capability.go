// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/nstrace/nstrace/internal/capability"
)

// DropCapabilities drops all capabilities but those in keep, which the process must have: from the
// effective, permitted, inheritable and ambient sets.
func DropCapabilities(keep capability.Set) error { return dropCapabilities(psx.Syscall6, keep) }

// A caller makes a system call: psx.Syscall6 on all threads, unix.Syscall6 on the calling one.
type caller func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno syscall.Errno)

func dropCapabilities(call caller, keep capability.Set) error {
	if _, _, errno := call(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("clear the ambient capabilities: %w", errno)
	}
	d := capability.NewData()
	for i := range d.Data {
		half := uint32(keep >> (32 * i))
		d.Data[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	if _, _, errno := call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&d.Head)), uintptr(unsafe.Pointer(&d.Data[0])), 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

// ReduceBounding drops all capabilities but those in keep from the bounding set, which limits what a
// program that the process executes can get. Without CAP_SETPCAP the kernel refuses that, and
// ReduceBounding returns an error that wraps errors.ErrUnsupported: no_new_privs has the same effect.
func ReduceBounding(keep capability.Set) error { return reduceBounding(psx.Syscall6, keep) }

func reduceBounding(call caller, keep capability.Set) error {
	for c := range capability.Capability(64) {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil { // the kernel has no such capability, nor any further one
			break
		}
		if has == 0 || keep.Has(c) {
			continue
		}
		_, _, errno := call(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0, 0)
		if errno == unix.EPERM {
			return fmt.Errorf("%s: %w", noBounding, errors.ErrUnsupported)
		}
		if errno != 0 {
			return fmt.Errorf("drop %v from the bounding set: %w", c, errno)
		}
	}
	return nil
}
