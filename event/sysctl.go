// SPDX-License-Identifier: Apache-2.0

package event

import (
	"path"
	"slices"
	"strings"
)

// Sysctl is a kernel parameter and what a write did to it. Old, New and After are nil if
// unknown; an empty value is a pointer to an empty string.
type Sysctl struct {
	Name  string  `json:"name"`            // as sysctl(8) writes it
	Path  string  `json:"path"`            // absolute, below /proc/sys
	Old   *string `json:"old,omitempty"`   // before the write, as read(2) returns it, without the last newline
	New   *string `json:"new,omitempty"`   // as written, without the last newline
	After *string `json:"after,omitempty"` // after the write
	// AfterRead says that nstrace read After from the file up to some milliseconds after the write. Otherwise it is
	// from the kernel's memory, at the end of the write.
	AfterRead bool `json:"after_read,omitempty"`
	// Offset is where in the file the write began, of a value that a process writes in pieces. The kernel ignores
	// most writes behind the beginning.
	Offset uint32 `json:"offset,omitempty"`
	// Ifindex is the index of the device that the parameter belongs to, if it is known: another device can
	// have had its name, and so this parameter, before and can have it later.
	Ifindex   uint32     `json:"ifindex,omitempty"`
	Namespace *Namespace `json:"namespace,omitempty"`
	Truncated bool       `json:"truncated,omitempty"` // a value is longer than the 1024 bytes that nstrace keeps
	Cause     *Cause     `json:"cause,omitempty"`     // if the kernel changed the parameter along with another one
	// Expected is set if the event moved the parameter away from, or back to, the expected value.
	Expected *Expected `json:"expected,omitempty"`
}

// Expected is what a parameter is expected to be, and how an event changed whether it is. It never changes, and
// its strings are UTF-8.
type Expected struct {
	State      string   `json:"state"`      // ExpectedAway or ExpectedBack
	Comparison string   `json:"comparison"` // how the parameter has to compare with Values, such as equal
	Values     []string `json:"values,omitempty"`
	Severity   string   `json:"severity,omitempty"` // info, warning, critical; empty for a declared value
	File       string   `json:"file"`               // where that is expected
	Line       uint32   `json:"line,omitempty"`     // 0 if the file has no lines
}

// Values of Expected.State.
const (
	ExpectedAway = "away" // the value was as expected before the event, and is not any more
	ExpectedBack = "back" // the value was not as expected before the event, and is now
)

// Cause is the write that made the kernel change other parameters too. Its event comes
// right before the events of these changes.
type Cause struct {
	Seq  uint64 `json:"seq,omitempty"` // of its event; 0 if that is not in the stream
	Name string `json:"name,omitempty"`
	Ref  uint64 `json:"-"` // Event.Ref of that event, 0 if the Tracer did not emit it
}

// MatchSysctl reports whether a glob, with the syntax of path.Match, matches the name of a
// parameter. Unlike in path.Match a slash is an ordinary character, because it is part of
// the names of devices (net.ipv4.conf.eth0/100.forwarding).
func MatchSysctl(glob, name string) bool {
	const notSlash = "\x00"
	ok, _ := path.Match(strings.ReplaceAll(glob, "/", notSlash), strings.ReplaceAll(name, "/", notSlash))
	return ok
}

// SameValue reports whether two values of a parameter are equal to the kernel. The kernel
// separates the numbers of a list by tabs, and accepts spaces.
func SameValue(a, b string) bool {
	return a == b || slices.Equal(strings.Fields(a), strings.Fields(b))
}
