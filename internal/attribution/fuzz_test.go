// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"strings"
	"testing"
)

// FuzzNameInFile reads a user after any other text. Another implementation finds the same name.
func FuzzNameInFile(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash\n", "web")
	f.Add("a:x:1000:0:::\r\n:::::::::\n\n", "b")
	f.Add("+::::::\nlong:x:1:1:"+strings.Repeat("x", 1<<17)+"::\n", "c") // as a group of many users
	f.Fuzz(func(t *testing.T, before, name string) {
		text := before + "\n" + name + ":x:1000:1000::/:/bin/sh\n"
		want := ""
		for line := range strings.SplitSeq(text, "\n") {
			if entry := strings.Split(line, ":"); len(entry) == 7 && entry[2] == "1000" {
				want = entry[0]
				break
			}
		}
		if got := NameInFile(strings.NewReader(text), 1000); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// FuzzParseProcCgroup reads files of /proc/PID/cgroup with any lines. The path is that of a line.
func FuzzParseProcCgroup(f *testing.F) {
	f.Add("4:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n")
	f.Add("0::/system.slice/a.scope (deleted)\n\n0::x\n:::/y")
	f.Fuzz(func(t *testing.T, text string) {
		path := ParseProcCgroup(text)
		if path != "" && !strings.Contains(text, ":"+path) || strings.Contains(path, "\n") {
			t.Errorf("%q: %q", text, path)
		}
	})
}
