// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

func testSysctl(t *testing.T, h *host) {
	t.Run("namespaced", func(t *testing.T) { testNamespaced(t, h) })
	t.Run("values", func(t *testing.T) { testValues(t, h) })
	t.Run("files", func(t *testing.T) { testFiles(t, h) })
	t.Run("sweep", func(t *testing.T) { testSweep(t, h) })
	t.Run("host", func(t *testing.T) { testHostWide(t, h) })
	t.Run("system", func(t *testing.T) { testSystem(t, h) })
	t.Run("restart", func(t *testing.T) { testRestart(t, h) })
	t.Run("tug", func(t *testing.T) { testTug(t, h) })
	t.Run("hostname", func(t *testing.T) { testHostname(t, h) })
}

// setting is a shell script that prints a parameter, sets it, and prints it again. refusal is the
// same for a write that is refused, because sysctl(8) would write twice.
const (
	setting = `sysctl -n "$1"; sysctl -q -w "$1=$2"; sysctl -n "$1"`
	refusal = `sysctl -n "$1"; echo "$2" 2>/dev/null >/proc/sys/$(echo $1 | tr . /) || echo "refused" >&2; sysctl -n "$1"`
)

// testNamespaced sets parameters that each namespace has for itself, with sysctl(8), which also
// prints their values before and after.
func testNamespaced(t *testing.T, h *host) {
	for _, tt := range []struct {
		name, value string
		typ         event.NSType // of the namespace that it belongs to
		flags       []string
		after, err  string
	}{
		{name: "net.ipv4.tcp_keepalive_time", value: "600", typ: "net"},
		{name: "net.ipv4.ip_forward", value: "1", typ: "net"},
		{name: "net.ipv4.tcp_rmem", value: "4096 8192 16384", typ: "net", after: "4096\t8192\t16384"},
		{name: "net.ipv4.ping_group_range", value: "0 100", typ: "net", after: "0\t100"},
		{name: "net.ipv4.tcp_congestion_control", value: "reno", typ: "net", after: "-"}, // the handler keeps a pointer
		{name: "net.ipv4.ip_default_ttl", value: "0", typ: "net", after: "64", err: "EINVAL"},
		{name: "net.ipv4.ip_default_ttl", value: "fast", typ: "net", after: "64", err: "EINVAL"},
		{name: "kernel.hostname", value: "some-other-host", typ: "uts"},
		{name: "kernel.domainname", value: "example.org", typ: "uts"},
		{name: "kernel.shmmax", value: "123456789", typ: "ipc"},
		{name: "kernel.sem", value: "32000 1024000000 500 31999", typ: "ipc", after: "32000\t1024000000\t500\t31999"},
		{name: "fs.mqueue.msg_max", value: "12", typ: "ipc"},
		{name: "user.max_net_namespaces", value: "7", typ: "user"},
	} {
		t.Run(tt.name+" "+tt.value, func(t *testing.T) {
			t.Parallel()
			args := []string{flagOf[tt.typ]}
			if tt.typ == event.NSTypeUser {
				args = append(args, "--map-root-user")
			}
			script, comm := setting, "sysctl"
			if tt.err != "" {
				script, comm = refusal, "sh"
			}
			w := h.run(t, "unshare", append(args, "sh", "-c", script, "sh", tt.name, tt.value))
			lines := strings.Split(strings.TrimSuffix(w.stdout.String(), "\n"), "\n")
			if refused := w.stderr.String() != ""; len(lines) != 2 || refused != (tt.err != "") {
				t.Fatalf("sysctl printed %q, %q", w.stdout.String(), w.stderr.String())
			}
			want := write{name: tt.name, old: lines[0], new: tt.value, after: lines[1], err: tt.err}
			switch {
			case tt.after == "-":
				want.after = "-"
			case tt.after != "" && lines[1] != tt.after:
				t.Fatalf("sysctl then reads %q, want %q", lines[1], tt.after)
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				events = written(events) // testNetconf checks the changes that follow from ip_forward
				same(t, events, append(creates("unshare", "success", tt.typ), want.on(s))...)
				if t.Failed() {
					return
				}
				made, wrote := events[0], events[1]
				ns := wrote.Sysctl.Namespace
				if ns == nil || ns.Type != tt.typ || ns.ID != made.Namespace.ID || ns.UID != made.Namespace.UID {
					t.Errorf("its namespace is %+v, want %+v", ns, made.Namespace)
				}
				if wrote.Sysctl.Truncated || wrote.Via != "write" || wrote.Process.Comm != comm {
					t.Errorf("truncated %v, via %s, by %s", wrote.Sysctl.Truncated, wrote.Via, wrote.Process.Comm)
				}
				w.ends(t, s, events)
			})
		})
	}
}

