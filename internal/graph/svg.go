// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// style is the style sheet of a picture. It names each color twice instead of using variables, which
// few programs other than browsers know.
const style = `
text{font:12px system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328;white-space:pre}
.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.name{font-weight:600}
.title{font-size:13px;font-weight:700}
.top{font-size:20px;font-weight:700}
.muted{fill:#59636e}
.small{font-size:11px}
.tag{font-size:10px;font-weight:700;fill:#fff;letter-spacing:.4px}
.page{fill:#f6f8fa}
.box{fill:#fff;stroke:#afb8c1;stroke-width:1.2}
.head{fill:#eaeef2}
.unread{stroke-dasharray:5 4}
.stack{fill:#eaeef2;stroke:#afb8c1}
.leader{stroke:#818b98}
.row{fill:transparent}
.r:hover .row{fill:#0969da;fill-opacity:.12}
.up{fill:#1a7f37}.nocarrier{fill:#bf8700}.down{fill:#fff;stroke:#818b98;stroke-width:1.5}
.e{fill:none;stroke-width:1.8}.hit{stroke:transparent;stroke-width:12}
.e:hover .line{stroke-width:4}
.veth,.netkit{stroke:#0969da}.bridge{stroke:#1b7c83}.bond,.member{stroke:#7d4e00}.vrf{stroke:#bf3989}
.vlan{stroke:#bc4c00}.macvlan,.ipvlan{stroke:#8250df}.upper{stroke:#59636e}.moved{stroke:#cf222e}
.line.netkit,.line.ipvlan{stroke-dasharray:7 3}.line.vlan{stroke-dasharray:2 3}.line.moved{stroke-dasharray:9 5}.line.upper,.line.member{stroke-dasharray:4 4}
.line.bridge,.line.bond{stroke-width:3}
.end{stroke:none}.end.veth,.end.netkit{fill:#0969da}.end.bridge{fill:#1b7c83}.end.bond,.end.member{fill:#7d4e00}.end.vrf{fill:#bf3989}
.end.vlan{fill:#bc4c00}.end.macvlan,.end.ipvlan{fill:#8250df}.end.upper{fill:#59636e}.end.moved{fill:#cf222e}
.k-host{fill:#24292f}.k-container,.k-pod{fill:#0969da}.k-netns{fill:#1a7f37}.k-unit,.k-process{fill:#9a6700}.k-namespace{fill:#59636e}
.leader{stroke-width:1;stroke-dasharray:1 3;opacity:.8;fill:none}
.e text{stroke:none}
.e .count{font-weight:700;paint-order:stroke;stroke:#f6f8fa;stroke-width:4px}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.muted{fill:#9198a1}.tag{fill:#fff}
.page{fill:#0d1117}.box{fill:#151b23;stroke:#4a525c}.head{fill:#212830}.stack{fill:#212830;stroke:#4a525c}
.r:hover .row{fill:#4493f8;fill-opacity:.18}
.up{fill:#3fb950}.nocarrier{fill:#d29922}.down{fill:#151b23;stroke:#9198a1}
.veth,.netkit{stroke:#4493f8}.bridge{stroke:#39c5cf}.bond,.member{stroke:#d4a72c}.vrf{stroke:#f778ba}
.vlan{stroke:#f0883e}.macvlan,.ipvlan{stroke:#ab7df8}.upper{stroke:#9198a1}.moved{stroke:#ff7b72}
.end{stroke:none}.end.veth,.end.netkit{fill:#4493f8}.end.bridge{fill:#39c5cf}.end.bond,.end.member{fill:#d4a72c}.end.vrf{fill:#f778ba}
.end.vlan{fill:#f0883e}.end.macvlan,.end.ipvlan{fill:#ab7df8}.end.upper{fill:#9198a1}.end.moved{fill:#ff7b72}
.k-host{fill:#57606a}.k-container,.k-pod{fill:#1f6feb}.k-netns{fill:#238636}.k-unit,.k-process{fill:#845306}.k-namespace{fill:#57606a}
.e .count{stroke:#0d1117}
}
`

