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
	// Parameters are those that appeared or vanished. Name and Path are then a pattern for them.
	Parameters *Parameters `json:"parameters,omitempty"`
}

// Parameters are parameters that appeared or vanished together. They never change.
type Parameters struct {
	Count uint64 `json:"count"` // in one namespace
	// Namespaces is how many namespaces got or lost such parameters, if that was more than one.
	Namespaces uint64 `json:"namespaces,omitempty"`
	// Tables has at most MaxTables tables, and each of them has at most MaxTableNames names.
	Tables []ParameterTable `json:"tables,omitempty"`
	// Unmet are those that did not have the expected value shortly after they appeared: at most MaxUnmet. It is empty
	// too if nothing is expected of them, or if nstrace could not tell.
	Unmet []Unmet `json:"unmet,omitempty"`
}

// An Unmet is a parameter that does not have the expected value. Its strings are UTF-8.
type Unmet struct {
	Name     string   `json:"name"`
	Value    string   `json:"value"` // less than 1024 bytes
	Expected Expected `json:"expected"`
}

// A ParameterTable has the parameters of one directory.
type ParameterTable struct {
	Prefix string   `json:"prefix"`          // net.ipv4.conf.eth0/100, "" for /proc/sys itself
	Names  []string `json:"names,omitempty"` // without the prefix, as sysctl(8) writes them
}

// Limits of Parameters.
const (
	MaxTables     = 32
	MaxTableNames = 256
	MaxUnmet      = 32
)

// Each calls f with the full name of each parameter until f returns false.
func (p *Parameters) Each(f func(name string) bool) {
	if p == nil {
		return
	}
	for i := range p.Tables {
		for _, name := range p.Tables[i].Names {
			if !f(p.Tables[i].Join(name)) {
				return
			}
		}
	}
}

// Join returns the full name of a parameter of the table.
func (t ParameterTable) Join(name string) string {
	if t.Prefix == "" {
		return name
	}
	return t.Prefix + "." + name
}

// Pattern returns a name for all parameters of p: that of the only one, net.netfilter.*,
// net.{netfilter.*,nf_conntrack_max}, or net.*.{conf,neigh}.eth0/100.* for those of a network device.
func (p *Parameters) Pattern() string {
	if len(p.Tables) == 1 && len(p.Tables[0].Names) == 1 {
		return p.Tables[0].Join(p.Tables[0].Names[0])
	}
	var device string
	var protocols, kinds, all []string
	for i := range p.Tables {
		t := &p.Tables[i]
		parts := strings.SplitN(t.Prefix, ".", 4)
		if len(parts) == 4 && parts[0] == "net" && (parts[2] == "conf" || parts[2] == "neigh") && !strings.Contains(parts[3], ".") && (i == 0 || device == parts[3]) {
			device = parts[3]
			protocols, kinds = append(protocols, parts[1]), append(kinds, parts[2])
		}
		name := t.Join("*")
		if len(t.Names) == 1 {
			name = t.Join(t.Names[0])
		}
		all = append(all, name)
	}
	if device != "" && len(protocols) == len(p.Tables) {
		protocol := alternatives(protocols)
		if strings.HasPrefix(protocol, "{") {
			protocol = "*"
		}
		return "net." + protocol + "." + alternatives(kinds) + "." + device + ".*"
	}
	if slices.Sort(all); len(all) == 0 {
		return "*"
	}
	prefix := commonPrefix(all)
	if prefix == all[0] && prefix == all[len(all)-1] {
		return prefix
	}
	for i := range all {
		all[i] = all[i][len(prefix):]
	}
	if all = slices.Compact(all); len(all) > maxAlternatives {
		return prefix + "*"
	}
	return prefix + alternatives(all)
}

const maxAlternatives = 4

// alternatives returns {a,b}, or a if all are the same.
func alternatives(all []string) string {
	all = slices.Compact(slices.Sorted(slices.Values(all)))
	if len(all) == 1 {
		return all[0]
	}
	return "{" + strings.Join(all, ",") + "}"
}

// commonPrefix returns what all names begin with, up to a dot, or the name if all are the same.
func commonPrefix(sorted []string) string {
	first, last := sorted[0], sorted[len(sorted)-1]
	if first == last {
		return first
	}
	end := 0
	for i := 0; i < min(len(first), len(last)) && first[i] == last[i]; i++ {
		if first[i] == '.' {
			end = i + 1
		}
	}
	return first[:end]
}

// Expected is what a parameter is expected to be, and how an event changed whether it is. It never changes, and
// its strings are UTF-8.
type Expected struct {
	State      string   `json:"state"`      // ExpectedAway, ExpectedBack or ExpectedUnmet
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
	// ExpectedUnmet is for a parameter that appeared with another value.
	ExpectedUnmet = "unmet"
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
