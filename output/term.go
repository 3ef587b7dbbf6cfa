// SPDX-License-Identifier: Apache-2.0

package output

import (
	"os"

	"golang.org/x/term"
)

// ColorWanted says whether what is written to f should be coloured: f is a
// terminal that can, and NO_COLOR (https://no-color.org) is not set.
func ColorWanted(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// TerminalWidth returns how many columns the terminal f has, or 0 where f is
// not a terminal, which TableOptions.Width takes to mean the default.
func TerminalWidth(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// style is how a word looks on a terminal with colours. Nothing may depend on
// it: every style only repeats what the words say.
type style uint8

const (
	normal style = iota
	faint
	strong
	created
	entered
	destroyed
	written
	moved
	doubtful
	failed
	alarm
)

// Only the sixteen basic colours, which every theme keeps readable.
var styles = [...]string{
	normal:    "",
	faint:     "\x1b[2m",
	strong:    "\x1b[1m",
	created:   "\x1b[32m",
	entered:   "\x1b[36m",
	destroyed: "\x1b[35m",
	written:   "\x1b[34m",
	moved:     "\x1b[34m",
	doubtful:  "\x1b[33m",
	failed:    "\x1b[1;31m",
	alarm:     "\x1b[1;37;41m",
}

const resetStyle = "\x1b[0m"
