// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/test/e2e/coverage"
)

// A way is a way to make, enter, pin or end a namespace, to change a parameter or to move a device:
// a shell script, and the types of events that are about it. The script's other events prepare it.
type way struct {
	group, name string
	script      string
	about       []event.Type
	via         string // if not empty, only events of this
	modules     bool   // it needs a kind of device that the kernels have in modules
	compat      bool   // it needs a 32-bit program
}

// groupCalls are the calls in audit records that belong to a group's ways.
var groupCalls = map[string][]string{
	"Make": {"clone", "unshare", "open_tree", "open_tree_attr", "fsmount"}, "Enter": {"setns"}, "Pin": {"mount", "open_tree", "move_mount", "umount2"},
	"Parameter": {"openat", "sethostname", "setdomainname"},
}

var (
	creates1 = []event.Type{event.NamespaceCreate}
	enters1  = []event.Type{event.NamespaceEnter}
	ends1    = []event.Type{event.NamespaceDestroy}
	sysctl1  = []event.Type{event.SysctlWrite}
)

// ways are the rows of docs/coverage.md. A script's $TMP is an empty folder.
func ways() []way {
	const (
		keepalive = "/proc/sys/net/ipv4/tcp_keepalive_time"
		readOnly  = `mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; `
		alone     = `unshare --mount --net sh -e -c '`
		nobody    = `setpriv --reuid 1000 --regid 1000 --clear-groups sh -c `
	)
	h := helper
	return []way{
		{group: "Make", name: "`clone(2)`", script: h("nsclone") + " clone net,pid", about: creates1, via: "clone"},
		{group: "Make", name: "`clone3(2)`", script: h("nsclone") + " clone3 net,time", about: creates1, via: "clone3"},
		{group: "Make", name: "`unshare(2)`", script: "unshare --net --uts true", about: creates1, via: "unshare"},
		{group: "Make", name: "`unshare(2)` of a thread", script: h("nsthread") + " 1 net </dev/null", about: creates1, via: "unshare"},
		{group: "Make", name: "`unshare(2)` of a PID namespace, without a child", script: "unshare --pid true", about: creates1, via: "unshare"},
		{group: "Make", name: "`unshare(2)`, refused", script: "! setpriv --reuid 1000 --clear-groups --inh-caps=-all --bounding-set=-all unshare --net true", about: creates1, via: "unshare"},
		{group: "Make", name: "`unshare(2)`, `UNSHARE_EMPTY_MNTNS`", script: h("nsnew") + " unshare", about: creates1},
		{group: "Make", name: "`clone3(2)`, `CLONE_EMPTY_MNTNS`", script: h("nsnew") + " clone3", about: creates1},
		{group: "Make", name: "`open_tree(2)`, `OPEN_TREE_NAMESPACE`", script: h("nsnew") + " open_tree", about: creates1},
		{group: "Make", name: "`open_tree_attr(2)`, `OPEN_TREE_NAMESPACE`", script: h("nsnew") + " open_tree_attr", about: creates1},
		{group: "Make", name: "`fsmount(2)`, `FSMOUNT_NAMESPACE`", script: h("nsnew") + " fsmount", about: creates1},
		{group: "Make", name: "`clone(2)`, bad arguments", script: h("nsnew") + " clone-bad", about: creates1},
		{group: "Make", name: "`clone3(2)`, bad arguments", script: h("nsnew") + " clone3-bad", about: creates1},
		{group: "Make", compat: true, name: "32-bit `clone3(2)`", script: h("nscompat") + " clone3", about: creates1},
		{group: "Make", compat: true, name: "32-bit `clone3(2)`, bad arguments", script: "! " + h("nscompat") + " clone3-bad", about: creates1},
		{group: "Make", compat: true, name: "32-bit `unshare(2)`", script: h("nscompat") + " unshare", about: creates1},
		{group: "Make", compat: true, name: "32-bit `open_tree(2)`, `OPEN_TREE_NAMESPACE`", script: h("nscompat") + " open_tree || true", about: creates1},
		{group: "Make", compat: true, name: "32-bit `open_tree_attr(2)`, `OPEN_TREE_NAMESPACE`", script: h("nscompat") + " open_tree_attr || true", about: creates1},
		{group: "Make", compat: true, name: "32-bit `fsmount(2)`, `FSMOUNT_NAMESPACE`", script: h("nscompat") + " fsmount || true", about: creates1},

		{group: "Enter", name: "`setns(2)`, namespace file", script: h("nsset") + " file /proc/$$/ns/net net", about: enters1},
		{group: "Enter", name: "`setns(2)`, pidfd, several types", script: h("nsset") + " pidfd $$ net,uts", about: enters1},
		{group: "Enter", name: "`setns(2)`, file opened by handle", script: h("nsset") + " handle /proc/$$/ns/net net", about: enters1},
		{group: "Enter", name: "`setns(2)`, refused", script: h("nsset") + " fd 99 net", about: enters1},
		{group: "Enter", compat: true, name: "32-bit `setns(2)`", script: "unshare --net " + h("nscompat") + " setns", about: enters1},
		{group: "Enter", name: "`execve(2)`, time namespace for children", script: "unshare --time true", about: enters1},

		{group: "Pin", name: "bind mount, `mount(2)`", script: `unshare --mount sh -c 'touch $TMP/pin; mount --bind /proc/self/ns/uts $TMP/pin'`, about: []event.Type{"namespace.pin"}},
		{group: "Pin", name: "`ip netns add`", script: "ip netns add nstrace-cover; ip netns delete nstrace-cover", about: []event.Type{"namespace.pin", "namespace.unpin"}},
		{group: "Pin", compat: true, name: "32-bit `mount(2)`, `umount(2)`", script: "touch $TMP/pin; " + h("nscompat") + " mount $TMP/pin; " + h("nscompat") + " umount $TMP/pin", about: []event.Type{"namespace.pin", "namespace.unpin"}},

		{group: "End", name: "last process", script: "unshare --net --uts true", about: ends1},
		{group: "End", name: "last mount, `umount(2)`", script: "ip netns add nstrace-cover; ip netns delete nstrace-cover", about: ends1},
		{group: "End", name: "last descriptor", script: `unshare --uts sh -c 'exec 3</proc/self/ns/uts; exec unshare --uts sleep 0'`, about: ends1},

		{group: "Parameter", name: "`write(2)`", script: alone + "echo 601 >" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`write(2)`, refused by the parameter", script: alone + "! echo x >" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`open(2)`, `O_TRUNC`, read-only bind mount", script: alone + readOnly + "! echo 601 >" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`open(2)`, read-only bind mount", script: alone + readOnly + "! echo 601 >>" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`open(2)`, `O_TRUNC`, read-only procfs", script: "unshare --mount --pid --fork sh -e -c 'mount -t proc -o ro none /proc; ! echo 601 >" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`open(2)`, read-only procfs", script: "unshare --mount --pid --fork sh -e -c 'mount -t proc -o ro none /proc; ! echo 601 >>" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`open(2)`, no permission", script: nobody + "'! echo 601 >" + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`access(2)`, which does not try to write", script: nobody + "'! test -w " + keepalive + "'", about: sysctl1},
		{group: "Parameter", name: "`sethostname(2)`, `setdomainname(2)`", script: `unshare --uts sh -e -c 'hostname cover; domainname cover'`, about: sysctl1},
		{group: "Parameter", compat: true, name: "32-bit `sethostname(2)`, `setdomainname(2)`", script: "unshare --uts sh -e -c '" + h("nscompat") + " sethostname; " + h("nscompat") + " setdomainname'", about: sysctl1},
		{group: "Parameter", compat: true, name: "32-bit `write(2)`", script: "unshare --net " + h("nscompat") + " write", about: sysctl1},
		{group: "Parameter", modules: true, name: "netlink: `ip link set addrgenmode`", script: alone + "ip link add d0 type dummy; ip link set d0 addrgenmode none'", about: sysctl1},
		{group: "Parameter", modules: true, name: "cascade of `net.ipv4.ip_forward`", script: alone + "ip link add d0 type dummy; ip link set d0 up; echo 1 >/proc/sys/net/ipv4/ip_forward'", about: sysctl1, via: "cascade"},
		{group: "Parameter", modules: true, name: "cascade of `net.ipv6.conf.all.disable_ipv6`", script: alone + "ip link add d0 type dummy; ip link set d0 up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'", about: sysctl1, via: "cascade"},

		{group: "Device", modules: true, name: "`ip link set netns`", script: alone + `ip link add d0 type dummy; ip link set d0 netns 1 name cover0; ip link show >/dev/null'; ip link del cover0`, about: []event.Type{"netdev.move"}},
		{group: "Device", modules: true, name: "made in another namespace", script: `unshare --net sh -e -c 'ip link add d0 type veth peer name d1 netns 1'; ! ip link del d1 2>/dev/null`, about: []event.Type{"netdev.move"}},
	}
}

