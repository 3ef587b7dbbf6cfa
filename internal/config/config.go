// SPDX-License-Identifier: Apache-2.0

// Package config reads configuration files, whose keys are the flags of a command.
//
// The flags are the only list of keys: a flag --keep-size is the key keep-size. So a new flag needs nothing here.
//
//	c, err := config.Load(cmd.Flags(), config.Options{Path: config.Path})
//	err = c.Apply(cmd.Flags())
//
// In several files, the later value of a key replaces the earlier one. The values of a list add up, and an empty list
// forgets the earlier ones, as in systemd's units.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/safefile"
	"github.com/nstrace/nstrace/internal/yamlfile"
)

// Path is the file that nstrace record reads. The files of conf.d beside it follow.
const Path = "/etc/nstrace/config.yaml"

// None, instead of the name of a file, stands for no file.
const None = "none"

// KeyAnnotation is the annotation of a flag whose key has another name.
const KeyAnnotation = "nstrace_key"

// PairsAnnotation is the annotation of a flag whose values are KEY=VALUE. In a file they can be a mapping.
const PairsAnnotation = "nstrace_pairs"

// maxSize is the maximum size of a file.
const maxSize = 1 << 20

// unset are flags that no file can set.
var unset = []string{"config", "help", "version"}

// Options say what to read.
type Options struct {
	Path string // the file; with conf.d beside it if that is Path
	// Optional says that the file and conf.d can be missing.
	Optional bool
	// Also has flags of other commands, whose keys are accepted and ignored. It can be nil.
	Also *pflag.FlagSet
}

// A Config is what files say.
type Config struct {
	settings map[string]*setting // by the name of the flag
}

// A setting is the value of a flag.
type setting struct {
	key    string
	at     *value   // the last one
	values []*value // of a list, or the only one
}

// A value is text in a file.
type value struct {
	text string
	file *yamlfile.File
	node *yaml.Node
}

// Key returns the key of a flag.
func Key(f *pflag.Flag) string {
	if key := f.Annotations[KeyAnnotation]; len(key) > 0 {
		return key[0]
	}
	return f.Name
}

// SetKey gives a flag another key.
func SetKey(f *pflag.Flag, key string, pairs bool) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[KeyAnnotation] = []string{key}
	if pairs {
		f.Annotations[PairsAnnotation] = []string{"true"}
	}
}

// Flags calls f for each flag that a file can set.
func Flags(flags *pflag.FlagSet, f func(*pflag.Flag)) {
	flags.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden && !slices.Contains(unset, flag.Name) {
			f(flag)
		}
	})
}

