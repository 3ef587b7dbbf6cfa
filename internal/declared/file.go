// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// File returns what one file declares, as if the programs read no other file. name is that of the file, and text is
// its text.
func File(name, text string) *Config {
	c := &Config{rules: map[Program]*rules{}}
	for _, p := range Programs() {
		c.rules[p] = newRules(p, []*source{{file: name, text: text, alone: true}})
	}
	return c
}

// Stamp returns a text that changes when one of the files that Read reads changes, except for a file that only a
// link leads to. It reads no file.
func Stamp(o Options) string {
	var b strings.Builder
	add := func(file string) {
		var st unix.Stat_t
		if err := unix.Stat(o.Root+file, &st); err != nil {
			fmt.Fprintf(&b, "%s %v\n", file, err)
			return
		}
		fmt.Fprintf(&b, "%s %d %d %d %d %d %d\n", file, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Mode)
	}
	for _, dir := range folders {
		add(dir)
		if _, err := os.Stat(o.Root + dir); err != nil {
			continue
		}
		names, _ := list(o.Root+dir, MaxFiles) // an error leaves what the folder's own times say
		for _, name := range names {
			add(dir + "/" + name)
		}
	}
	add(single)
	return b.String()
}

// Declares reports whether the files declare the value of a parameter by the rules of a program.
func (c *Config) Declares(p Program) bool {
	for i := range c.rules[p].settings {
		if c.rules[p].settings[i].value != nil {
			return true
		}
	}
	return len(c.boot) > 0
}
