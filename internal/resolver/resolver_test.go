// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/runtimes"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// patience is the maximum time for anything that must happen.
const patience = time.Minute

// TestMain is the child, too, and children that misbehave.
func TestMain(m *testing.M) {
	if Wanted(os.Args) {
		if err := Main(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 {
		if bad := badChildren[os.Args[1]]; bad != nil {
			conn, err := newConn(socketFD)
			if err != nil {
				panic(err)
			}
			bad(conn)
			os.Exit(0)
		}
		if os.Args[1] == "parent" {
			c := Start(Options{})
			fmt.Println(childOf(c))
			select {}
		}
	}
	os.Exit(m.Run())
}

// badChildren send what no child sends.
var badChildren = map[string]func(*net.UnixConn){
	"garbage":  func(c *net.UnixConn) { answerAll(c, []byte("\xff\x00no message")) },
	"long":     func(c *net.UnixConn) { answerAll(c, bytes.Repeat([]byte(" "), maxMessage+1)) },
	"text":     func(c *net.UnixConn) { answerAll(c, fmt.Appendf(nil, `{"id":1,"text":"%01025d"}`, 7)) },
	"infos":    func(c *net.UnixConn) { answerAll(c, []byte(`{"id":1,"infos":[null]}`)) },
	"unasked":  func(c *net.UnixConn) { answerAll(c, []byte(`{"id":99999,"text":"root"}`)) },
	"question": func(c *net.UnixConn) { answerAll(c, []byte(`{"id":1,"op":"user"}`)) },
	"ends":     func(*net.UnixConn) {},
	"mute": func(c *net.UnixConn) {
		_, _ = c.Write([]byte(`{"op":"ready"}`))
		select {}
	},
}

// answerAll answers every message with b.
func answerAll(c *net.UnixConn, b []byte) {
	buf := make([]byte, maxMessage)
	for {
		if n, err := c.Read(buf); err != nil || n == 0 {
			return
		}
		_, _ = c.Write(b)
	}
}

// childOf returns the PID of the child, 0 if there is none now.
func childOf(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return 0
	}
	return c.process.cmd.Process.Pid
}

// A said collects messages.
type said struct {
	mu  sync.Mutex
	all []string
}

func (s *said) add(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, message)
}

