// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/capability"
)

// A Report says what processes that trace keep.
type Report struct {
	Keeps []Kept `json:"keeps"`
	// Refused are the groups of system calls that the filter refuses.
	Refused []string `json:"refused"`
	// ResolverUser says that the resolver has a user of its own. It keeps no capability.
	ResolverUser bool `json:"resolver_user"`
	// Lacking says which mechanisms do not work here, and why.
	Lacking []string `json:"lacking,omitempty"`
}

// Describe returns what all processes that trace keep, without confining anything.
func Describe() *Report {
	r := &Report{Keeps: Tracing(Work{Files: true, Child: true, User: 1}).Keep}
	for _, d := range denied {
		r.Refused = append(r.Refused, d.what)
	}
	r.Refused = append(r.Refused, "open sockets of other families than AF_UNIX and AF_NETLINK", "make calls of 32-bit programs")
	own, err := capability.Permitted()
	if err != nil || !own.Has(unix.CAP_SETPCAP) {
		r.Lacking = append(r.Lacking, noBounding)
	}
	if !hasFilters() {
		r.Lacking = append(r.Lacking, noFilters)
	}
	return r
}

const (
	noBounding = "the bounding set cannot be reduced without CAP_SETPCAP"
	noFilters  = "the kernel has no seccomp filters"
)

// hasFilters reports whether the kernel has seccomp filters that answer with an error (4.14).
func hasFilters() bool {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	return errno == 0
}

// For returns what k is for, and who keeps it if not all processes do.
func (k Kept) For() string {
	if k.Only != "" {
		return fmt.Sprintf("%s (%s)", k.Why, k.Only)
	}
	return k.Why
}
