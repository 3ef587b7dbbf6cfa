// SPDX-License-Identifier: Apache-2.0

// Package docs tests what a program can check in the documentation: the commands and flags in it
// exist, all commands and flags are documented, and links work. Because it builds nstrace for that,
// it also tests what the program contains.
package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root      = "../.."
	reference = "docs/usage.md" // names every command and flag
)

// A command is what `nstrace COMMAND --help` says about one command.
type command struct {
	name  string          // in full, such as "nstrace history ns"
	long  map[string]bool // flags, true for those where the next argument can be the value
	short map[string]string
	subs  map[string]*command
}

// program is the path of the nstrace that the tests build. nstrace is its tree of commands.
var (
	program string
	nstrace *command
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nstrace-docs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	nstrace, err = build(dir)
	status := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

func build(dir string) (*command, error) {
	program = filepath.Join(dir, "nstrace")
	cmd := exec.Command("go", "build", "-o", program, "./cmd/nstrace")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nstrace: %w\n%s", err, out)
	}
	return ask(program)
}

var (
	commandLine = regexp.MustCompile(`^  ([a-z]+) +\S`)
	flagLine    = regexp.MustCompile(`^ +(?:-([a-zA-Z]), )?--([a-z-]+)( [a-zA-Z]+)?(\[=\S+\])?  `)
)

// ask reads the help of a command and of all commands below it.
func ask(program string, names ...string) (*command, error) {
	out, err := exec.Command(program, append(slices.Clone(names), "--help")...).Output()
	if err != nil {
		return nil, fmt.Errorf("nstrace %s --help: %w", strings.Join(names, " "), err)
	}
	c := &command{
		name: strings.Join(append([]string{"nstrace"}, names...), " "),
		long: map[string]bool{}, short: map[string]string{}, subs: map[string]*command{},
	}
	section := ""
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || line[0] != ' ' {
			section = line
			continue
		}
		switch section {
		case "Available Commands:":
			if m := commandLine.FindStringSubmatch(line); m != nil {
				sub, err := ask(program, append(slices.Clone(names), m[1])...)
				if err != nil {
					return nil, err
				}
				c.subs[m[1]] = sub
			}
		case "Flags:", "Global Flags:":
			m := flagLine.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("%s --help: this line has no flag: %q", c.name, line)
			}
			c.long[m[2]] = m[3] != "" && m[4] == ""
			if m[1] != "" {
				c.short[m[1]] = m[2]
			}
		}
	}
	return c, nil
}

// each calls do for a command and all commands below it.
func (c *command) each(do func(*command)) {
	do(c)
	for _, sub := range c.subs {
		sub.each(do)
	}
}

// pages returns the text of each page of the documentation, by its path below the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(root, p)
			if err != nil {
				t.Fatal(err)
			}
			all[filepath.ToSlash(name)] = string(text)
		}
	}
	return all
}

// A code is a line of a code block, or a code span.
type code struct {
	text string
	line int
}

var fence = regexp.MustCompile("^ *```")

// codes returns the code in a page. A line that ends in a backslash or inside a quoted string
// continues on the next line.
func codes(page string) (all []code) {
	in, joined, from := false, "", 0
	for i, line := range strings.Split(page, "\n") {
		switch {
		case fence.MatchString(line):
			in, joined = !in, ""
		case in:
			if joined == "" {
				from = i + 1
			}
			if joined += line; strings.HasSuffix(joined, `\`) {
				joined = strings.TrimSuffix(joined, `\`)
				continue
			}
			all = append(all, code{joined, from})
			joined = ""
		default:
			for n, part := range strings.Split(line, "`") {
				if n%2 == 1 {
					all = append(all, code{strings.ReplaceAll(part, `\|`, "|"), i + 1})
				}
			}
		}
	}
	return all
}

// words splits a command line as a shell does, up to a comment or an operator.
func words(line string) (all []string) {
	word, have, quote := "", false, rune(0)
	end := func() {
		if have {
			all = append(all, word)
		}
		word, have = "", false
	}
	for _, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word += string(r)
			}
		case r == '\'' || r == '"':
			quote, have = r, true
		case r == ' ' || r == '\t':
			end()
		case r == '#' && !have, r == '|' || r == ';' || r == '>':
			end()
			return all
		default:
			word, have = word+string(r), true
		}
	}
	end()
	return all
}

// programLine matches an invocation of nstrace in a command line, and captures its arguments. The
// name must begin the line or a command in it, so it does not match the lines that nstrace prints.
var programLine = regexp.MustCompile(`(?:^|[|;&] *| -- )(?:sudo )?(?:\./)?(?:nstrace|go run \./cmd/nstrace)(?: +(.*))?$`)

// check returns an error if an invocation is wrong.
func (c *command) check(args []string) error {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name, _, valued := strings.Cut(arg, "=")
		switch {
		case arg == "--":
			return nil
		case strings.HasPrefix(arg, "--"):
			takes, ok := c.long[name[2:]]
			if !ok {
				return fmt.Errorf("%s has no flag %s", c.name, name)
			}
			if takes && !valued {
				i++
			}
		case strings.HasPrefix(arg, "-") && len(arg) > 1:
			long, ok := c.short[arg[1:2]]
			if !ok {
				return fmt.Errorf("%s has no flag %s", c.name, arg)
			}
			if c.long[long] && len(arg) == 2 {
				i++
			}
		case c.subs[arg] != nil:
			c = c.subs[arg]
		case len(c.subs) > 0 && word.MatchString(arg):
			return fmt.Errorf("%s has no command %s", c.name, arg)
		}
	}
	return nil
}