// testValues has values that are long or unusual, or that change on their way to the kernel.
func testValues(t *testing.T, h *host) {
	// The kernel keeps 64 bytes of a name.
	const kept = 64
	for _, tt := range []struct {
		name string
		n    int
		cut  bool
	}{
		{"short", 100, false},
		{"longest", 1024, false},
		{"too long", 1025, true},
		{"much too long", 3000, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			long := strings.Repeat("0123456789abcdef", tt.n/16+1)[:tt.n]
			w := h.run(t, "unshare", []string{"--uts", "sh", "-c", `cat "$2"; "$1" "$2" "$3"; cat "$2"`, "sh",
				helper("nswrite"), "/proc/sys/kernel/domainname", long})
			if got := w.printed("ok"); !slices.Equal(got, []string{"1"}) {
				t.Fatalf("the write: %q", w.stdout.String())
			}
			if !strings.HasSuffix(w.stdout.String(), "\n"+long[:kept]+"\n") {
				t.Fatalf("the kernel now has %q", w.stdout.String())
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				wrote := only(events, event.SysctlWrite)
				if len(wrote) != 1 {
					t.Fatalf("%d writes", len(wrote))
				}
				v := wrote[0].Sysctl
				if v.New == nil || v.Truncated != tt.cut {
					t.Fatalf("truncated %v: %s", v.Truncated, wrote[0].line)
				}
				if v.Truncated && (!strings.HasPrefix(long, *v.New) || len(*v.New) < 1023 || len(*v.New) == len(long)) ||
					!v.Truncated && *v.New != long {
					t.Errorf("truncated %v, and %d of %d bytes are there: %q", v.Truncated, len(*v.New), len(long), *v.New)
				}
				if s.backend != tracer.Tracepoint && (v.After == nil || *v.After != long[:kept]) {
					t.Errorf("after: %v", v.After)
				}
			})
		})
	}
	t.Run("a list of ports", func(t *testing.T) {
		t.Parallel()
		// The parameter's value is a bitmap in other memory.
		const file = "/proc/sys/net/ipv4/ip_local_reserved_ports"
		w := h.run(t, "unshare", []string{"--net", "sh", "-c", "echo 8080,9000-9100 >" + file + "; echo 22 >" + file + "; cat " + file})
		if got := strings.TrimSpace(w.stdout.String()); got != "22" {
			t.Fatalf("the test reads %q", got)
		}
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			const name = "net.ipv4.ip_local_reserved_ports"
			after := []string{"8080,9000-9100", "22"}
			for i, e := range only(events, event.SysctlWrite) {
				if e.Sysctl.Name != name {
					t.Errorf("name %s", e.Sysctl.Name)
				}
				if old := append([]string{""}, after...)[i]; e.Sysctl.Old == nil || *e.Sysctl.Old != old {
					t.Errorf("old %v, want %q", e.Sysctl.Old, old)
				}
				// An unknown value is fine, a wrong one is not.
				if a := e.Sysctl.After; a != nil && *a != after[i] {
					t.Errorf("after %q, want %q", *a, after[i])
				}
			}
		})
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		// Bytes that control a terminal, and bytes that are not UTF-8.
		w := h.run(t, "unshare", []string{"--uts", helper("nswrite"), "/proc/sys/kernel/domainname", "\x1b[31mred\xff\xfe", "a\tb\x7f"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			wrote := only(events, event.SysctlWrite)
			if len(wrote) != 2 {
				t.Fatalf("%d writes", len(wrote))
			}
			for i, want := range []string{"\x1b[31mred\ufffd\ufffd", "a\tb\x7f"} {
				if v := wrote[i].Sysctl.New; v == nil || *v != want {
					t.Errorf("new %v, want %q", v, want)
				}
			}
			if old := wrote[1].Sysctl.Old; old == nil || *old != "\x1b[31mred\ufffd\ufffd" {
				t.Errorf("old %v", old)
			}
			if bytes.ContainsAny(wrote[0].line, "\x1b\xff") {
				t.Errorf("raw bytes in the line: %q", wrote[0].line)
			}
		})
	})
	t.Run("a device with a dot", func(t *testing.T) {
		t.Parallel()
		// Such as the names of VLANs. Any device can have such a name.
		w := h.run(t, "unshare", []string{"--net", "sh", "-e", "-c",
			"ip link set lo name lo.100; sysctl -q -w net.ipv4.conf.lo/100.forwarding=1; sysctl -n net.ipv4.conf.lo/100.forwarding"})
		if got := strings.TrimSpace(w.stdout.String()); got != "1" {
			t.Fatalf("the test reads %q", got)
		}
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			wrote := only(events, event.SysctlWrite)
			same(t, wrote, write{name: "net.ipv4.conf.lo/100.forwarding", old: "0", new: "1"}.on(s))
			if !t.Failed() && wrote[0].Sysctl.Path != "/proc/sys/net/ipv4/conf/lo.100/forwarding" {
				t.Errorf("path %s", wrote[0].Sysctl.Path)
			}
		})
	})
	t.Run("a device renamed", func(t *testing.T) {
		t.Parallel()
		// Its parameters are registered again each time, probably at the same address. The process
		// writes to them soon after.
		w := h.run(t, "unshare", []string{"--net", "sh", "-e", "-c", `old=lo; for new in a0 a1 b0 a0 lo; do
			ip link set $old name $new; old=$new
			for family in ipv4 ipv6; do echo 1 >/proc/sys/net/$family/conf/$new/accept_redirects; done; done`})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			var got, want []string
			for _, e := range only(events, event.SysctlWrite) {
				got = append(got, e.Sysctl.Name)
			}
			for _, name := range []string{"a0", "a1", "b0", "a0", "lo"} {
				for _, family := range []string{"ipv4", "ipv6"} {
					want = append(want, "net."+family+".conf."+name+".accept_redirects")
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
		})
	})
	t.Run("echo", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "unshare", []string{"--net", "sh", "-e", "-c",
			"echo 601 >/proc/sys/net/ipv4/tcp_keepalive_time; printf 602 >/proc/sys/net/ipv4/tcp_keepalive_time; ! echo never >/proc/sys/net/ipv4/tcp_keepalive_time"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			const name = "net.ipv4.tcp_keepalive_time"
			same(t, only(events, event.SysctlWrite),
				write{name: name, old: "7200", new: "601"}.on(s),
				write{name: name, old: "601", new: "602"}.on(s),
				write{name: name, old: "602", new: "never", after: "602", err: "EINVAL"}.on(s))
		})
	})
}

