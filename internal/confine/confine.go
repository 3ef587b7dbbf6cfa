// SPDX-License-Identifier: Apache-2.0

// Package confine lets a process give up privileges that it does not need any more, in all of its
// threads and for good.
//
// Each function covers one mechanism of the kernel. It returns an error that wraps
// errors.ErrUnsupported if the kernel lacks the mechanism. A Result uses all of them by a Profile, and
// has what the process is left with.
//
// Capabilities and no_new_privs belong to a thread. Go has no way to start a thread that did not
// inherit them, but the threads that exist already must give them up themselves: psx.Syscall3 makes a
// system call on all threads, also on those that a goroutine has locked and those that are in other
// namespaces. It interrupts what they wait for, and waits for a thread that takes no signal, as one that
// waits for the file system of a user. So a program drops capabilities before it looks at anything that
// others control. A seccomp filter does not depend on the threads.
package confine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/nstrace/nstrace/internal/capability"
)

// A Kept is a capability that a process keeps, and why.
type Kept struct {
	Capability capability.Capability `json:"capability"`
	Why        string                `json:"why"`
	// Only is the command or the flag that needs it, "" if all processes that trace do.
	Only string `json:"only,omitempty"`
}

// A Profile says what a process keeps.
type Profile struct {
	Keep []Kept
	Exec bool // the process starts others, which inherit no_new_privs and the filter
	// Network means that the process connects to other hosts, by IPv4 and IPv6.
	Network bool
	// User is the user and the group of a process that it starts; 0: it starts none of other users.
	User uint32
	// Files, if not nil, are all that the process uses of the file system.
	Files *Files
}

// Capabilities returns the set of the profile.
func (p *Profile) Capabilities() capability.Set {
	var s capability.Set
	for _, k := range p.Keep {
		s |= 1 << k.Capability
	}
	return s
}

// A Result says what confines a process.
type Result struct {
	Capabilities capability.Set // that the process has, and can ever have
	Bounded      bool           // the bounding set was reduced to Capabilities
	NoNewPrivs   bool
	Filter       bool // a seccomp filter refuses system calls
	Landlock     bool // the process can use Profile.Files and no others
	// Lacking says which mechanisms do not work here, and why.
	Lacking []string
}

// Apply confines the process to p, by Drop and Seal. What the kernel lacks is in the result and no error: a
// process that keeps more than it needs is better than none. An error says that the kernel refused
// something although it has the mechanism.
func Apply(p *Profile) (*Result, error) {
	r := &Result{}
	return r, errors.Join(r.Drop(p), r.Seal(p))
}

// try notes what the kernel lacks. It reports whether err is nil, and adds other errors to all.
func (r *Result) try(all *[]error, err error) bool {
	if errors.Is(err, errors.ErrUnsupported) {
		why := strings.TrimSuffix(err.Error(), ": "+errors.ErrUnsupported.Error())
		if !slices.Contains(r.Lacking, why) {
			r.Lacking = append(r.Lacking, why)
		}
	} else if err != nil {
		*all = append(*all, err)
	}
	return err == nil
}

// Drop drops capabilities and sets no_new_privs, thread by thread. So call it before a thread can wait for
// what others control.
func (r *Result) Drop(p *Profile) error {
	var errs []error
	was, err := capability.Permitted()
	r.try(&errs, err)
	r.Capabilities = was
	if r.try(&errs, awaitThreads()) {
		// The bounding set first: to reduce it needs CAP_SETPCAP, which the process then drops.
		keep := was & p.Capabilities()
		r.Bounded = r.try(&errs, ReduceBounding(keep))
		if r.try(&errs, DropCapabilities(keep)) {
			r.Capabilities = keep
		}
		r.NoNewPrivs = r.try(&errs, NoNewPrivs())
	}
	return errors.Join(errs...)
}

// Seal restricts files and system calls.
func (r *Result) Seal(p *Profile) error {
	var errs []error
	if p.Files != nil && r.try(&errs, everyThread()) {
		r.Landlock = r.try(&errs, Landlock(p.Files))
	}
	r.Filter = r.try(&errs, Filter(p))
	r.NoNewPrivs = r.NoNewPrivs || r.Filter
	return errors.Join(errs...)
}

// threadsWait is how long awaitThreads waits.
const threadsWait = time.Second

// awaitThreads waits until all threads can take a signal. A thread cannot while the kernel makes it wait
// for a file system that a user serves, and the calls of psx would wait for it for ever, with all of the
// program stopped.
func awaitThreads() error {
	if err := everyThread(); err != nil {
		return err
	}
	for limit := time.Now().Add(threadsWait); ; time.Sleep(time.Millisecond) {
		busy, err := uninterruptible()
		if err != nil {
			return fmt.Errorf("look at the threads: %w", err)
		}
		if busy == "" {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("capabilities cannot be dropped: thread %s waits for the kernel and takes no signal", busy)
		}
	}
}

// uninterruptible returns a thread of the process in the state D, "" for none, and also if there is no /proc.
func uninterruptible() (tid string, err error) {
	const dir = "/proc/self/task/"
	threads, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(dir + thread.Name() + "/stat")
		if err != nil { // it has ended
			continue
		}
		// The name, in parentheses, can have any character.
		if rest := stat[bytes.LastIndexByte(stat, ')')+1:]; bytes.HasPrefix(rest, []byte(" D")) {
			return thread.Name(), nil
		}
	}
	return "", nil
}

// NoNewPrivs sets no_new_privs: no program that the process executes gets more privileges, neither by
// set-user-ID nor by file capabilities (prctl(2), 3.5).
func NoNewPrivs() error { return noNewPrivs(psx.Syscall6) }

func noNewPrivs(call caller) error {
	if _, _, errno := call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}

// Forsake takes every privilege from the calling thread, for ever, and so from the program that it executes
// next. The other threads, which that exec ends, do not matter.
func Forsake() error {
	if err := noNewPrivs(unix.Syscall6); err != nil {
		return err
	}
	if err := reduceBounding(unix.Syscall6, 0); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return dropCapabilities(unix.Syscall6, 0)
}

// Forsaken reports whether the calling thread has been through Forsake.
func Forsaken() bool {
	noNew, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || noNew != 1 {
		return false
	}
	has, err := capability.Anywhere()
	return err == nil && has == 0
}

// Missing returns what r lacks, in words.
func (r *Result) Missing() string { return strings.Join(r.Lacking, "; ") }
