// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A setting is a line that a program understands.
type setting struct {
	source *source
	line   int
	key    string // as written
	path   string // the program's name for it, below /proc/sys
	clean  string // path in its shortest form, "" if the program never writes there
	value  *string
	ignore bool
	glob   bool
	match  *glob
}

func (s *setting) where() string { return where(s.source.file, s.line) }

func (s *setting) declaration() Declaration {
	return Declaration{
		File: s.source.file, Line: s.line, Key: s.key, Value: s.value, Glob: s.glob, IgnoreErrors: s.ignore, Exclusion: s.value == nil,
	}
}

// is reports whether a setting is about a parameter.
func (s *setting) is(target string) bool {
	if s.glob {
		return s.match.matches(target)
	}
	return s.clean == target
}

// rules are the settings of all files, as one program understands them.
type rules struct {
	program  Program
	settings []setting // in the order of reading
	exact    map[string][]int
	globs    []int

	// For systemd-sysctl, which keeps one entry for each key.
	entries map[string]*entry
	lostTo  map[int]int // settings that a later one with the same key replaced
}

// An entry has the settings of systemd-sysctl with one key and one value.
type entry struct {
	place    int // in the order of applying
	settings []int
}

func (e *entry) last() int { return e.settings[len(e.settings)-1] }

func newRules(p Program, sources []*source) *rules {
	r := &rules{program: p, exact: map[string][]int{}, entries: map[string]*entry{}, lostTo: map[int]int{}}
	for _, src := range sources {
		number := 0
		for line := range strings.Lines(src.text) {
			number++
			for _, s := range parse(p, line) {
				s.source, s.line = src, number
				r.add(s)
			}
		}
	}
	return r
}

// add adds a setting.
func (r *rules) add(s setting) {
	i := len(r.settings)
	if s.glob = strings.ContainsAny(s.path, "*?["); s.glob {
		s.match = newGlob(s.clean)
		r.globs = append(r.globs, i)
	} else {
		r.exact[s.clean] = append(r.exact[s.clean], i)
	}
	r.settings = append(r.settings, s)
	if r.program != Systemd || r.unread(&s) != "" {
		return
	}
	// A key that comes again replaces the entry, and goes to the end. If the value is the same, the entry keeps its
	// place, which decides between globs.
	e := r.entries[s.path]
	if e != nil && sameText(r.settings[e.last()].value, s.value) {
		e.settings = append(e.settings, i)
		return
	}
	if e != nil {
		for _, old := range e.settings {
			r.lostTo[old] = i
		}
	}
	r.entries[s.path] = &entry{place: i, settings: []int{i}}
}

