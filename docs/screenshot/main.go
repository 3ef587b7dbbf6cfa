// SPDX-License-Identifier: Apache-2.0

// Screenshot turns a recording of a terminal into SVG, in light and in dark colours. The
// script make beside it makes the recording and calls it:
//
//	go run ./docs/screenshot     # from the root of the repository
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

func main() {
	if err := run("docs"); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

// prompt is what a shell shows before the recording begins.
const prompt = "# nstrace"

// run reads the recording below docs, and writes a picture for each theme.
func run(docs string) error {
	recording, err := os.ReadFile(filepath.Join(docs, "screenshot", "recording"))
	if err != nil {
		return err
	}
	lines, err := parse(prompt + "\r\n" + string(recording))
	if err != nil {
		return err
	}
	for _, t := range themes {
		if err := os.WriteFile(filepath.Join(docs, "screenshot-"+t.name+".svg"), []byte(picture(lines, t)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A style is how a piece of text looks: what select graphic rendition (SGR) has set.
type style struct {
	bold, faint bool
	fg, bg      int // 30 to 37 and 40 to 47, 0 for the default
}

// A span is text of one style.
type span struct {
	text  string
	style style
}

// parse reads what a program wrote to a terminal: text, carriage returns with their line
// feeds, and the SGR sequences that nstrace uses. Anything else is an error: a picture must
// not show what a terminal would not.
func parse(recording string) (lines [][]span, err error) {
	var now style
	line := []span{}
	for rest := recording; rest != ""; {
		at := len(recording) - len(rest)
		switch {
		case strings.HasPrefix(rest, "\r\n"):
			lines, line, rest = append(lines, line), []span{}, rest[2:]
		case strings.HasPrefix(rest, "\x1b["):
			codes, after, ok := strings.Cut(rest[2:], "m")
			if !ok {
				return nil, fmt.Errorf("byte %d: the escape sequence does not end in m", at)
			}
			if now, err = now.set(codes); err != nil {
				return nil, fmt.Errorf("byte %d: %w", at, err)
			}
			rest = after
		case rest[0] < ' ' || rest[0] == 0x7f:
			return nil, fmt.Errorf("byte %d: unexpected control character %q", at, rest[0])
		default:
			n := strings.IndexFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f })
			if n < 0 {
				n = len(rest)
			}
			if !utf8.ValidString(rest[:n]) {
				return nil, fmt.Errorf("byte %d: the text is not UTF-8", at)
			}
			line, rest = append(line, span{rest[:n], now}), rest[n:]
		}
	}
	if len(line) > 0 {
		lines = append(lines, line)
	}
	return lines, nil
}

// set applies the parameters of an SGR sequence.
func (s style) set(codes string) (style, error) {
	for code := range strings.SplitSeq(codes, ";") {
		n, err := strconv.Atoi(code)
		switch {
		case code == "" || n == 0 && err == nil:
			s = style{}
		case err != nil:
			return s, fmt.Errorf("unexpected escape sequence %q", codes)
		case n == 1:
			s.bold = true
		case n == 2:
			s.faint = true
		case n >= 30 && n <= 37:
			s.fg = n
		case n >= 40 && n <= 47:
			s.bg = n
		default:
			return s, fmt.Errorf("unexpected SGR code %d", n)
		}
	}
	return s, nil
}

// A theme gives colours. Those of index 0 to 7 stand for SGR 30 to 37 and 40 to 47.
type theme struct {
	name, background, border, text, faint string
	colors                                [8]string
}

// The colours are those of GitHub's light and dark themes.
var themes = []theme{
	{
		name: "light", background: "#ffffff", border: "#d1d9e0", text: "#1f2328", faint: "#59636e",
		colors: [8]string{"#1f2328", "#cf222e", "#116329", "#7d4e00", "#0550ae", "#8250df", "#1b7c83", "#ffffff"},
	},
	{
		name: "dark", background: "#0d1117", border: "#3d444d", text: "#e6edf3", faint: "#9198a1",
		colors: [8]string{"#484f58", "#ff7b72", "#3fb950", "#d29922", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff"},
	},
}

// The measures of a picture, in pixels. A cell is as wide as a character of the font is at
// this size; textLength holds other fonts to it.
const (
	fontSize   = 13
	cellWidth  = 7.8
	lineHeight = 18
	margin     = 16
)

const font = "ui-monospace, SFMono-Regular, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

// picture draws lines as an SVG document. Each word stands at its own column, so that
// columns stay in line in any font.
func picture(lines [][]span, t theme) string {
	columns := 0
	for _, line := range lines {
		n := 0
		for _, s := range line {
			n += utf8.RuneCountInString(s.text)
		}
		columns = max(columns, n)
	}
	width, height := number(float64(columns)*cellWidth+2*margin), number(float64(len(lines)*lineHeight+2*margin))

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%s" viewBox="0 0 %[1]s %[2]s" role="img" aria-label="nstrace in a terminal">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect x="0.5" y="0.5" width="%s" height="%s" rx="6" fill="%s" stroke="%s"/>`+"\n",
		number(float64(columns)*cellWidth+2*margin-1), number(float64(len(lines)*lineHeight+2*margin-1)), t.background, t.border)
	fmt.Fprintf(&b, `<g font-family="%s" font-size="%d" fill="%s">`+"\n", font, fontSize, t.text)
	for i, line := range lines {
		y := margin + i*lineHeight
		column := 0
		for _, s := range line {
			if s.style.bg != 0 {
				fmt.Fprintf(&b, `<rect x="%s" y="%d" width="%s" height="%d" fill="%s"/>`+"\n",
					x(column), y, number(float64(utf8.RuneCountInString(s.text))*cellWidth), lineHeight, t.colors[s.style.bg-40])
			}
			for _, w := range words(s.text) {
				n := utf8.RuneCountInString(w.text)
				fmt.Fprintf(&b, `<text x="%s" y="%d" textLength="%s"%s>%s</text>`+"\n",
					x(column+w.column), y+fontSize, number(float64(n)*cellWidth), s.style.attributes(t), escape.Replace(w.text))
			}
			column += utf8.RuneCountInString(s.text)
		}
	}
	b.WriteString("</g>\n</svg>\n")
	return b.String()
}

// attributes are those of SVG for a style, none where it is the default.
func (s style) attributes(t theme) string {
	a := ""
	switch {
	case s.fg != 0:
		a += fmt.Sprintf(` fill="%s"`, t.colors[s.fg-30])
	case s.faint:
		a += fmt.Sprintf(` fill="%s"`, t.faint)
	}
	if s.bold {
		a += ` font-weight="bold"`
	}
	return a
}

// A word is text without blanks, and its column.
type word struct {
	text   string
	column int
}

func words(text string) (all []word) {
	column := 0
	for field := range strings.SplitSeq(text, " ") {
		if field != "" {
			all = append(all, word{field, column})
		}
		column += utf8.RuneCountInString(field) + 1
	}
	return all
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func x(column int) string { return number(margin + float64(column)*cellWidth) }

// number writes a length with at most one digit after the point.
func number(f float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
}
