// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/nstrace/nstrace/event"
)

// samples are the graphs that each format is tested with.
func samples() map[string]*Graph {
	return map[string]*Graph{
		"everything": everything(), "none": newMaker().graph(), "star of 3": star(3), "star of 30": star(30), "star of 300": star(300),
		"pairs": pairs(150), "compose": compose(), "bridges": bridges(17), "mesh": mesh(6), "hostile": hostile(),
	}
}

func eachSample(t *testing.T, do func(t *testing.T, g *Graph, fold int)) {
	for name, g := range samples() {
		for _, fold := range []int{0, 5, DefaultFold} {
			t.Run(fmt.Sprintf("%s, fold %d", name, fold), func(t *testing.T) { do(t, g, fold) })
		}
	}
}

// TestSVG parses pictures strictly, and checks that they have nothing but shapes and text.
func TestSVG(t *testing.T) {
	elements := []string{"svg", "title", "style", "rect", "text", "tspan", "path", "circle", "g"}
	attributes := []string{"xmlns", "width", "height", "viewBox", "role", "class", "x", "y", "dx", "rx", "cx", "cy", "r", "d", "text-anchor"}
	plain := regexp.MustCompile(`^[-A-Za-z0-9 .%:/,]*$`)
	eachSample(t, func(t *testing.T, g *Graph, fold int) {
		var b bytes.Buffer
		if err := g.Write(&b, "svg", fold); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(&b)
		var open []string
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch e := token.(type) {
			case xml.StartElement:
				open = append(open, e.Name.Local)
				if !slices.Contains(elements, e.Name.Local) {
					t.Errorf("element %s", e.Name.Local)
				}
				for _, a := range e.Attr {
					if !slices.Contains(attributes, a.Name.Local) || !plain.MatchString(a.Value) {
						t.Errorf("attribute %s=%q of %s", a.Name.Local, a.Value, e.Name.Local)
					}
				}
			case xml.EndElement:
				open = open[:len(open)-1]
			case xml.CharData:
				if len(open) > 0 && open[len(open)-1] == "style" && string(e) != style {
					t.Errorf("style sheet %q", e)
				}
				for _, r := range string(e) {
					if r != '\n' && (!unicode.IsPrint(r) || event.Invisible(r) || r == unicode.ReplacementChar) {
						t.Errorf("character %U in %q", r, e)
					}
				}
			case xml.ProcInst, xml.Directive, xml.Comment:
				t.Errorf("token %T", token)
			}
		}
	})
}

// TestStyle checks that the style sheet loads nothing, and knows both schemes.
func TestStyle(t *testing.T) {
	for _, bad := range []string{"url(", "@import", "http", "<", "&", "expression"} {
		if strings.Contains(style, bad) {
			t.Errorf("the style sheet has %q", bad)
		}
	}
	light, dark, ok := strings.Cut(style, "@media (prefers-color-scheme:dark)")
	if !ok {
		t.Fatal("no dark scheme")
	}
	for _, k := range []Kind{Veth, Netkit, Bridge, Bond, VRF, Member, VLAN, Macvlan, IPVLAN, Upper, Moved} {
		if kindNames[k] == "" || dotStyles[k] == "" {
			t.Errorf("kind %s has no name or style", k)
		}
		for _, part := range []string{light, dark} {
			if !regexp.MustCompile(`(?m)(^|[,}])\.`+string(k)+`[,{]`).MatchString(part) || !strings.Contains(part, ".end."+string(k)) {
				t.Errorf("kind %s is not in both schemes", k)
			}
		}
	}
}

