// SPDX-License-Identifier: Apache-2.0

package event

import (
	"path"
	"strings"
)

// Sysctl is a kernel parameter and what a write did to it. Old, New and After
// are nil where not known; an empty value is a pointer to an empty string.
type Sysctl struct {
	Name      string     `json:"name"`            // as sysctl(8) writes it
	Path      string     `json:"path"`            // below /proc/sys, absolute
	Old       *string    `json:"old,omitempty"`   // before the write, as read(2) would give it, without the last newline
	New       *string    `json:"new,omitempty"`   // as written, without the last newline
	After     *string    `json:"after,omitempty"` // once the write was done
	Namespace *Namespace `json:"namespace,omitempty"`
	Truncated bool       `json:"truncated,omitempty"` // a value is longer than the 1024 bytes kept
	Cause     *Cause     `json:"cause,omitempty"`     // for a change that the kernel made along with a write
}

// Cause is the write that made the kernel change another parameter too. Its event
// comes right before those of all that it changed.
type Cause struct {
	Seq  uint64 `json:"seq,omitempty"` // of its event; 0 where that is not in the stream
	Name string `json:"name,omitempty"`
	Ref  uint64 `json:"-"` // Event.Ref of that event, 0 if its Tracer did not give it
}

// MatchSysctl says whether a glob, as Filter.Sysctl has them, matches a parameter's
// name. To path.Match a slash is a border, but in a parameter's name it is part of a
// device's (net.ipv4.conf.eth0/100.forwarding).
func MatchSysctl(glob, name string) bool {
	const notSlash = "\x00"
	ok, _ := path.Match(strings.ReplaceAll(glob, "/", notSlash), strings.ReplaceAll(name, "/", notSlash))
	return ok
}