func (s *said) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func start(t *testing.T, command ...string) (*Client, *said) {
	t.Helper()
	var s said
	o := Options{Notify: s.add}
	if len(command) > 0 {
		o.Command = append([]string{"/proc/self/exe"}, command...)
	}
	c := Start(o)
	t.Cleanup(func() { c.Close() })
	return c, &s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// gone reports whether a process has ended.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// passwd returns what getent says.
func passwd(t *testing.T) map[uint32]string {
	t.Helper()
	out, err := exec.Command("getent", "passwd").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[uint32]string{}
	for line := range strings.Lines(string(out)) {
		entry := strings.Split(line, ":")
		uid, err := strconv.ParseUint(entry[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if all[uint32(uid)] == "" {
			all[uint32(uid)] = entry[0]
		}
	}
	return all
}

// askName asks the child for the name of a user. Names does that only if the own passwd file is not the
// host's.
func askName(t *testing.T, c *Client, uid uint32) string {
	t.Helper()
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return <-userLookup{c}.InFile(f, uid)
}

// nameOf asks the child for the name of a user until it answers.
func nameOf(t *testing.T, c *Client, uid uint32) string {
	t.Helper()
	name := ""
	eventually(t, fmt.Sprintf("a name of user %d", uid), func() bool {
		name = askName(t, c, uid)
		return name != ""
	})
	return name
}

// TestUsers compares names with the output of getent, and the child with what it may do.
func TestUsers(t *testing.T) {
	leak, err := os.Open("/dev/null") // a descriptor that the caller of nstrace left open
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	if _, err := unix.FcntlInt(leak.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	c, _ := start(t)
	for uid, want := range passwd(t) {
		if name := nameOf(t, c, uid); name != want {
			t.Errorf("%d: %q, want %q", uid, name, want)
		}
	}
	names := c.Names()
	if name := names.UserName(3_999_999_998); name != "" {
		t.Errorf("nobody has the name %q", name)
	}

	pid := childOf(c)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			continue // it ended
		}
		for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			if strings.HasPrefix(line, "CapBnd") && os.Geteuid() != 0 {
				continue
			}
			if !strings.Contains(string(status), line+"\n") {
				t.Errorf("%s lacks %q:\n%s", task, line, status)
			}
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		n, _ := strconv.Atoi(filepath.Base(fd))
		switch {
		case err != nil || n <= 2 || strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/sys/fs/cgroup/"): // the last two are the Go runtime's
		case strings.HasPrefix(to, "socket:"):
			sockets++
		default:
			t.Errorf("the child has %s", to)
		}
	}
	if sockets != 1 {
		t.Errorf("the child has %d sockets, want one", sockets)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !gone(pid) {
		t.Errorf("child %d is there after Close", pid)
	}
	c.stop, c.done = make(chan struct{}), make(chan struct{}) // for the cleanup
	close(c.done)
}

// TestOwnUser starts a child as another user, and one that cannot be: it is then the caller's.
func TestOwnUser(t *testing.T) {
	user, err := FreeUser()
	if os.Geteuid() != 0 {
		if !errors.Is(err, ErrNoUser) {
			t.Errorf("without privileges: user %d, %v", user, err)
		}
		t.Skip("needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.WriteFile(private, self, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		command []string
		want    uint32
		said    int
	}{{[]string{"/proc/self/exe", Name}, user, 0}, {[]string{private, Name}, 0, 1}} {
		var s said
		c := Start(Options{Notify: s.add, User: user, Command: tt.command})
		defer c.Close()
		if nameOf(t, c, 0) == "" {
			t.Errorf("%s: root has no name", tt.command[0])
		}
		info, err := os.Stat(fmt.Sprintf("/proc/%d", childOf(c)))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != tt.want || st.Gid != tt.want {
			t.Errorf("%s: user %d, group %d, want %d", tt.command[0], st.Uid, st.Gid, tt.want)
		}
		if all := s.list(); len(all) != tt.said {
			t.Errorf("%s: %q", tt.command[0], all)
		}
	}
	// Its process makes the id taken.
	if !exists(user) {
		t.Errorf("user %d is free while a process has it", user)
	}
	if !exists(0) {
		t.Error("root does not exist")
	}
}

// TestGroupIsTaken has a process whose groups the child must not get.
func TestGroupIsTaken(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	const gid, other = lastUser, lastUser - 1
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: gid, Groups: []uint32{2, other}}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if got := procfs.Groups(uint32(cmd.Process.Pid)); !slices.Contains(got, gid) || !slices.Contains(got, other) || !slices.Contains(got, 2) {
		t.Errorf("the groups of the process are %d", got)
	}
	taken := false
	for range 100 { // it stops after some time
		all := groupsOfProcesses()
		taken = taken || all[gid] && all[other]
	}
	if !taken {
		t.Error("the groups of the process are not taken")
	}
	text, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	entry := strings.Split(strings.SplitN(string(text), "\n", 2)[0], ":")
	id, err := strconv.ParseUint(entry[2], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if got := attribution.NameInGroup(uint32(id)); got != entry[0] {
		t.Errorf("group %d is %q, want %q", id, got, entry[0])
	}
	if got := attribution.NameInGroup(lastUser); got != "" {
		t.Errorf("group %d is %q", lastUser, got)
	}
}

// TestReplaced has a child that is killed, stopped, and confused by somebody else. Each time another one
// answers, and one message says so.
func TestReplaced(t *testing.T) {
	for _, how := range []string{"killed", "stopped", "confused"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c, said := start(t)
			before := nameOf(t, c, 0)
			for range 2 { // soon after each other
				pid := childOf(c)
				switch how {
				case "killed":
					if err := unix.Kill(pid, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
				case "stopped":
					if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
						t.Fatal(err)
					}
					// It holds nobody up.
					names, begin := c.Names(), time.Now()
					for uid := range uint32(100) {
						names.UserName(uid)
					}
					if took := time.Since(begin); took > 2*time.Second {
						t.Errorf("a hundred users took %v", took)
					}
				case "confused":
					inject(t, pid, "\x00\x01 garbage")
				}
				eventually(t, "another child", func() bool { now := childOf(c); return now != 0 && now != pid })
				if !gone(pid) {
					t.Errorf("child %d is still there", pid)
				}
				if name := nameOf(t, c, 0); name != before {
					t.Errorf("%q, want %q", name, before)
				}
			}
			if all := said.list(); len(all) != 1 || !strings.Contains(all[0], "is replaced") {
				t.Errorf("the messages are %q, want one", all)
			}
		})
	}
}

// inject sends a message to a Client as its child.
func inject(t *testing.T, pid int, text string) {
	t.Helper()
	var fd int
	eventually(t, "the child's socket", func() bool { // the runtime moved it
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(process)
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, path := range fds {
			if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "socket:") {
				continue
			}
			n, _ := strconv.Atoi(filepath.Base(path))
			if fd, err = unix.PidfdGetfd(process, n, 0); err == nil {
				return true
			}
		}
		return false
	})
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte(text), 0, nil); err != nil {
		t.Fatal(err)
	}
}

