// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/declared"
)

// Of these parameters, a network namespace has its own copies, and a write to one changes no other.
var declaredParameters = []string{
	"net/ipv4/ip_default_ttl", "net/ipv4/tcp_syn_retries", "net/ipv4/tcp_keepalive_probes",
	"net/ipv6/conf/all/hop_limit", "net/ipv6/conf/default/hop_limit", "net/ipv6/conf/lo/hop_limit", "net/ipv6/conf/v0/hop_limit", "net/ipv6/conf/v.1/hop_limit",
	"net/ipv6/conf/all/dad_transmits", "net/ipv6/conf/default/dad_transmits", "net/ipv6/conf/lo/dad_transmits", "net/ipv6/conf/v0/dad_transmits", "net/ipv6/conf/v.1/dad_transmits",
}

var declaredGlobs = []string{
	"net/ipv6/conf/*/hop_limit", "net/ipv6/conf/v*/hop_limit", "net/ipv6/conf/[vl]*/hop_limit", "net/ipv6/conf/[!a]*/dad_transmits", "net/ipv6/conf/??/dad_transmits",
	"net/ipv6/conf/*/dad_transmits", "net/ipv6/conf/v.*/hop_limit", "net/ipv4/ip_default*", "net/*/tcp_*s", "net/ipv6/*/hop_limit", "net/ipv6/conf/[[:alpha:]]*/hop_limit", "net/ipv6/conf/[/hop_limit",
}

// A declaredTree makes files of sysctl.d.
type declaredTree struct {
	*rand.Rand
	root  string
	value int
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// key writes a path in one of the ways that mean it, and sometimes in one that means another one.
func (d *declaredTree) key(path string) string {
	swap := strings.NewReplacer(".", "/", "/", ".")
	switch d.IntN(8) {
	case 0, 1:
		return path
	case 2:
		return pick(d.Rand, strings.ReplaceAll(path, "/", "."), "/"+path, strings.Replace(path, "/", "//", 1), "."+swap.Replace(path), swap.Replace(path)+".", path+"/")
	case 3:
		return strings.Replace(swap.Replace(path), ".", "..", 1)
	}
	return swap.Replace(path)
}

func (d *declaredTree) line() string {
	name := pick(d.Rand, declaredParameters...)
	if d.IntN(3) == 0 {
		name = pick(d.Rand, declaredGlobs...)
	}
	dash := pick(d.Rand, "", "", "", "-", "- ", "--")
	space := func() string { return pick(d.Rand, "", "", " ", "\t", "  ", "\v") }
	d.value++
	value := fmt.Sprint(1 + d.value%120)
	if d.IntN(4) == 0 { // the same value again
		value = pick(d.Rand, "7", "8")
	}
	switch d.IntN(12) {
	case 0:
		return pick(d.Rand, "#", ";", " # ") + name + "=9"
	case 1:
		return pick(d.Rand, "", " ", name, "=", "= 5", "-", "-=5", "x", "net.ipv4.nstrace_none = 5")
	case 2, 3:
		return space() + "-" + space() + d.key(name) + space()
	case 4:
		return d.key(name) + "=" + value + "\r" + d.key(pick(d.Rand, declaredParameters...)) + "=" + value
	}
	return space() + dash + d.key(name) + space() + "=" + space() + value + pick(d.Rand, "", " ", "\r")
}

func (d *declaredTree) text() string {
	var lines []string
	for range d.IntN(8) {
		lines = append(lines, d.line())
	}
	return strings.Join(lines, "\n") + pick(d.Rand, "", "\n")
}

// make makes the files.
func (d *declaredTree) make(t *testing.T) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "run", "usr/local/lib", "usr/lib"} {
		dir = filepath.Join(d.root, dir, "sysctl.d")
		check(os.MkdirAll(dir, 0o755))
		for _, name := range []string{"10-a.conf", "20-b.conf", "9-c.conf", "A.conf", "99-sysctl.conf", "README", "z.conf.bak", ".conf", ".h.conf"} {
			file := filepath.Join(dir, name)
			switch d.IntN(12) {
			case 0, 1, 2, 3, 4:
				check(os.WriteFile(file, []byte(d.text()), 0o644))
			case 5:
				check(os.WriteFile(file, nil, 0o644))
			case 6:
				check(os.Symlink(pick(d.Rand, "/dev/null", "none", "../sysctl.conf"), file))
			case 7:
				if d.IntN(4) == 0 {
					check(os.Mkdir(file, 0o755))
				}
			}
		}
	}
	if d.IntN(2) == 0 {
		check(os.WriteFile(filepath.Join(d.root, "etc/sysctl.conf"), []byte(d.text()), 0o644))
	}
}

// declaredScript prints the parameters in a new network namespace before and after a program ran with the files
// of a tree.
const declaredScript = `set -e
root=$1; params=$2; shift 2
mount --make-rprivate /
ip link add v0 type veth peer name v.1
for dir in etc run usr/local/lib usr/lib/sysctl.d; do mount --bind "$root/$dir" "/$dir"; done
show() { for p in $params; do echo "$1 $p $(cat "/proc/sys/$p")"; done; }
show before
"$@" >/dev/null 2>&1 || true
show after
`

// TestDeclared compares what the real programs set with what the package predicts.
func TestDeclared(t *testing.T) {
	anyKernel(t)
	const systemd = "/usr/lib/systemd/systemd-sysctl"
	if _, err := os.Stat(systemd); err != nil {
		t.Skip("systemd-sysctl is missing: install systemd")
	}
	for _, dir := range []string{"/usr/local/lib", "/usr/lib/sysctl.d"} {
		if _, err := os.Stat(dir); err != nil {
			t.Skip(err)
		}
	}
	sysctl, err := exec.LookPath("sysctl")
	if err != nil {
		t.Skip("sysctl is missing: install procps")
	}
	trees := uint64(6)
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		trees = 60
	}
	programs := map[declared.Program][]string{declared.Systemd: {systemd}, declared.Procps: {sysctl, "--system"}}
	for seed := range trees {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			tree := &declaredTree{rand.New(rand.NewPCG(seed, 1)), openDir(t, 0o755), 0}
			tree.make(t)
			config, err := declared.Read(t.Context(), declared.Options{Root: tree.root})
			if err != nil || len(config.Problems) > 0 {
				t.Fatal(err, config.Problems)
			}
			for program, command := range programs {
				args := append([]string{"--mount", "--net", "sh", "-c", declaredScript, "sh", tree.root, strings.Join(declaredParameters, " ")}, command...)
				values := map[string]map[string]string{"before": {}, "after": {}}
				for line := range strings.Lines(output(t, "unshare", args...)) {
					f := strings.Fields(line)
					values[f[0]][f[1]] = f[2]
				}
				for _, path := range declaredParameters {
					name, _ := event.SysctlName(event.SysctlDir + "/" + path)
					ruling := config.By(program, name)
					want := values["before"][path]
					if w := ruling.Winner(); w != nil {
						want = strings.TrimSpace(*w.Value)
					}
					if strings.Contains(want, "\r") {
						continue // the kernel refuses that
					}
					if got := values["after"][path]; got != want || got == "" {
						t.Errorf("%s sets %s to %s, want %s: %+v", program, name, cmp.Or(got, "nothing"), want, ruling.Declarations)
					}
				}
			}
			if t.Failed() {
				t.Log(output(t, "sh", "-c", "cd "+tree.root+" && find . -name '*.conf' | while read -r f; do ls -ld $f; cat -A $f; done"))
			}
		})
	}
}