// testFiles has files that are written in another namespace or by another process than the one that
// opened them.
func testFiles(t *testing.T, h *host) {
	t.Run("net", func(t *testing.T) {
		t.Parallel()
		w := h.run(t, "unshare", []string{"--net", helper("nswrite"), "-u", "net", "/proc/sys/net/ipv4/tcp_keepalive_time", "603"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			same(t, events, append(slices.Repeat(creates("unshare", "success", "net"), 2),
				write{name: "net.ipv4.tcp_keepalive_time", old: "7200", new: "603"}.on(s))...)
			if t.Failed() {
				return
			}
			opened, entered, wrote := events[0], events[1], events[2]
			if got := wrote.Sysctl.Namespace; got == nil || got.ID != opened.Namespace.ID {
				t.Errorf("the write changed %+v, want %d", got, opened.Namespace.ID)
			}
			if got := wrote.Process.NS["net"]; got != entered.Namespace.ID {
				t.Errorf("the writer was in %d, want %d", got, entered.Namespace.ID)
			}
		})
	})
	t.Run("uts", func(t *testing.T) {
		t.Parallel()
		// Here the namespace is that of the writer.
		w := h.run(t, "unshare", []string{"--uts", helper("nswrite"), "-u", "uts", "/proc/sys/kernel/domainname", "elsewhere"})
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			wrote := only(events, event.SysctlWrite)
			made := only(events, event.NamespaceCreate)
			if len(wrote) != 1 || len(made) != 2 {
				t.Fatalf("%d writes, %d namespaces", len(wrote), len(made))
			}
			if got := wrote[0].Sysctl.Namespace; got == nil || got.ID != made[1].Namespace.ID {
				t.Errorf("the write changed %+v, want %d", got, made[1].Namespace.ID)
			}
		})
	})
	t.Run("no longer permitted", func(t *testing.T) {
		t.Parallel()
		// Opened by root, written by another user: refused before the handler runs.
		w := h.run(t, "unshare", []string{"--net", "sh", "-e", "-c", `exec 3>/proc/sys/net/ipv4/tcp_keepalive_time
			! setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo 604 >&3' 2>/dev/null; cat /proc/sys/net/ipv4/tcp_keepalive_time`})
		if got := strings.TrimSpace(w.stdout.String()); got != "7200" {
			t.Fatalf("the test reads %q", got)
		}
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			wrote := only(events, event.SysctlWrite)
			if s.backend == tracer.Tracepoint {
				same(t, wrote) // as nstrace check says
				return
			}
			if len(wrote) != 1 {
				t.Fatalf("%d writes", len(wrote))
			}
			e := wrote[0]
			if e.Outcome != event.Failure || e.Error != "EPERM" || e.Process.UID != tester ||
				e.Sysctl.New == nil || *e.Sysctl.New != "604" || e.Sysctl.Name != "net.ipv4.tcp_keepalive_time" {
				t.Errorf("%s", e.line)
			}
		})
	})
}