// TestBadChild has children that send what no child sends, or nothing. Nobody waits for them, and they
// are replaced.
func TestBadChild(t *testing.T) {
	for how := range badChildren {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c, said := start(t, how)
			first := childOf(c)
			begin := time.Now()
			eventually(t, "another child", func() bool {
				if now := childOf(c); now != first && now != 0 {
					return true
				}
				if name := askName(t, c, 0); name != "" {
					t.Errorf("%q", name)
				}
				return false
			})
			if took := time.Since(begin); how != "mute" && took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			if all := said.list(); len(all) != 1 {
				t.Errorf("the messages are %q, want one", all)
			}
		})
	}
}

// TestNoProgram has no program to start.
func TestNoProgram(t *testing.T) {
	var s said
	c := Start(Options{Notify: s.add, Command: []string{"/nonexistent/nstrace"}})
	defer c.Close()
	if name := askName(t, c, 0); name != "" {
		t.Errorf("%q", name)
	}
	eventually(t, "a message", func() bool { return len(s.list()) > 0 })
	time.Sleep(500 * time.Millisecond) // several attempts
	if all := s.list(); len(all) != 1 || !strings.HasPrefix(all[0], "cannot start") {
		t.Errorf("%q", all)
	}
}

// TestOrphan kills the process that started a child. The child must end, even if it is stopped.
func TestOrphan(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		cmd := exec.Command("/proc/self/exe", "parent")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		pid, err2 := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || err2 != nil || pid == 0 {
			t.Fatalf("%q, %v", line, errors.Join(err, err2))
		}
		if stopped {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		eventually(t, "the end of the child", func() bool { return gone(pid) })
	}
}

// TestByHand starts the child's program without a Client.
func TestByHand(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	stream := os.NewFile(uintptr(pair[0]), "stream")
	defer stream.Close()
	defer unix.Close(pair[1])
	for what, file := range map[string]*os.File{"nothing": nil, "a file": os.Stdin, "a stream": stream} {
		cmd := exec.Command("/proc/self/exe", Name)
		if file != nil {
			cmd.ExtraFiles = []*os.File{file}
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), ErrByHand.Error()) {
			t.Errorf("with %s: %v\n%s", what, err, out)
		}
	}
}

