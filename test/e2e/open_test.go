// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// notByTracepoint reports whether the event is one that the tracepoint backend does not see.
func (e *emitted) notByTracepoint() bool { return e.Via == "open" }

// straceOpen matches an open of a parameter that failed. A descriptor is one of a folder that the
// test opened, and has its path (-y).
var straceOpen = regexp.MustCompile(`^\d+ +(?:open|openat|openat2|creat)\((?:[^"]*<([^>]*)>[^"]*)?"([^"]*)", (.*)\) += -1 (E[A-Z]+)`)

// straceOpens returns from strace's log each attempt to write a parameter that failed at the open,
// as "net.ipv4.ip_forward EROFS".
func straceOpens(t *testing.T, log string) (opens []string) {
	t.Helper()
	for line := range strings.Lines(log) {
		m := straceOpen.FindStringSubmatch(line)
		if m == nil || !strings.Contains(m[3], "O_WRONLY") && !strings.Contains(m[3], "O_RDWR") {
			continue
		}
		path := m[2]
		if !filepath.IsAbs(path) {
			path = filepath.Join(m[1], path)
		}
		name, ok := strings.CutPrefix(filepath.Clean(path), "/proc/sys/")
		if !ok {
			continue
		}
		opens = append(opens, strings.ReplaceAll(name, "/", ".")+" "+m[4])
	}
	return opens
}

// testOpen has writes that fail because the file cannot be opened, and compares the events with
// what strace saw.
func testOpen(t *testing.T, h *host) {
	const (
		keepalive = "net.ipv4.tcp_keepalive_time"
		file      = "/proc/sys/net/ipv4/tcp_keepalive_time"
		readOnly  = `mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; `
		nobody    = `setpriv --reuid 1000 --regid 1000 --clear-groups sh -c `
	)
	for _, tt := range []struct {
		name, script string
		want         []string
	}{
		{"read-only mount, O_TRUNC", readOnly + `! echo 600 >` + file, []string{keepalive + " EROFS"}},
		{"read-only mount, no O_TRUNC", readOnly + `! echo 600 >>` + file, []string{keepalive + " EROFS"}},
		{"read-only mount, no O_CREAT", readOnly + `! dd if=/dev/null of=` + file + ` conv=notrunc,nocreat`, []string{keepalive + " EROFS"}},
		{"read-only mount, O_RDWR", readOnly + `! sh -c ': 1<>` + file + `'`, []string{keepalive + " EROFS"}},
		{"read-only mount, sysctl", readOnly + `! sysctl -q -w ` + keepalive + `=600`, []string{keepalive + " EROFS"}},
		{"read-only mount, from its folder", readOnly + `cd /proc/sys/net; ! sh -c 'echo 600 >ipv4/tcp_keepalive_time'`, []string{keepalive + " EROFS"}},
		{"read-only mount of the file", `mount --bind ` + file + ` ` + file + `; mount -o remount,bind,ro ` + file + `; ! echo 600 >` + file + `; ! echo 600 >>` + file,
			[]string{keepalive + " EROFS", keepalive + " EROFS"}},
		{"read-only procfs", `mount -t proc -o ro none /proc; ! echo 600 >` + file + `; ! echo 600 >>` + file, []string{keepalive + " EROFS", keepalive + " EROFS"}},
		{"no permission", nobody + `'! echo 600 >` + file + `; ! echo 600 >>` + file + `'`, []string{keepalive + " EACCES", keepalive + " EACCES"}},
		{"read-only parameter", `! echo x >/proc/sys/kernel/ostype`, []string{"kernel.ostype EACCES"}},
		{"host-wide", nobody + `'! echo 0 >/proc/sys/kernel/pid_max; cat /proc/sys/kernel/pid_max'`, []string{"kernel.pid_max EACCES"}},
		// Calls that do not try to write a parameter.
		{"access", readOnly + `! test -w ` + file + `; cat ` + file + `; ` + nobody + `'! test -w ` + file + `; cat ` + file + `'`, nil},
		{"other files", `mkdir -p ro; mount -t tmpfs -o ro none ro; ! echo >ro/file; ` + nobody + `'! echo >/etc/passwd; ! echo >/proc/1/comm; ! echo >/proc/sys/net; :'`, nil},
		{"missing", readOnly + `! echo >/proc/sys/net/ipv4/nothing`, nil},
		{"allowed", `mount --bind /proc/sys /proc/sys; echo 600 >` + file + `; echo 601 >>` + file, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			log := filepath.Join(t.TempDir(), "strace")
			w := h.run(t, "strace", []string{"-f", "-q", "-y", "-o", log, "-e", "trace=open,openat,openat2,creat", "-e", "signal=none",
				"unshare", "--mount", "--net", "--pid", "--fork", "sh", "-e", "-c", "exec 2>&1; " + tt.script})
			saw := slices.DeleteFunc(straceOpens(t, readFile(t, log)), func(open string) bool {
				// It tried the folder, or a file that does not exist.
				return strings.HasPrefix(open, "net ") || strings.HasPrefix(open, "net.ipv4.nothing ")
			})
			if !slices.Equal(saw, tt.want) {
				t.Fatalf("strace saw %q, want %q", saw, tt.want)
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				var got []string
				for _, e := range events {
					if e.Via != "open" {
						continue
					}
					if sys := e.Sysctl; e.Type != event.SysctlWrite || sys.New != nil || sys.Old != nil || sys.After != nil || e.Outcome != event.Failure {
						t.Errorf("%s", e.line)
					}
					if ns := e.Sysctl.Namespace; strings.HasPrefix(e.Sysctl.Name, "net.") != (ns != nil && ns.Type == event.NSTypeNet && ns.ID == e.Process.NS["net"]) {
						t.Errorf("want the parameter of its namespace: %s", e.line)
					}
					got = append(got, fmt.Sprint(e.Sysctl.Name, " ", e.Error))
				}
				want := tt.want
				if s.backend == tracer.Tracepoint {
					want = nil // as nstrace check says
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}
