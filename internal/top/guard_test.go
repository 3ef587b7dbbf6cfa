// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/inventory"
)

// helperEnv makes this program a nstrace top whose details fail as the value says.
const helperEnv = "NSTRACE_TOP_TEST_HELPER"

// patience is how long anything may take that has to happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if how := os.Getenv(helperEnv); how != "" {
		os.Exit(helper(how))
	}
	os.Exit(m.Run())
}

// helper does what cmd/nstrace does, without a tracer.
func helper(how string) int {
	guarded := IsGuarded()
	if guarded == nil {
		status, err := Guard(os.Stdin, os.Stdout, os.Stderr)
		if err != nil {
			fmt.Fprintln(os.Stderr, "nstrace:", err)
			return 1
		}
		return status
	}
	failed := make(chan error, 1)
	fail := func() {
		switch how {
		case "goroutine":
			go panic("a goroutine's \x1b[31mpanic")
			select {}
		case "model":
			panic("the model's panic")
		case "fatal": // what no recover catches
			new(sync.Mutex).Unlock()
		case "tracer":
			failed <- errors.New("the tracer's error")
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "exit":
			os.Exit(0)
		}
	}
	err := Run(context.Background(), Options{
		In: os.Stdin, Out: os.Stdout, Feed: NewFeed(), Guarded: guarded,
		Trace: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case err := <-failed:
				return err
			}
		},
		Take: func(ctx context.Context) (*inventory.Inventory, error) {
			return inventory.Take(ctx, inventory.Options{Source: inventory.Proc})
		},
		Describe: func(*inventory.Inventory, *inventory.Namespace) []string {
			fail()
			return nil
		},
	})
	guarded.Ended()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nstrace:", err)
		return 3
	}
	return 0
}

// A terminal is a pseudoterminal and what was written to it.
type terminal struct {
	*testing.T
	master, tty *os.File
	before      unix.Termios

	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{T: t, master: master, tty: tty, more: make(chan struct{}, 1)}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	term.before = term.modes()
	var read sync.WaitGroup
	read.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.text.Write(buf[:n])
			term.mu.Unlock()
			select {
			case term.more <- struct{}{}:
			default:
			}
		}
	})
	t.Cleanup(func() {
		tty.Close()
		master.Close()
		read.Wait()
	})
	return term
}

func (term *terminal) modes() unix.Termios {
	term.Helper()
	modes, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err != nil {
		term.Fatal(err)
	}
	return *modes
}

func (term *terminal) written() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.text.String()
}

// await waits until the terminal was written this.
func (term *terminal) await(text string) {
	term.Helper()
	limit := time.After(patience)
	for !strings.Contains(term.written(), text) {
		select {
		case <-term.more:
		case <-limit:
			term.Fatalf("no %q after %v:\n%q", text, patience, term.written())
		}
	}
}

// TestTerminalRestored ends the view in every way, and checks that the terminal is as before and
// that the user learns why it ended.
func TestTerminalRestored(t *testing.T) {
	const trace = "\ngoroutine "
	for _, c := range []struct {
		how    string // of helper, "" for a signal
		signal syscall.Signal
		status int
		want   []string // on standard error
	}{
		{how: "goroutine", status: 1, want: []string{`panic: a goroutine's \x1b[31mpanic`, trace, "nstrace: the view ended unexpectedly with exit status 2\n"}},
		{how: "model", status: 1, want: []string{"panic: the model's panic", trace, "nstrace: the view ended unexpectedly with exit status 2\n"}},
		{how: "fatal", status: 1, want: []string{"fatal error: sync: unlock of unlocked mutex", trace, "nstrace: the view ended unexpectedly with exit status 2\n"}},
		{how: "kill", status: 1, want: []string{"nstrace: the view was ended by SIGKILL (killed)\n"}},
		{how: "exit", status: 1, want: []string{"nstrace: the view ended unexpectedly with exit status 0\n"}},
		{how: "tracer", status: 3, want: []string{"nstrace: the tracer's error\n"}},
		{signal: syscall.SIGTERM, status: 0},
		{signal: syscall.SIGHUP, status: 0},
		{signal: syscall.SIGINT, status: 0},
		{signal: syscall.SIGQUIT, status: 1, want: []string{"SIGQUIT: quit", trace, "nstrace: the view ended unexpectedly with exit status 2\n"}},
	} {
		name := c.how
		if name == "" {
			name = unix.SignalName(c.signal)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term := openTerminal(t)
			var stderr strings.Builder
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), helperEnv+"="+name, "TERM=xterm-256color")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = term.tty, term.tty, &stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			term.await("OLDEST PROCESS")
			term.await("mnt ") // the first inventory is there
			if raw := term.modes(); raw.Lflag&unix.ICANON != 0 {
				t.Errorf("the terminal is not in raw mode: %+v", raw)
			}
			if c.signal != 0 {
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			} else if _, err := term.master.WriteString("\r"); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.status {
				t.Errorf("exit status %d, want %d", got, c.status)
			}
			if after := term.modes(); after != term.before {
				t.Errorf("the terminal is %+v, it was %+v", after, term.before)
			}
			term.await("\x1b[?1049l")
			for _, mode := range []string{"?1049", "?25", "?2004"} {
				on, off := "h", "l"
				if mode == "?25" {
					on, off = off, on
				}
				if text := term.written(); strings.LastIndex(text, "\x1b["+mode+off) < strings.LastIndex(text, "\x1b["+mode+on) {
					t.Errorf("mode %s is still set after\n%q", mode, text)
				}
			}
			for _, want := range c.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("no %q on standard error:\n%s", want, stderr.String())
				}
			}
			if c.want == nil && stderr.Len() > 0 || strings.Contains(stderr.String(), "\x1b") {
				t.Errorf("standard error: %q", stderr.String())
			}
		})
	}
}

// TestGuardKilled kills Guard. The other process ends by itself, and restores the terminal.
func TestGuardKilled(t *testing.T) {
	term := openTerminal(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=guard", "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout = term.tty, term.tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term.await("mnt ")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	term.await("\x1b[?1049l")
	for limit := time.Now().Add(patience); term.modes() != term.before; {
		if time.Now().After(limit) {
			t.Fatalf("the terminal is %+v, it was %+v", term.modes(), term.before)
		}
		time.Sleep(time.Millisecond) // polls: nothing tells when modes change
	}
}

// TestFallbackTerminal checks the message without a terminal.
func TestFallbackTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	term := openTerminal(t)
	if err := CheckTerminal(null, term.tty); err == nil || !strings.HasPrefix(err.Error(), "standard input is not a terminal") {
		t.Error(err)
	}
	if err := CheckTerminal(term.tty, null); err == nil || !strings.HasPrefix(err.Error(), "standard output is not a terminal") {
		t.Error(err)
	}
	if err := CheckTerminal(term.tty, term.tty); err != nil {
		t.Error(err)
	}
}
