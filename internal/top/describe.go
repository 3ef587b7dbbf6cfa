// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/output"
)

// maxListed is how many lines each list of the details can have.
const maxListed = 1000

// describe is the Describe of who has no other one: what the inventory knows.
func describe(inv *inventory.Inventory, ns *inventory.Namespace) []string {
	d := description{}
	d.field("Name", output.Escape(ns.Name))
	d.field("Owner", output.OwnerOf(ns))
	if ns.KernelID != 0 {
		d.field("Kernel's id", fmt.Sprint(ns.KernelID))
	}
	if !ns.Created.IsZero() {
		d.field("Created", ns.Created.Local().Format("2006-01-02 15:04:05.000"))
	}
	if ns.Creator != nil {
		d.field("Creator", processName(ns.Creator.Comm, ns.Creator.PID))
	}
	if ns.Parent != 0 {
		d.field("Parent", fmt.Sprintf("%s %d", ns.Type, ns.Parent))
	}
	if ns.UserNS != 0 && ns.Type != event.NSTypeUser {
		d.field("User namespace", fmt.Sprint(ns.UserNS))
	}
	if ns.OwnerUID != nil {
		d.field("Made by uid", fmt.Sprint(*ns.OwnerUID))
	}
	if ns.Unseen {
		d.field("Held by", "something that is not visible")
	}
	if inv != nil {
		all := inv.ProcessesIn(ns.Ref)
		d.list("Processes", len(all), func(i int) string {
			p := all[i]
			return fmt.Sprintf("%7d  uid %-5d  %s  %s", p.PID, p.UID, output.Escape(p.Comm), output.Escape(p.Cgroup))
		})
	}
	holders := output.HolderLines(ns, maxListed)
	d.list("Held by", ns.Holders(), func(i int) string { return holders[i] })
	return d.lines
}

type description struct{ lines []string }

func (d *description) field(name, value string) {
	if value != "" {
		d.lines = append(d.lines, fmt.Sprintf("%-15s %s", name, value))
	}
}

func (d *description) list(title string, n int, line func(i int) string) {
	if n == 0 {
		return
	}
	if len(d.lines) > 0 {
		d.lines = append(d.lines, "")
	}
	d.lines = append(d.lines, fmt.Sprintf("%s (%d)", title, n))
	for i := range min(n, maxListed) {
		d.lines = append(d.lines, "  "+line(i))
	}
	if n > maxListed {
		d.lines = append(d.lines, fmt.Sprintf("  and %d more", n-maxListed))
	}
}