// TestCoverage runs each way once with each backend and the kernel's audit. It compares their
// reports with those that testdata/coverage.json has for this kernel. docs/coverage.md is made from
// that file. What the file does not have, a kernel or a way on it, the test only runs.
func TestCoverage(t *testing.T) {
	all, err := coverage.Read("testdata/coverage.json")
	if err != nil {
		t.Fatal(err)
	}
	series := kernelSeries()
	_, known := all.Kernels[series]
	// Only Debian's kernels, in guests: another kernel of the series can behave differently.
	known = known && os.Getenv("NSTRACE_BIN") != ""
	update := os.Getenv("NSTRACE_COVERAGE") != ""
	audit := startAudit(t)
	h := watch(t, backends...)
	for _, way := range ways() {
		t.Run(way.group+" "+strings.Trim(way.name, "`"), func(t *testing.T) {
			if way.modules && os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
				t.Skip("the archive has no modules for this kernel")
			}
			if way.compat && runtime.GOARCH != "amd64" {
				t.Skip("there is no 32-bit program for " + runtime.GOARCH)
			}
			got := way.cover(t, h, audit)
			if update {
				// If the kernel can skip a program, one run is not enough. Each run can report
				// less, so compare what all runs together reported.
				for tries := 1; tries < 3 && canMiss(event.SysctlWrite); tries++ {
					for column, said := range way.cover(t, h, audit) {
						if len(said) > len(got[column]) {
							got[column] = said
						}
					}
				}
				line, err := json.Marshal(coverage.Row{Kernel: series, Group: way.group, Way: way.name, Reports: got})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s%s", coverage.Mark, line)
				return
			}
			if !known || !all.Has(series, way.group, way.name) {
				return
			}
			for tries := 1; ; tries++ {
				wrong := differs(all, series, &way, got)
				if wrong == "" {
					return
				}
				if tries == 3 || !canMiss(event.SysctlWrite) {
					t.Errorf("%s: make coverage", wrong)
					return
				}
				t.Logf("again: %s", wrong)
				got = way.cover(t, h, audit)
			}
		})
	}
	h.close(t)
}

