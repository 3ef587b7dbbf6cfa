// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// style is the style sheet of a picture. It names each color twice instead of using variables, which
// few programs besides browsers know.
const style = `
text{font:12px system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1f2328;white-space:pre}
.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.name{font-weight:600}
.title{font-size:14px;font-weight:700}
.top{font-size:20px;font-weight:700}
.muted{fill:#59636e}
.small{font-size:11px}
.tag{font-size:10px;font-weight:700;fill:#fff;letter-spacing:.4px}
.page{fill:#f6f8fa}
.box{fill:#fff;stroke:#afb8c1;stroke-width:1.2}
.head{fill:#eaeef2}
.unread{stroke-dasharray:5 4}
.stack{fill:#eaeef2;stroke:#afb8c1}
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
.count{font-weight:700;paint-order:stroke;stroke:#f6f8fa;stroke-width:4px}
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
.count{stroke:#0d1117}
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
	const top = 112.0
	width, height, components := p.arrange(top)
	width = max(width, 760)
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
	w.legend(margin, 88, kinds)
	w.heading(p, components)
	for _, b := range p.boxes {
		w.box(b)
	}
	for _, e := range p.edges {
		w.edge(e)
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
	return fmt.Sprintf("%s, %s · %s · rest the mouse on something to learn more",
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

// legend says what lines and dots mean.
func (w svgWriter) legend(x, y float64, kinds []Kind) {
	for _, k := range kinds {
		w.f(`<path class="e line %s" d="M%.1f %.1fh26"/>`+"\n", k, x, y-4)
		w.text(x+32, y, "small muted", kindNames[k])
		x += 32 + float64(len(kindNames[k]))*6 + 16
	}
	for _, s := range []struct{ class, text string }{{"up", "up"}, {"nocarrier", "up, but has no carrier"}, {"down", "down"}} {
		w.f(`<circle class="%s" cx="%.1f" cy="%.1f" r="4"/>`+"\n", s.class, x+5, y-4)
		w.text(x+14, y, "small muted", s.text)
		x += 14 + float64(len(s.text))*6 + 14
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
	w.f(`<path class="head" d="M%.1f %.1fv-30a7 7 0 0 1 7-7h%.1fa7 7 0 0 1 7 7v30z"/>`+"\n", b.x+.8, b.y+37.8, b.w-1.6-14)
	w.text(b.x+boxPadding, b.y+18, "title", b.name)
	tag := strings.ToUpper(b.kind)
	tagWidth := float64(len(tag))*7.2 + 12
	w.f(`<rect class="k-%s" x="%.1f" y="%.1f" width="%.1f" height="15" rx="7.5"/>`+"\n", b.kind, b.x+b.w-8-tagWidth, b.y+6, tagWidth)
	w.f(`<text class="tag" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", b.x+b.w-8-tagWidth/2, b.y+17, tag)
	w.text(b.x+boxPadding, b.y+32, "small muted", b.facts)
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
	for i, l := range r.lines {
		w.text(b.x+b.lineX, y+float64(i)*lineHeight, "mono", l)
	}
	w.f("</g>\n")
}

func (w svgWriter) edge(e *edge) {
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
	half := math.Max(36, (bx-ax)/2)
	mx := (ax + bx) / 2
	if from.box.column == to.box.column || bx <= ax {
		bx = to.box.x + to.box.w
		out := math.Max(ax, bx) + math.Min(bulge-8, 22+math.Abs(by-ay)/8)
		w.path(e.kind, fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", ax, ay, out, ay, out, by, bx, by))
		mx = out - 8
	} else {
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
		w.f(`<text class="count small" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", mx, (ay+by)/2-5, escapeXML(label))
	}
}

// edgeLabels are what lines say for themselves. Most need nothing: the label of a row says it.
var edgeLabels = map[Kind]string{Moved: "moved"}

// path writes a line, and a wide invisible one which is easier to hit with the mouse.
func (w svgWriter) path(k Kind, d string) {
	w.f(`<path class="hit" d="%s"/><path class="line %s" d="%s"/>`+"\n", d, k, d)
}