// Load reads the files. An error is one line that says where it is.
func Load(flags *pflag.FlagSet, o Options) (*Config, error) {
	c := &Config{settings: map[string]*setting{}}
	paths, err := files(o)
	if err != nil {
		return nil, err
	}
	known, keys := map[string]*pflag.Flag{}, []string(nil)
	Flags(flags, func(f *pflag.Flag) { known[Key(f)] = f })
	if o.Also != nil {
		Flags(o.Also, func(f *pflag.Flag) {
			if known[Key(f)] == nil {
				known[Key(f)] = nil
			}
		})
	}
	for key := range known {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, path := range paths {
		text, err := read(path)
		if err != nil {
			return nil, err
		}
		if err := c.add(path, text, known, keys); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// files returns the names of the files to read, in their order.
func files(o Options) ([]string, error) {
	if o.Path == None {
		return nil, nil
	}
	var paths []string
	switch _, err := os.Lstat(o.Path); {
	case err == nil:
		paths = append(paths, o.Path)
	case !o.Optional || !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if o.Path != Path {
		return paths, nil
	}
	dir := filepath.Join(filepath.Dir(o.Path), "conf.d")
	entries, err := os.ReadDir(dir) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".yaml") && !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// read reads a file that no other user can have written.
func read(path string) ([]byte, error) {
	if err := safefile.CheckFolder(path); err != nil {
		return nil, fmt.Errorf("%w: nstrace does not use it", err)
	}
	f, err := safefile.Open(path, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s: it is not a regular file", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s: it belongs to user %d, and nstrace does not use it (chown root)", path, st.Uid)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("%s: its mode is %04o, which lets other users write it, and nstrace does not use it (chmod go-w)", path, st.Mode&0o777)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%s: it is larger than %d bytes", path, maxSize)
	}
	return text, nil
}

// add adds what a file says.
func (c *Config) add(path string, text []byte, known map[string]*pflag.Flag, keys []string) error {
	if onlyComments(text) {
		return nil
	}
	file, top, err := yamlfile.Parse(path, text, "flags without their dashes, as in keep: 30d")
	if err != nil {
		return err
	}
	if top.Kind != yaml.MappingNode {
		return file.Fail(top, "the file is not a mapping: want flags without their dashes, as in keep: 30d")
	}
	seen := map[string]bool{}
	for i := 0; i < len(top.Content); i += 2 {
		key, node := top.Content[i], yamlfile.Resolve(top.Content[i+1])
		flag, ok := known[key.Value]
		if !ok {
			hint := yamlfile.DidYouMean(key.Value, keys)
			if hint == "" {
				hint = " (nstrace record --help lists the flags, which are the keys)"
			}
			return file.Fail(key, "unknown key %q%s", key.Value, hint)
		}
		if seen[key.Value] {
			return file.Fail(key, "duplicate key %q", key.Value)
		}
		seen[key.Value] = true
		if flag == nil { // of another command
			continue
		}
		s := &setting{key: key.Value, at: &value{file: file, node: key}}
		if err := s.parse(file, node, flag); err != nil {
			return err
		}
		if before := c.settings[flag.Name]; before != nil && len(s.values) > 0 {
			if _, list := flag.Value.(pflag.SliceValue); list {
				s.values = append(slices.Clone(before.values), s.values...)
			}
		}
		c.settings[flag.Name] = s
	}
	return nil
}

// onlyComments reports whether a file says nothing.
func onlyComments(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// parse takes the value of a key.
func (s *setting) parse(file *yamlfile.File, n *yaml.Node, flag *pflag.Flag) error {
	scalar := func(n *yaml.Node, prefix string) error {
		n = yamlfile.Resolve(n)
		switch {
		case n.Kind != yaml.ScalarNode:
			return file.Fail(n, "%s: want one value here", s.key)
		case n.Tag == "!!null" || prefix+n.Value == "":
			return file.Fail(n, "%s: empty value: want %s", s.key, flag.Usage)
		}
		s.values = append(s.values, &value{prefix + n.Value, file, n})
		return nil
	}
	_, list := flag.Value.(pflag.SliceValue)
	switch {
	case list && n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			if err := scalar(item, ""); err != nil {
				return err
			}
		}
		return nil
	case n.Kind == yaml.MappingNode && len(flag.Annotations[PairsAnnotation]) > 0:
		for i := 0; i < len(n.Content); i += 2 {
			if err := scalar(n.Content[i+1], n.Content[i].Value+"="); err != nil {
				return err
			}
		}
		return nil
	case n.Kind != yaml.ScalarNode && list:
		return file.Fail(n, "%s: want a value or a list of values", s.key)
	}
	return scalar(n, "")
}

// Apply sets the flags that the files name and the command line does not.
func (c *Config) Apply(flags *pflag.FlagSet) error {
	var errs []error
	Flags(flags, func(f *pflag.Flag) {
		s := c.settings[f.Name]
		if s == nil {
			return
		}
		if f.Changed { // by the command line
			delete(c.settings, f.Name)
			return
		}
		if len(s.values) == 0 { // an empty list
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			texts := make([]string, len(s.values))
			for i, v := range s.values {
				texts[i] = v.text
			}
			// Set marks the flag as given. It would split a value at its commas.
			errs = append(errs, flags.Set(f.Name, ""), list.Replace(texts))
			return
		}
		v := s.values[0]
		if err := flags.Set(f.Name, v.text); err != nil {
			errs = append(errs, v.file.Fail(v.node, "%s: invalid value %q: want %s", s.key, v.text, wanted(err, f)))
		}
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// wanted says what a flag accepts.
func wanted(err error, f *pflag.Flag) string {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		if _, want, ok := strings.Cut(invalid.Unwrap().Error(), ": want "); ok {
			return want
		}
	}
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "int", "uint64":
		return "a whole number"
	}
	return f.Usage
}

// Locate adds to an error about a flag, which begins with its name, where in the files the flag is set.
func (c *Config) Locate(err error) error {
	if c == nil || err == nil {
		return err
	}
	rest, ok := strings.CutPrefix(err.Error(), "--")
	if !ok {
		return err
	}
	name := rest
	if i := strings.IndexAny(rest, ": "); i >= 0 {
		name = rest[:i]
	}
	s := c.settings[name]
	if s == nil {
		return err
	}
	at := s.at
	if len(s.values) > 0 {
		at = s.values[0]
	}
	longest := 0
	for _, v := range s.values {
		if n := len(v.text); n > longest && mentions(rest, v.text) {
			at, longest = v, n
		}
	}
	return &located{at.file.Fail(at.node, "%s%s", s.key, strings.TrimPrefix(rest, name)), err}
}

// mentions reports whether an error is about a value: it has the value, or the beginning up to a comma.
func mentions(message, text string) bool {
	head, _, _ := strings.Cut(text, ",")
	return strings.Contains(message, text) || head != "" && strings.Contains(message, head)
}

// A located is an error with the place in a file.
type located struct {
	at  error
	err error
}

func (l *located) Error() string { return l.at.Error() }
func (l *located) Unwrap() error { return l.err }

// Write writes the value of each flag as a configuration file, and where it is set. Defaults are comments.
func (c *Config) Write(w io.Writer, flags *pflag.FlagSet) error {
	var b strings.Builder
	var failed error
	Flags(flags, func(f *pflag.Flag) {
		var from string
		set := c.settings[f.Name]
		switch {
		case set != nil:
			from = fmt.Sprintf("%s:%d", set.at.file.Name, set.at.node.Line)
		case f.Changed:
			from = "command line"
		default:
			from = "default"
		}
		var v any = Values(f)
		if _, list := f.Value.(pflag.SliceValue); !list {
			v = Values(f)[0]
			if v == "" {
				return
			}
		} else if len(Values(f)) == 0 && set == nil {
			return
		}
		node := &yaml.Node{}
		if err := node.Encode(v); err != nil {
			failed = err
			return
		}
		if f.Value.Type() == "bool" || f.Value.Type() == "int" || f.Value.Type() == "uint64" {
			node.Style, node.Tag = 0, ""
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: Key(f)}
		if node.Kind == yaml.SequenceNode {
			key.LineComment = from
		} else {
			node.LineComment = from
		}
		text, err := yaml.Marshal(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, node}})
		if err != nil {
			failed = err
			return
		}
		if set == nil && !f.Changed {
			b.WriteString("# ")
		}
		b.Write(text)
	})
	if failed != nil {
		return failed
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Values returns the values of a flag as text.
func Values(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	if f.DefValue != "" && !f.Changed {
		return []string{f.DefValue}
	}
	return []string{f.Value.String()}
}