// testSweep writes to every parameter of a new network and IPC namespace: first its current value
// and then another one. It compares the events with the values that it read before and after. All
// kinds of handlers are among them.
func testSweep(t *testing.T, h *host) {
	type step struct {
		path, old, new, after string
		err                   error
	}
	var steps []step
	var locked []string // parameters that no process can open for writing
	var tid int
	from := map[*stream]int{}
	for _, s := range h.streams {
		from[s] = s.len()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		tid = unix.Gettid()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC); err != nil {
				return err
			}
			var files []string
			for _, root := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6/conf/lo", "/proc/sys/net/core", "/proc/sys/fs/mqueue", "/proc/sys/kernel/shm*", "/proc/sys/kernel/msg*"} {
				roots, err := filepath.Glob(root)
				if err != nil {
					return err
				}
				for _, root := range roots {
					// The other devices have the same parameters as lo.
					err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
						if err == nil && d.Type().IsRegular() && !strings.Contains(path, "/neigh/default") && !strings.Contains(path, "/conf/all/") {
							files = append(files, path)
						}
						return nil
					})
					if err != nil {
						return err
					}
				}
			}
			read := func(path string) (string, error) {
				b, err := os.ReadFile(path)
				return strings.TrimSuffix(string(b), "\n"), err
			}
			for _, path := range files {
				old, err := read(path)
				if err != nil || old == "" {
					continue // write-only, or a secret that was never made
				}
				news := []string{old}
				if n, err := strconv.Atoi(old); err == nil {
					news = append(news, strconv.Itoa(n+1))
				}
				for _, new := range news {
					f, err := os.OpenFile(path, os.O_WRONLY, 0)
					if err != nil {
						locked = append(locked, path)
						break
					}
					_, err = f.WriteString(new)
					f.Close()
					after, rerr := read(path)
					if rerr != nil {
						return rerr
					}
					steps = append(steps, step{path, old, new, after, err})
					old = after
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(steps) < 100 {
		t.Fatalf("only %d writes to try", len(steps))
	}
	h.fence(t)
	h.checkLines(t)
	by := map[*stream][]*emitted{}
	for _, s := range h.streams {
		for _, e := range only(s.since(from[s]), event.SysctlWrite) {
			if int(e.Process.TID) == tid && !e.unwritten() {
				by[s] = append(by[s], e)
			}
		}
	}
	for _, s := range h.streams {
		t.Run(string(s.backend), func(t *testing.T) {
			wrote := slices.DeleteFunc(slices.Clone(by[s]), (*emitted).notByTracepoint)
			var refused []string
			for _, e := range by[s] {
				if e.notByTracepoint() {
					refused = append(refused, e.Sysctl.Path)
				}
			}
			for _, other := range by {
				if lack := s.lacking(by[s], other); len(lack) > 0 {
					s.excuse(t, lack...)
					return
				}
			}
			if s.backend != tracer.Tracepoint && !slices.Equal(refused, locked) {
				t.Errorf("failed opens: %q, want %q", refused, locked)
			}
			if s.backend == tracer.Tracepoint { // which reports each attempt to write the current value
				wrote = slices.CompactFunc(wrote, func(a, b *emitted) bool {
					return keeps(a) && keeps(b) && a.Sysctl.Path == b.Sysctl.Path
				})
			}
			if len(wrote) != len(steps) {
				t.Fatalf("%d writes, want %d: %s", len(wrote), len(steps), dump(wrote))
			}
			unknown := 0
			for i, e := range wrote {
				h.checkEvent(t, e)
				step, v := steps[i], e.Sysctl
				bad := v.Path != step.path || v.Old == nil || *v.Old != step.old || v.New == nil || *v.New != step.new
				bad = bad || (v.After != nil && *v.After != step.after)
				if s.backend != tracer.Tracepoint {
					var errno unix.Errno
					errors.As(step.err, &errno)
					want := ""
					if errno != 0 {
						want = unix.ErrnoName(errno)
					}
					bad = bad || e.Error != want
					if v.After == nil {
						unknown++
					}
				}
				if bad {
					t.Errorf("want %+v\n%s", step, e.line)
				}
			}
			// Some handlers print something other than their memory.
			if unknown*10 > len(wrote) {
				t.Errorf("%d of %d events have no after", unknown, len(wrote))
			}
		})
	}
}

// keeps reports whether e writes the value that is already there.
func keeps(e *emitted) bool {
	return e.Sysctl.Old != nil && e.Sysctl.New != nil && *e.Sysctl.Old == *e.Sysctl.New
}

// testHostWide sets parameters that belong to no namespace, and sets them back.
func testHostWide(t *testing.T, h *host) {
	for _, tt := range []struct{ name, value, after string }{
		{"vm.swappiness", "61", "61"},
		{"kernel.core_pattern", "core.%p.nstrace", "core.%p.nstrace"},
		{"fs.pipe-max-size", "5000", "8192"}, // the kernel rounds it up
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := "/proc/sys/" + sysctlPath(tt.name)
			old := readFile(t, file)
			t.Cleanup(func() {
				if err := os.WriteFile(file, []byte(old), 0); err != nil {
					t.Error(err)
				}
			})
			if old == tt.after {
				t.Fatalf("%s is %q already", tt.name, old)
			}
			w := h.run(t, "sh", []string{"-c", setting, "sh", tt.name, tt.value})
			if got, want := w.stdout.String(), old+"\n"+tt.after+"\n"; got != want {
				t.Fatalf("sysctl printed %q, want %q", got, want)
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				same(t, events, write{name: tt.name, old: old, new: tt.value, after: tt.after}.on(s))
				if !t.Failed() && events[0].Sysctl.Namespace != nil {
					t.Errorf("the event has a namespace: %s", events[0].line)
				}
			})
		})
	}
}

