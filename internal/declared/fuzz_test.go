// SPDX-License-Identifier: Apache-2.0

package declared

import (
	"path"
	"strings"
	"testing"
)

// FuzzFile reads files of sysctl.d. What wins for a parameter is what a line of the file says.
func FuzzFile(f *testing.F) {
	for _, text := range []string{
		"vm.swappiness = 1\n# x\nvm/swappiness=2\nnet.ipv4.conf.*.rp_filter = 1\n-kernel.x\n",
		"net.ipv4.conf.[!a-z][]].rp_filter=1\n-net/ipv4/conf/eth0.1/rp_filter",
		"a=1\rb=2\r\n;c=3\n..=x\n=\n-=\n",
		"net.{a,b}.??=\xff\\",
	} {
		f.Add(text, "net.ipv4.conf.eth0/1.rp_filter")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		c := File("/etc/sysctl.d/a.conf", text)
		lines := strings.Split(text, "\n")
		for _, p := range Programs() {
			names := c.Names(p)
			for _, name := range append(names[:min(len(names), 20)], name) {
				ruling := c.By(p, name)
				w := ruling.Winner()
				if w == nil {
					continue
				}
				if w.Line < 1 || w.Line > len(lines) || w.Value == nil || !strings.Contains(lines[w.Line-1], *w.Value) {
					t.Errorf("%s by %s: %+v", name, p, w)
				}
				c.Beside(p, w, 10)
			}
		}
		Compare(text, name)
	})
}

// FuzzCommandLine parses command lines of kernels. Each setting is in the text, and stays below /proc/sys.
func FuzzCommandLine(f *testing.F) {
	f.Add(`quiet sysctl.vm.swappiness=1 sysctl/kernel.x=2 "sysctl.a/b=c d" -- sysctl.kernel.y=3`)
	f.Add(`sysctl..=1 sysctl./x=1 sysctl.a/../b=1 sysctl.a="`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseCommandLine(text) {
			if s.value == nil || !strings.Contains(text, s.key) {
				t.Errorf("%q: %+v", text, s)
			}
			if clean := path.Clean("/" + s.path); clean != "/"+s.path {
				t.Errorf("%q: %q is %q", text, s.path, clean)
			}
		}
	})
}