// TestLayout checks that nothing overlaps: neither boxes, nor rows of a box.
func TestLayout(t *testing.T) {
	eachSample(t, func(t *testing.T, g *Graph, fold int) {
		p := g.draw(fold)
		w, h, _ := p.arrange()
		for i, a := range p.boxes {
			if a.x < 0 || a.y < 0 || a.x+a.w > w || a.y+a.h > h {
				t.Errorf("box %s at %.0f,%.0f leaves the picture of %.0f×%.0f", a.name, a.x, a.y, w, h)
			}
			for _, b := range p.boxes[:i] {
				if a.x < b.x+b.w && b.x < a.x+a.w && a.y < b.y+b.h && b.y < a.y+a.h {
					t.Errorf("boxes %s and %s overlap", a.name, b.name)
				}
			}
			y := a.y + 28 // below the head
			for _, r := range a.rows {
				if r.y < y || r.y+r.h > a.y+a.h {
					t.Errorf("row %s of %s is at %.0f–%.0f, box ends at %.0f, row before at %.0f", r.name, a.name, r.y, r.y+r.h, a.y+a.h, y)
				}
				y = r.y + r.h
				if end := a.labelX + float64(width(r.label))*sansWidth; r.lines == nil && end > a.w || r.lines != nil && end > a.lineX {
					t.Errorf("label %q of %s leaves its column", r.label, a.name)
				}
			}
		}
		for _, e := range p.edges {
			if e.to != nil && e.from.box.column-e.to.box.column > 1 {
				t.Errorf("line from column %d to %d", e.from.box.column, e.to.box.column)
			}
		}
	})
}

// TestComplete checks that every namespace and every link is in a picture, once.
func TestComplete(t *testing.T) {
	eachSample(t, func(t *testing.T, g *Graph, fold int) {
		p := g.draw(fold)
		seen := map[*Namespace]int{}
		for _, b := range p.boxes {
			for _, n := range b.all {
				seen[n]++
			}
		}
		for _, n := range g.Namespaces {
			if seen[n] != 1 {
				t.Errorf("namespace %q is drawn %d times", n.Name, seen[n])
			}
		}
		links, grouped := 0, 0
		for _, b := range p.boxes {
			for _, r := range b.rows {
				if r.parent != nil {
					links += r.n
				}
			}
			if b.each > 0 {
				for i := range g.Links {
					if slices.Contains(b.all, g.Links[i].From.NS) {
						grouped++
					}
				}
			}
		}
		for _, e := range p.edges {
			links += e.n
		}
		if links+grouped != len(g.Links) {
			t.Errorf("%d lines and %d in groups, %d links", links, grouped, len(g.Links))
		}
	})
}

// TestFold checks what is folded.
func TestFold(t *testing.T) {
	names := func(g *Graph, fold int) (all []string) {
		for _, b := range g.draw(fold).boxes {
			all = append(all, b.name)
		}
		return all
	}
	for _, c := range []struct {
		what string
		got  []string
		want string
	}{
		{"star of 300", names(star(300), DefaultFold), "host web-0 web-1 web-2 297 more"},
		{"star of 4, fold 3", names(star(4), 3), "host web-0 3 more"},
		{"pairs", names(pairs(150), DefaultFold), "host a-0 b-0 a-1 b-1 a-2 b-2 147 more groups"},
	} {
		if got := strings.Join(c.got, " "); got != c.want {
			t.Errorf("%s: boxes %s, want %s", c.what, got, c.want)
		}
	}
	if n := len(names(star(30), DefaultFold)); n != 31 {
		t.Errorf("star of 30 has %d boxes", n)
	}
	if n := len(names(star(300), 0)); n != 301 {
		t.Errorf("star of 300 without folding has %d boxes", n)
	}

	// One that differs stands out.
	g := star(300)
	odd := g.Namespaces[200]
	odd.Network.Devices[1].Carrier = false
	if all := names(g, DefaultFold); !slices.Contains(all, odd.Name) || len(all) != 6 {
		t.Errorf("boxes %q, want %q among them", all, odd.Name)
	}
	p := star(300).draw(DefaultFold)
	last := p.edges[len(p.edges)-1]
	if last.n != 297 || last.from.name != "297 more" || last.to.name != "eth0" || last.from.parent == nil || last.from.parent.name != "br0" {
		t.Errorf("the folded line stands for %d links from %q to %q", last.n, last.from.name, last.to.name)
	}
}

