// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// flags are the flags of these tests.
func flags(args ...string) *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.String("keep", "90d", "time")
	fs.Int("count", 0, "number")
	fs.Bool("changed", false, "only changes")
	fs.StringSlice("event", nil, "types")
	fs.StringArray("sink", nil, "where to")
	fs.StringArray("label", nil, "KEY=VALUE")
	SetKey(fs.Lookup("label"), "labels", true)
	fs.String("config", "", "file")
	if err := fs.Parse(args); err != nil {
		panic(err)
	}
	return fs
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads files in their order, as config.yaml and those of conf.d are.
func load(fs *pflag.FlagSet, paths ...string) (*Config, error) {
	c := &Config{settings: map[string]*setting{}}
	known, keys := map[string]*pflag.Flag{}, []string(nil)
	Flags(fs, func(f *pflag.Flag) { known[Key(f)] = f; keys = append(keys, Key(f)) })
	for _, path := range paths {
		text, err := read(path)
		if err != nil {
			return nil, err
		}
		if err := c.add(path, text, known, keys); err != nil {
			return nil, err
		}
	}
	return c, c.Apply(fs)
}

// TestApply has what files set, alone, together, and together with a command line.
func TestApply(t *testing.T) {
	for _, row := range []struct {
		name  string
		args  []string
		files []string
		want  string
	}{
		{name: "all kinds of values", files: []string{"keep: 30d\ncount: 3\nchanged: true\nevent: [sysctl, 'a,b']\nsink: [\"file:/x,filter=a in [1, 2]\", journald]\nlabels: {cluster: a, node: b}\n"},
			want: "keep=[30d] count=[3] changed=[true] event=[sysctl a,b] sink=[file:/x,filter=a in [1, 2] journald] labels=[cluster=a node=b]"},
		{name: "one value of a list", files: []string{"sink: journald\n"}, want: "sink=[journald]"},
		{name: "labels as a list", files: []string{"labels: [cluster=a]\n"}, want: "labels=[cluster=a]"},
		{name: "an alias", files: []string{"event: &e [sysctl]\nsink: *e\n"}, want: "event=[sysctl] sink=[sysctl]"},
		{name: "only comments", files: []string{"# nothing\n\n---\n"}, want: ""},
		{name: "a later file", files: []string{"keep: 1d\ncount: 1\n", "keep: 2d\n"}, want: "keep=[2d] count=[1]"},
		{name: "lists add up", files: []string{"sink: [a]\n", "sink: [b]\n"}, want: "sink=[a b]"},
		{name: "an empty list forgets", files: []string{"sink: [a]\n", "sink: []\n", "sink: [c]\n"}, want: "sink=[c]"},
		{name: "the command line wins", args: []string{"--keep=3d", "--sink=z"}, files: []string{"keep: 1d\nsink: [a]\ncount: 2\n"}, want: "keep=[3d] count=[2] sink=[z]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var paths []string
			for _, text := range row.files {
				paths = append(paths, write(t, text))
			}
			fs := flags(row.args...)
			if _, err := load(fs, paths...); err != nil {
				t.Fatal(err)
			}
			var got []string
			fs.SortFlags = false
			Flags(fs, func(f *pflag.Flag) {
				if f.Changed {
					got = append(got, Key(f)+"=["+strings.Join(Values(f), " ")+"]")
				}
			})
			want := row.want
			slices.Sort(got)
			for _, g := range got {
				if !strings.Contains(want, g) {
					t.Errorf("%s, want %s", g, want)
				}
				want = strings.Replace(want, g, "", 1)
			}
			if strings.TrimSpace(want) != "" {
				t.Errorf("missing: %s", want)
			}
		})
	}
}

