// SPDX-License-Identifier: Apache-2.0

// Package vm runs programs, mainly the end-to-end tests, on other Linux kernels than the host's. It
// downloads Debian's cloud kernels, makes an initramfs from the host's own programs, and boots both
// in QEMU, emulated.
//
//	go test ./test/vm -run TestKernel/6.1 -v
//	go run ./test/vm/cmd/nsvm -kernel 6.1 -- uname -r
//
// The first command runs ./test/e2e as root on the newest kernel 6.1 and reports its tests as
// subtests. The second one runs a single command. TestArm64/6.12 and -kernel arm64-6.12 are the same
// for arm64, with Debian's programs for it. Both need Debian on amd64, go, and some packages,
// which the tests name if they are missing. They need neither root nor /dev/kvm.
//
// These environment variables control the tests:
//
//	NSTRACE_TEST_ALL=1      also the kernels in backports that are not the newest
//	NSTRACE_GUEST_RUN       -test.run in the guest; TestKernel/6.1/TestX does the same
//	NSTRACE_GUEST_TESTS     folder of the tests, below the repository; default test/e2e
//	NSTRACE_GUEST_BIN       folder with more programs for /usr/local/bin
//	NSTRACE_GUEST_TIMEOUT   limit for each kernel; default 10m
//	NSTRACE_CACHE           folder for kernels; default nstrace in the user's cache
//
// The tests in the guest get every variable NSTRACE_*. NSTRACE_BIN is the path of nstrace.
// NSTRACE_GUEST_NO_MODULES is set if the archive no longer has the kernel's modules. Then there is
// no veth, bridge, dummy or overlay.
package vm

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
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nstrace/nstrace/test/vm/wire"
)

// A Guest is one run of one program in a virtual machine that ends with the program.
type Guest struct {
	Kernel *Kernel
	Root   *Root // as made by NewGuestRoot, with what the program needs
	Job    wire.Job
	Memory int   // MiB; 2048 if zero
	CPUs   int   // 2 if zero
	Disk   *Disk // nil for none

	// Counted makes the guest's clock count instructions: each takes a nanosecond, whatever else
	// the host does. So two runs give nearly the same times. With more than one CPU, QEMU 7.2 hangs
	// at the start of the second.
	Counted bool

	// Limit is the maximum time for all boots and the run together. BootLimit is that for each boot
	// up to the program's start. Zero means ten minutes, and one and a half minutes.
	Limit, BootLimit time.Duration

	Stdout, Stderr io.Writer // of the program, as it prints it; nil discards it
	Console        io.Writer // what the kernel prints, as it prints it; nil discards it
	Log            func(format string, args ...any)
}

// Result says how a guest's program ended.
type Result struct {
	wire.ExitStatus
	Console []byte        // everything that the kernel printed
	Boot    time.Duration // until the program was started
	Run     time.Duration // from then until the machine was off
}

// GuestError is the error of a guest that ended without a result of its program.
type GuestError struct {
	Reason  string
	Init    bool   // the guest's init reported it; the kernel works
	Console []byte // everything that the kernel printed
	retry   bool   // another boot may succeed
}

func (e *GuestError) Error() string { return e.Reason }

// maxBoots is the maximum number of boots of a guest that does not reach its program: the tests are
// not about what fails before that. Once the program runs, nothing is ever tried again.
const maxBoots = 3

// DefaultEnv is the environment of a program whose Job has none.
var DefaultEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LANG=C.UTF-8", "TERM=dumb",
}

