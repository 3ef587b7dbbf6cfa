// SPDX-License-Identifier: Apache-2.0

package event

import "strings"

// A Family is a group of event types that are selected by one name.
type Family struct {
	Name  string // the part of the types before the dot
	Types []Type
}

// Families returns the families of events that can be selected, and their types. Events
// about the trace itself ("trace.*") are in none: every stream has them.
func Families() []Family {
	return []Family{
		{"namespace", []Type{NamespaceCreate, NamespaceEnter, NamespaceDestroy, NamespacePin, NamespaceUnpin, NamespaceAppeared, NamespaceGone}},
		{"sysctl", []Type{SysctlWrite, SysctlDrift, SysctlAppear, SysctlVanish}},
		{"netdev", []Type{NetdevMove}},
	}
}

// TraceTypes returns the types of events about the trace itself.
func TraceTypes() []Type {
	return []Type{TraceStart, TraceAttach, TraceAlive, TraceLoss, TraceTamper, TraceGap, TraceStop}
}

// Family returns the part of the type before the dot, such as "sysctl".
func (t Type) Family() string {
	family, _, _ := strings.Cut(string(t), ".")
	return family
}

// Namespaces returns the namespaces that e is about: the one that was created, entered,
// pinned and so on, the one that a parameter belongs to, or the two that a device moved
// between. An unknown namespace is nil.
func (e *Event) Namespaces() [2]*Namespace {
	switch {
	case e.Sysctl != nil:
		return [2]*Namespace{e.Sysctl.Namespace}
	case e.Netdev != nil:
		return [2]*Namespace{e.Netdev.From, e.Netdev.To}
	}
	return [2]*Namespace{e.Namespace}
}
