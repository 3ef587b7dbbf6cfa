// SPDX-License-Identifier: Apache-2.0

// Init is process 1 of a test guest. It turns the initramfs into a system that looks like a small
// host to the program under test. It runs one program, reports to the host how the program ended,
// and powers the machine off. If the job needs systemd, systemd becomes process 1, and init runs
// beside it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/nstrace/nstrace/test/vm/wire"
)

func main() {
	stage := ""
	if len(os.Args) > 1 {
		stage = os.Args[1]
	}
	if os.Getpid() != 1 && stage != besideSystemd {
		fmt.Fprintln(os.Stderr, "init: this is the init of a test guest: do not run it anywhere else")
		os.Exit(2)
	}
	var err error
	switch stage {
	case inTmpfs:
		err = start()
	case besideSystemd:
		err = runJob(waitForSystemd)
	default:
		err = switchRoot()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	powerOff()
}

// Environment variables that one stage sets for the next.
const (
	inTmpfs       = "in-tmpfs"
	besideSystemd = "beside-systemd"
)

// switchRoot moves the system off the initramfs. On an initramfs pivot_root(2) fails, and so does
// every container runtime.
func switchRoot() error {
	const root = "/.root"
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("root", root, "tmpfs", 0, "mode=755,size=90%"); err != nil {
		return fmt.Errorf("mounting a tmpfs for the root: %w", err)
	}
	// Remove each file as soon as it is copied: there may not be enough memory for two copies of
	// everything.
	names, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range names {
		if path := "/" + e.Name(); path != root {
			if err := move(path, root+path); err != nil {
				return fmt.Errorf("moving the root to a tmpfs: %w", err)
			}
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root mount: %w", err)
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec("/init", []string{"init", inTmpfs}, os.Environ())
}

func move(from, to string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		names, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range names {
			if err := move(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
	case syscall.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	case syscall.S_IFREG:
		if err := copyFile(from, to); err != nil {
			return err
		}
	default:
		if err := syscall.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		// After chown(2), which clears a set-user-ID bit.
		if err := syscall.Chmod(to, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	return os.Remove(from)
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// start sets the system up and continues with the job, or with systemd and the job.
func start() error {
	if err := mounts(); err != nil {
		return err
	}
	job, err := readJob()
	if err != nil {
		return err
	}
	if !job.Systemd {
		return runJob(func() error { return nil })
	}
	if _, err := syscall.ForkExec("/init", []string{"init", besideSystemd}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	}); err != nil {
		return err
	}
	const systemd = "/lib/systemd/systemd"
	return fmt.Errorf("%s: %w", systemd, syscall.Exec(systemd, []string{systemd}, os.Environ()))
}

// waitForSystemd returns when systemd has started everything.
func waitForSystemd() error {
	for {
		out, err := exec.Command("/usr/bin/systemctl", "is-system-running", "--wait").CombinedOutput()
		switch state := strings.TrimSpace(string(out)); state {
		case "running":
			return nil
		case "degraded":
			failed, _ := exec.Command("/usr/bin/systemctl", "--failed", "--no-legend", "--plain").CombinedOutput()
			log, _ := exec.Command("/usr/bin/journalctl", "--no-pager", "-n", "50").CombinedOutput()
			return fmt.Errorf("systemd could not start:\n%s%s", failed, log)
		default: // systemd does not listen yet
			if _, other := errors.AsType[*exec.ExitError](err); err != nil && !other {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func readJob() (*wire.Job, error) {
	data, err := os.ReadFile(wire.JobPath)
	if err != nil {
		return nil, err
	}
	job := new(wire.Job)
	if err := json.Unmarshal(data, job); err != nil {
		return nil, fmt.Errorf("%s: %w", wire.JobPath, err)
	}
	return job, nil
}

// runJob runs the job's program once ready returns, and reports its end.
func runJob(ready func() error) error {
	port, err := openPort()
	if err != nil {
		return err
	}
	frames := wire.NewWriter(port)
	status, err := setUpAndRun(frames, ready)
	if err != nil {
		err = errors.Join(err, frames.Write(wire.Failed, []byte(err.Error())))
	} else {
		var payload []byte
		if payload, err = json.Marshal(status); err == nil {
			err = frames.Write(wire.Exit, payload)
		}
	}
	return errors.Join(err, drain(port))
}

func setUpAndRun(frames *wire.Writer, ready func() error) (*wire.ExitStatus, error) {
	job, err := readJob()
	if err != nil {
		return nil, err
	}
	if err := os.Remove(wire.JobPath); err != nil {
		return nil, err
	}
	if err := ready(); err != nil {
		return nil, err
	}
	if err := syscall.Sethostname([]byte(job.Hostname)); err != nil {
		return nil, fmt.Errorf("setting the host name: %w", err)
	}
	if err := os.WriteFile("/etc/hostname", []byte(job.Hostname+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("bringing lo up: %w", err)
	}
	if len(job.Modules) > 0 {
		out, err := exec.Command("/usr/sbin/modprobe", append([]string{"-a"}, job.Modules...)...).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("modprobe %s: %w: %s", strings.Join(job.Modules, " "), err, out)
		}
	}
	return run(job, frames)
}

func mounts() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "/proc", "proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", syscall.MS_NOSUID, "mode=755"},
		{"devpts", "/dev/pts", "devpts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "gid=0,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, "nsdelegate"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	// As systemd does it. The mounts of a new mount namespace depend on it.
	if err := syscall.Mount("", "/", "", syscall.MS_SHARED|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("making the mounts shared: %w", err)
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

func ioctl(fd, request, arg uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, arg); errno != 0 {
		return errno
	}
	return nil
}

// openPort opens the serial port to the host, for eight-bit clean output.
func openPort() (*os.File, error) {
	// Not os.OpenFile, which would make it non-blocking and put it into a poller.
	fd, err := syscall.Open(wire.Port, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: wire.Port, Err: err}
	}
	raw := syscall.Termios{Cflag: syscall.CS8 | syscall.CREAD | syscall.CLOCAL | syscall.B115200}
	raw.Cc[syscall.VMIN] = 1
	if err := ioctl(uintptr(fd), syscall.TCSETS, uintptr(unsafe.Pointer(&raw))); err != nil {
		return nil, fmt.Errorf("%s: setting it to raw: %w", wire.Port, err)
	}
	return os.NewFile(uintptr(fd), wire.Port), nil
}

// drain waits until everything that was written to the port has been sent.
func drain(port *os.File) error {
	const tcsbrk = 0x5409 // TCSBRK: with an argument other than zero, the same as tcdrain(3)
	return ioctl(port.Fd(), tcsbrk, 1)
}

func loopbackUp() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	var ifreq struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(ifreq.name[:], "lo")
	ifreq.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	return ioctl(uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifreq)))
}

// run runs the job's program and passes on its output. It returns when the program and all other
// processes have ended.
func run(job *wire.Job, frames *wire.Writer) (*wire.ExitStatus, error) {
	for _, kv := range job.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	program, err := exec.LookPath(job.Args[0])
	if err != nil {
		return nil, err
	}
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	var copying sync.WaitGroup
	pipe := func(kind wire.Kind) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		copying.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := r.Read(buf)
				if n > 0 {
					if err := frames.Write(kind, buf[:n]); err != nil {
						fmt.Fprintln(os.Stderr, "init:", err)
					}
				}
				if err != nil {
					return
				}
			}
		})
		return w, nil
	}
	stdout, err := pipe(wire.Stdout)
	if err != nil {
		return nil, err
	}
	stderr := stdout
	if !job.Merge {
		if stderr, err = pipe(wire.Stderr); err != nil {
			return nil, err
		}
	}
	if err := frames.Write(wire.Start, nil); err != nil {
		return nil, err
	}
	pid, err := syscall.ForkExec(program, job.Args, &syscall.ProcAttr{
		Dir:   job.Dir,
		Env:   job.Env,
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s in %s: %w", program, job.Dir, err)
	}
	stdout.Close()
	stderr.Close() // the same file if merged; then the error does not matter

	// As process 1, this also waits for orphans, so it cannot use os/exec.
	var status *wire.ExitStatus
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECHILD:
			copying.Wait() // no process is left that could write
			return status, nil
		case err != nil:
			return nil, fmt.Errorf("waiting: %w", err)
		}
		if got != pid {
			continue
		}
		status = &wire.ExitStatus{Code: ws.ExitStatus()}
		if ws.Signaled() {
			status = &wire.ExitStatus{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
		}
		// Processes that it left behind can hold its output open.
		if err := syscall.Kill(-1, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return nil, fmt.Errorf("killing the remaining processes: %w", err)
		}
	}
}

// powerOff ends the machine. QEMU has an option to end instead of rebooting. A reboot needs neither
// ACPI nor the end of process 1, which would be a panic.
func powerOff() {
	syscall.Sync()
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "init: reboot:", err)
	}
	// Reboots at once, without a sync.
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0); err != nil {
		fmt.Fprintln(os.Stderr, "init: sysrq:", err)
	}
}
