// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// These tests start their own real daemons, which store their data in a temporary folder.

// patience is the maximum time for anything that must happen.
const patience = 30 * time.Second

const unknownID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// A watched has the results of Watch.
type watched struct {
	mu   sync.Mutex
	ids  []string
	done chan error
	stop context.CancelFunc
}

func watch(t *testing.T, s Source) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{done: make(chan error, 1), stop: cancel}
	go func() {
		w.done <- s.Watch(ctx, func(i *Info) {
			id := ""
			if i != nil {
				id = i.ID
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ids = append(w.ids, id)
		})
	}()
	t.Cleanup(cancel)
	return w
}

// sees waits for a change of id after the first n changes, and returns the number of changes up to
// it.
func (w *watched) sees(t *testing.T, n int, id string) int {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		ids := w.ids
		w.mu.Unlock()
		if slices.Contains(ids[n:], id) {
			return len(ids)
		}
		select {
		case err := <-w.done:
			t.Fatalf("ended: %v", err)
		default:
		}
	}
	t.Fatalf("no change of %q after %d of %q", id, n, w.ids)
	return 0
}

// ends waits for the end of Watch.
func (w *watched) ends(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.done:
		return err
	case <-time.After(patience):
		t.Fatal("does not end")
		return nil
	}
}

func inspect(t *testing.T, s Source, id string) *Info {
	t.Helper()
	i, err := s.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// checkUnknown inspects containers that do not exist.
func checkUnknown(t *testing.T, s Source) {
	t.Helper()
	for _, id := range []string{unknownID, "", "web", "../version", unknownID[:12]} {
		if i, err := s.Inspect(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", id, i, err)
		}
	}
}

// checkList compares the list with the descriptions of its containers.
func checkList(t *testing.T, s Source, want ...*Info) {
	t.Helper()
	got, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d containers, want %d", len(got), len(want))
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(i *Info) bool { return *i == *w }) {
			t.Errorf("no %+v in the list", w)
		}
	}
}

func TestDocker(t *testing.T) {
	dir := runtimetest.Dir(t)
	testEngine(t, Docker, runtimetest.Docker(t, dir), dir)
}

func TestPodman(t *testing.T) {
	dir := runtimetest.Dir(t)
	testEngine(t, Podman, runtimetest.Podman(t, dir), dir)
}

// testEngine tests what Docker and Podman have in common. It compares with the output of their own
// command.
func testEngine(t *testing.T, kind string, d *runtimetest.Daemon, dir string) {
	cli := func(args ...string) string {
		t.Helper()
		return d.Output(t, args...)
	}
	s, err := Open(t.Context(), d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := s.String(), kind+":"+d.Socket; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	checkUnknown(t, s)
	checkList(t, s)

	w := watch(t, s)
	seen := w.sees(t, 0, "")
	cli("load", "-i", runtimetest.ImageTar(t, dir))
	webID := cli("run", "-d", "--name", "web", "--net=none", "--label", "io.kubernetes.pod.name=shop", runtimetest.Image)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(cli("ps", "-a"))
		}
		for _, id := range strings.Fields(cli("ps", "-aq")) {
			cli("rm", "-f", id)
		}
	})
	seen = w.sees(t, seen, webID)
	sideID := cli("run", "-d", "--name", "side", "--net=container:web", runtimetest.Image)
	hostID := cli("create", "--name", "host", "--net=host", runtimetest.Image)
	seen = w.sees(t, seen, hostID)

	format := "{{.Id}} {{.Name}} {{.Config.Image}}"
	says := func(id string) string {
		i := inspect(t, s, id)
		return fmt.Sprint(i.ID, " ", i.Name, " ", i.Image)
	}
	for _, id := range []string{webID, sideID, hostID} {
		if got, want := says(id), strings.Replace(cli("inspect", "--format", format, id), " /", " ", 1); got != want {
			t.Errorf("said  %s\nknown %s", got, want)
		}
	}
	web := inspect(t, s, webID)
	if want := (Info{ID: webID, Name: "web", Image: runtimetest.Image, Runtime: kind, PodName: "shop"}); *web != want {
		t.Errorf("%+v, want %+v", *web, want)
	}
	side := inspect(t, s, sideID)
	host := inspect(t, s, hostID)
	if want := (Info{ID: hostID, Name: "host", Image: runtimetest.Image, Runtime: kind}); *host != want {
		t.Errorf("%+v, want %+v", *host, want)
	}
	if got := inspect(t, s, webID[:12]); got.ID != webID {
		t.Errorf("%s is %+v", webID[:12], got)
	}
	checkList(t, s, inspect(t, s, webID), side, host)
	if kind == Podman {
		podID := cli("pod", "create", "--name", "shop-pod", "--infra=false")
		id := cli("create", "--pod", "shop-pod", "--name", "front", "--net=none", runtimetest.Image)
		front := inspect(t, s, id)
		if want := (Info{ID: id, Name: "front", Image: runtimetest.Image, Runtime: kind, PodName: "shop-pod", PodUID: podID}); *front != want {
			t.Errorf("%+v, want %+v", *front, want)
		}
		checkList(t, s, inspect(t, s, webID), side, host, front)
		cli("pod", "rm", "--force", "shop-pod")
	}

	// A name that begins another container's id does not select that container.
	cli("rename", "host", unknownID[:12])
	seen = w.sees(t, seen, hostID)
	if got := inspect(t, s, hostID).Name; got != unknownID[:12] {
		t.Errorf("renamed: %q", got)
	}
	checkUnknown(t, s)

	cli("rename", "web", "shop.web-1")
	seen = w.sees(t, seen, webID)
	if got := inspect(t, s, webID).Name; got != "shop.web-1" {
		t.Errorf("renamed: %q", got)
	}
	cli("rm", "-f", sideID)
	w.sees(t, seen, sideID)
	if i, err := s.Inspect(t.Context(), sideID); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed: %+v, %v", i, err)
	}

	// The daemon stops and starts again.
	d.Stop(t)
	if err := w.ends(t); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("the daemon went: %v", err)
	}
	_, err = s.Inspect(t.Context(), webID)
	if err == nil || errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), s.String()+": dial unix ") {
		t.Errorf("without a daemon: %v", err)
	}
	d.Start(t)
	if got := inspect(t, s, webID).Name; got != "shop.web-1" {
		t.Errorf("after the restart: %q", got)
	}
	w = watch(t, s)
	seen = w.sees(t, 0, "")
	cli("rm", "-f", hostID)
	w.sees(t, seen, hostID)
	w.stop()
	if err := w.ends(t); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

