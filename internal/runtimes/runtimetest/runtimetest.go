// SPDX-License-Identifier: Apache-2.0

// Package runtimetest runs real container runtimes for tests: Docker, Podman and containerd. Each
// stores its data in a temporary folder, and uses an image that needs no registry.
package runtimetest

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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is the maximum time for anything that must happen.
const Patience = 2 * time.Minute

// Image is the name of the image that [ImageTar] makes.
const Image = "example.test/nstrace/box:1.2"

// IsGuest reports whether this is a guest of test/vm.
func IsGuest() bool {
	name, err := os.Hostname()
	return err == nil && name == "nstrace-guest"
}

// Need skips the test unless it runs as root and these programs exist. In a guest it fails instead,
// because nobody would notice that it was skipped.
func Need(t *testing.T, programs ...string) {
	t.Helper()
	stop := t.Skipf
	if os.Getenv("CI") != "" || IsGuest() {
		stop = t.Fatalf
	}
	if os.Geteuid() != 0 {
		stop("takes root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			stop("takes %s, which make deps installs: %v", p, err)
		}
	}
}

// Eventually waits for a condition.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", Patience, what)
		}
	}
}

// Dir makes a folder with a path that is short enough for sockets in it. At the end of the test, it
// unmounts what is mounted there and removes the folder.
func Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nsr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Unmount what a daemon left mounted, the innermost first.
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Error(err)
		}
		lines := strings.Split(string(mounts), "\n")
		for _, line := range slices.Backward(lines) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				_ = unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
		// A process that an engine started to clean up after a container can outlive the container.
		// It writes into the folder until it is done.
		var removed error
		for end := time.Now().Add(Patience); ; time.Sleep(20 * time.Millisecond) {
			if removed = os.RemoveAll(dir); removed == nil || time.Now().After(end) {
				break
			}
		}
		if removed != nil {
			t.Error(removed)
		}
	})
	return dir
}

// Output runs a program that must succeed, and returns its output without surrounding space.
func Output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := Try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Output for any goroutine.
func Try(name string, args ...string) (string, error) {
	// Not the test's context: some programs run after the end of the test.
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second // a container that still runs can have inherited it
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// A Daemon is a program that runs during a test.
type Daemon struct {
	Socket string   // the socket that it listens on, "" for none
	CLI    []string // the command that talks to it, with the arguments of every call

	args []string
	log  string
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
}

// Start starts a program that writes its log into dir. It returns when the program listens at the
// socket, unless that is "".
func Start(t *testing.T, dir, socket string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{Socket: socket, args: args, log: filepath.Join(dir, filepath.Base(args[0])+".log")}
	d.Start(t)
	t.Cleanup(func() {
		d.Stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(d.log)
			t.Logf("%s:\n%s", args[0], text[max(0, len(text)-8000):])
		}
	})
	return d
}

// Start starts it again after [Daemon.Stop].
func (d *Daemon) Start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(d.args[0], d.args[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, gone := d.cmd, make(chan struct{})
	d.gone = gone
	go func() { _ = cmd.Wait(); close(gone) }()
	if d.Socket == "" {
		return
	}
	Eventually(t, d.args[0]+" listens", func() bool {
		select {
		case <-gone:
			text, _ := os.ReadFile(d.log)
			t.Fatalf("%s ended: %v\n%s", d.args[0], cmd.ProcessState, text)
		default:
		}
		conn, err := net.Dial("unix", d.Socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// Stop ends it and ignores its exit status. It can have ended before.
func (d *Daemon) Stop(t *testing.T) {
	t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
	case <-time.After(Patience):
		t.Errorf("%s does not end", d.args[0])
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		<-d.gone
	}
}

// Args returns the arguments of the daemon's command line program.
func (d *Daemon) Args(args ...string) []string { return slices.Concat(d.CLI[1:], args) }

// Output runs the daemon's command line program.
func (d *Daemon) Output(t *testing.T, args ...string) string {
	t.Helper()
	return Output(t, d.CLI[0], d.Args(args...)...)
}

// Docker starts dockerd with more arguments. Its only networks are none and host.
func Docker(t *testing.T, dir string, more ...string) *Daemon {
	t.Helper()
	Need(t, "dockerd", "docker", "containerd", "runc")
	socket := filepath.Join(dir, "docker.sock")
	conf := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(conf, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := Start(t, dir, socket, append([]string{
		"dockerd", "--host", "unix://" + socket, "--config-file", conf, "--pidfile", filepath.Join(dir, "pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--storage-driver=vfs",
		"--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none",
	}, more...)...)
	d.CLI = []string{"docker", "--host", "unix://" + socket}
	// dockerd listens before it serves.
	Eventually(t, "dockerd answers", func() bool { return exec.Command(d.CLI[0], d.Args("version")...).Run() == nil })
	return d
}

// Podman starts podman's service so that it works without systemd, with any layout of cgroups, and
// where limits cannot be raised.
func Podman(t *testing.T, dir string) *Daemon {
	t.Helper()
	Need(t, "podman", "conmon", "runc")
	socket := filepath.Join(dir, "podman.sock")
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
	cli := []string{
		"env", "CONTAINERS_CONF=" + conf, "podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		"--tmpdir", filepath.Join(dir, "tmp"), "--storage-driver", "vfs",
	}
	d := Start(t, dir, socket, slices.Concat(cli, []string{"system", "service", "--time=0", "unix://" + socket})...)
	d.CLI = cli
	return d
}

// ImageTar makes an image of busybox, called [Image], in the form of docker save, in dir.
func ImageTar(t *testing.T, dir string) string {
	t.Helper()
	Need(t, "busybox")
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := []tarFile{{name: "bin/busybox", data: busybox, mode: 0o755}}
	for _, applet := range []string{"sh", "sleep", "true", "cat"} {
		files = append(files, tarFile{name: "bin/" + applet, link: "busybox"})
	}
	layer := tarOf(t, files...)
	config := jsonOf(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		// The container ends by itself, so nothing has to wait for it.
		"config": map[string]any{"Cmd": []string{"/bin/sleep", "3600"}, "StopSignal": "SIGKILL", "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	name := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest := jsonOf(t, []any{map[string]any{"Config": name, "RepoTags": []string{Image}, "Layers": []string{"layer.tar"}}})
	out := filepath.Join(dir, "image.tar")
	image := tarOf(t, tarFile{name: "manifest.json", data: manifest}, tarFile{name: name, data: config}, tarFile{name: "layer.tar", data: layer})
	if err := os.WriteFile(out, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

type tarFile struct {
	name string
	data []byte
	mode int64  // 0: 0644
	link string // target, if it is a symbolic link
}

func tarOf(t *testing.T, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
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