// An svgWriter writes elements. Whatever comes from elsewhere goes through escape.
type svgWriter struct{ *bufio.Writer }

// escape returns text for an element or an attribute.
func escapeXML(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

func (w svgWriter) f(format string, args ...any) { fmt.Fprintf(w, format, args...) }

// text writes a line of text. class is one of the style's.
func (w svgWriter) text(x, y float64, class, s string) {
	w.f(`<text x="%.1f" y="%.1f" class="%s">%s</text>`+"\n", x, y, class, escapeXML(s))
}

func (w svgWriter) title(s string) { w.f("<title>%s</title>\n", escapeXML(s)) }

// WriteSVG writes a picture as SVG. It has no scripts and no links, and follows the light or dark
// scheme of who looks at it. fold is as for Write.
func (g *Graph) WriteSVG(out io.Writer, fold int) error {
	p := g.draw(fold)
	w := svgWriter{bufio.NewWriter(out)}
	kinds := p.kinds()
	const legendY = 108.0
	// The picture may be narrower than the legend, and the legend higher than a line.
	width, height, components := p.arrange()
	width = max(760, width)
	key := legend(kinds, width-2*margin)
	top := legendY + float64(key[len(key)-1].line)*legendHeight + 24
	p.lower(components, top)
	height += top
	notes := p.shortNotes()
	notesY := height
	if len(notes) > 0 {
		height += float64(len(notes))*lineHeight + 10
	}
	w.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img">`+"\n", width, height, width, height)
	name := "Network namespaces"
	if g.Host != "" {
		name += " of " + clean(g.Host, 64)
	}
	w.title(name)
	w.f("<style>%s</style>\n", style)
	w.f(`<rect class="page" width="100%%" height="100%%"/>` + "\n")
	w.text(margin, 42, "top", name)
	w.text(margin, 62, "muted", p.summary())
	w.text(margin, 80, "muted", "Each box is a network namespace, each row a device. Rest the mouse on something to learn more.")
	w.legend(margin, legendY, key)
	w.heading(p, components)
	for _, b := range p.boxes {
		w.box(b)
	}
	for _, e := range p.edges {
		w.edge(p, e)
	}
	for i, n := range notes {
		w.text(margin, notesY+float64(i)*lineHeight, "muted", n)
	}
	w.f("</svg>\n")
	return w.Flush()
}

// summary is the line below the heading.
func (p *picture) summary() string {
	devices := 0
	for _, n := range p.g.Namespaces {
		devices += len(n.Devices())
	}
	return fmt.Sprintf("%s, %s · %s",
		count(len(p.g.Namespaces), "namespace"), count(devices, "device"), p.g.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// shortNotes are the lines at the end of the picture.
func (p *picture) shortNotes() []string {
	const most = 10
	var lines []string
	for i, n := range p.notes {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more notes", len(p.notes)-most))
			break
		}
		lines = append(lines, "Not shown: "+clean(n, 140))
	}
	return lines
}

// A sign is an entry of the legend.
type sign struct {
	class, text string
	dot         bool
	x           float64
	line        int
}

// legend says what lines and dots mean, in lines of a width.
func legend(kinds []Kind, width float64) []sign {
	var all []sign
	for _, k := range kinds {
		all = append(all, sign{class: string(k), text: kindNames[k]})
	}
	all = append(all, sign{class: "up", text: "up", dot: true}, sign{class: "nocarrier", text: "up, but has no carrier", dot: true}, sign{class: "down", text: "down", dot: true})
	x, line := 0.0, 0
	for i := range all {
		s := &all[i]
		w := 32 + float64(len(s.text))*smallWidth + 14
		if s.dot {
			w -= 18
		}
		if x > 0 && x+w > width {
			x, line = 0, line+1
		}
		s.x, s.line = x, line
		x += w
	}
	return all
}

const legendHeight = 20.0 // of a line

func (w svgWriter) legend(x, y float64, all []sign) {
	for _, s := range all {
		x, y := x+s.x, y+float64(s.line)*legendHeight
		if s.dot {
			w.f(`<circle class="%s" cx="%.1f" cy="%.1f" r="4"/>`+"\n", s.class, x+5, y-4)
			w.text(x+14, y, "small muted", s.text)
			continue
		}
		w.f(`<path class="e line %s" d="M%.1f %.1fh26"/>`+"\n", s.class, x, y-4)
		w.text(x+32, y, "small muted", s.text)
	}
}

// heading separates what is not connected to the host.
func (w svgWriter) heading(p *picture, all []*component) {
	if len(all) > 1 && p.hasHost() {
		w.text(margin, all[1].y-12, "title", "Not connected to the host")
	}
}

func (w svgWriter) box(b *box) {
	w.f("<g>\n")
	if len(b.all) > 1 {
		for i := 2; i > 0; i-- {
			w.f(`<rect class="stack" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="8"/>`+"\n", b.x+float64(4*i), b.y+float64(4*i), b.w, b.h)
		}
	}
	class := "box"
	if b.all[0].Network.Err != nil {
		class += " unread"
	}
	w.f(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="8"/>`+"\n", class, b.x, b.y, b.w, b.h)
	w.f("<g>\n")
	w.title(b.tip)
	w.f(`<path class="head" d="M%.1f %.1fv-20a7 7 0 0 1 7-7h%.1fa7 7 0 0 1 7 7v20z"/>`+"\n", b.x+.6, b.y+27.6, b.w-1.2-14)
	facts := ""
	if room := int((b.w - b.headRoom()) / smallWidth); room >= 8 {
		facts = shorten(b.facts, room)
	}
	w.f(`<text x="%.1f" y="%.1f"><tspan class="title">%s</tspan><tspan class="small muted" dx="9">%s</tspan></text>`+"\n",
		b.x+boxPadding, b.y+18, escapeXML(b.name), escapeXML(facts))
	tag := tagWidth(b.kind)
	w.f(`<rect class="k-%s" x="%.1f" y="%.1f" width="%.1f" height="15" rx="7.5"/>`+"\n", b.kind, b.x+b.w-7-tag, b.y+6, tag)
	w.f(`<text class="tag" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", b.x+b.w-7-tag/2, b.y+17, strings.ToUpper(b.kind))
	w.f("</g>\n")
	for _, r := range b.rows {
		if r.parent != nil {
			w.branch(r)
		}
	}
	for _, r := range b.rows {
		w.row(r)
	}
	if b.note != "" {
		w.text(b.x+boxPadding, b.y+b.h-boxPadding/2-8, "small muted", b.note)
	}
	w.f("</g>\n")
}

// middle is where the line of a row is.
func (r *row) middle() float64 { return r.y + rowHeight/2 }

// dot is where the dot of a row is.
func (r *row) dot() float64 { return r.box.x + boxPadding + 4 + float64(r.depth)*indent }

// branch connects a row with its parent.
func (w svgWriter) branch(r *row) {
	x := r.parent.dot()
	w.f(`<g class="e %s">`+"\n", r.via)
	w.title(kindNames[r.via])
	w.f(`<path class="line %s" d="M%.1f %.1fV%.1fH%.1f"/>`+"\n</g>\n", r.via, x, r.parent.middle()+4, r.middle(), r.dot()-3)
}

func (w svgWriter) row(r *row) {
	b := r.box
	w.f(`<g class="r">` + "\n")
	w.title(r.tip)
	w.f(`<rect class="row" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`+"\n", b.x+1, r.y, b.w-2, r.h)
	class := "down"
	if r.device != nil && r.device.Carrier {
		class = "up"
	} else if r.device != nil && r.device.Up {
		class = "nocarrier"
	}
	w.f(`<circle class="%s" cx="%.1f" cy="%.1f" r="4"/>`+"\n", class, r.dot(), r.middle())
	y := r.middle() + 4
	w.text(r.dot()+10, y, "mono name", r.name)
	w.text(b.x+b.labelX, y, "muted", r.label)
	if r.loose || slices.ContainsFunc(r.ends, func(e *row) bool { return e.box.column >= b.column }) {
		w.leader(r)
	}
	for i, l := range r.lines {
		w.text(b.x+b.lineX, y+float64(i)*lineHeight, "mono", l)
	}
	w.f("</g>\n")
}

// leader leads the eye from what a row says to where its line begins.
func (w svgWriter) leader(r *row) {
	b := r.box
	from := b.x + b.labelX + float64(width(r.label))*sansWidth + 4
	if len(r.lines) > 0 {
		from = b.x + b.lineX + float64(width(r.lines[0]))*monoWidth + 4
	}
	if to := b.x + b.w - 6; to-from > 12 {
		w.f(`<path class="leader" d="M%.1f %.1fH%.1f"/>`+"\n", from, r.middle(), to)
	}
}

func (w svgWriter) edge(p *picture, e *edge) {
	from, to := e.from, e.to
	w.f(`<g class="e %s">`+"\n", e.kind)
	w.title(e.tip())
	defer w.f("</g>\n")
	ay := from.middle()
	if to == nil {
		x := from.box.x + from.box.w
		w.path(e.kind, fmt.Sprintf("M%.1f %.1fh34", x, ay))
		w.f(`<circle class="down" cx="%.1f" cy="%.1f" r="8"/><text x="%.1f" y="%.1f" class="name" text-anchor="middle">?</text>`+"\n", x+42, ay, x+42, ay+4)
		return
	}
	if from.box.x > to.box.x {
		from, to = to, from
	}
	ay, by := from.middle(), to.middle()
	ax := from.box.x + from.box.w
	bx := to.box.x
	mx, my := (ax+bx)/2, (ay+by)/2
	if from.box.column == to.box.column {
		bx = to.box.x + to.box.w
		if ay > by {
			ax, ay, bx, by = bx, by, ax, ay
		}
		// All boxes of a column can have another width.
		out := p.right(from.box, to.box) + e.lane
		const r = 6.0 // of the corners
		w.path(e.kind, fmt.Sprintf("M%.1f %.1fH%.1fq%.1f 0 %.1f %.1fV%.1fq0 %.1f -%.1f %.1fH%.1f", ax, ay, out-r, r, r, r, by-r, r, r, r, bx))
		mx = out
	} else {
		half := math.Max(36, (bx-ax)/2)
		w.path(e.kind, fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", ax, ay, ax+half, ay, bx-half, by, bx, by))
	}
	for _, at := range [][2]float64{{ax, ay}, {bx, by}} {
		w.f(`<circle class="end %s" cx="%.1f" cy="%.1f" r="3.5"/>`+"\n", e.kind, at[0], at[1])
	}
	label := edgeLabels[e.kind]
	if e.n > 1 {
		label = strings.TrimSpace(fmt.Sprintf("%s × %d", label, e.n))
	}
	if label = cmp.Or(label, ""); label != "" {
		w.f(`<text class="count small" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", mx, my-5, escapeXML(label))
	}
}

// right is where the boxes end that are between two of the same column, or one of them.
func (p *picture) right(a, b *box) float64 {
	if a.y > b.y {
		a, b = b, a
	}
	x := math.Max(a.x+a.w, b.x+b.w)
	for _, o := range p.boxes {
		if o.x == a.x && o.y >= a.y && o.y <= b.y {
			x = math.Max(x, o.x+o.w)
		}
	}
	return x
}

// edgeLabels are what lines say for themselves. Most need nothing: the label of a row says it.
var edgeLabels = map[Kind]string{Moved: "moved"}

// path writes a line, and a wide invisible one which is easier to hit with the mouse.
func (w svgWriter) path(k Kind, d string) {
	w.f(`<path class="hit" d="%s"/><path class="line %s" d="%s"/>`+"\n", d, k, d)
}