// testSystem runs sysctl --system with configuration files of the test, in a mount namespace where
// nothing else sees them.
func testSystem(t *testing.T, h *host) {
	w := h.run(t, "unshare", []string{"--mount", "--net", "--uts", "sh", "-e", "-c", `
		mount -t tmpfs tmpfs /etc
		for d in /run/sysctl.d /usr/local/lib/sysctl.d /usr/lib/sysctl.d /lib/sysctl.d; do
			if [ -d $d ]; then mount -t tmpfs tmpfs $d; fi
		done
		mkdir /etc/sysctl.d
		printf 'kernel.domainname = from.first\nnet.ipv4.tcp_keepalive_time = 605\n' >/etc/sysctl.d/10-first.conf
		printf '# and later\nnet/ipv4/tcp_keepalive_time = 606\n-net.ipv4.no_such_thing = 1\n' >/etc/sysctl.d/20-second.conf
		sysctl -n kernel.domainname; sysctl --system >/dev/null; sysctl -n kernel.domainname net.ipv4.tcp_keepalive_time`})
	lines := strings.Split(w.stdout.String(), "\n")
	if len(lines) != 4 || lines[1] != "from.first" || lines[2] != "606" {
		t.Fatalf("sysctl printed %q", lines)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		wrote := only(events, event.SysctlWrite)
		same(t, wrote,
			write{name: "kernel.domainname", old: lines[0], new: "from.first"}.on(s),
			write{name: "net.ipv4.tcp_keepalive_time", old: "7200", new: "605"}.on(s),
			write{name: "net.ipv4.tcp_keepalive_time", old: "605", new: "606"}.on(s))
		made := ids(only(events, event.NamespaceCreate))
		for _, e := range wrote {
			if ns := e.Sysctl.Namespace; ns == nil || made[ns.Type] != ns.ID {
				t.Errorf("in %+v, want one of %v", ns, made)
			}
		}
		w.ends(t, s, only(events, event.NamespaceCreate))
	})
}

