// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// FuzzFile reads any text as a configuration. A mistake is one line that names the file. What a file does not set stays as
// it is.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"keep: 30d\ncount: 3\nchanged: true\nevent: [sysctl, net]\nsink:\n- a\n- b\nlabels:\n  a: b\n",
		"keep: &a 30d\ncount: *a\n", "a: &a [*a]\n", "count: 0x10\nchanged: yes\n", "event: {a: b}\nlabels: [a]\n", "# only\n---\n...\n", "keep: !!binary aaaa\n", "? [a]\n: b\n", "\xff",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fs := flags()
		c := &Config{settings: map[string]*setting{}}
		known, keys := map[string]*pflag.Flag{}, []string(nil)
		Flags(fs, func(f *pflag.Flag) { known[Key(f)] = f; keys = append(keys, Key(f)) })
		err := c.add("/etc/nstrace/config.yaml", []byte(text), known, keys)
		if err == nil {
			err = c.Apply(fs)
		}
		if err != nil {
			if s := err.Error(); strings.ContainsAny(s, "\n\x1b") || !strings.Contains(s, "config.yaml") {
				t.Errorf("%q: %q", text, s)
			}
			return
		}
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Value.String() != f.DefValue && !slices.ContainsFunc(keys, func(key string) bool { return key == Key(f) && c.settings[f.Name] != nil }) {
				t.Errorf("%q: %s is %q", text, f.Name, f.Value)
			}
		})
	})
}
