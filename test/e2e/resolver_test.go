// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
	"github.com/nstrace/nstrace/tracer"
)

// childrenOf returns the processes that a process has started and that have not ended.
func childrenOf(t testing.TB, pid int) (children []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if string(fields[1]) != fmt.Sprint(pid) {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	return children
}

// resolverOf returns the process that looks up names for a process, 0 if there is none now.
func resolverOf(t testing.TB, pid int) int {
	t.Helper()
	// The command line of other processes can let this one wait for ever.
	for _, child := range childrenOf(t, pid) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		if err == nil && bytes.Contains(args, []byte("\x00resolver\x00")) {
			return child
		}
	}
	return 0
}

// awaitResolver waits for a resolver of s other than one, and returns it.
func awaitResolver(t testing.TB, s *stream, other int) int {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if pid := resolverOf(t, s.cmd.Process.Pid); pid != 0 && pid != other {
			return pid
		}
	}
	t.Fatalf("%v has no resolver after %v\n%s", s, patience, s.stderr.String())
	return 0
}

// awaitGone waits for the end of a process.
func awaitGone(t testing.TB, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d is there after %v", pid, patience)
		}
	}
}

// breaks are what can happen to a resolver.
var breaks = []struct {
	how string
	do  func(pid int) error
}{
	{"killed", func(pid int) error { return unix.Kill(pid, unix.SIGKILL) }},
	{"stopped", func(pid int) error { return unix.Kill(pid, unix.SIGSTOP) }},
	{"confused", confuse},
}

// confuse sends nstrace garbage as its resolver.
func confuse(pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	for _, file := range files {
		if to, err := os.Readlink(file); err != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			return err
		}
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte("\x00\xff{garbage"), 0, nil)
	}
	return errors.New("it has no socket")
}

// A named user is one of the host that no test uses otherwise.
type namedUser struct {
	uid  uint32
	name string
}

// startNaming starts nstrace with a getent which knows n users. nstrace itself
// reads the host's passwd, so only its resolver can name them.
func startNaming(t *testing.T, n int, args ...string) (*stream, []namedUser) {
	t.Helper()
	const first = 54300
	dir := openDir(t, 0o755)
	script := "#!/bin/sh\ncase $2 in\n"
	var users []namedUser
	for i := range n {
		u := namedUser{first + uint32(i), fmt.Sprintf("known%d", i)}
		script += fmt.Sprintf("%d) echo %s:x:%d:1::/:/bin/sh ;;\n", u.uid, u.name, u.uid)
		users = append(users, u)
	}
	args = append([]string{"-o", "json"}, args...)
	return startWithGetent(t, dir, script+"*) exit 2 ;;\nesac\n", args), users
}

