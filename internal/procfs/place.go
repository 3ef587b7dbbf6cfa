// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// initial are the inode numbers of the namespaces that the kernel starts with, of the types for
// which they are fixed: PROC_*_INIT_INO of include/linux/proc_ns.h, since 3.8, and for time 5.6.
// (From 6.18 on, net and mnt have one as well, which older kernels give to other namespaces.)
var initial = map[event.NSType]uint32{
	event.NSTypeIPC:    0xEFFFFFFF,
	event.NSTypeUTS:    0xEFFFFFFE,
	event.NSTypeUser:   0xEFFFFFFD,
	event.NSTypePID:    0xEFFFFFFC,
	event.NSTypeCgroup: 0xEFFFFFFB,
	event.NSTypeTime:   0xEFFFFFFA,
}

// InInitial reports whether the caller is in the namespace of a type with which the kernel
// started. It knows that of all types except net and mnt.
func InInitial(t event.NSType) (bool, error) {
	id, ok := initial[t]
	if !ok {
		return false, fmt.Errorf("the first %s namespace has no fixed number", t)
	}
	own, err := NamespaceOf("self", t)
	return own == id, err
}

// HostNamespaces returns the namespaces of the host, as far as they are known: those of process 1
// of the initial PID namespace. If the caller may not see these, HostNamespaces returns those of
// kthreadd. If /proc is of another PID namespace, it returns only those with fixed inode numbers.
func HostNamespaces() map[event.NSType]uint32 {
	of := NamespacesOf("1")
	if of[event.NSTypePID] == initial[event.NSTypePID] {
		return of
	}
	// kthreadd is process 2, and never leaves the first namespace of each type.
	second := NamespacesOf("2")
	if second[event.NSTypePID] == initial[event.NSTypePID] && second[event.NSTypeUser] == initial[event.NSTypeUser] {
		return second
	}
	of = map[event.NSType]uint32{}
	for t := range NamespacesOf("self") { // what the kernel has
		if id, ok := initial[t]; ok {
			of[t] = id
		}
	}
	return of
}

// ShowsAll reports whether /proc shows the processes of the whole host: it is that of the initial PID
// namespace.
func ShowsAll() bool {
	if in, err := InInitial(event.NSTypePID); err == nil && in {
		return true
	}
	for _, pid := range []string{"1", "2"} {
		if id, err := NamespaceOf(pid, event.NSTypePID); err == nil && id == initial[event.NSTypePID] {
			return true
		}
	}
	return false
}

// Self returns the caller's PID as /proc shows it, which can be that of another PID namespace.
func Self() uint32 {
	if link, err := os.Readlink("/proc/self"); err == nil {
		if pid, err := strconv.ParseUint(link, 10, 32); err == nil {
			return uint32(pid)
		}
	}
	return uint32(os.Getpid())
}

// PIDLevels returns how many PID namespaces the caller's own is below the one that /proc is of.
func PIDLevels() (int, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sc := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for sc.Scan() {
		if pids, ok := strings.CutPrefix(sc.Text(), "NSpid:"); ok {
			return len(strings.Fields(pids)) - 1, nil
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no NSpid: %w", io.ErrUnexpectedEOF)
}

// BootOffset returns how much later the caller's CLOCK_BOOTTIME, and the start times that /proc shows
// the caller, are than those of the host. It is not 0 only in a time namespace, which no process
// with several threads can change.
var BootOffset = sync.OnceValue(func() time.Duration {
	if in, err := InInitial(event.NSTypeTime); err != nil || in {
		return 0
	}
	// The file shows the namespace for children. Before 6.3 a program that enters one for its
	// children and then executes another program stays outside itself.
	own, err := NamespaceOf("self", event.NSTypeTime)
	if err != nil {
		return 0
	}
	link, err := os.Readlink("/proc/self/ns/time_for_children")
	if children, ok := ParseNSLink(link); err != nil || !ok || children.ID != own {
		return 0
	}
	text, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0
	}
	return bootOffset(string(text))
})

// bootOffset parses a timens_offsets file: a clock, seconds and nanoseconds in each line
// (proc_timens_show_offsets() in kernel/time/namespace.c, since 5.6).
func bootOffset(text string) time.Duration {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "boottime" {
			continue
		}
		seconds, err1 := strconv.ParseInt(f[1], 10, 64)
		ns, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 == nil && err2 == nil {
			return time.Duration(seconds)*time.Second + time.Duration(ns)
		}
	}
	return 0
}
