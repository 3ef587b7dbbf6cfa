// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"cmp"
	"math"
	"slices"
)

// Measures of a picture, in pixels.
const (
	monoWidth   = 7.25 // of a cell in the font of names
	sansWidth   = 6.3  // of a cell in the font of other text, at most
	smallWidth  = 6.0  // the same for small text
	titleWidth  = 8.6  // of a cell in the font of titles, at most
	rowHeight   = 22.0
	lineHeight  = 16.0 // of further addresses
	headHeight  = 33.0
	headWidth   = 380.0 // at most, unless the name or the rows need more
	boxPadding  = 12.0
	indent      = 18.0
	columnSpace = 14.0 // between what stands in a row
	boxGap      = 12.0 // between boxes
	columnGap   = 120.0
	laneWidth   = 7.0
	stub        = 56.0 // of an edge that leads to something unknown
	margin      = 28.0
	headingRoom = 34.0
)

// layout is where a box is.
type layout struct {
	x, y, w, h     float64
	column         int
	labelX, lineX  float64 // where the columns of the rows begin, from x
	placed, queued bool
}

// A component is a group of boxes that edges connect.
type component struct {
	boxes []*box // the first is the one that the others hang on
	x, y  float64
	w, h  float64
}

// arrange says where everything is. It returns the size of the picture, and the components: the first
// is that of the host.
//
// It draws a tree that lies on its side: the host is the root, each namespace stands one column to the
// right of the one that it hangs on, and the rows of a box move apart so that each is at the height of
// the box that it leads to. Libraries for layouts (gonum's, dagre in d2, Graphviz) place points or boxes;
// none moves the rows of a box, and lines would cross text. The last two also bring an engine of ten
// megabytes.
func (p *picture) arrange() (w, h float64, all []*component) {
	next := p.neighbours()
	for _, b := range p.boxes {
		b.measure()
	}
	roots := slices.Clone(p.boxes)
	slices.SortStableFunc(roots, func(a, b *box) int {
		if host := boolean(b.kind == "host") - boolean(a.kind == "host"); host != 0 {
			return host
		}
		return cmp.Compare(len(next[b]), len(next[a]))
	})
	for _, b := range roots {
		if !b.queued {
			c := grow(b, next)
			p.place(c)
			all = append(all, c)
		}
	}
	p.pack(all)
	for _, c := range all {
		w, h = max(w, c.x+c.w), max(h, c.y+c.h)
	}
	return w + margin, h + margin, all
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// neighbours returns which boxes edges connect.
func (p *picture) neighbours() map[*box][]*box {
	next := map[*box][]*box{}
	for _, b := range p.boxes {
		for _, r := range b.rows {
			for _, e := range r.ends {
				if !slices.Contains(next[b], e.box) {
					next[b] = append(next[b], e.box)
				}
			}
		}
	}
	return next
}

// measure finds the size of a box.
func (b *box) measure() {
	var name, label, lines float64
	for _, r := range b.rows {
		name = max(name, float64(r.depth)*indent+12+float64(width(r.name))*monoWidth)
		label = max(label, float64(width(r.label))*sansWidth)
		for _, l := range r.lines {
			lines = max(lines, float64(width(l))*monoWidth)
		}
		r.h = rowHeight + float64(max(0, len(r.lines)-1))*lineHeight
	}
	b.labelX = boxPadding + name + columnSpace
	b.lineX = b.labelX + label
	b.w = b.lineX + boxPadding
	if lines > 0 {
		b.lineX += columnSpace
		b.w = b.lineX + lines + boxPadding
	}
	head := b.headRoom()
	b.w = max(b.w, head, 2*boxPadding+float64(width(b.note))*sansWidth)
	b.w = max(b.w, min(headWidth, head+float64(width(b.facts))*smallWidth))
}

// headRoom is how much of the first line of a box the facts cannot have.
func (b *box) headRoom() float64 {
	return boxPadding + float64(width(b.name))*titleWidth + 2*columnSpace + tagWidth(b.kind)
}

// tagWidth is how wide the tag is that says what kind of thing a box is.
func tagWidth(kind string) float64 { return float64(len(kind))*7.2 + 12 }

// grow collects the boxes that hang together with one, and their columns.
func grow(root *box, next map[*box][]*box) *component {
	c := &component{boxes: []*box{root}}
	root.queued = true
	for i := 0; i < len(c.boxes); i++ {
		b := c.boxes[i]
		for _, n := range next[b] {
			if !n.queued {
				n.queued = true
				n.column = b.column + 1
				c.boxes = append(c.boxes, n)
			}
		}
	}
	return c
}

// place says where the boxes of a component are, from its own corner.
func (p *picture) place(c *component) {
	columns := 0
	for _, b := range c.boxes {
		columns = max(columns, b.column+1)
	}
	free := make([]float64, columns) // the lowest free place of each column
	wide := make([]float64, columns) // the widest box
	for _, b := range c.boxes {
		wide[b.column] = max(wide[b.column], b.w)
	}
	for _, b := range c.boxes {
		if !b.placed { // the root, and what hangs on a row that was cut
			b.put(free)
		}
	}
	lanes := p.lanes(c, columns)
	x := 0.0
	for i := range columns {
		for _, b := range c.boxes {
			if b.column == i {
				b.x = x
				b.w = max(b.w, min(wide[i], b.w*1.6))
			}
		}
		c.w = x + wide[i] + lanes[i]
		x = c.w + columnGap
	}
	for _, b := range c.boxes {
		c.h = max(c.h, b.y+b.h)
	}
}

// lanes gives each edge that stays in its column a line of its own to the right of it, the short ones next to
// the boxes. It returns how wide that is for each column.
func (p *picture) lanes(c *component, columns int) []float64 {
	room := make([]float64, columns)
	in := make(map[*box]bool, len(c.boxes))
	for _, b := range c.boxes {
		in[b] = true
	}
	inside := make([][]*edge, columns)
	for _, e := range p.edges {
		switch {
		case !in[e.from.box]:
		case e.to == nil:
			room[e.from.box.column] = stub
		case e.from.box.column == e.to.box.column:
			inside[e.from.box.column] = append(inside[e.from.box.column], e)
		}
	}
	for column, edges := range inside {
		slices.SortStableFunc(edges, func(a, b *edge) int { return cmp.Compare(a.span(), b.span()) })
		const most = 40 // lines; further ones share the last
		for i, e := range edges {
			e.lane = 18 + float64(min(i, most))*laneWidth
			room[column] = max(room[column], e.lane+laneWidth)
		}
	}
	return room
}

// span is how far apart the ends of an edge are.
func (e *edge) span() float64 { return math.Abs(e.from.y - e.to.y) }

// put places a box at the first free place of its column that is below y, and what hangs on it to its
// right.
func (b *box) put(free []float64) {
	b.placed = true
	b.y = max(b.y, free[b.column])
	y := b.y + headHeight
	for _, r := range b.rows {
		r.y = y
		first := true
		for _, e := range r.ends {
			n := e.box
			if n.placed || n.column != b.column+1 || !paired(r, e) && slices.Contains(b.pairs, n) {
				continue // it hangs on another row: rather on that of a pair
			}
			offset := n.offset(e)
			n.y = max(0, y-offset)
			n.put(free)
			if first {
				r.y = max(y, n.y+offset)
				first = false
			}
		}
		y = r.y + r.h
	}
	if b.note != "" {
		y += rowHeight
	}
	b.h = y - b.y + boxPadding/2
	free[b.column] = b.y + b.h + boxGap
}

// offset returns how far below the top of a box a row is, before the rows move apart.
func (b *box) offset(of *row) float64 {
	y := headHeight
	for _, r := range b.rows {
		if r == of {
			break
		}
		y += r.h
	}
	return y
}

// pack places the components: the host's, and the others below it in lines.
func (p *picture) pack(all []*component) {
	most := 1100.0
	for _, c := range all {
		most = max(most, c.w)
	}
	x, y, high := margin, 0.0, 0.0
	for i, c := range all {
		first := i == 0 || i == 1 && p.hasHost()
		if first || x+c.w > margin+most {
			if i > 0 {
				y += high + boxGap
			}
			if i == 1 && p.hasHost() {
				y += headingRoom
			}
			x, high = margin, 0
		}
		c.move(x, y)
		x += c.w + 2*boxGap
		high = max(high, c.h)
	}
}

// move moves a component.
func (c *component) move(x, y float64) {
	c.x += x
	c.y += y
	for _, b := range c.boxes {
		b.x += x
		b.y += y
		for _, r := range b.rows {
			r.y += y
		}
	}
}

// lower moves everything down.
func (p *picture) lower(all []*component, y float64) {
	for _, c := range all {
		c.move(0, y)
	}
}

// hasHost reports whether the host's namespace is known.
func (p *picture) hasHost() bool {
	return slices.ContainsFunc(p.boxes, func(b *box) bool { return b.kind == "host" })
}