// TestCommandLine reads the arguments of processes.
func TestCommandLine(t *testing.T) {
	c, _ := start(t)
	args := []string{"60", "", "\xff\x00"[:1]}
	cmd := exec.Command("sh", append([]string{"-c", `read x`, "sh"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait() // read fails at the end of its input
	}()
	pid := uint32(cmd.Process.Pid)
	start := startOf(t, pid)
	if got := procfs.SplitArgs(c.CommandLine(pid, start)); !slices.Equal(got, cmd.Args) {
		t.Errorf("%q, want %q", got, cmd.Args)
	}
	if got := c.CommandLine(pid, start-uint64(time.Minute)); got != nil {
		t.Errorf("of another process: %q", got)
	}
}

// startOf returns when a process started, in nanoseconds since boot.
func startOf(t *testing.T, pid uint32) uint64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ticks*uint64(procfs.ClockTick) - uint64(procfs.BootOffset())
}

// TestStuck has reads that never end. Other questions are answered, and once there are maxStuck of them,
// another child takes over.
func TestStuck(t *testing.T) {
	t.Parallel()
	c, said := start(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	before := nameOf(t, c, 0)
	pid := childOf(c)
	ended := make(chan error, maxStuck)
	for range maxStuck {
		q, err := c.ask(&message{Op: opArgs}, int(r.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := c.answer(context.Background(), q)
			ended <- err
		}()
	}
	if name := nameOf(t, c, 0); name != before || childOf(c) != pid {
		t.Errorf("%q, want %q, from child %d", name, before, pid)
	}
	for range maxStuck {
		if err := <-ended; !errors.Is(err, ErrGone) {
			t.Errorf("%v", err)
		}
	}
	nameOf(t, c, 0)
	if !gone(pid) || len(said.list()) != 1 {
		t.Errorf("child %d is gone: %v; %q", pid, gone(pid), said.list())
	}
}

// TestRuntime compares the answers of a real Podman with those of a direct question.
func TestRuntime(t *testing.T) {
	dir := runtimetest.Dir(t)
	d := runtimetest.Podman(t, dir)
	d.Output(t, "load", "--input", runtimetest.ImageTar(t, dir))
	id := d.Output(t, "create", "--name", "web", "--network", "none", runtimetest.Image)
	c, _ := start(t)
	candidate := runtimes.Candidate{Kind: runtimes.Podman, Path: d.Socket}
	direct, err := candidate.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	remote, err := c.Open(candidate)
	if err != nil {
		t.Fatal(err)
	}
	if kind, err := c.Detect(t.Context(), d.Socket); err != nil || kind != runtimes.Podman {
		t.Errorf("%q, %v", kind, err)
	}
	want, err := direct.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := remote.Inspect(t.Context(), id); err != nil || *got != *want || got.Name != "web" {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if all, err := remote.List(t.Context()); err != nil || len(all) != 1 || *all[0] != *want {
		t.Errorf("%+v, %v", all, err)
	}
	unknown := strings.Repeat("0", 64)
	if _, err := remote.Inspect(t.Context(), unknown); !errors.Is(err, runtimes.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := direct.Inspect(t.Context(), unknown); err == nil || !strings.Contains(err.Error(), runtimes.ErrNotFound.Error()) {
		t.Errorf("unknown: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan *runtimes.Info, 100), make(chan error, 1)
	go func() { ended <- remote.Watch(ctx, func(i *runtimes.Info) { changes <- i }) }()
	if first := <-changes; first != nil {
		t.Errorf("the first change is %+v", first)
	}
	other := d.Output(t, "create", "--name", "other", "--network", "none", runtimetest.Image)
	select {
	case i := <-changes:
		if i == nil || i.ID != other || i.Name != "other" {
			t.Errorf("%+v, want %s", i, other)
		}
	case <-time.After(patience):
		t.Error("no change")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// A child that is gone ends it too.
	go func() { ended <- remote.Watch(t.Context(), func(i *runtimes.Info) { changes <- i }) }()
	if first := <-changes; first != nil {
		t.Errorf("the first change is %+v", first)
	}
	if err := unix.Kill(childOf(c), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	eventually(t, "another child", func() bool {
		got, err := remote.Inspect(t.Context(), id)
		return err == nil && *got == *want
	})
}

// TestConnect has a child that asks for a connection to a socket that no runtime was said to be at.
func TestConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, theirs := pairOf(t)
	c := &Client{calls: map[uint64]*call{}, sockets: map[string]runtimes.Candidate{}, dialing: make(chan struct{}, 1)}
	p := &process{conn: ours}
	buf, oob := make([]byte, maxMessage), make([]byte, 64)
	for _, known := range []bool{false, true} {
		if known {
			if _, err := c.Open(runtimes.Candidate{Kind: runtimes.Docker, Path: path}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.take(p, &message{ID: 5, Op: opConnect, Source: runtimes.Candidate{Path: path}}); err != nil {
			t.Fatal(err)
		}
		n, rights, _, _, err := theirs.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		fd := receivedFD(oob[:rights])
		if (fd >= 0) != known || (m.err() == nil) != known || m.ID != 5 {
			t.Errorf("known: %v: descriptor %d, %+v", known, fd, m)
		}
		unix.Close(fd)
	}
}

func pairOf(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = newConn(pair[0]); err == nil {
		b, err = newConn(pair[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestList has a list of which each message is as long as it can be.
func TestList(t *testing.T) {
	ours, theirs := pairOf(t)
	var all []*runtimes.Info
	for i := range 200 {
		// Each byte of it has six in JSON.
		long := strings.Repeat("\x01", maxText)
		info := &runtimes.Info{ID: strconv.Itoa(i), Name: long, Image: long, Runtime: long, PodName: long, PodNamespace: long, PodUID: long}
		if i%2 == 0 {
			info = &runtimes.Info{ID: strconv.Itoa(i), Name: "short"}
		}
		all = append(all, info)
	}
	all = append(all, &runtimes.Info{ID: "long", Name: strings.Repeat("x", maxText+1)}) // left out
	s := newServer(theirs)
	go func() {
		last := s.list(t.Context(), 7, listed{all: all})
		_ = s.send(last)
	}()
	var got []*runtimes.Info
	buf := make([]byte, maxMessage+1)
	for more := true; more; {
		n, err := ours.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		got, more = append(got, m.Infos...), m.More
	}
	a, err1 := json.Marshal(got)
	b, err2 := json.Marshal(all[:len(all)-1])
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("%d containers, want %d", len(got), len(all)-1)
	}
}

// listed is a Source with only a list.
type listed struct {
	runtimes.Source
	all []*runtimes.Info
}

func (l listed) List(context.Context) ([]*runtimes.Info, error) { return l.all, nil }

// FuzzDecode has messages of a hostile child.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":1,"text":"root","infos":[{"ID":"x"}],"fault":{"text":"x"}}`))
	f.Add([]byte(`{"infos":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		if len(m.Text) > maxText || slices.ContainsFunc(m.Infos, func(i *runtimes.Info) bool { return i == nil || !short(i) }) {
			t.Errorf("%+v", m)
		}
	})
}

// BenchmarkFreeUser measures what the start waits for.
func BenchmarkFreeUser(b *testing.B) {
	for b.Loop() {
		if _, err := FreeUser(); err != nil && os.Geteuid() == 0 {
			b.Fatal(err)
		}
	}
}
