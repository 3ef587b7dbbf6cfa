// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// escapeMermaid returns a text as a quoted label of Mermaid. Mermaid reads markup in labels, so
// everything but letters, digits and a few harmless characters is written as its number.
func escapeMermaid(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("<br>")
		case r < 0x80 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune(" .,:/()-", r)):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// WriteMermaid writes a picture as a flowchart of Mermaid. fold is as for Write.
func (g *Graph) WriteMermaid(out io.Writer, fold int) error {
	p := g.draw(fold)
	w := bufio.NewWriter(out)
	ids := p.ids()
	fmt.Fprint(w, "flowchart LR\n")
	for i, b := range p.boxes {
		fmt.Fprintf(w, "  subgraph b%d[%s]\n", i, escapeMermaid(b.name+" ("+b.kind+") · "+b.facts))
		for _, r := range b.rows {
			fmt.Fprintf(w, "    %s[%s]\n", ids[r], escapeMermaid(r.text("\n")))
		}
		if b.note != "" || len(b.rows) == 0 {
			fmt.Fprintf(w, "    n%d[%s]\n", i, escapeMermaid(b.note))
		}
		fmt.Fprint(w, "  end\n")
	}
	unknown := 0
	p.eachLine(func(kind Kind, from, to *row, n int) {
		end := ids[to]
		if to == nil {
			unknown++
			end = fmt.Sprintf("u%d((%s))", unknown, escapeMermaid("?"))
		}
		fmt.Fprintf(w, "  %s %s|%s| %s\n", ids[from], mermaidLine(kind), escapeMermaid(lineLabel(kind, n)), end)
	})
	return w.Flush()
}

// mermaidLine returns the kind of line for a kind of link.
func mermaidLine(k Kind) string {
	switch k {
	case Bridge, Bond, VRF, Member:
		return "==="
	case Moved, VLAN, Macvlan, IPVLAN, Upper:
		return "-.-"
	}
	return "---"
}
