// SPDX-License-Identifier: Apache-2.0

// Package containers runs real containers with real Docker and Podman under a real nstrace. It
// compares the owners of processes and namespaces in the events with the runtimes and /proc. The
// tests need root. NSTRACE_BIN names the nstrace to test; without it, the tests build one.
package containers

import (
	"bytes"
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

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
	"github.com/nstrace/nstrace/schema/schematest"
)

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
		return 0, errors.New("containers and nstrace need root")
	}
	if nstraceBin = os.Getenv("NSTRACE_BIN"); nstraceBin == "" {
		dir, err := os.MkdirTemp("", "nstrace-containers-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		nstraceBin = filepath.Join(dir, "nstrace")
		cmd := exec.Command("go", "build", "-o", nstraceBin, "github.com/nstrace/nstrace/cmd/nstrace")
		if text, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build nstrace: %w\n%s", err, text)
		}
	}
	return m.Run(), nil
}

// A stream is an nstrace that runs during a test.
type stream struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string
	err  bytes.Buffer
}

// trace starts nstrace, and returns when it sees all events.
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
			t.Logf("nstrace %q printed: %s", args, &s.err)
		}
	})
	runtimetest.Eventually(t, "nstrace has started", func() bool {
		b, err := os.ReadFile(s.file)
		return err == nil && bytes.IndexByte(b, '\n') >= 0
	})
	return s
}

// end ends nstrace and returns its events. They must be valid, and none may be lost.
func (s *stream) end() []*event.Event {
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
	var all []*event.Event
	dec := json.NewDecoder(bytes.NewReader(text))
	for {
		e := new(event.Event)
		if err := dec.Decode(e); err == io.EOF {
			return all
		} else if err != nil {
			s.t.Fatal(err)
		}
		if e.Type == event.TraceLoss {
			s.t.Errorf("lost: %+v", e.Loss)
		}
		all = append(all, e)
	}
}

// namespace returns the namespace that the event is about.
func namespace(e *event.Event) *event.Namespace {
	if e.Sysctl != nil {
		return e.Sysctl.Namespace
	}
	return e.Namespace
}

// owner returns the container that owns the event's namespace.
func owner(e *event.Event) *event.Container {
	if ns := namespace(e); ns != nil && ns.Owner != nil {
		return ns.Owner.Container
	}
	return nil
}

// known are the names that containers have had, by id.
type known map[string][]string

// ownerPod returns the pod that owns the namespace of an event.
func ownerPod(e *event.Event) *event.Pod {
	if ns := namespace(e); ns != nil && ns.Owner != nil {
		return ns.Owner.Pod
	}
	return nil
}

// about returns the events of one type about a network namespace.
func about(events []*event.Event, typ event.Type, id uint32) []*event.Event {
	return pick(events, func(e *event.Event) bool {
		ns := namespace(e)
		return e.Type == typ && ns != nil && ns.Type == event.NSTypeNet && ns.ID == id
	})
}

func line(e *event.Event) string {
	text, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// check checks that no event has a wrong container: one that was not made, one with a name or image
// that it never had, or one that the process's cgroup does not name. It logs how many have no name.
func (e *engine) check(t *testing.T, events []*event.Event) {
	t.Helper()
	named, nameless := 0, 0
	for _, ev := range events {
		for _, c := range []*event.Container{ev.Container, owner(ev)} {
			switch {
			case c == nil:
				continue
			case e.made[c.ID] == nil:
				t.Errorf("an unknown container: %s", line(ev))
			case c.Source != event.FromRuntime:
				nameless++
			case !slices.Contains(e.made[c.ID], c.Name) || c.Image != runtimetest.Image || c.Runtime != e.runtime:
				t.Errorf("no container had the name %s, the image %s and the runtime %s: %s", c.Name, c.Image, c.Runtime, line(ev))
			default:
				named++
			}
		}
		if c := ev.Container; c != nil && !strings.Contains(ev.Process.Cgroup, c.ID) {
			t.Errorf("its cgroup names another container or none: %s", line(ev))
		}
		if ev.Container == nil && ev.Process != nil {
			for id := range e.made {
				if strings.Contains(ev.Process.Cgroup, id) && !strings.Contains(ev.Process.Cgroup, "conmon") {
					t.Errorf("its cgroup names a container: %s", line(ev))
				}
			}
		}
	}
	t.Logf("%d containers named, %d without a name, of %d events", named, nameless, len(events))
	if nameless > 0 && !e.slow {
		t.Errorf("%d have no name, although their runtime was running", nameless)
	}
}

// pick returns the events for which ok is true.
func pick(events []*event.Event, ok func(*event.Event) bool) (some []*event.Event) {
	for _, e := range events {
		if ok(e) {
			some = append(some, e)
		}
	}
	return some
}
