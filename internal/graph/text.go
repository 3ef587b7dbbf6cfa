// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/nstrace/nstrace/internal/netfacts"
	"github.com/nstrace/nstrace/output"
)

// maxName bounds a name where all of it is wanted: in titles that appear when the mouse is above.
const maxName = 300 // cells

// width returns the width of a text in cells: wide characters, as of Chinese, have two.
func width(s string) int { return twwidth.WidthNoCache(s) }

// clean returns a name as it appears in a picture: escaped as in nstrace's tables, and not wider than
// a number of cells.
func clean(name string, cells int) string {
	// An escape is at most five times as long as the byte that it stands for; what is cut off
	// needs none.
	if most := cells * 4; len(name) > most {
		name = name[:most] + "…"
	}
	return shorten(output.Escape(name), cells)
}

// shorten cuts a text to a width. The last cell is then an ellipsis.
func shorten(s string, cells int) string {
	if len(s) <= cells || width(s) <= cells {
		return s
	}
	used, end := 0, 0
	for i, r := range s {
		w := width(string(r))
		if used+w > cells-1 {
			break
		}
		used += w
		end = i + len(string(r))
	}
	return s[:end] + "…"
}

// title returns what a namespace is called in a picture, and what kind of thing that is.
func (n *Namespace) title() (name, kind string) {
	o := n.Owner
	switch {
	case n.host:
		return "host", "host"
	case o != nil && o.Pod != nil && (o.Pod.Name != "" || o.Pod.UID != ""):
		if o.Pod.Name == "" {
			return shortID(o.Pod.UID), "pod"
		}
		return o.Pod.Path(), "pod"
	case o != nil && o.Container != nil:
		return cmp.Or(o.Container.Name, shortID(o.Container.ID)), "container"
	case n.Name != "":
		return n.Name, "netns"
	case o != nil && o.Unit != "":
		return o.Unit, "unit"
	case n.Oldest != nil:
		return fmt.Sprintf("%s (%d)", n.Oldest.Comm, n.Oldest.PID), "process"
	}
	return fmt.Sprintf("net:[%d]", n.ID), "namespace"
}

// shortID returns the beginning of an id of 64 digits, as docker ps shows it. Other ids are names.
func shortID(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}

// facts returns one line about a namespace.
func (n *Namespace) facts() string {
	var parts []string
	_, kind := n.title()
	if kind != "process" && kind != "host" && n.Oldest != nil {
		parts = append(parts, clean(n.Oldest.Comm, 16))
	}
	if kind != "namespace" {
		parts = append(parts, fmt.Sprintf("net:[%d]", n.ID))
	}
	switch {
	case n.Processes > 0:
		parts = append(parts, countOf(n.Processes, "process", "processes"))
	case len(n.Threads) > 0:
		parts = append(parts, count(len(n.Threads), "thread"))
	default:
		parts = append(parts, "no process")
	}
	return strings.Join(parts, " · ")
}

// count returns a number with the right form of a noun.
func count(n int, noun string) string { return countOf(n, noun, noun+"s") }

func countOf(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// kindLabel says what a device is.
func kindLabel(d *netfacts.Device) string {
	switch {
	case d.Loopback:
		return "loopback"
	case d.Kind == "":
		if d.Bus != "" {
			return "hardware (" + clean(d.Bus, 12) + ")"
		}
		return "hardware"
	case d.Kind == "vlan":
		return fmt.Sprintf("VLAN %d", d.VLAN)
	case d.Kind == "vrf":
		return fmt.Sprintf("VRF, table %d", d.Table)
	case d.Kind == "vxlan":
		return fmt.Sprintf("VXLAN %d", d.VNI)
	case d.Mode != "":
		return clean(d.Kind, 16) + " " + d.Mode
	}
	return clean(d.Kind, 16)
}

// state says whether a device can transmit.
func state(d *netfacts.Device) string {
	switch {
	case d.Carrier:
		return "up"
	case d.Up:
		return "up, but has no carrier"
	}
	return "down"
}

// addresses returns the addresses of a device that a picture shows: all but the link-local ones of IPv6,
// which every device gets by itself, and those of the loopback.
func addresses(d *netfacts.Device) []string {
	var all []string
	for _, a := range d.Addresses {
		if a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() || a.Addr().IsLoopback() {
			continue
		}
		all = append(all, a.String())
	}
	return all
}

// describe returns all that is known of a device, for the title that appears when the mouse is above.
func describe(d *netfacts.Device) string {
	parts := []string{clean(d.Name, 64) + ": " + kindLabel(d) + ", " + state(d)}
	if len(d.Addresses) > 0 {
		show := d.Addresses[:min(len(d.Addresses), 16)]
		parts = append(parts, strings.Join(slices.Collect(func(yield func(string) bool) {
			for _, a := range show {
				if !yield(netip.Prefix.String(a)) {
					return
				}
			}
		}), ", "))
		if more := len(d.Addresses) - len(show); more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more addresses", more))
		}
	}
	last := fmt.Sprintf("index %d, MTU %d", d.Index, d.MTU)
	if d.MAC != "" {
		last += ", MAC " + d.MAC
	}
	parts = append(parts, last)
	if d.Alias != "" {
		parts = append(parts, "alias "+clean(d.Alias, 80))
	}
	return strings.Join(parts, "\n")
}
