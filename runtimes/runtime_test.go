// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// These tests ask real daemons: their own, with what these keep in a folder that is
// removed.

// patience is how long anything may take that has to happen.
const patience = 30 * time.Second

const (
	testImage = "example.test/nstrace/box:1.2"
	unknownID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// need skips the test where it cannot be done. Where nobody would see that it was
// skipped, it fails.
func need(t *testing.T, programs ...string) {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("CI") != "" {
		stop = t.Fatalf
	}
	if os.Geteuid() != 0 {
		stop("takes root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			stop("takes %s: %v", p, err)
		}
	}
}

// shortDir makes a folder whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nsa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What a daemon left mounted, the innermost first.
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Error(err)
		}
		lines := strings.Split(string(mounts), "\n")
		for _, line := range slices.Backward(lines) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// command runs a program and returns what it prints.
func command(t *testing.T, env []string, args ...string) string {
	t.Helper()
	// Not the test's own context: some of it is done when the test is over.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// A container that goes on may have inherited it.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// A daemon is a program that listens at a socket.
type daemon struct {
	args   []string
	env    []string
	socket string
	log    *os.File
	cmd    *exec.Cmd
	gone   chan struct{} // closed when cmd has ended
}

func startDaemon(t *testing.T, dir, socket string, env []string, args ...string) *daemon {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{args: args, env: env, socket: socket, log: log}
	d.start(t)
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", args[0], text[max(0, len(text)-8000):])
		}
		log.Close()
	})
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Env = append(os.Environ(), d.env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, gone := d.cmd, make(chan struct{})
	d.gone = gone
	go func() { cmd.Wait(); close(gone) }()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-gone:
			text, _ := os.ReadFile(d.log.Name())
			t.Fatalf("%s ended: %v\n%s", d.args[0], cmd.ProcessState, text)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v", d.args[0], err)
		}
	}
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
	case <-time.After(patience):
		t.Errorf("%s does not end", d.args[0])
		syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		<-d.gone
	}
}

// imageTar makes an image of busybox, in the form of docker save.
func imageTar(t *testing.T, dir string) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	layer := tarOf(t, file{"bin/busybox", busybox, 0o755})
	config := jsonOf(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		// It ends by itself if nothing else ends it, and nobody has to wait for it.
		"config": map[string]any{"Cmd": []string{"/bin/busybox", "sleep", "300"}, "StopSignal": "SIGKILL"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	name := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest := jsonOf(t, []any{map[string]any{"Config": name, "RepoTags": []string{testImage}, "Layers": []string{"layer.tar"}}})
	out := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(out, tarOf(t, file{"manifest.json", manifest, 0o644}, file{name, config, 0o644}, file{"layer.tar", layer, 0o644}), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

type file struct {
	name string
	data []byte
	mode int64
}

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A watched is what Watch said.
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

// sees waits for a change of id after the first n that were seen, and returns how
// many were then.
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

// checkUnknown asks for what there is not.
func checkUnknown(t *testing.T, s Source) {
	t.Helper()
	for _, id := range []string{unknownID, "", "web", "../version", unknownID[:12]} {
		if i, err := s.Inspect(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", id, i, err)
		}
	}
}

// checkList compares the list with what is said of each.
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
	need(t, "dockerd", "docker", "containerd", "runc", "busybox")
	dir := shortDir(t)
	socket := filepath.Join(dir, "docker.sock")
	conf := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(conf, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, dir, socket, nil, "dockerd", "--iptables=false", "--ip-forward=false", "--bridge=none", "--storage-driver=vfs",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--config-file", conf, "-H", "unix://"+socket)
	testEngine(t, Docker, d, dir, func(args ...string) string {
		t.Helper()
		return command(t, nil, append([]string{"docker", "-H", "unix://" + socket}, args...)...)
	})
}

func TestPodman(t *testing.T) {
	need(t, "podman", "conmon", "runc", "busybox")
	dir := shortDir(t)
	socket := filepath.Join(dir, "podman.sock")
	// Without systemd, with any layout of cgroups, and where limits cannot be raised.
	conf := filepath.Join(dir, "containers.conf")
	if err := os.WriteFile(conf, []byte(`[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
`), 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"CONTAINERS_CONF=" + conf}
	podman := []string{"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs"}
	d := startDaemon(t, dir, socket, env, append(slices.Clone(podman), "system", "service", "--time=0", "unix://"+socket)...)
	testEngine(t, Podman, d, dir, func(args ...string) string {
		t.Helper()
		return command(t, env, append(slices.Clone(podman), args...)...)
	})
}

// testEngine tests what Docker and Podman have in common. cli runs their own
// program, whose word is what counts.
func testEngine(t *testing.T, kind string, d *daemon, dir string, cli func(...string) string) {
	s, err := Open(t.Context(), d.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := s.String(), kind+":"+d.socket; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	checkUnknown(t, s)
	checkList(t, s)

	w := watch(t, s)
	seen := w.sees(t, 0, "")
	cli("load", "-i", imageTar(t, dir))
	webID := cli("run", "-d", "--name", "web", "--net=none", "--label", "io.kubernetes.pod.name=shop", testImage)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(cli("ps", "-a"))
		}
		for _, id := range strings.Fields(cli("ps", "-aq")) {
			cli("rm", "-f", id)
		}
	})
	seen = w.sees(t, seen, webID)
	sideID := cli("run", "-d", "--name", "side", "--net=container:web", testImage)
	hostID := cli("create", "--name", "host", "--net=host", testImage)
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
	if want := (Info{ID: webID, Name: "web", Image: testImage, Runtime: kind, PodName: "shop"}); *web != want {
		t.Errorf("%+v, want %+v", *web, want)
	}
	side := inspect(t, s, sideID)
	host := inspect(t, s, hostID)
	if want := (Info{ID: hostID, Name: "host", Image: testImage, Runtime: kind}); *host != want {
		t.Errorf("%+v, want %+v", *host, want)
	}
	if got := inspect(t, s, webID[:12]); got.ID != webID {
		t.Errorf("%s is %+v", webID[:12], got)
	}
	checkList(t, s, inspect(t, s, webID), side, host)

	// A container named like the start of another's id is not that other.
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

	// The daemon goes and comes back.
	d.stop(t)
	if err := w.ends(t); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("the daemon went: %v", err)
	}
	_, err = s.Inspect(t.Context(), webID)
	if err == nil || errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), s.String()+": dial unix ") {
		t.Errorf("without a daemon: %v", err)
	}
	d.start(t)
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
	need(t, "containerd", "ctr", "runc", "busybox")
	dir := shortDir(t)
	socket := filepath.Join(dir, "containerd.sock")
	conf := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