// TestMany has more of everything than a picture shows.
func TestMany(t *testing.T) {
	m := newMaker()
	h := m.host()
	for i := range 3000 {
		d := up(fmt.Sprintf("v%d", i), "veth")
		m.device(h, d)
	}
	for i := 0; i < 3000; i += 2 {
		m.g.deviceAt(h, i+2).Link, m.g.deviceAt(h, i+3).Link = linkTo(h, i+3), linkTo(h, i+2)
	}
	for i := range 600 {
		n := m.namespace(fmt.Sprintf("n%d", i))
		for j := range i {
			if j < 20 {
				m.device(n, up(fmt.Sprintf("k%d", i), fmt.Sprintf("kind%d", i)), "10.0.0.1/8")
			}
		}
	}
	g := m.graph()
	p := g.draw(DefaultFold)
	if len(p.boxes) != maxBoxes || len(p.boxes[0].rows) != maxRows || p.boxes[0].note != "2488 more devices" || !slices.Contains(p.notes, "201 more namespaces") {
		t.Errorf("%d boxes, %d rows, note %q, notes %q", len(p.boxes), len(p.boxes[0].rows), p.boxes[0].note, p.notes)
	}
	for _, f := range Formats() {
		if err := g.Write(io.Discard, f, DefaultFold); err != nil {
			t.Error(err)
		}
	}
}

// TestCircle has devices that belong to each other in a circle.
func TestCircle(t *testing.T) {
	m := newMaker()
	h := m.host()
	v := up("eth0.1", "vlan")
	v.Link = linkTo(h, 3)
	m.device(h, v)
	b := up("bond0", "bond")
	b.Master = 2
	m.device(h, b)
	p := m.graph().draw(0)
	if len(p.boxes[0].rows) != 2 {
		t.Errorf("%d rows, want 2", len(p.boxes[0].rows))
	}
	if err := m.g.Write(io.Discard, "svg", 0); err != nil {
		t.Error(err)
	}
}

// TestDOT has the real dot read pictures, and compares what it read.
func TestDOT(t *testing.T) {
	if _, err := exec.LookPath("dot"); err != nil {
		t.Skip("dot (graphviz) is not installed")
	}
	eachSample(t, func(t *testing.T, g *Graph, fold int) {
		if len(g.draw(fold).boxes) > 100 {
			t.Skip("dot takes long for this")
		}
		var b, complaints bytes.Buffer
		if err := g.Write(&b, "dot", fold); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("dot", "-Tdot_json")
		cmd.Stdin, cmd.Stderr = &b, &complaints
		out, err := cmd.Output()
		if err != nil || complaints.Len() > 0 {
			t.Fatalf("dot: %v: %s", err, complaints.Bytes())
		}
		var read struct {
			Label   string
			Objects []struct{ Name, Label, Tooltip string }
			Edges   []struct{ Label string }
		}
		if err := json.Unmarshal(out, &read); err != nil {
			t.Fatal(err)
		}
		p := g.draw(fold)
		// dot keeps the escapes of labels.
		escapes := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
		var want, got []string
		edges := 0
		for _, b := range p.boxes {
			want = append(want, escapes.Replace(b.name+" ("+b.kind+")\n"+b.facts))
			for _, r := range b.rows {
				want = append(want, escapes.Replace(r.text("\n")))
			}
			if b.note != "" || len(b.rows) == 0 {
				want = append(want, escapes.Replace(b.note))
			}
		}
		p.eachLine(func(_ Kind, _, to *row, _ int) {
			edges++
			if to == nil {
				want = append(want, "?")
			}
		})
		for _, o := range read.Objects {
			got = append(got, o.Label)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) || len(read.Edges) != edges || read.Label != escapes.Replace(p.heading()) {
			t.Errorf("dot read labels\n%q, want\n%q; %d edges, want %d; title %q", got, want, len(read.Edges), edges, read.Label)
		}
	})
}

