// SPDX-License-Identifier: Apache-2.0

// Package containers runs real containers, by real Docker and Podman, under a real
// nstrace, and compares whose it says that processes and namespaces are with what the
// runtimes and /proc say. It takes root. NSTRACE_BIN names the nstrace to test;
// without it one is built.
package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/attribution"
	"github.com/nstrace/nstrace/schema/schematest"
	"github.com/nstrace/nstrace/tracer"
)

// patience is how long anything may take that has to happen.
const patience = 2 * time.Minute

var nstraceBin string

func TestMain(m *testing.M) {
	status, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "containers:", err)
		status = 1
	}
	os.Exit(status)
}

func runAll(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("containers and their tracer take root")
	}
	if nstraceBin = os.Getenv("NSTRACE_BIN"); nstraceBin == "" {
		dir, err := os.MkdirTemp("", "nstrace-containers-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		nstraceBin = filepath.Join(dir, "nstrace")
		cmd := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", nstraceBin, "github.com/nstrace/nstrace/cmd/nstrace")
		if text, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build nstrace: %w\n%s", err, text)
		}
	}
	return m.Run(), nil
}

// isGuest says whether this is a guest of test/vm, which is nobody's host.
func isGuest() bool {
	name, err := os.Hostname()
	return err == nil && name == "nstrace-guest"
}

// need fails a test whose programs are missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is missing: make deps installs it", p)
		}
	}
}

// output runs a command that has to succeed, and returns what it prints.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", patience, what)
		}
	}
}

// A daemon is a process that runs while a test does.
type daemon struct {
	cmd *exec.Cmd
	log string
}

func start(t *testing.T, log, name string, args ...string) *daemon {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &daemon{cmd: exec.Command(name, args...), log: log}
	d.cmd.Stdout, d.cmd.Stderr = f, f
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("%s said:\n%s", name, text[max(0, len(text)-3000):])
		}
	})
	return d
}

func (d *daemon) stop(t *testing.T) {
	if d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(patience, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	_ = d.cmd.Wait() // whatever its status: it was ended
}

// A stream is an nstrace that runs while a test does things.
type stream struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string
	err  bytes.Buffer
}

// trace starts nstrace, and returns when it sees everything.
func trace(t *testing.T, args ...string) *stream {
	t.Helper()
	s := &stream{t: t, file: filepath.Join(t.TempDir(), "events")}
	f, err := os.Create(s.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.cmd = exec.Command(nstraceBin, append([]string{"-o", "json"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = f, &s.err
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	})
	eventually(t, "nstrace has begun", func() bool {
		b, err := os.ReadFile(s.file)
		return err == nil && bytes.IndexByte(b, '\n') >= 0
	})
	return s
}

// end ends nstrace, and returns what it saw. Whatever it says has to be valid, and it may
// not have lost anything.
func (s *stream) end() []*tracer.Event {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatalf("nstrace: %v\n%s", err, s.err.String())
	}
	text, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	schematest.Lines(s.t, text)
	var all []*tracer.Event
	dec := json.NewDecoder(bytes.NewReader(text))
	for {
		e := new(tracer.Event)
		if err := dec.Decode(e); err == io.EOF {
			return all
		} else if err != nil {
			s.t.Fatal(err)
		}
		if e.Type == tracer.TraceLoss {
			s.t.Errorf("lost: %+v", e.Loss)
		}
		all = append(all, e)
	}
}

// namespace is what the event is about.
func namespace(e *tracer.Event) *tracer.Namespace {
	if e.Sysctl != nil {
		return e.Sysctl.Namespace
	}
	return e.Namespace
}

// owner is the container that the event's namespace is said to be of.
func owner(e *tracer.Event) *attribution.Container {
	if ns := namespace(e); ns != nil && ns.Owner != nil {
		return ns.Owner.Container
	}
	return nil
}

// known are the names that a container has had, by its id.
type known map[string][]string

func line(e *tracer.Event) string {
	text, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// check says that no event has a wrong container: none that was not made, none under
// a name or image that it never had, and none that the process's cgroup does
// not name. It prints how many have no name.
func (e *engine) check(t *testing.T, events []*tracer.Event) {
	t.Helper()
	named, nameless := 0, 0
	for _, ev := range events {
		for _, c := range []*attribution.Container{ev.Container, owner(ev)} {
			switch {
			case c == nil:
				continue
			case e.made[c.ID] == nil:
				t.Errorf("a container that nobody made: %s", line(ev))
			case c.Source != attribution.FromRuntime:
				nameless++
			case !slices.Contains(e.made[c.ID], c.Name) || c.Image != e.image || c.Runtime != e.runtime:
				t.Errorf("a container called %s, image %s, of %s, was never made: %s", c.Name, c.Image, c.Runtime, line(ev))
			default:
				named++
			}
		}
		if c := ev.Container; c != nil && !strings.Contains(ev.Process.Cgroup, c.ID) {
			t.Errorf("its cgroup does not say so: %s", line(ev))
		}
		if ev.Container == nil && ev.Process != nil {
			for id := range e.made {
				if strings.Contains(ev.Process.Cgroup, id) && !strings.Contains(ev.Process.Cgroup, "conmon") {
					t.Errorf("its cgroup says that it is in one: %s", line(ev))
				}
			}
		}
	}
	t.Logf("%d containers named, %d without a name, of %d events", named, nameless, len(events))
	if nameless > 0 && !e.slow {
		t.Errorf("%d were not named, though their runtime was there", nameless)
	}
}

// pick returns those events for which ok holds.
func pick(events []*tracer.Event, ok func(*tracer.Event) bool) (some []*tracer.Event) {
	for _, e := range events {
		if ok(e) {
			some = append(some, e)
		}
	}
	return some
}

// image makes a tar of an image's only layer.
func image(t *testing.T) string {
	t.Helper()
	need(t, "busybox", "tar")
	dir := t.TempDir()
	bin := filepath.Join(dir, "root", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	output(t, "cp", busybox, filepath.Join(bin, "busybox"))
	for _, applet := range []string{"sh", "sleep", "true", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "image.tar")
	output(t, "tar", "-C", filepath.Join(dir, "root"), "-cf", file, ".")
	return file
}
