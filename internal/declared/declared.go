// SPDX-License-Identifier: Apache-2.0

// Package declared reads what a host's files declare for kernel parameters, and says which declaration counts.
//
// Two programs apply such files, each by its own rules: systemd-sysctl, see sysctl.d(5), and sysctl --system of
// procps, see sysctl(8). The kernel itself applies the sysctl.* parameters of its command line.
//
//	config, err := declared.Read(ctx, declared.Options{})
//	for _, ruling := range config.Of("net.ipv4.ip_forward") {
//		fmt.Println(ruling.Program, ruling.Winner())
//	}
//
// The files are not trusted: their number and size are limited, and only regular files are read.
package declared

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/safefile"
)

// Limits of what Read reads.
const (
	MaxFile  = 1 << 20 // bytes of a file
	MaxTotal = 8 << 20 // bytes of all files
	MaxFiles = 1000    // in all folders
)

// A Program applies files to the kernel.
type Program string

// The programs.
const (
	Systemd Program = "systemd-sysctl"
	Procps  Program = "sysctl --system"
)

// Programs returns all programs.
func Programs() []Program { return []Program{Systemd, Procps} }

// folders are where the programs look for files, in order: a file hides those of the same name in later folders.
var folders = []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"}

// single is the file that procps reads after all others.
const single = "/etc/sysctl.conf"

// CommandLine is the file with the kernel's command line.
const CommandLine = "/proc/cmdline"

// Options say where to read. The zero value is right for the host.
type Options struct {
	Root string // the folder that stands for /; the text of a link is not relative to it
}

// A Config is what the files declare.
type Config struct {
	// Problems says which files could not be read, and why. They can declare something.
	Problems []string

	rules map[Program]*rules
	boot  []setting // of the kernel's command line
}

// A source is a file.
type source struct {
	file   string // its path, without Options.Root
	masked string // the file that hides it, "" for none
	alone  bool   // the program is to read it, whatever its name is
	text   string
}

// errFile is the error for a file that is no regular file.
var errFile = errors.New("not a regular file")

// Read reads all files. A file that cannot be read is no error but one of Config.Problems. The error is that of
// ctx: a file system can fail to answer.
func Read(ctx context.Context, o Options) (*Config, error) {
	done := make(chan *Config, 1)
	go func() { done <- read(ctx, o) }()
	select {
	case c := <-done:
		return c, ctx.Err()
	case <-ctx.Done():
		return nil, fmt.Errorf("read the files of sysctl.d: %w", ctx.Err())
	}
}

func read(ctx context.Context, o Options) *Config {
	c := &Config{rules: map[Program]*rules{}}
	sources := c.sources(o)
	left := MaxTotal
	for _, s := range sources {
		if ctx.Err() != nil {
			return c
		}
		text, err := readFile(o.Root+s.file, min(MaxFile, left))
		switch {
		case errors.Is(err, os.ErrNotExist): // a link to nothing, which only hides other files
		case err != nil:
			c.problem(s.file, err)
		case strings.Contains(text, "\x00"):
			c.problem(s.file, errors.New("it has a NUL byte"))
		default:
			s.text = text
			left -= len(text)
		}
	}
	for _, p := range Programs() {
		c.rules[p] = newRules(p, sources)
	}
	text, err := readFile(o.Root+CommandLine, MaxFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.problem(CommandLine, err)
	}
	c.boot = parseCommandLine(text)
	return c
}

func (c *Config) problem(file string, err error) {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	c.Problems = append(c.Problems, fmt.Sprintf("%s: %v", file, err))
}

// sources lists the files in the order in which the programs apply them. A hidden file is before the one that
// hides it.
func (c *Config) sources(o Options) (sources []*source) {
	first := map[string]string{} // the file that hides all others of its name
	var seen []os.FileInfo
	for _, dir := range folders {
		info, err := os.Stat(o.Root + dir)
		if err == nil && slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			continue // /lib can be a link to /usr/lib
		}
		var names []string
		if err == nil {
			seen = append(seen, info)
			names, err = list(o.Root+dir, MaxFiles-len(sources))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			c.problem(dir, err)
		}
		for _, name := range names {
			s := &source{file: dir + "/" + name, masked: first[name]}
			if s.masked == "" {
				first[name] = s.file
			}
			sources = append(sources, s)
		}
	}
	slices.SortStableFunc(sources, func(a, b *source) int {
		masked := func(s *source) int { return -min(len(s.masked), 1) }
		return cmp.Or(cmp.Compare(path.Base(a.file), path.Base(b.file)), cmp.Compare(masked(a), masked(b)))
	})
	if info, err := os.Stat(o.Root + single); err == nil && info.Mode().IsRegular() {
		sources = append(sources, &source{file: single})
	}
	return sources
}

