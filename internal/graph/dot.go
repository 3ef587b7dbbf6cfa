// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// escapeDOT returns a text as a quoted string of the DOT language. A backslash would begin an escape.
func escapeDOT(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// WriteDOT writes a picture in the DOT language of Graphviz. fold is as for Write.
func (g *Graph) WriteDOT(out io.Writer, fold int) error {
	p := g.draw(fold)
	w := bufio.NewWriter(out)
	ids := p.ids()
	fmt.Fprint(w, "graph networks {\n\trankdir=LR\n\tcompound=true\n\tfontname=\"sans-serif\"\n\tnode [shape=box, style=rounded, fontname=\"monospace\", fontsize=11]\n\tedge [fontname=\"sans-serif\", fontsize=10]\n")
	fmt.Fprintf(w, "\tlabel=%s\n\tlabelloc=t\n", escapeDOT(p.heading()))
	for i, b := range p.boxes {
		fmt.Fprintf(w, "\tsubgraph cluster_%d {\n\t\tlabel=%s\n\t\ttooltip=%s\n", i, escapeDOT(b.name+" ("+b.kind+")\n"+b.facts), escapeDOT(b.tip))
		for _, r := range b.rows {
			fmt.Fprintf(w, "\t\t%s [label=%s, tooltip=%s]\n", ids[r], escapeDOT(r.text("\n")), escapeDOT(r.tip))
		}
		if b.note != "" || len(b.rows) == 0 {
			fmt.Fprintf(w, "\t\tn%d [shape=plaintext, label=%s]\n", i, escapeDOT(b.note))
		}
		fmt.Fprint(w, "\t}\n")
	}
	unknown := 0
	p.eachLine(func(kind Kind, from, to *row, n int) {
		end := ids[to]
		if to == nil {
			unknown++
			end = fmt.Sprintf("u%d", unknown)
			fmt.Fprintf(w, "\t%s [shape=circle, label=\"?\", tooltip=\"a namespace that nstrace cannot see\"]\n", end)
		}
		fmt.Fprintf(w, "\t%s -- %s [%s, label=%s]\n", ids[from], end, dotStyles[kind], escapeDOT(lineLabel(kind, n)))
	})
	for _, n := range p.shortNotes() {
		fmt.Fprintf(w, "\t// %s\n", n)
	}
	fmt.Fprint(w, "}\n")
	return w.Flush()
}

// ids returns names for rows in formats that need them.
func (p *picture) ids() map[*row]string {
	ids := map[*row]string{}
	for i, b := range p.boxes {
		for j, r := range b.rows {
			ids[r] = fmt.Sprintf("d%d_%d", i, j)
		}
	}
	return ids
}

// heading is the title of a picture.
func (p *picture) heading() string {
	name := "Network namespaces"
	if p.g.Host != "" {
		name += " of " + clean(p.g.Host, 64)
	}
	return name
}

// text returns what a row says.
func (r *row) text(newline string) string {
	lines := []string{r.name, r.label}
	return strings.Join(append(lines, r.lines...), newline)
}

// eachLine calls do with everything that connects two rows, the one to the left first. to is nil if it is
// unknown.
func (p *picture) eachLine(do func(kind Kind, from, to *row, n int)) {
	for _, b := range p.boxes {
		for _, r := range b.rows {
			if r.parent != nil {
				do(r.via, r.parent, r, r.n)
			}
		}
	}
	order := map[*box]int{}
	for i, b := range p.boxes {
		order[b] = i
	}
	for _, e := range p.edges {
		from, to := e.from, e.to
		if to != nil && order[to.box] < order[from.box] {
			from, to = to, from
		}
		do(e.kind, from, to, e.n)
	}
}

// lineLabel is what a line says.
func lineLabel(kind Kind, n int) string {
	if n > 1 {
		return fmt.Sprintf("%s × %d", kind, n)
	}
	return string(kind)
}

var dotStyles = map[Kind]string{
	Veth: `color="#0969da"`, Netkit: `color="#0969da", style=dashed`, Bridge: `color="#1b7c83", penwidth=2`, Bond: `color="#7d4e00", penwidth=2`,
	VRF: `color="#bf3989"`, Member: `color="#7d4e00", style=dashed`, VLAN: `color="#bc4c00", style=dotted`, Macvlan: `color="#8250df"`,
	IPVLAN: `color="#8250df", style=dashed`, Upper: `color="#59636e", style=dashed`, Moved: `color="#cf222e", style=dashed`,
}
