// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"maps"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// Tables returns a sysctl.appear or a sysctl.vanish for the parameters that only one of two snapshots of a boot has:
// one event for those of each network device, and one for all others with the same first word. It leaves out
// a namespace if only one snapshot has it, or if one of them does not have all its parameters. exists reports
// whether the host has a parameter now.
func Tables(before, after *Snapshot, exists func(name string) bool) (events []*event.Event) {
	if before.BootID != after.BootID {
		return nil
	}
	between := &event.Between{From: before.Time.UTC(), To: after.Time.UTC(), Boot: "same", Recording: true}
	compare := func(old, now map[string]string, had, has map[string]int, ns *event.Namespace, host bool) {
		for _, side := range [...]struct {
			typ           event.Type
			names, others map[string]string
			devices       map[string]int
		}{{event.SysctlVanish, old, now, had}, {event.SysctlAppear, now, old, has}} {
			groups := map[string][]string{}
			for name := range side.names {
				if _, ok := side.others[name]; ok || host && exists(name) != (side.typ == event.SysctlAppear) {
					continue
				}
				key, _, _ := strings.Cut(name, ".")
				if device := event.SysctlDevice(event.SysctlPath(name)); device != "" {
					key = "/" + device
				}
				groups[key] = append(groups[key], name)
			}
			for _, key := range slices.Sorted(maps.Keys(groups)) {
				e := &event.Event{V: event.SchemaVersion, Type: side.typ, Time: between.To, Between: between, Sysctl: sysctlOf(groups[key])}
				if strings.HasPrefix(e.Sysctl.Name, "net.") {
					e.Sysctl.Namespace = ns
				}
				if device, ok := strings.CutPrefix(key, "/"); ok {
					index := uint32(side.devices[device])
					e.Sysctl.Ifindex = index
					e.Netdev = renamed(device, index, had, has)
				}
				events = append(events, e)
			}
		}
	}
	if !before.Cut && !after.Cut {
		compare(before.Parameters, after.Parameters, before.Devices, after.Devices, after.hostNet(), true)
	}
	is := after.index()
	for _, ns := range before.sorted() {
		now := is[ns.ID]
		if ns.Host || now == nil || !now.is(ns) || ns.Cut || now.Cut || ns.Parameters == nil || now.Parameters == nil {
			continue
		}
		compare(ns.Parameters, now.Parameters, ns.Devices, now.Devices, now.show(), false)
	}
	return events
}

// Unmet sets Parameters.Unmet of the events that Tables returned for the snapshot after. unmet returns what is expected
// of a parameter that does not have the expected value.
func Unmet(events []*event.Event, after *Snapshot, unmet func(name string, value func() (string, bool)) *event.Unmet) {
	for _, e := range events {
		if ns := e.Sysctl.Namespace; e.Type != event.SysctlAppear || ns != nil && !ns.Host {
			continue
		}
		p := e.Sysctl.Parameters
		p.Each(func(name string) bool {
			found := unmet(name, func() (string, bool) {
				value, ok := after.Parameters[name]
				return value, ok
			})
			if found != nil {
				p.Unmet = append(p.Unmet, *found)
			}
			return len(p.Unmet) < event.MaxUnmet
		})
	}
}

// renamed returns a device, and its names if it got another one.
func renamed(name string, index uint32, had, has map[string]int) *event.Netdev {
	d := &event.Netdev{Name: name, Ifindex: index}
	if index == 0 {
		return d
	}
	for was, i := range had {
		if uint32(i) != index {
			continue
		}
		for is, j := range has {
			if i == j && is != was {
				d.Name, d.NewName = was, is
			}
		}
	}
	return d
}

// sysctlOf returns parameters for an event.
func sysctlOf(names []string) *event.Sysctl {
	p := &event.Parameters{Count: uint64(len(names))}
	tables := map[string][]string{}
	for _, name := range slices.Sorted(slices.Values(names)) {
		prefix, last := "", name
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			prefix, last = name[:i], name[i+1:]
		}
		if len(tables[prefix]) < event.MaxTableNames {
			tables[prefix] = append(tables[prefix], last)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(tables)) {
		if len(p.Tables) < event.MaxTables {
			p.Tables = append(p.Tables, event.ParameterTable{Prefix: prefix, Names: tables[prefix]})
		}
	}
	s := &event.Sysctl{Name: p.Pattern(), Parameters: p}
	s.Path = event.SysctlPath(s.Name)
	return s
}