// startWithGetent starts nstrace with a script in the place of getent. dir is a folder that all users can read.
func startWithGetent(t *testing.T, dir, script string, args []string) *stream {
	t.Helper()
	file := filepath.Join(dir, "getent")
	if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	bin := nstraceBin
	if runtimetest.IsGuest() { // where nobody misses the real one
		real := strings.TrimSpace(output(t, "sh", "-c", "command -v getent"))
		if err := unix.Mount(file, real, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(real, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	} else {
		bin = buildAttempting(t)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "NSTRACE_TEST_GETENT="+file)
	return startCommand(t, cmd, args)
}

// hostUser returns a user in the host's passwd, except root.
func hostUser(t *testing.T) namedUser {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/etc/passwd")) {
		entry := strings.Split(line, ":")
		uid, err := strconv.ParseUint(entry[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if uid != 0 {
			return namedUser{uint32(uid), entry[0]}
		}
	}
	t.Skip("this host has no user beside root")
	return namedUser{}
}

// TestResolver breaks the process that looks up names, in each way, while events flow. The stream goes on,
// loses nothing, and has names again.
func TestResolver(t *testing.T) {
	for _, br := range breaks {
		t.Run(br.how, func(t *testing.T) {
			t.Parallel()
			testBrokenResolver(t, backends[0], br.do) // it does not depend on the backend
		})
	}
}

func testBrokenResolver(t *testing.T, b tracer.Backend, breakIt func(pid int) error) {
	const creates = 100
	s, users := startNaming(t, 3, "--backend", string(b))
	s.awaitStart(t)
	pid := awaitResolver(t, s, 0)
	awaitUser(t, s, users[0])

	storm := exec.Command("sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do unshare --uts true; i=$((i+1)); done", creates))
	from := s.len()
	if err := storm.Start(); err != nil {
		t.Fatal(err)
	}
	of := func(e *emitted) bool {
		return e.Type == event.NamespaceCreate && slices.ContainsFunc(e.Process.Ancestors, func(a event.Actor) bool { return int(a.PID) == storm.Process.Pid })
	}
	count := func(all []*emitted) (n int) {
		for _, e := range all {
			if of(e) {
				n++
			}
		}
		return n
	}
	s.awaitFrom(t, from, "the first of many namespaces", func(all []*emitted) bool { return count(all) > 0 })
	if err := breakIt(pid); err != nil {
		t.Fatal(err)
	}
	// Users whose names are not known yet.
	runAs(t, users[1].uid)
	next := awaitResolver(t, s, pid)
	awaitGone(t, pid)
	awaitUser(t, s, users[2])
	if err := storm.Wait(); err != nil {
		t.Fatal(err)
	}
	if !canMiss(event.NamespaceCreate) {
		s.awaitFrom(t, from, "all namespaces", func(all []*emitted) bool { return count(all) >= creates })
	}
	s.interrupt(t)
	s.replaced = true
	s.checkEnd(t, true)
	awaitGone(t, next)
	for _, e := range s.since(from) {
		if e.Process == nil {
			continue
		}
		for _, a := range e.Process.Ancestors {
			if p := int(a.PID); p == s.cmd.Process.Pid || p == pid || p == next {
				t.Errorf("an event of nstrace's own processes: %s", e.line)
			}
		}
	}
}

// runAs makes a user namespace as a user.
func runAs(t *testing.T, uid uint32) {
	t.Helper()
	cmd := exec.Command("unshare", "--user", "true")
	cmd.SysProcAttr = sysProcAttr()
	asUser(uid)(cmd)
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// awaitUser has a user make namespaces until an event has the user's name.
func awaitUser(t *testing.T, s *stream, u namedUser) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		from := s.len()
		runAs(t, u.uid)
		named := false
		s.awaitFrom(t, from, "the user's namespace", func(all []*emitted) bool {
			for _, e := range all {
				if e.Type == event.NamespaceCreate && e.Process.UID == u.uid {
					if e.Process.User != "" && e.Process.User != u.name {
						t.Errorf("user %d is %q: %s", u.uid, u.name, e.line)
					}
					named = e.Process.User != ""
					return true
				}
			}
			return canMiss(event.NamespaceCreate)
		})
		if named {
			return
		}
	}
	t.Fatalf("%v: no event has the name of user %d\n%s", s, u.uid, s.stderr.String())
}

// checkOwnUser checks that a process is a user of its own, in no group but its own.
func checkOwnUser(t *testing.T, pid int) {
	t.Helper()
	status := readFile(t, fmt.Sprintf("/proc/%d/status", pid))
	field := func(key string) []string {
		_, rest, ok := strings.Cut(status, "\n"+key+":")
		if !ok {
			t.Fatalf("no %s in %s", key, status)
		}
		line, _, _ := strings.Cut(rest, "\n")
		return strings.Fields(line)
	}
	uids := field("Uid")
	if id, err := strconv.Atoi(uids[0]); err != nil || id < 61184 || id > 65519 {
		t.Errorf("it is the user %s", uids[0])
	}
	for _, key := range []string{"Uid", "Gid"} {
		if got := field(key); !slices.Equal(got, slices.Repeat(uids[:1], 4)) {
			t.Errorf("%s is %q, want only %s", key, got, uids[0])
		}
	}
	if groups := field("Groups"); len(groups) > 0 {
		t.Errorf("it is in the groups %q", groups)
	}
}

// TestResolverAlone checks what the process may do, that it outlives nobody, and that it refuses to be
// started by hand.
func TestResolverAlone(t *testing.T) {
	for _, args := range [][]string{nil, {"record", "--db", filepath.Join(t.TempDir(), "history")}} {
		s, users := startNaming(t, 1, args...)
		s.awaitStart(t)
		pid := awaitResolver(t, s, 0)
		awaitUser(t, s, users[0]) // it has started
		for key, want := range map[string]string{
			"NoNewPrivs": "1", "CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
			// It inherits the bounding set, and no_new_privs keeps it from gaining any of that.
			"CapBnd": statusField(t, s.cmd.Process.Pid, "CapBnd"), "CapAmb": "0000000000000000", "Seccomp": "2",
		} {
			if got := statusField(t, pid, key); got != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
		checkOwnUser(t, pid)
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			to, err := os.Readlink(file)
			if n, _ := strconv.Atoi(filepath.Base(file)); err != nil || n <= 2 {
				continue
			}
			if !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/sys/fs/cgroup/") { // the last two are Go's
				t.Errorf("it has a descriptor of %s", to)
			}
		}
		// The kernel ends it even if it cannot notice that nstrace is gone.
		if args != nil {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.awaitEnd(t)
		awaitGone(t, pid)
	}
	status, stdout, stderr := nstrace(t, []string{"resolver"})
	if status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "starts this process itself") {
		t.Errorf("by hand: status %d\n%s%s", status, stdout, stderr)
	}
}

