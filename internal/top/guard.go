// SPDX-License-Identifier: Apache-2.0

package top

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// guardedEnv is set, to the number of a descriptor, in the process that Guard starts.
const guardedEnv = "NSTRACE_TOP_GUARDED"

// What the guarded process tells Guard, one byte each.
const (
	noteScreen   = 's' // it has the terminal
	noteReleased = 'r' // the terminal is as before
	noteEnded    = 'e' // it ends in order
)

// maxStderr is how many bytes of the guarded process's messages are kept until its end.
const maxStderr = 1 << 20

// lastWords is how long Guard waits for what a process wrote that has ended.
const lastWords = time.Second

// restoreScreen leaves every mode that the view sets: synchronised output, character clusters,
// modifyOtherKeys, the kitty keyboard, bracketed paste, attributes, a hidden cursor, and the
// alternate screen.
const restoreScreen = "\x1b[?2026l\x1b[?2027l\x1b[>4m\x1b[<u\x1b[?2004l\x1b[m\x1b[?25h\x1b[?1049l"

// Guarded is the guarded process's connection with Guard.
type Guarded struct {
	conn *os.File
	end  chan struct{} // closed when Guard is gone
}

// IsGuarded returns the connection with the Guard that started this process, nil if it is not a
// guarded process.
func IsGuarded() *Guarded {
	fd, err := strconv.Atoi(os.Getenv(guardedEnv))
	if err != nil || fd < 3 {
		return nil
	}
	os.Unsetenv(guardedEnv)
	unix.CloseOnExec(fd)
	if unix.SetNonblock(fd, true) != nil {
		return nil
	}
	g := &Guarded{conn: os.NewFile(uintptr(fd), "guard"), end: make(chan struct{})}
	go func() {
		defer close(g.end)
		_, _ = g.conn.Read(make([]byte, 1)) // Guard writes nothing: it returns when Guard is gone
	}()
	return g
}

func (g *Guarded) note(what byte) {
	if g != nil {
		_, _ = g.conn.Write([]byte{what})
	}
}

// Ended tells Guard that the process ends in order: its exit status and its messages are meant.
func (g *Guarded) Ended() { g.note(noteEnded) }

// gone is closed when Guard has ended, and with it the user's hold on this process.
func (g *Guarded) gone() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.end
}

// stopProcess stops the process. It returns when the process goes on: a signal to the calling
// thread itself takes effect before the call returns. It is not SIGTSTP, which Go's runtime
// ignores once a program has asked for it.
func stopProcess() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
}

// A guard watches one guarded process.
type guard struct {
	in, out, errors *os.File
	before          unix.Termios // of in
	cmd             *exec.Cmd
	conn            *os.File // to the guarded process
	pipe            *os.File // its standard error

	mu      sync.Mutex
	screen  bool // the guarded process has the terminal
	orderly bool // it said that it ends in order
	said    bytes.Buffer
}

// Guard starts this program again with the same arguments, and waits for its end. There, IsGuarded
// returns a connection. Signals that ask for the end, and those that stop and continue, reach that
// process too. If it does not end in order, Guard restores the terminal, prints what the process
// wrote to standard error (the trace of a panic), and returns an error. Otherwise it returns its
// exit status.
func Guard(in, out, stderr *os.File) (status int, err error) {
	g := &guard{in: in, out: out, errors: stderr}
	before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return 0, fmt.Errorf("read the state of the terminal: %w", err)
	}
	g.before = *before
	// Before the process starts: it must not miss a signal.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGCONT)
	defer signal.Stop(signals)
	if err := g.start(); err != nil {
		return 0, fmt.Errorf("start the view: %w", err)
	}
	var readers sync.WaitGroup
	readers.Go(g.readNotes)
	readers.Go(g.readErrors)
	changes := make(chan unix.WaitStatus)
	go g.wait(changes)
	for {
		select {
		case sig := <-signals:
			_ = g.cmd.Process.Signal(sig) // it may have ended meanwhile
		case ws := <-changes:
			if ws.Stopped() {
				g.stop()
				continue
			}
			until := time.Now().Add(lastWords)
			_ = g.conn.SetReadDeadline(until)
			_ = g.pipe.SetReadDeadline(until)
			readers.Wait()
			return g.ended(ws)
		}
	}
}