// NewGuestRoot returns a root with everything that a guest with this kernel needs. dir is a folder
// of this module, for compiling init.
func NewGuestRoot(ctx context.Context, dir string, k *Kernel) (*Root, error) {
	tmp, err := os.MkdirTemp("", "nstrace-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "init")
	if err := goBuild(ctx, k.arch, dir, out, "github.com/nstrace/nstrace/test/vm/init", false); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	r := NewRoot()
	r.arch, r.system = k.arch, k.system
	r.AddBytes(data, "/init", 0o755)
	r.AddSystem()
	if err := r.AddModules(ctx, k); err != nil {
		return nil, err
	}
	return r, r.err
}

// Start boots the guest and runs its program to the end. The error is a *GuestError if the guest
// did not get there.
func (g *Guest) Start(ctx context.Context) (*Result, error) {
	job := g.Job
	if g.Kernel.Modules != "" {
		job.Modules = guestModules
	}
	if job.Env == nil {
		job.Env = DefaultEnv
	}
	if job.Dir == "" {
		job.Dir = "/root"
	}
	if job.Hostname == "" {
		job.Hostname = "guest"
	}
	data, err := json.Marshal(&job)
	if err != nil {
		return nil, err
	}
	g.Root.AddBytes(data, wire.JobPath, 0o600)

	initrd, err := os.CreateTemp("", "nstrace-initrd-")
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	// QEMU gets the file open, so nothing is left behind however this ends.
	if err := os.Remove(initrd.Name()); err != nil {
		return nil, err
	}
	if _, err := g.Root.WriteTo(initrd); err != nil {
		return nil, err
	}

	limit := g.Limit
	if limit == 0 {
		limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the guest was not done after %v", limit))
	defer cancel()
	for boot := 1; ; boot++ {
		result, err := g.boot(ctx, initrd)
		var ge *GuestError
		if boot == maxBoots || ctx.Err() != nil || !errors.As(err, &ge) || !ge.retry {
			return result, err
		}
		if g.Log != nil {
			g.Log("boot %d of kernel %s: %v; trying again; its console:\n%s", boot, g.Kernel.Release, ge, ge.Console)
		}
	}
}

// commandLine makes every oops a panic, and every panic the end of QEMU. So a test notices each
// crash at once.
const commandLine = "panic=-1 oops=panic reboot=t mitigations=off net.ifnames=0"

func (g *Guest) boot(ctx context.Context, initrd *os.File) (*Result, error) {
	bootLimit, memory, cpus := g.BootLimit, g.Memory, g.CPUs
	if bootLimit == 0 {
		bootLimit = 90 * time.Second
	}
	if memory == 0 {
		memory = 2048
	}
	if cpus == 0 {
		cpus = 2
	}
	errBoot := fmt.Errorf("the guest was not up after %v", bootLimit)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bootTimer := time.AfterFunc(bootLimit, func() { cancel(errBoot) })
	defer bootTimer.Stop()

	console, consoleEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer console.Close()
	defer consoleEnd.Close()
	frames, framesEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer frames.Close()
	defer framesEnd.Close()

	qemu, err := lookProgram(g.Kernel.arch.qemu)
	if err != nil {
		return nil, err
	}
	var complaints bytes.Buffer
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		// Never KVM: this runs inside virtual machines that offer KVM but cannot run it, and
		// results should not depend on the host's processor. Use one thread for all processors.
		// With one thread each, QEMU can go on executing code that another processor has just
		// replaced. Then a kernel that patches itself, as it does to attach a probe, dies of a
		// breakpoint that no longer exists ("Oops: int3"). One thread is not slower either.
		"-accel", "tcg,thread=single",
		"-smp", fmt.Sprint(cpus), "-m", fmt.Sprint(memory), "-no-reboot",
		"-kernel", g.Kernel.Image, "-initrd", "/dev/fd/5",
		"-chardev", "file,id=console,path=/dev/fd/3", "-chardev", "file,id=frames,path=/dev/fd/4",
		// A card for moves between network namespaces, on a network with nothing else. Without a
		// network, QEMU prints a warning, which would then appear in every failure.
		"-netdev", "user,id=nowhere,restrict=on,ipv6=off", "-device", "virtio-net-pci,romfile=,netdev=nowhere",
	}
	args = append(args, g.Kernel.arch.machine...)
	if g.Disk != nil {
		args = append(args, g.Disk.args()...)
	}
	line := "console=" + g.Kernel.arch.console + " " + commandLine
	if g.Counted {
		args = append(args, "-icount", "shift=0,sleep=off")
		line += " tsc=reliable" // the guest has no other clock to measure its frequency
	}
	cmd := exec.CommandContext(ctx, qemu, append(args, "-append", line)...)
	cmd.ExtraFiles = []*os.File{consoleEnd, framesEnd, initrd} // 3, 4 and 5
	cmd.Stderr = &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	// Pdeathsig is about the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	consoleEnd.Close()
	framesEnd.Close()

	var said bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(tee(&said, g.Console), console) })
	s := session{guest: g}
	var frameErr error
	reading.Go(func() {
		frameErr = s.read(frames, func() { bootTimer.Stop() })
		io.Copy(io.Discard, frames) // QEMU must not block on what nobody reads
	})
	reading.Wait()
	err = cmd.Wait()
	ended := time.Now()

	if s.status != nil && err == nil && frameErr == nil {
		return &Result{
			ExitStatus: *s.status,
			Console:    said.Bytes(),
			Boot:       s.started.Sub(began),
			Run:        ended.Sub(s.started),
		}, nil
	}
	return nil, &GuestError{
		Reason:  reason(context.Cause(ctx), &s, frameErr, err, complaints.String(), said.Bytes()),
		Init:    s.failed != "",
		Console: said.Bytes(),
		retry:   s.started.IsZero() && s.failed == "",
	}
}

// reason says why a guest ended without a result.
func reason(cause error, s *session, frameErr, qemuErr error, complaints string, console []byte) string {
	var why []string
	switch {
	case s.failed != "":
		why = append(why, "the guest's init failed: "+s.failed)
	case cause != nil:
		why = append(why, cause.Error())
	case s.status != nil:
		why = append(why, "the program ended, but the guest did not shut down in order")
	case s.started.IsZero():
		why = append(why, "the guest ended before its program was started")
	default:
		why = append(why, "the guest ended without reporting how its program did")
	}
	if m := panicLine.Find(console); m != nil {
		why = append(why, string(bytes.TrimSpace(m)))
	}
	if cause == nil && qemuErr != nil {
		why = append(why, "QEMU: "+qemuErr.Error())
	}
	if cause == nil && frameErr != nil {
		why = append(why, "its report: "+frameErr.Error())
	}
	if complaints = strings.TrimSpace(complaints); complaints != "" {
		why = append(why, complaints)
	}
	return strings.Join(why, ": ")
}

var panicLine = regexp.MustCompile(`Kernel panic - not syncing:[^\r\n]*`)

func tee(w, also io.Writer) io.Writer {
	if also == nil {
		return w
	}
	return io.MultiWriter(w, also)
}

// session has what a guest has reported.
type session struct {
	guest   *Guest
	started time.Time
	status  *wire.ExitStatus
	failed  string
}

// read reads frames until the guest ends.
func (s *session) read(r io.Reader, started func()) error {
	for {
		kind, payload, err := wire.Read(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch kind {
		case wire.Start:
			s.started = time.Now()
			started()
		case wire.Stdout:
			err = pass(s.guest.Stdout, payload)
		case wire.Stderr:
			err = pass(s.guest.Stderr, payload)
		case wire.Failed:
			s.failed = string(payload)
		case wire.Exit:
			s.status = new(wire.ExitStatus)
			err = json.Unmarshal(payload, s.status)
		}
		if err != nil {
			return err
		}
	}
}

func pass(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}