// TestResolverGetent has a user whose name only a slow server knows, by another getent.
// Events do not wait for it, a later one has the name, and it ends with nstrace.
func TestResolverGetent(t *testing.T) {
	anyKernel(t)
	dir := openDir(t, 0o755)
	fifo := filepath.Join(dir, "answer")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(fifo, 0o644); err != nil { // the resolver is another user, and writes no file
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nread answer <%s; echo \"$answer\"\n", fifo)
	const slow, other = 54321, 54322
	s := startWithGetent(t, dir, script, []string{"-o", "json"})
	s.awaitStart(t)
	// called has a user make namespaces until getent waits for an answer, and returns what takes that.
	called := func(uid uint32) *os.File {
		t.Helper()
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			runAs(t, uid)
			answer, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				return answer
			}
			if !errors.Is(err, unix.ENXIO) { // nobody reads
				t.Fatal(err)
			}
		}
		t.Fatal("getent was not called")
		return nil
	}
	answer := called(slow)
	defer answer.Close()
	awaitUser(t, s, hostUser(t)) // while getent waits
	for _, e := range s.since(0) {
		if e.Process != nil && e.Process.UID == slow && e.Process.User != "" {
			t.Errorf("the name of the user came too early: %s", e.line)
		}
	}
	if _, err := answer.WriteString("slowpoke:x:54321:1::/:/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	awaitUser(t, s, namedUser{slow, "slowpoke"})
	waiting := called(other)
	defer waiting.Close()
	getent := childrenOf(t, resolverOf(t, s.cmd.Process.Pid))
	if len(getent) != 1 {
		t.Fatalf("the resolver has the children %v", getent)
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.awaitEnd(t)
	awaitGone(t, getent[0])
}

// TestResolverStuck has a user's processes whose command lines cannot be read: whoever tries waits for ever.
// Once no more can be read, another process takes over, and reads those of others.
func TestResolverStuck(t *testing.T) {
	long(t)
	if !entersByExec() {
		t.Skip("before 6.3 nsfuse hangs: it holds the lock in ways of later kernels")
	}
	device := fuseDevice(t)
	comms := []string{"nsargs", "nsfuse", readFile(t, "/proc/self/comm")}
	h := watchWith(t, []string{"--comm", strings.Join(comms, ",")}, backends[0])
	s := h.streams[0]
	first := awaitResolver(t, s, 0)
	resolver := func() int { return resolverOf(t, s.cmd.Process.Pid) }
	// nstrace does not try for a second after each that is stuck. On a slow host it does not try each.
	const most = 20
	stuck := 0
	for ; stuck < most && resolver() == first; stuck++ {
		w := h.start(t, helper("nsfuse"), []string{device, "fixed"}, asUser(somebody))
		w.value(t, "ready")
		if w.value(t, "held") != "1" {
			t.Skip("cannot hold the lock in this way here")
		}
		w.value(t, "made")
		awaitWitness(t, h)
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && resolver() == first; time.Sleep(20 * time.Millisecond) {
		}
	}
	next := awaitResolver(t, s, first)
	awaitGone(t, first)
	t.Logf("%d processes, then process %d after %d", stuck, next, first)
	if got := s.stderr.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "let it wait for their command lines") {
		t.Errorf("standard error is %q", got)
	}
	for end := time.Now().Add(patience); ; {
		if time.Now().After(end) {
			t.Fatal("no command line can be read")
		}
		w := h.start(t, helper("nsargs"), []string{"4096"}, asUser(somebody))
		w.value(t, "made")
		w.sync(t)
		read := slices.ContainsFunc(w.all(s), func(e *emitted) bool { return e.Process.Args != nil })
		w.stop(t)
		if read {
			break
		}
	}
	s.interrupt(t)
	s.replaced = true
	s.checkEnd(t, true)
}