// start starts the guarded process.
func (g *guard) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	g.conn = os.NewFile(uintptr(pair[0]), "guarded")
	theirs := os.NewFile(uintptr(pair[1]), "guard")
	defer theirs.Close()
	var said *os.File
	if g.pipe, said, err = os.Pipe(); err != nil {
		return err
	}
	defer said.Close()
	path, err := os.Executable()
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil { // replaced or removed since the start
		path = "/proc/self/exe"
	}
	g.cmd = exec.Command(path, os.Args[1:]...)
	g.cmd.Args[0] = os.Args[0]
	g.cmd.Stdin, g.cmd.Stdout, g.cmd.Stderr = g.in, g.out, said
	g.cmd.ExtraFiles = []*os.File{theirs}
	g.cmd.Env = append(os.Environ(), guardedEnv+"=3")
	return g.cmd.Start()
}

// wait reports the stops of the guarded process, and its end last.
func (g *guard) wait(changes chan<- unix.WaitStatus) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(g.cmd.Process.Pid, &ws, unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // nobody else waits for it
			ws = unix.WaitStatus(0xff00)
		}
		changes <- ws
		if !ws.Stopped() {
			return
		}
	}
}

// stop stops this process too, so that the shell takes the terminal back. When it goes on, so
// does the guarded process. It does not stop where no shell could continue it.
func (g *guard) stop() {
	if hasShell() {
		_ = stopProcess()
	}
	_ = g.cmd.Process.Signal(syscall.SIGCONT)
}

// hasShell reports whether the process group is not orphaned: a process of the same session, but
// another group, is the parent of one in this group. The kernel ignores ^Z in an orphaned group.
func hasShell() bool {
	group := unix.Getpgrp()
	session, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	for pid := os.Getppid(); pid > 0; {
		if s, err := unix.Getsid(pid); err != nil || s != session {
			return false
		}
		if g, err := unix.Getpgid(pid); err != nil || g != group {
			return err == nil
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		// The name, in parentheses, can have any character.
		after := stat[bytes.LastIndexByte(stat, ')')+1:]
		fields := bytes.Fields(after)
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(string(fields[1])); err != nil {
			return false
		}
	}
	return false
}

func (g *guard) readNotes() {
	var note [1]byte
	for {
		if n, err := g.conn.Read(note[:]); n == 0 || err != nil {
			return
		}
		g.mu.Lock()
		switch note[0] {
		case noteScreen:
			g.screen = true
		case noteReleased:
			g.screen = false
		case noteEnded:
			g.orderly = true
		}
		g.mu.Unlock()
	}
}

// readErrors keeps what the guarded process writes to standard error. On the screen, it would
// destroy the view.
func (g *guard) readErrors() {
	buf := make([]byte, 32<<10)
	for {
		n, err := g.pipe.Read(buf)
		g.mu.Lock()
		g.said.Write(buf[:min(n, maxStderr-g.said.Len())])
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ended restores the terminal unless the guarded process did, and prints what it wrote.
func (g *guard) ended(ws unix.WaitStatus) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.screen {
		g.restore()
	}
	_, _ = io.WriteString(g.errors, printable(g.said.String()))
	switch {
	case g.orderly && ws.Exited():
		return ws.ExitStatus(), nil
	case ws.Signaled():
		return 0, fmt.Errorf("the view was ended by %s (%v)", unix.SignalName(ws.Signal()), ws.Signal())
	}
	return 0, fmt.Errorf("the view ended unexpectedly with exit status %d", ws.ExitStatus())
}

// restore restores the terminal, if it is this process's to change: in the background, it is the
// shell's.
func (g *guard) restore() {
	foreground, err := unix.IoctlGetInt(int(g.in.Fd()), unix.TIOCGPGRP)
	if err != nil || foreground != unix.Getpgrp() {
		return
	}
	_, _ = g.out.WriteString(restoreScreen)
	_ = unix.IoctlSetTermios(int(g.in.Fd()), unix.TCSETSF, &g.before) // TCSETSF drops answers of the terminal
}

// printable escapes what is not printable, except ends of lines and tabs.
func printable(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b.WriteString(text[i : i+n])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		i += n
	}
	return b.String()
}