// list returns the names of the files of a folder that are for the programs, and an error if there are more than
// limit.
func list(dir string, limit int) (names []string, err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for {
		entries, err := f.Readdirnames(MaxFiles)
		for _, name := range entries {
			if filepath.Ext(name) == ".conf" {
				names = append(names, name)
			}
		}
		switch {
		case len(names) > limit:
			return nil, fmt.Errorf("more than %d files", MaxFiles)
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

// readFile returns the text of a regular file, and an error if it is longer than limit. The text of a folder and
// of /dev/null is empty.
func readFile(name string, limit int) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR, st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3):
		return "", nil
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", errFile
	}
	f, err := safefile.Open(name, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() { // since it was checked
		return "", cmp.Or(err, errFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return "", err
	}
	if len(b) > limit {
		return "", errors.New("too long")
	}
	return string(b), nil
}

// A Declaration is a line that declares a parameter, or that would.
type Declaration struct {
	File         string  `json:"file"`
	Line         int     `json:"line,omitempty"` // 0 for CommandLine
	Key          string  `json:"key"`            // as written, without - before it
	Value        *string `json:"value,omitempty"`
	Glob         bool    `json:"glob,omitempty"`
	IgnoreErrors bool    `json:"ignore_errors,omitempty"` // -key = value
	Exclusion    bool    `json:"exclusion,omitempty"`     // -key
	Wins         bool    `json:"wins"`
	Reason       string  `json:"reason,omitempty"` // why it does not win
}

// Where returns the file and the line.
func (d *Declaration) Where() string { return where(d.File, d.Line) }

func where(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// A Ruling is what a program makes of all declarations of a parameter.
type Ruling struct {
	Program      Program       `json:"program"`
	Declarations []Declaration `json:"declarations"` // the one that wins first, then those that come later in the order of reading
}

// Winner returns the declaration whose value the parameter gets, nil for none.
func (r *Ruling) Winner() *Declaration {
	for i := range r.Declarations {
		if r.Declarations[i].Wins {
			return &r.Declarations[i]
		}
	}
	return nil
}

// Of returns the ruling of each program for a parameter.
func (c *Config) Of(name string) (all []Ruling) {
	for _, p := range Programs() {
		all = append(all, c.By(p, name))
	}
	return all
}

// By returns the ruling of one program for a parameter.
func (c *Config) By(p Program, name string) Ruling {
	target := strings.TrimPrefix(event.SysctlPath(name), event.SysctlDir+"/")
	r := Ruling{Program: p, Declarations: c.rules[p].declarations(target)}
	winner := r.Winner()
	for i, s := range slices.Backward(c.boot) {
		if s.clean != target {
			continue
		}
		d := s.declaration()
		switch later := slices.IndexFunc(c.boot[i+1:], func(o setting) bool { return o.clean == target }); {
		case winner != nil:
			d.Reason = "the files are applied later: " + winner.Where()
		case later >= 0:
			d.Reason = "set again later on the command line"
		default:
			d.Wins = true
		}
		r.Declarations = append(r.Declarations, d)
	}
	slices.SortStableFunc(r.Declarations, func(a, b Declaration) int {
		rank := func(d *Declaration) int {
			if d.Wins {
				return 0
			}
			return 1
		}
		return rank(&a) - rank(&b)
	})
	return r
}

// Differ reports whether the programs would set different values.
func Differ(rulings []Ruling) bool {
	for _, r := range rulings[1:] {
		a, b := rulings[0].Winner(), r.Winner()
		if (a == nil) != (b == nil) || a != nil && (Compare(*a.Value, *b.Value) != Equal || Compare(*b.Value, *a.Value) != Equal) {
			return true
		}
	}
	return false
}

// Names returns the names of the parameters that have a declaration of their own by the rules of a program, and
// not only a glob.
func (c *Config) Names(p Program) (names []string) {
	seen := map[string]bool{}
	for _, s := range slices.Concat(c.rules[p].settings, c.boot) {
		if s.glob || s.value == nil || s.clean == "" || seen[s.clean] {
			continue
		}
		seen[s.clean] = true
		if name, ok := event.SysctlName(event.SysctlDir + "/" + s.clean); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Beside returns the names of the parameters that other lines of the same file as d declare by the rules of a
// program, at most limit.
func (c *Config) Beside(p Program, d *Declaration, limit int) (names []string) {
	for _, s := range c.rules[p].settings {
		if s.source.file != d.File || s.line == d.Line || s.glob || s.value == nil || s.clean == "" || len(names) == limit {
			continue
		}
		if name, ok := event.SysctlName(event.SysctlDir + "/" + s.clean); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Usual returns the program that sets parameters at the boot of the host: systemd-sysctl if it is installed.
func Usual(o Options) Program {
	for _, dir := range []string{"/usr/lib", "/lib"} {
		if _, err := os.Stat(o.Root + dir + "/systemd/systemd-sysctl"); err == nil {
			return Systemd
		}
	}
	return Procps
}