func sameText(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// unread says why the program does not read the file of a setting, "" if it does.
func (r *rules) unread(s *setting) string {
	switch {
	case s.source.alone:
		return ""
	case s.source.masked != "":
		return "the file is masked by " + s.source.masked
	case r.program == Systemd && s.source.file == single:
		return "systemd-sysctl does not read this file"
	case r.program == Systemd && strings.HasPrefix(path.Base(s.source.file), "."):
		return "systemd-sysctl does not read hidden files"
	}
	return ""
}

// declarations returns those of a parameter, the last one read first.
func (r *rules) declarations(target string) (all []Declaration) {
	about := slices.Clone(r.exact[target])
	for _, i := range r.globs {
		if r.settings[i].is(target) {
			about = append(about, i)
		}
	}
	slices.Sort(about)
	judge := r.systemd
	if r.program == Procps {
		judge = r.procps
	}
	reason := judge(target, about)
	all = []Declaration{} // in JSON too
	for _, i := range slices.Backward(about) {
		s := &r.settings[i]
		d := s.declaration()
		if d.Reason = r.unread(s); d.Reason == "" {
			d.Reason = reason(i)
		}
		d.Wins = d.Reason == ""
		all = append(all, d)
	}
	return all
}

// systemd returns a function that says why a setting does not win, "" if it does. about are the settings that are
// about the parameter.
func (r *rules) systemd(target string, about []int) func(int) string {
	own := r.entries[target]
	var winner *entry // among the globs
	for _, i := range about {
		s := &r.settings[i]
		if e := r.entries[s.path]; e != nil && e.place == i && s.glob && s.value != nil && (winner == nil || e.place > winner.place) {
			winner = e
		}
	}
	return func(i int) string {
		s := &r.settings[i]
		if later, ok := r.lostTo[i]; ok {
			return r.replaced(later)
		}
		e := r.entries[s.path]
		switch {
		case s.value == nil:
			return nothing(s)
		case own != nil && own != e:
			return r.beaten(own.last())
		case own != nil && s.glob:
			return "the name of the parameter is itself a glob"
		case s.glob && e != winner && i > winner.place:
			return fmt.Sprintf("repeats %s, and keeps the place of that before %s", r.settings[e.place].where(), r.settings[winner.last()].where())
		case s.glob && e != winner:
			return "a later glob matches too: " + r.settings[winner.last()].where()
		case i != e.last():
			return "repeated in " + r.settings[e.last()].where()
		}
		return ""
	}
}

// procps is systemd for sysctl --system, which writes all settings in their order, except globs for files that any
// other line names.
func (r *rules) procps(target string, about []int) func(int) string {
	// named returns the last line that names the file that a glob finds, -1 if none does. The program compares texts.
	named := func(s *setting) int {
		file := s.found(target)
		for _, i := range slices.Backward(r.exact[target]) {
			if r.settings[i].path == file && r.unread(&r.settings[i]) == "" {
				return i
			}
		}
		return -1
	}
	writes := func(s *setting) bool { return s.value != nil && (!s.glob || named(s) < 0) }
	winner := -1
	for _, i := range about {
		if s := &r.settings[i]; r.unread(s) == "" && writes(s) {
			winner = i
		}
	}
	return func(i int) string {
		s := &r.settings[i]
		switch {
		case i == winner:
			return ""
		case s.value == nil:
			return nothing(s)
		case !writes(s):
			return r.beaten(named(s))
		}
		return r.replaced(winner)
	}
}

// found returns the path of a parameter as glob(3) finds it: with the empty parts that the glob has.
func (s *setting) found(target string) string {
	names := strings.Split(target, "/")
	parts := strings.Split(s.path, "/")
	for i, part := range parts {
		if part != "" && part != "." && len(names) > 0 {
			parts[i], names = names[0], names[1:]
		}
	}
	return strings.Join(parts, "/")
}

// nothing says why a line without a value does not win.
func nothing(s *setting) string {
	if s.glob {
		return "a glob without a value sets nothing"
	}
	return "excludes the parameter from globs"
}

// replaced says that a later setting replaces another one.
func (r *rules) replaced(later int) string {
	s := &r.settings[later]
	if s.value == nil {
		return "excluded later in " + s.where()
	}
	return "set again later in " + s.where()
}

// beaten says that a setting with the name of the parameter beats a glob.
func (r *rules) beaten(by int) string {
	s := &r.settings[by]
	if s.value == nil {
		return "excluded in " + s.where()
	}
	return "a name beats a glob: " + s.where()
}

// parse returns the settings of a line: none, one or, for systemd-sysctl, which also takes a carriage return for
// the end of a line, several.
func parse(p Program, line string) (all []setting) {
	if p == Procps {
		if s, ok := parseProcps(line); ok {
			all = append(all, s)
		}
		return all
	}
	for part := range strings.SplitSeq(line, "\r") {
		if s, ok := parseSystemd(part); ok {
			all = append(all, s)
		}
	}
	return all
}

// split sets the value that a line assigns, without the space around it, and returns the line's key. It reports false
// for a line that neither assigns nor excludes.
func (s *setting) split(line, space string) (key string, ok bool) {
	key, value, assigns := strings.Cut(line, "=")
	key, dash := strings.CutPrefix(key, "-")
	if assigns {
		value = strings.Trim(value, space)
		s.value, s.ignore = &value, dash
	}
	return key, assigns || dash
}

func parseSystemd(line string) (s setting, ok bool) {
	const space = " \t\n\r"
	line = strings.Trim(line, space)
	if line == "" || line[0] == '#' || line[0] == ';' {
		return s, false
	}
	if s.key, ok = s.split(line, space); !ok {
		return s, false
	}
	s.key = strings.Trim(s.key, space)
	s.path = strings.TrimPrefix(shorten(separators(s.key)), "/")
	if s.clean = s.path; slices.Contains(strings.Split(s.path, "/"), "..") {
		s.clean = ""
	}
	return s, true
}

func parseProcps(line string) (s setting, ok bool) {
	const space = " \t\n\v\f\r"
	line = strings.TrimLeft(line, space)
	if len(line) < 2 || line[0] == '#' || line[0] == ';' {
		return s, false
	}
	if s.key, ok = s.split(line, space); !ok {
		return s, false
	}
	s.key = strings.TrimRight(s.key, space)
	s.path = separators(strings.TrimPrefix(s.key, "-"))
	s.clean = path.Clean(strings.TrimLeft(s.path, "/"))
	if s.clean == ".." || strings.HasPrefix(s.clean, "../") || strings.HasSuffix(s.path, "/") || path.Base(s.path) == "." {
		s.clean = "" // what ends with a slash is a folder
	}
	return s, true
}

// separators returns the path of a key. If the first separator is a dot, dots and slashes change places.
func separators(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return dotsAndSlashes.Replace(key)
}

var dotsAndSlashes = strings.NewReplacer(".", "/", "/", ".")

// shorten removes empty parts and . from a path.
func shorten(p string) string {
	parts := slices.DeleteFunc(strings.Split(p, "/"), func(part string) bool { return part == "" || part == "." })
	return strings.Join(parts, "/")
}

// parseCommandLine returns the sysctl.* parameters of the kernel's command line. It leaves out those with both
// dots and slashes, which not all kernels understand in the same way.
func parseCommandLine(text string) (all []setting) {
	src := &source{file: CommandLine}
	for _, arg := range commandLineArgs(text) {
		if arg == "--" { // what follows is for process 1
			break
		}
		key, value, ok := strings.Cut(arg, "=")
		name, is := strings.CutPrefix(key, "sysctl.")
		if !is {
			name, is = strings.CutPrefix(key, "sysctl/")
		}
		if !ok || !is || strings.Contains(name, ".") && strings.Contains(name, "/") {
			continue
		}
		p := strings.ReplaceAll(name, ".", "/")
		if "/"+p != path.Clean("/"+p) {
			continue
		}
		value = strings.Trim(value, `"`)
		all = append(all, setting{source: src, key: name, path: p, clean: p, value: &value})
	}
	return all
}

// commandLineArgs splits a command line at spaces outside of double quotes, as the kernel does.
func commandLineArgs(text string) []string {
	quoted := false
	args := strings.FieldsFunc(text, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return !quoted && (c == ' ' || c == '\t' || c == '\n')
	})
	for i, arg := range args {
		if rest, ok := strings.CutPrefix(arg, `"`); ok {
			args[i] = strings.TrimSuffix(rest, `"`)
		}
	}
	return args
}