// TestErrors has an error of each kind, with its place.
func TestErrors(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"keep: 1d\nkep: 30d\n", `:2:1: unknown key "kep" (did you mean "keep"?)`},
		{"label: [a=b]\n", `:1:1: unknown key "label" (did you mean "labels"?)`},
		{"zzzz: 1\n", `:1:1: unknown key "zzzz" (nstrace record --help`},
		{"config: /x\n", `:1:1: unknown key "config"`},
		{"keep: 1d\nkeep: 2d\n", `:2:1: duplicate key "keep"`},
		{"keep: [1d]\n", ":1:7: keep: want one value here"},
		{"keep:\n", ":1:6: keep: empty value: want time"},
		{"count: x\n", `:1:8: count: invalid value "x": want a whole number`},
		{"changed: maybe\n", `:1:10: changed: invalid value "maybe": want true or false`},
		{"sink: {a: b}\n", ":1:7: sink: want a value or a list of values"},
		{"sink: [[a]]\n", ":1:8: sink: want one value here"},
		{"- keep\n", ":1:1: the file is not a mapping"},
		{"keep: 'x\n", ":2: found unexpected"},
		{"a: b\n---\nc: d\n", "more than one YAML document"},
		{"keep: &a [*a]\n", ":1:7: keep: want one value here"},
	} {
		path := write(t, row.text)
		_, err := load(flags(), path)
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %s", row.text, err, row.want)
		}
	}
}

// TestHostile has files that other users can have written.
func TestHostile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const other = 65534
	for _, row := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"writable by the group", func(path string) error { return os.Chmod(path, 0o620) }, "0620"},
		{"writable by all", func(path string) error { return os.Chmod(path, 0o602) }, "0602"},
		{"of another user", func(path string) error { return os.Chown(path, other, 0) }, "belongs to user 65534"},
		{"in a folder of another user", func(path string) error { return os.Chown(filepath.Dir(path), other, 0) }, "other users"},
		{"in a folder that all can write", func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) }, "other users"},
		{"a folder", func(path string) error { _ = os.Remove(path); return os.Mkdir(path, 0o700) }, "not a regular file"},
		{"too large", func(path string) error { return os.Truncate(path, maxSize+1) }, "larger than"},
	} {
		path := write(t, "keep: 1d\n")
		if _, err := load(flags(), path); err != nil {
			t.Fatal(err)
		}
		if err := row.make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := load(flags(), path); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", row.name, err, row.want)
		}
	}
}

// TestWrite reads what Write writes.
func TestWrite(t *testing.T) {
	fs := flags("--count", "7")
	path := write(t, "keep: 1d\nsink: ['a: b', '#c']\nlabels: {node: '1'}\n")
	c, err := load(fs, path)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := c.Write(&text, fs); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"keep: 1d # " + path + ":1\n", "count: 7 # command line\n", "# changed: false # default\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in %s", want, text.String())
		}
	}
	again := flags()
	if _, err := load(again, write(t, text.String())); err != nil {
		t.Fatal(err)
	}
	Flags(fs, func(f *pflag.Flag) {
		if g := again.Lookup(f.Name); g.Changed != f.Changed || !slices.Equal(Values(g), Values(f)) {
			t.Errorf("%s: %v, want %v", f.Name, Values(g), Values(f))
		}
	})
}

// TestLocate has errors about values that only the command knows to be wrong.
func TestLocate(t *testing.T) {
	path := write(t, "keep: 1d\nsink:\n  - a\n  - b:c,d=e\n")
	c, err := load(flags(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ err, want string }{
		{"--keep: bad", path + ":1:7: keep: bad"},
		{`--sink: "b:c" is wrong`, path + `:4:5: sink: "b:c" is wrong`},
		{"--sink b:c: is wrong", path + ":4:5: sink b:c: is wrong"},
		{"--count: bad", "--count: bad"},
		{"something else", "something else"},
	} {
		if got := c.Locate(text(row.err)); got.Error() != row.want {
			t.Errorf("%s: %v, want %s", row.err, got, row.want)
		}
	}
}

type text string

func (t text) Error() string { return string(t) }