address = "%[1]s/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "%[2]s"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "%[1]s/cni"
conf_dir = "%[1]s/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
`, dir, testImage), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, dir, socket, nil, "containerd", "--config", conf)
	ctr := func(args ...string) string {
		t.Helper()
		return command(t, nil, append([]string{"ctr", "-a", socket, "-n", "k8s.io"}, args...)...)
	}
	ctr("images", "import", "--snapshotter", "native", imageTar(t, dir))

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
	// What the kubelet does for a pod in the host's network, the one kind that
	// takes no plugin for networks.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	linux := &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}
	podConfig := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "web-0", Namespace: "shop", Uid: "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"},
		Labels:       map[string]string{"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"},
		LogDirectory: dir,
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: linux},
	}
	pod, err := s.service.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
			t.Error(err)
		}
		if _, err := s.service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
			t.Error(err)
		}
	})
	made, err := s.service.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, SandboxConfig: podConfig, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "nginx"},
		Image:    &cri.ImageSpec{Image: testImage, UserSpecifiedImage: "box:1.2"},
		Labels:   map[string]string{"io.kubernetes.container.name": "nginx", "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: linux.NamespaceOptions}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := Info{ID: made.ContainerId, Name: "nginx", Image: testImage, Runtime: "containerd", PodName: "web-0", PodNamespace: "shop",
		PodUID: "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"}
	known, err := s.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: made.ContainerId, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(known.String(), "user_specified_image") { // an old one does not
		want.Image = "box:1.2"
	}
	if got := inspect(t, s, made.ContainerId); *got != want {
		t.Errorf("created: %+v, want %+v", *got, want)
	}
	if _, err := s.service.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}

	got := inspect(t, s, made.ContainerId)
	if *got != want {
		t.Errorf("started: %+v, want %+v", *got, want)
	}
	sandbox := want
	sandbox.ID, sandbox.Name, sandbox.Image = pod.PodSandboxId, "", testImage
	if got := inspect(t, s, pod.PodSandboxId); *got != sandbox {
		t.Errorf("sandbox: %+v, want %+v", *got, sandbox)
	}
	checkList(t, s, &want, &sandbox)
	checkUnknown(t, s)

	version, err := s.service.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(strings.TrimPrefix(version.RuntimeVersion, "v"), "1.6.") {
		if err := w.ends(t); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("events of containerd %s: %v", version.RuntimeVersion, err)
		}
	} else {
		w.sees(t, seen, pod.PodSandboxId)
		w.sees(t, seen, made.ContainerId)
	}

	d.stop(t)
	if !strings.HasPrefix(strings.TrimPrefix(version.RuntimeVersion, "v"), "1.6.") {
		if err := w.ends(t); err == nil || errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("containerd went: %v", err)
		}
	}
	_, err = s.Inspect(t.Context(), want.ID)
	if err == nil || errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), s.String()+": ") {
		t.Errorf("without containerd: %v", err)
	}
	d.start(t)
	// It may listen before it serves, and there is a pause between attempts.
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

// listen makes a socket. What connects gets no answer.
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
			// And without a deadline of the caller's.
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

// A program that is no runtime must not fill the memory.
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
		{spec: "", says: "not docker:PATH, podman:PATH"},
		{spec: "docker:", says: "not docker:PATH"},
		{spec: "docker", says: "not docker:PATH"},
		{spec: "docker:run/docker.sock", says: "PATH starts with /"},
		{spec: "containerd:" + nobody, says: "cri:PATH (containerd, CRI-O)"},
		{spec: "tcp://localhost:2375", says: "not docker:PATH"},
		{spec: "cri:" + plain, says: plain + " is no socket"},
		{spec: plain, says: plain + " is no socket"},
		{spec: dir, says: dir + " is no socket"},
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
	root := shortDir(t)
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
		{Docker, at("run/docker.sock"), 0},
		{CRI, at("run/containerd/containerd.sock"), 0},
		{Podman, at("run/user/1000/podman/podman.sock"), 1000},
	}
	if found := wellKnownIn(root); !slices.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
}