// differs returns how a report differs from the recorded one, "" if it does not.
func differs(all *coverage.All, kernel string, way *way, got map[string]string) string {
	for _, column := range coverage.Columns {
		if _, here := got[column]; !here {
			continue
		}
		if want, _ := all.Find(kernel, way.group, way.name, column); got[column] != want {
			return fmt.Sprintf("%s reports %q, docs/coverage.md has %q", column, got[column], want)
		}
	}
	return ""
}

// cover runs a way and returns what each of coverage.Columns reports.
func (way *way) cover(t *testing.T, h *host, audit *auditLog) map[string]string {
	t.Helper()
	dir := t.TempDir()
	at := audit.mark()
	w := h.try(t, "sh", []string{"-e", "-u", "-c", way.script}, func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "TMP="+dir) })
	got := map[string]string{}
	for _, s := range h.streams {
		events := w.all(s)
		for _, e := range slices.Clone(events) {
			if e.Type == event.NamespaceCreate && e.Outcome == event.Success {
				if d := s.awaitDestroy(t, w.from[s], e.Namespace); d != nil {
					events = append(events, d)
				}
			}
		}
		var said []string
		for _, e := range events {
			if slices.Contains(way.about, e.Type) && (way.via == "" || e.Via == way.via) {
				said = append(said, summary(e))
			}
		}
		slices.Sort(said)
		got[string(s.backend)] = strings.Join(slices.Compact(said), ", ")
	}
	if audit != nil {
		got["audit"] = audit.since(t, at, w.pid, groupCalls[way.group])
	}
	return got
}

// summary returns an event without what differs from run to run.
func summary(e *emitted) string {
	words := []string{string(e.Type)}
	if e.Namespace != nil && e.Namespace.Type != "" {
		words = append(words, string(e.Namespace.Type))
	}
	if e.Via != "" {
		words = append(words, "via "+e.Via)
	}
	if e.Error != "" {
		words = append(words, e.Error)
	}
	if e.Namespace != nil && e.Namespace.Detected != "" {
		words = append(words, "(found by a scan)")
	}
	return strings.Join(words, " ")
}

func kernelSeries() string {
	var uts unix.Utsname
	var major, minor int
	if unix.Uname(&uts) != nil {
		return ""
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		return ""
	}
	series := fmt.Sprintf("%d.%d", major, minor)
	if runtime.GOARCH != "amd64" {
		series = runtime.GOARCH + "-" + series
	}
	return series
}

// An auditLog reads the records of the kernel's audit, with rules for the calls that nstrace
// watches.
type auditLog struct {
	mu      sync.Mutex
	records []map[string]string // their fields
}