func TestContainerd(t *testing.T) {
	d := runtimetest.StartContainerd(t, runtimetest.Dir(t))
	socket := d.Socket
	opened, err := Open(t.Context(), "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	if got, want := opened.String(), "cri:"+socket; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s := opened.(*criSource)
	checkUnknown(t, s)
	checkList(t, s)

	w := watch(t, s)
	seen := w.sees(t, 0, "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// In the host's network, which needs no plugin.
	const podUID = "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"
	network := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}
	pod := d.Pod("web-0", "shop", podUID, &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: network}})
	podID := d.RunPod(t, pod)
	id := d.CreateContainer(t, pod, podID, "nginx", &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: network}})
	want := Info{ID: id, Name: "nginx", Image: runtimetest.Image, Runtime: "containerd", PodName: "web-0", PodNamespace: "shop",
		PodUID: podUID}
	known, err := d.CRI.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(known.String(), "user_specified_image") { // older versions lack it
		want.Image = "box:1.2"
	}
	if got := inspect(t, s, id); *got != want {
		t.Errorf("created: %+v, want %+v", *got, want)
	}
	d.StartContainer(t, id)

	got := inspect(t, s, id)
	if *got != want {
		t.Errorf("started: %+v, want %+v", *got, want)
	}
	sandbox := want
	sandbox.ID, sandbox.Name, sandbox.Image = podID, "", runtimetest.Image
	if got := inspect(t, s, podID); *got != sandbox {
		t.Errorf("sandbox: %+v, want %+v", *got, sandbox)
	}
	checkList(t, s, &want, &sandbox)
	checkUnknown(t, s)

	version, err := d.CRI.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(strings.TrimPrefix(version.RuntimeVersion, "v"), "1.6.") {
		if err := w.ends(t); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("events of containerd %s: %v", version.RuntimeVersion, err)
		}
	} else {
		w.sees(t, seen, podID)
		w.sees(t, seen, id)
	}

	d.Stop(t)
	if !strings.HasPrefix(strings.TrimPrefix(version.RuntimeVersion, "v"), "1.6.") {
		if err := w.ends(t); err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("containerd went: %v", err)
		}
	}
	_, err = s.Inspect(t.Context(), want.ID)
	if err == nil || errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), s.String()+": ") {
		t.Errorf("without containerd: %v", err)
	}
	d.Start(t)
	// It can listen before it serves, and there is a pause between attempts.
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got, err := s.Inspect(t.Context(), want.ID)
		if err == nil {
			if *got != want {
				t.Errorf("after the restart: %+v, want %+v", *got, want)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after the restart: %v", err)
		}
	}
}