// TestMermaid checks each line against the few forms that a picture has. Labels have nothing that Mermaid
// would read as markup.
func TestMermaid(t *testing.T) {
	label := `"([A-Za-z0-9 .,:/()-]|#[0-9]+;|<br>)*"`
	lines := regexp.MustCompile(`^(flowchart LR` +
		`|  subgraph b\d+\[` + label + `\]` +
		`|    (d\d+_\d+|n\d+)\[` + label + `\]` +
		`|  end` +
		`|  d\d+_\d+ (---|===|-\.-)\|` + label + `\| (d\d+_\d+|u\d+\(\(` + label + `\)\)))$`)
	eachSample(t, func(t *testing.T, g *Graph, fold int) {
		var b bytes.Buffer
		if err := g.Write(&b, "mermaid", fold); err != nil {
			t.Fatal(err)
		}
		depth := 0
		for _, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
			if !lines.MatchString(line) {
				t.Errorf("line %q", line)
			}
			if strings.HasPrefix(line, "  subgraph") {
				depth++
			}
			if line == "  end" {
				depth--
			}
		}
		if depth != 0 {
			t.Errorf("%d subgraphs are open at the end", depth)
		}
	})
}

// TestJSON reads graphs back.
func TestJSON(t *testing.T) {
	for name, g := range samples() {
		var b bytes.Buffer
		if err := g.Write(&b, "json", DefaultFold); err != nil {
			t.Fatal(err)
		}
		if i := bytes.IndexFunc(b.Bytes(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: byte %d is not printable", name, i)
		}
		var read struct {
			V          int
			Namespaces []struct {
				ID      uint32
				Name    string
				Host    bool
				Devices []struct {
					Ifindex int
					Name    string
				}
			}
			Links []struct {
				Kind     string
				From, To struct {
					Namespace uint32
					Ifindex   int
					Name      string
				}
			}
		}
		if err := json.Unmarshal(b.Bytes(), &read); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if read.V != 1 || len(read.Namespaces) != len(g.Namespaces) || len(read.Links) != len(g.Links) {
			t.Errorf("%s: version %d, %d namespaces, %d links", name, read.V, len(read.Namespaces), len(read.Links))
		}
		for i, n := range g.Namespaces {
			r := read.Namespaces[i]
			if r.ID != n.ID || r.Name != strings.ToValidUTF8(n.Name, "\ufffd") && name != "hostile" || r.Host != n.host || len(r.Devices) != len(n.Devices()) {
				t.Errorf("%s: namespace %d is %+v", name, i, r)
			}
		}
		for i, l := range g.Links {
			r := read.Links[i]
			if r.Kind != string(l.Kind) || r.From.Namespace != l.From.NS.ID || r.From.Ifindex != l.From.Device.Index ||
				(l.To.Device == nil) != (r.To.Ifindex == 0) || l.To.Device != nil && r.To.Ifindex != l.To.Device.Index {
				t.Errorf("%s: link %d is %+v", name, i, r)
			}
		}
	}
}

func BenchmarkSVG(b *testing.B) {
	g := star(300)
	for b.Loop() {
		if err := g.Write(io.Discard, "svg", DefaultFold); err != nil {
			b.Fatal(err)
		}
	}
}

// TestManyRows has many namespaces with many devices each, and groups with many pairs between the same two.
func TestManyRows(t *testing.T) {
	m := newMaker()
	for range 30 {
		a, b := m.namespace("a"), m.namespace("b")
		for i := range 400 {
			m.pair(a, fmt.Sprintf("v%d", i), 0, b, fmt.Sprintf("v%d", i), "10.0.0.1/8")
		}
	}
	g := m.graph()
	rows := 0
	for _, b := range g.draw(0).boxes {
		rows += len(b.rows)
		if len(b.rows)+b.missing != 400 {
			t.Errorf("%d rows and %d missing, want 400", len(b.rows), b.missing)
		}
	}
	if rows != maxAll {
		t.Errorf("%d rows, want %d", rows, maxAll)
	}
	for _, fold := range []int{0, DefaultFold} {
		if err := g.Write(io.Discard, "svg", fold); err != nil {
			t.Error(err)
		}
	}
}