// auditCalls are the numbers of the calls that audit can select. It does not follow pointers, where
// clone3(2) has its flags.
var auditCalls = map[string]string{
	"56": "clone", "165": "mount", "166": "umount2", "170": "sethostname", "171": "setdomainname", "272": "unshare",
	"308": "setns", "428": "open_tree", "429": "move_mount", "432": "fsmount", "257": "openat", "467": "open_tree_attr",
}

const auditKey = "nstrace-coverage"

// startAudit sets the rules and reads the records. It returns nil if another program uses the
// kernel's audit.
func startAudit(t *testing.T) *auditLog {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Log("auditCalls has the numbers of amd64, so no audit")
		return nil
	}
	ctl, err := exec.LookPath("auditctl")
	if err != nil {
		t.Log("no auditctl, so no audit")
		return nil
	}
	if rules, err := exec.Command(ctl, "-l").Output(); err != nil || !bytes.HasPrefix(rules, []byte("No rules")) && !bytes.Contains(rules, []byte("never,task")) {
		t.Logf("the kernel's audit is not available: %v %s", err, rules)
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		t.Fatal(err)
	}
	const readLog = 1 // AUDIT_NLGRP_READLOG
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (readLog - 1)}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	a := &auditLog{}
	go a.read(fd)
	was := output(t, ctl, "-s")
	never := strings.Contains(output(t, ctl, "-l"), "never,task")
	if never {
		output(t, ctl, "-d", "never,task")
	}
	rules := [][]string{
		{"-a", "always,exit", "-F", "arch=b64", "-S", "unshare,setns,mount,umount2,open_tree,move_mount,fsmount,467,sethostname,setdomainname,execve", "-k", auditKey},
		{"-a", "always,exit", "-F", "arch=b64", "-S", "clone", "-F", "a0&0x7e020000", "-k", auditKey},
		{"-a", "always,exit", "-F", "arch=b64", "-F", "dir=/proc/sys", "-F", "perm=wa", "-k", auditKey},
	}
	for _, r := range rules {
		output(t, ctl, r...)
	}
	output(t, ctl, "-e", "1")
	t.Cleanup(func() {
		for _, r := range rules {
			output(t, ctl, append([]string{"-d"}, r[1:]...)...)
		}
		if never {
			output(t, ctl, "-a", "never,task")
		}
		if strings.Contains(was, "enabled 0") {
			output(t, ctl, "-e", "0")
		}
	})
	return a
}

// read reads until the end of the tests.
func (a *auditLog) read(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return
		}
		if n < unix.SizeofNlMsghdr {
			continue
		}
		const syscallRecord = 1300 // AUDIT_SYSCALL
		if binary.NativeEndian.Uint16(buf[4:]) != syscallRecord {
			continue
		}
		fields := map[string]string{}
		for _, word := range strings.Fields(string(buf[unix.SizeofNlMsghdr:n])) {
			if key, value, ok := strings.Cut(word, "="); ok {
				fields[key] = strings.Trim(value, `"`)
			}
		}
		a.mu.Lock()
		a.records = append(a.records, fields)
		a.mu.Unlock()
	}
}

func (a *auditLog) mark() int {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.records)
}

// since returns which of these calls audit recorded after a mark, of the process pid and its
// descendants. It makes a call of its own, and waits for the record of that call.
func (a *auditLog) since(t *testing.T, at, pid int, calls []string) string {
	t.Helper()
	fence := exec.Command("unshare", "--uts", "true")
	if err := fence.Run(); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprint(fence.Process.Pid)
	var records []map[string]string
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		a.mu.Lock()
		records = slices.Clone(a.records[at:])
		a.mu.Unlock()
		if slices.ContainsFunc(records, func(r map[string]string) bool { return r["pid"] == last && r["syscall"] == "272" }) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no record of process %s in %v", last, records)
		}
	}
	tree := map[string]bool{fmt.Sprint(pid): true}
	var said []string
	for _, r := range records {
		if tree[r["ppid"]] {
			tree[r["pid"]] = true
		}
		call := auditCalls[r["syscall"]]
		if !tree[r["pid"]] || !slices.Contains(calls, call) || r["key"] != auditKey {
			continue
		}
		if r["success"] == "no" {
			if call == "mount" { // ip netns finds out by that whether its folder is shared
				continue
			}
			call += " exit=" + r["exit"]
		}
		said = append(said, call)
	}
	slices.Sort(said)
	return strings.Join(slices.Compact(said), ", ")
}

// TestCoverageDocs checks that docs/coverage.md matches testdata/coverage.json.
func TestCoverageDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "coverage.md"))
	if os.IsNotExist(err) {
		t.Skip("no docs here, as in a guest")
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := coverage.Read("testdata/coverage.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(doc) != all.Markdown() {
		t.Error("docs/coverage.md is not what the tests found: make coverage")
	}
}
