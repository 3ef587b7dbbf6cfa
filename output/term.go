// SPDX-License-Identifier: Apache-2.0

package output

import (
	"os"
	"strconv"

	"golang.org/x/term"
)

// ColorWanted reports whether output to f should have colours: f is a terminal that has
// them, and NO_COLOR (https://no-color.org) is not set.
func ColorWanted(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// TerminalWidth returns how many columns the environment variable COLUMNS says, or else the terminal f has. It
// returns 0 if f is not a terminal.
func TerminalWidth(f *os.File) int {
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && width > 0 {
		return width
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// A style is how a word looks on a terminal with colours. It only repeats what the words
// say, so that nothing is lost without colours.
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

// The styles use the sixteen basic colours only: every theme keeps them readable.
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