// testRestart writes to a parameter whose handler needs the lock of the network configuration. If
// the handler does not get the lock, it returns at once, and the kernel restarts the call. Other
// processes take that lock all the time. strace counts the restarts.
func testRestart(t *testing.T, h *host) {
	deadline := time.Now().Add(patience)
	batch := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(batch, bytes.Repeat([]byte("link set lo mtu 1400\nlink set lo mtu 1500\n"), 1e6), 0o644); err != nil {
		t.Fatal(err)
	}
	for round := 1; ; round++ {
		log := filepath.Join(t.TempDir(), "strace")
		w := h.run(t, "unshare", []string{"--net", "sh", "-e", "-c", `
			ip -batch "$3" & busy=$!
			strace -o "$1" -e trace=pwrite64 -e signal=none "$2" -n 300 /proc/sys/net/ipv4/ip_forward 1 0
			kill $busy; wait $busy || :`, "sh", log, helper("nswrite"), batch})
		calls := readFile(t, log)
		restarts, finished := strings.Count(calls, "ERESTARTNOINTR"), 0
		for line := range strings.Lines(calls) {
			if strings.HasSuffix(strings.TrimSpace(line), "= 1") {
				finished++
			}
		}
		if got := w.printed("ok"); !slices.Equal(got, []string{"300"}) || finished != 300 {
			t.Fatalf("%q, but strace saw %d", got, finished)
		}
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			var want []string
			for i := range 300 {
				values := []string{"0", "1"}
				want = append(want, write{name: "net.ipv4.ip_forward", old: values[i%2], new: values[(i+1)%2]}.on(s))
			}
			wrote := only(written(events), event.SysctlWrite)
			if got := briefs(wrote); !slices.Equal(got, want) {
				t.Errorf("%d writes, %d restarted: %d events", len(want), restarts, len(wrote))
				for i := range min(len(got), len(want)) {
					if got[i] != want[i] {
						t.Errorf("the first that is wrong is %d: %s, want %s", i, got[i], want[i])
						break
					}
				}
			}
		})
		if restarts > 0 || t.Failed() {
			t.Logf("%d restarts in round %d", restarts, round)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kernel restarted none of %d writes", round*300)
		}
	}
}

