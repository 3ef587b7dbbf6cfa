// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// write makes a tree of files below a folder. A text that begins with -> is a link.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = errors.Join(err, os.Symlink(to, file))
		} else {
			err = errors.Join(err, os.WriteFile(file, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mustRead(t *testing.T, root string) *Config {
	t.Helper()
	c, err := Read(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rows returns the declarations of a ruling: where, the value, and why it does not win.
func rows(r Ruling) (all []string) {
	for _, d := range r.Declarations {
		value := "-"
		if d.Value != nil {
			value = *d.Value
		}
		all = append(all, strings.TrimSuffix(fmt.Sprintf("%s %s %s", d.Where(), value, d.Reason), " "))
	}
	return all
}

func TestRules(t *testing.T) {
	const ttl = "net.ipv4.ip_default_ttl"
	for _, c := range []struct {
		title, name string
		files       map[string]string
		systemd     []string
		procps      []string // nil: the same
	}{
		{
			"the last file wins by its name, not by its folder", ttl,
			map[string]string{"etc/sysctl.d/60-a.conf": "# x\nnet.ipv4.ip_default_ttl = 1\n", "usr/lib/sysctl.d/70-b.conf": "net/ipv4/ip_default_ttl=2\n"},
			[]string{"/usr/lib/sysctl.d/70-b.conf:1 2", "/etc/sysctl.d/60-a.conf:2 1 set again later in /usr/lib/sysctl.d/70-b.conf:1"}, nil,
		},
		{
			"a file masks others of its name", ttl,
			map[string]string{
				"etc/sysctl.d/60-a.conf": "->/dev/null", "run/sysctl.d/60-a.conf": ttl + "=1", "usr/lib/sysctl.d/60-a.conf": ttl + "=2", "usr/local/lib/sysctl.d/50-c.conf": ttl + " = 3",
			},
			[]string{
				"/usr/local/lib/sysctl.d/50-c.conf:1 3", "/usr/lib/sysctl.d/60-a.conf:1 2 the file is masked by /etc/sysctl.d/60-a.conf",
				"/run/sysctl.d/60-a.conf:1 1 the file is masked by /etc/sysctl.d/60-a.conf",
			}, nil,
		},
		{
			"an empty file masks too", ttl, map[string]string{"run/sysctl.d/60-a.conf": "", "lib/sysctl.d/60-a.conf": ttl + "=1"},
			[]string{"/lib/sysctl.d/60-a.conf:1 1 the file is masked by /run/sysctl.d/60-a.conf"}, nil,
		},
		{
			"only procps reads sysctl.conf", ttl, map[string]string{"etc/sysctl.conf": ttl + "=1", "etc/sysctl.d/zz.conf": ttl + "=2"},
			[]string{"/etc/sysctl.d/zz.conf:1 2", "/etc/sysctl.conf:1 1 systemd-sysctl does not read this file"},
			[]string{"/etc/sysctl.conf:1 1", "/etc/sysctl.d/zz.conf:1 2 set again later in /etc/sysctl.conf:1"},
		},
		{
			"a name beats a glob", "net.ipv4.conf.lo.rp_filter",
			map[string]string{"etc/sysctl.d/a.conf": "net.ipv4.conf.lo.rp_filter=1\nnet.ipv4.conf.*.rp_filter=2\n"},
			[]string{"/etc/sysctl.d/a.conf:1 1", "/etc/sysctl.d/a.conf:2 2 a name beats a glob: /etc/sysctl.d/a.conf:1"}, nil,
		},
		{
			"an exclusion beats a glob", "net.ipv4.conf.lo.rp_filter",
			map[string]string{"etc/sysctl.d/a.conf": "net.ipv4.conf.*.rp_filter=2\n-net.ipv4.conf.lo.rp_filter\n"},
			[]string{"/etc/sysctl.d/a.conf:2 - excludes the parameter from globs", "/etc/sysctl.d/a.conf:1 2 excluded in /etc/sysctl.d/a.conf:2"}, nil,
		},
		{
			"an exclusion beats an earlier name only for systemd", ttl,
			map[string]string{"etc/sysctl.d/a.conf": ttl + "=2\n-" + ttl + "\n"},
			[]string{"/etc/sysctl.d/a.conf:2 - excludes the parameter from globs", "/etc/sysctl.d/a.conf:1 2 excluded later in /etc/sysctl.d/a.conf:2"},
			[]string{"/etc/sysctl.d/a.conf:1 2", "/etc/sysctl.d/a.conf:2 - excludes the parameter from globs"},
		},
		{
			"a glob that comes again keeps its place for systemd", ttl,
			map[string]string{"etc/sysctl.d/a.conf": "net.ipv4.*ttl=1\nnet.ipv4.ip_*=2\nnet.ipv4.*ttl=1\n"},
			[]string{
				"/etc/sysctl.d/a.conf:2 2", "/etc/sysctl.d/a.conf:3 1 repeats /etc/sysctl.d/a.conf:1, and keeps the place of that before /etc/sysctl.d/a.conf:2",
				"/etc/sysctl.d/a.conf:1 1 a later glob matches too: /etc/sysctl.d/a.conf:2",
			},
			[]string{
				"/etc/sysctl.d/a.conf:3 1", "/etc/sysctl.d/a.conf:2 2 set again later in /etc/sysctl.d/a.conf:3",
				"/etc/sysctl.d/a.conf:1 1 set again later in /etc/sysctl.d/a.conf:3",
			},
		},
		{
			"the first separator decides", "net.ipv4.conf.eth0/100.rp_filter",
			map[string]string{"etc/sysctl.d/a.conf": "net.ipv4.conf.eth0/100.rp_filter=1\nnet/ipv4/conf/eth0.100/rp_filter=2\nnet.ipv4.conf.eth0.100.rp_filter=3\n"},
			[]string{"/etc/sysctl.d/a.conf:2 2", "/etc/sysctl.d/a.conf:1 1 set again later in /etc/sysctl.d/a.conf:2"}, nil,
		},
		{
			"the kernel's command line is first", ttl,
			map[string]string{"proc/cmdline": "quiet sysctl.net.ipv4.ip_default_ttl=1 sysctl.net/ipv4/ip_default_ttl=\"2\" -- sysctl.net.ipv4.ip_default_ttl=3\n", "etc/sysctl.d/a.conf": ""},
			[]string{"/proc/cmdline 2", "/proc/cmdline 1 set again later on the command line"}, nil,
		},
		{
			"files beat the command line", ttl, map[string]string{"proc/cmdline": "sysctl.net.ipv4.ip_default_ttl=1", "etc/sysctl.d/a.conf": "-" + ttl + "= 3"},
			[]string{"/etc/sysctl.d/a.conf:1 3", "/proc/cmdline 1 the files are applied later: /etc/sysctl.d/a.conf:1"}, nil,
		},
		{
			"systemd-sysctl skips hidden files", ttl, map[string]string{"etc/sysctl.d/.a.conf": ttl + "=1"},
			[]string{"/etc/sysctl.d/.a.conf:1 1 systemd-sysctl does not read hidden files"}, []string{"/etc/sysctl.d/.a.conf:1 1"},
		},
		{
			"a separator at the end is a folder for procps", ttl, map[string]string{"etc/sysctl.d/a.conf": ttl + ".=1\nnet/ipv4/ip_default*/=2"},
			[]string{"/etc/sysctl.d/a.conf:1 1", "/etc/sysctl.d/a.conf:2 2 a name beats a glob: /etc/sysctl.d/a.conf:1"}, []string{},
		},
		{
			"procps compares texts, also with empty parts", ttl, map[string]string{"etc/sysctl.d/a.conf": ttl + "=1\nnet..ipv4.ip_default*=2"},
			[]string{"/etc/sysctl.d/a.conf:1 1", "/etc/sysctl.d/a.conf:2 2 a name beats a glob: /etc/sysctl.d/a.conf:1"},
			[]string{"/etc/sysctl.d/a.conf:2 2", "/etc/sysctl.d/a.conf:1 1 set again later in /etc/sysctl.d/a.conf:2"},
		},
		{"other names are not files", ttl, map[string]string{"etc/sysctl.d/a.conf.bak": ttl + "=1", "etc/sysctl.d/b.conf": "; " + ttl + "=1\n" + ttl + "\n"}, nil, nil},
	} {
		t.Run(c.title, func(t *testing.T) {
			config := mustRead(t, write(t, c.files))
			if len(config.Problems) > 0 {
				t.Error(config.Problems)
			}
			if c.procps == nil {
				c.procps = c.systemd
			}
			for p, want := range map[Program][]string{Systemd: c.systemd, Procps: c.procps} {
				if got := rows(config.By(p, c.name)); !slices.Equal(got, want) {
					t.Errorf("%s:\n%s\nwant\n%s", p, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
		})
	}
}

// A folder that is a link to another one is read once.
func TestMergedUsr(t *testing.T) {
	root := write(t, map[string]string{"usr/lib/sysctl.d/a.conf": "kernel.sysrq=1", "lib": "->usr/lib"})
	if r := mustRead(t, root).By(Systemd, "kernel.sysrq"); len(r.Declarations) != 1 || !r.Declarations[0].Wins {
		t.Errorf("%+v", r)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"net/*/conf", "net/ipv4/conf", true}, {"net/*", "net/ipv4/conf", false}, {"net/*/x", "net/.a/x", false}, {"net/.*/x", "net/.a/x", true},
		{"a/eth?", "a/eth0", true}, {"a/eth[0-3]", "a/eth2", true}, {"a/eth[!0-3]", "a/eth2", false}, {"a/eth[!0-3]", "a/eth4", true}, {"a/[", "a/[", true},
		{"a/[[:digit:]]", "a/7", true}, {"a/[[:digit:]]", "a/x", false}, {"a/[]x]", "a/]", true}, {"a/[z-a]", "a/b", false}, {`a/\*`, "a/*", true}, {`a/\*`, "a/x", false},
		{`a/[\d]`, "a/d", true}, {`a/[\d]`, "a/1", false}, {"a/*.*", "a/b.c", true}, {"a/(b|c)+", "a/(b|c)+", true}, {"a/b+", "a/bb", false}, {"a/[a-]", "a/-", true},
	} {
		if got := newGlob(c.pattern).matches(c.path); got != c.want {
			t.Errorf("%q matches %q: %t", c.pattern, c.path, got)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		is, want string
		equality Equality
	}{
		{"1", "1", Equal}, {"1", "0", Different}, {"1\t2\t3", "1 2  3", Equal}, {"16", "0x10", Equal}, {"8", "010", Equal}, {"8", "08", Unclear}, {"4\t4\t1\t7", "4", Equal},
		{"4\t4\t1\t7", "3", Different}, {"4", "4 4", Unclear}, {"fq", "fq_codel", Unclear}, {"fq_codel", "fq", Different}, {"1-3", "1,2,3", Unclear}, {"1", "yes", Unclear},
		{"|/usr/lib/x %p", "core", Different}, {"", "", Equal}, {"", "0", Unclear}, {"18446744073709551615", "0xffffffffffffffff", Equal}, {"-1", "-1", Equal},
	} {
		if got := Compare(c.is, c.want); got != c.equality {
			t.Errorf("%q is, %q declared: %s, want %s", c.is, c.want, got, c.equality)
		}
	}
}

// Files of others neither block nor fill the memory, and what was not read is reported.
func TestHostileFiles(t *testing.T) {
	root := write(t, map[string]string{
		"etc/sysctl.d/long.conf": strings.Repeat("#", MaxFile+1), "etc/sysctl.d/good.conf": "kernel.sysrq = 1", "etc/sysctl.d/loop.conf": "->loop.conf",
		"etc/sysctl.d/nul.conf": "kernel.sysrq = 2\x00", "etc/sysctl.d/none.conf": "->none",
	})
	if err := unix.Mkfifo(root+"/etc/sysctl.d/pipe.conf", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(root+"/etc/sysctl.d/folder.conf", 0o755); err != nil {
		t.Fatal(err)
	}
	c := mustRead(t, root)
	slices.Sort(c.Problems)
	want := []string{"long.conf: too long", "loop.conf: too many levels of symbolic links", "nul.conf: it has a NUL byte", "pipe.conf: not a regular file"}
	for i := range want {
		want[i] = "/etc/sysctl.d/" + want[i]
	}
	if !slices.Equal(c.Problems, want) {
		t.Errorf("%q", c.Problems)
	}
	if r := c.By(Systemd, "kernel.sysrq"); r.Winner() == nil || *r.Winner().Value != "1" {
		t.Errorf("%+v", r)
	}
}

func TestManyFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/etc/sysctl.d", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range MaxFiles + 1 {
		if err := os.WriteFile(fmt.Sprintf("%s/etc/sysctl.d/%d.conf", root, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if c := mustRead(t, root); len(c.Problems) != 1 || !strings.Contains(c.Problems[0], "more than") {
		t.Errorf("%q", c.Problems)
	}
}

func TestReadDeadline(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, err := Read(ctx, Options{Root: t.TempDir()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