// listen makes a socket that never answers.
func listen(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestSilence(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	listen(t, path)
	for _, kind := range []string{Docker, Podman, CRI, ""} {
		t.Run("kind="+kind, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			s, err := Open(ctx, strings.TrimPrefix(kind+":"+path, ":"))
			if kind == "" {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("asked: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			begun := time.Now()
			_, err = s.Inspect(ctx, unknownID)
			_, err2 := s.List(ctx)
			err3 := s.Watch(ctx, func(*Info) {})
			if took := time.Since(begun); took > answerTime/2 {
				t.Errorf("took %v", took)
			}
			for _, err := range []error{err, err2, err3} {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}
			// Also without a deadline of the caller.
			done := make(chan error, 1)
			go func() { done <- s.Watch(t.Context(), func(*Info) {}) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			case <-time.After(2*answerTime + patience):
				t.Error("waits for ever")
			}
		})
	}
}

// A program that is not a runtime must not fill the memory.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				request := make([]byte, 4096)
				conn.Read(request)
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
				if bytes.HasPrefix(request, []byte("HEAD ")) {
					return
				}
				fmt.Fprint(conn, `{"Version":"`)
				endless := bytes.Repeat([]byte{'x'}, 1<<16)
				for err == nil {
					_, err = conn.Write(endless)
				}
			}()
		}
	}()
	s, err := Open(t.Context(), "docker:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Inspect(t.Context(), unknownID)
	if err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	plain, gone, nobody := filepath.Join(dir, "plain"), filepath.Join(dir, "gone"), filepath.Join(dir, "nobody")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: nobody})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct{ spec, kind, path, says string }{
		{spec: "docker:" + gone, kind: Docker, path: gone},
		{spec: "podman:unix://" + nobody, kind: Podman, path: nobody},
		{spec: "cri:" + gone, kind: CRI, path: gone},
		{spec: "", says: "want docker:PATH, podman:PATH"},
		{spec: "docker:", says: "want docker:PATH"},
		{spec: "docker", says: "want docker:PATH"},
		{spec: "docker:run/docker.sock", says: "PATH starts with /"},
		{spec: "containerd:" + nobody, says: "cri:PATH (containerd, CRI-O)"},
		{spec: "tcp://localhost:2375", says: "want docker:PATH"},
		{spec: "cri:" + plain, says: plain + " is not a socket"},
		{spec: plain, says: plain + " is not a socket"},
		{spec: dir, says: dir + " is not a socket"},
		{spec: gone, says: "no such file or directory"},
		{spec: "unix://" + gone, says: "no such file or directory"},
		{spec: nobody, says: "connection refused"},
	} {
		s, err := Open(t.Context(), c.spec)
		if c.says != "" {
			if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("runtime socket %q: ", c.spec)) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", c.spec, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.spec, err)
			continue
		}
		if got, want := s.String(), c.kind+":"+c.path; got != want {
			t.Errorf("%q: %s, want %s", c.spec, got, want)
		}
		_, err = s.Inspect(t.Context(), unknownID)
		why := "no such file or directory"
		if c.path == nobody {
			why = "connection refused"
		}
		if err == nil || !strings.HasPrefix(err.Error(), s.String()+": ") || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: inspect: %v", c.spec, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWellKnown(t *testing.T) {
	root := runtimetest.Dir(t)
	at := func(path string) string { return filepath.Join(root, path) }
	link := func(to, name string) {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if found := wellKnownIn(root); found != nil {
		t.Errorf("%v where there is nothing", found)
	}
	listen(t, at("run/podman/podman.sock"))
	listen(t, at("run/containerd/containerd.sock"))
	listen(t, at("run/user/1000/podman/podman.sock"))
	link("../run", "var/run")
	link("podman/podman.sock", "run/docker.sock") // podman-docker
	link("../../docker.sock", "run/user/1001/docker.sock")
	link("/nowhere", "run/user/1002/docker.sock")
	listen(t, at("run/user/eve/docker.sock"))
	if err := os.MkdirAll(at("run/crio/crio.sock"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := []Candidate{
		{Kind: Docker, Path: at("run/docker.sock"), UID: 0},
		{Kind: CRI, Path: at("run/containerd/containerd.sock"), UID: 0},
		{Kind: Podman, Path: at("run/user/1000/podman/podman.sock"), UID: 1000},
	}
	if found := wellKnownIn(root); !slices.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
}