// testTug has two processes set a parameter in turn. Each time it has the value that the other one gave it,
// so what a process does looks like what it did before.
func testTug(t *testing.T, h *host) {
	const rounds = 10
	loop := []string{"sh", "-c", "while read v; do echo $v >/proc/sys/net/ipv4/tcp_keepalive_time; echo done=$v; done"}
	first := h.start(t, "unshare", append([]string{"--net"}, loop...))
	set := func(w *work, value string) {
		fmt.Fprintln(w.stdin, value)
		w.value(t, "done")
	}
	set(first, "700") // it is in its namespace
	second := h.start(t, "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", first.pid)}, loop...))
	set(second, "700")
	for tries := 1; ; tries++ {
		h.fence(t)
		from := map[*stream]int{}
		for _, s := range h.streams {
			from[s] = s.len()
		}
		var want []string
		for i := range 2*rounds + 1 {
			w, value := first, "701"
			if i%2 == 1 {
				w, value = second, "702"
			}
			set(w, value)
			want = append(want, fmt.Sprintf("%d %s", w.pid, value))
		}
		h.fence(t)
		wrong := ""
		for _, s := range h.streams {
			var got []string
			for _, e := range s.since(from[s]) {
				if e.Type == event.SysctlWrite && (e.Process.PID == uint32(first.pid) || e.Process.PID == uint32(second.pid)) {
					got = append(got, fmt.Sprintf("%d %s", e.Process.PID, *e.Sysctl.New))
				}
			}
			if !slices.Equal(got, want) {
				wrong = fmt.Sprintf("%v: %q, want %q", s, got, want)
			}
		}
		// A kernel that can skip a program does so seldom.
		if wrong == "" {
			return
		}
		if tries == 3 || !canMiss(event.SysctlWrite) {
			t.Fatal(wrong)
		}
	}
}

// testHostname sets the names of a UTS namespace by the calls that are older than their parameters.
func testHostname(t *testing.T, h *host) {
	log := filepath.Join(t.TempDir(), "strace")
	w := h.run(t, "strace", []string{"-f", "-q", "-o", log, "-e", "trace=sethostname,setdomainname", "-e", "signal=none", "unshare", "--uts", "sh", "-e", "-c", `
		sysctl -q -w kernel.hostname=first
		hostname second
		busybox hostname a-name-of-fifty-two-letters-that-is-longer-than-most-are
		domainname example.net
		! setpriv --reuid 1000 --clear-groups --inh-caps=-all --bounding-set=-all hostname third
		cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname`})
	const long = "a-name-of-fifty-two-letters-that-is-longer-than-most-are"
	if got, want := w.stdout.String(), long+"\nexample.net\n"; got != want {
		t.Fatalf("the names are %q, want %q", got, want)
	}
	if saw := strings.Count(readFile(t, log), "sethostname("); saw != 3 {
		t.Fatalf("strace saw %d calls", saw)
	}
	before, domain := readFile(t, "/proc/sys/kernel/hostname"), readFile(t, "/proc/sys/kernel/domainname")
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		writes := only(events, event.SysctlWrite)
		call := func(name, old, new, after string) string {
			return fmt.Sprintf("write kernel.%s %q -> %q = %q", name, old, new, after)
		}
		want := []string{
			write{name: "kernel.hostname", old: before, new: "first"}.on(s),
			call("hostname", "first", "second", "second") + ": success",
			call("hostname", "second", long, long) + ": success",
			call("domainname", domain, "example.net", "example.net") + ": success",
			call("hostname", long, "third", long) + ": EPERM",
		}
		now := []string{"first", "second", long, "example.net", ""}
		for i, e := range writes {
			// 7.1 does not always run the program at the entry, see bpf/hostname.h. Then the value
			// before is unknown, and so is the value of a refused call.
			late := s.backend == tracer.Tracepoint && i < len(want) && e.Via != "write" && e.Sysctl.Old == nil
			set := e.Outcome == event.Success && e.Sysctl.New != nil && *e.Sysctl.New == now[i]
			if late && (set || e.Error == "EPERM" && now[i] == "") {
				t.Logf("the kernel did not run the program at the entry: %s", e.line)
				want[i] = e.brief()
			}
		}
		same(t, writes, want...)
		made := ids(only(events, event.NamespaceCreate))
		for i, via := range []string{"write", "sethostname", "sethostname", "setdomainname", "sethostname"} {
			if i < len(writes) && (writes[i].Via != via || writes[i].Sysctl.Namespace == nil || writes[i].Sysctl.Namespace.ID != made["uts"]) {
				t.Errorf("want %s in uts %d: %s", via, made["uts"], writes[i].line)
			}
		}
	})
}