var word = regexp.MustCompile(`^[a-z]+$`)

// mention matches flags in code that is not an invocation.
var mention = regexp.MustCompile(`(?:^|[\s(=,])(--[a-z][a-z-]*)`)

// foreign are flags of other programs that the text mentions without the program.
var foreign = []string{"--net", "--sysctl", "--parameters"}

// mistakes returns what is wrong with the code in a page.
func mistakes(page string) (all []string) {
	known := func(flag string) bool {
		found := slices.Contains(foreign, flag)
		nstrace.each(func(c *command) {
			if _, ok := c.long[flag[2:]]; ok {
				found = true
			}
		})
		return found
	}
	for _, c := range codes(page) {
		text := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(c.text), "# "), "$ ")
		if m := programLine.FindStringSubmatch(text); m != nil {
			if err := nstrace.check(words(m[1])); err != nil {
				all = append(all, fmt.Sprintf("line %d: %v: %s", c.line, err, c.text))
			}
			continue
		}
		if !strings.HasPrefix(text, "-") {
			continue // a flag of another program
		}
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			if !known(m[1]) {
				all = append(all, fmt.Sprintf("line %d: nstrace has no flag %s: %s", c.line, m[1], c.text))
			}
		}
	}
	return all
}

// All commands and flags in the documentation exist.
func TestNamedExist(t *testing.T) {
	for name, text := range pages(t) {
		for _, m := range mistakes(text) {
			t.Errorf("%s: %s", name, m)
		}
	}
}

// The test above finds commands and flags that do not exist.
func TestMadeUp(t *testing.T) {
	for _, tt := range []struct{ page, want string }{
		{"Use `nstrace --made-up`.", "nstrace has no flag --made-up"},
		{"Use `--made-up` too.", "nstrace has no flag --made-up"},
		{"Use `-o table --made-up=3` too.", "nstrace has no flag --made-up"},
		{"```sh\nnstrace -o json run -n 3 --made-up -- ls\n```", "nstrace run has no flag --made-up"},
		{"```sh\nip netns add x\nsudo nstrace history -Z\n```", "nstrace history has no flag -Z"},
		{"```sh\nnstrace histroy\n```", "nstrace has no command histroy"},
		{"```sh\nnstrace history sysctls x\n```", "nstrace history has no command sysctls"},
		{"```sh\ngo run ./cmd/nstrace blame --until now\n```", "nstrace blame has no flag --until"},
		{"```sh\nnstrace record \\\n  --made-up\n```", "nstrace record has no flag --made-up"},
	} {
		got := mistakes(tt.page)
		if len(got) != 1 || !strings.Contains(got[0], tt.want) {
			t.Errorf("mistakes of %q: %q, want %q", tt.page, got, tt.want)
		}
	}
	for _, page := range []string{
		"```sh\nnstrace run -- ls --made-up\n```",
		"```sh\nnstrace -e sysctl --filter 'x == \"--made-up\"' # --made-up\n```",
		"```sh\nls --made-up\n```",
		"```\nnstrace: unknown flag --made-up\n```",
		"`nstrace history -n5 --group=open sysctl net.ipv4.ip_forward | less --made-up`",
	} {
		if got := mistakes(page); len(got) > 0 {
			t.Errorf("mistakes of %q: %q, want none", page, got)
		}
	}
}

// All commands and flags are in the reference, as code.
func TestExistingNamed(t *testing.T) {
	text := ""
	for _, c := range codes(pages(t)[reference]) {
		text += " " + c.text + " \n"
	}
	named := func(what string) bool {
		return regexp.MustCompile(`[\s,(|]` + regexp.QuoteMeta(what) + `[\s,|=[\]]`).MatchString(text)
	}
	commands, flags := 0, 0
	nstrace.each(func(c *command) {
		commands++
		last := path.Base(strings.ReplaceAll(c.name, " ", "/"))
		if !named(c.name) && !named(last) {
			t.Errorf("%s does not name the command %s", reference, c.name)
		}
		for long := range c.long {
			flags++
			if !named("--" + long) {
				t.Errorf("%s does not name --%s of %s", reference, long, c.name)
			}
		}
		for short, long := range c.short {
			if !named("-" + short) {
				t.Errorf("%s does not name -%s (--%s) of %s", reference, short, long, c.name)
			}
		}
	})
	if commands < 10 || flags < 50 {
		t.Errorf("found only %d commands and %d flags in the help of nstrace", commands, flags)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset)="([^"]+)"`)
	heading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	strip   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors that GitHub gives to the headings of a page.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	in := false
	for line := range strings.Lines(page) {
		if fence.MatchString(line) {
			in = !in
		}
		m := heading.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if in || m == nil {
			continue
		}
		a := strings.ReplaceAll(strip.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		for n, first := 1, a; all[a]; n++ {
			a = fmt.Sprintf("%s-%d", first, n)
		}
		all[a] = true
	}
	return all
}

// Links within the repository lead to existing files and headings.
func TestLinks(t *testing.T) {
	all := pages(t)
	n := 0
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := m[1] + m[2]
			if strings.Contains(target, "://") {
				continue
			}
			n++
			file, anchor, _ := strings.Cut(target, "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s: %v", name, target, err)
				continue
			}
			if anchor == "" {
				continue
			}
			page, ok := all[to]
			if !ok {
				t.Errorf("%s links to %s: cannot check anchors of files other than pages", name, target)
			} else if !anchors(page)[anchor] {
				t.Errorf("%s links to %s: %s has no such heading", name, target, to)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d links found", n)
	}
}
