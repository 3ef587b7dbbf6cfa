// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/internal/confine/confinetest"
)

// confinedEnv is set, to a profile, in a test binary that confines itself and tries things.
const confinedEnv = "NSTRACE_TEST_CONFINED"

func TestMain(m *testing.M) {
	if text := os.Getenv(confinedEnv); text != "" {
		confined(text)
		return
	}
	os.Exit(m.Run())
}

// confined confines this process and reports what it can still do.
func confined(profile string) {
	var p struct {
		Keep  []uint8
		Exec  bool
		Files *Files
	}
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		panic(err)
	}
	own := Profile{Exec: p.Exec, Files: p.Files}
	for _, c := range p.Keep {
		own.Keep = append(own.Keep, Kept{Capability: capability.Capability(c), Why: "a test"})
	}
	// Threads that are locked, that wait in a system call, and that are in another namespace.
	ready, release := make(chan bool), make(chan bool)
	for i := range 4 {
		go func() {
			runtime.LockOSThread()
			if i == 0 {
				_ = unix.Unshare(unix.CLONE_NEWNET)
			}
			if i == 1 {
				r, _, _ := os.Pipe()
				ready <- true
				var b [1]byte
				_, _ = unix.Read(int(r.Fd()), b[:])
				return
			}
			ready <- true
			<-release
		}()
		<-ready
	}
	result, err := Apply(&own)
	r := report{Bounded: result.Bounded, Filter: result.Filter, Landlock: result.Landlock, Lacking: result.Lacking}
	if err != nil {
		r.Err = err.Error()
	}
	late := make(chan bool)
	go func() { // a thread that did not exist
		runtime.LockOSThread()
		late <- true
		<-release
	}()
	<-late
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		status, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		r.Threads = append(r.Threads, fields(string(status)))
	}
	close(release)
	r.Errors = confinetest.Attempt()
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

// fields returns the lines of a status in /proc.
func fields(status string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(status) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}

// report is what confined prints.
type report struct {
	Err                       string
	Errors                    map[string]int      // of confinetest
	Threads                   []map[string]string // of the status of each thread in /proc
	Bounded, Filter, Landlock bool
	Lacking                   []string
}

// runConfined runs this test binary as a confined process. The command line begins with before.
func runConfined(t *testing.T, keep capability.Set, execs bool, before ...string) *report {
	t.Helper()
	return runWithin(t, keep, execs, nil, before...)
}

func runWithin(t *testing.T, keep capability.Set, execs bool, files *Files, before ...string) *report {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	numbers := []int{}
	for _, c := range keep.Capabilities() {
		numbers = append(numbers, int(c))
	}
	profile, err := json.Marshal(map[string]any{"Keep": numbers, "Exec": execs, "Files": files})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(before, self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), confinedEnv+"="+string(profile))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &r
}

// TestApply confines a process that has several threads, some of them locked, in a system call or in
// another namespace, and compares what the kernel says of each thread with the profile.
func TestApply(t *testing.T) {
	keep := capability.Of(unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH)
	r := runConfined(t, keep, false)
	if r.Err != "" || !r.Bounded || !r.Filter || len(r.Lacking) != 0 || len(r.Threads) < 6 {
		t.Errorf("%+v", r)
	}
	hex := fmt.Sprintf("%016x", uint64(keep))
	want := map[string]string{"CapEff": hex, "CapPrm": hex, "CapBnd": hex, "CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1", "Seccomp": "2"}
	for _, thread := range r.Threads {
		for name, value := range want {
			if thread[name] != value {
				t.Errorf("thread %s has %s %s, want %s", thread["Pid"], name, thread[name], value)
			}
		}
	}
}

// TestAttempts has confined processes try what their profile denies, and what it allows.
func TestAttempts(t *testing.T) {
	denied := []string{"ptrace", "write", "module", "kexec", "reboot", "swapon", "inet", "inet6", "packet", "vsock",
		"setuid", "setgroups", "clock", "keys", "mknod", "fault"}
	alone := []string{"start", "fork", "code"}
	check := func(r *report, names []string, want unix.Errno) {
		t.Helper()
		for _, name := range names {
			if got := unix.Errno(r.Errors[name]); got != want {
				t.Errorf("%s: %v (%d), want %v", name, got, got, want)
			}
		}
	}
	keep := capability.Of(unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH)
	t.Run("alone", func(t *testing.T) {
		r := runConfined(t, keep, false)
		check(r, denied, unix.EPERM)
		check(r, alone, unix.EPERM)
		check(r, []string{"uring", "clone3", "future"}, unix.ENOSYS)
		check(r, []string{"unix", "netlink", "shadow"}, 0)
		check(r, []string{"proof", "capability"}, unix.EINVAL)
	})
	t.Run("no capability", func(t *testing.T) {
		r := runConfined(t, 0, false)
		check(r, []string{"capability"}, unix.EPERM)
		check(r, []string{"proof"}, unix.EINVAL)
	})
}

// TestWithoutFullRoot confines processes that lack capabilities already, or cannot reduce the bounding
// set. That is no error.
func TestWithoutFullRoot(t *testing.T) {
	for _, before := range [][]string{
		{"setpriv", "--bounding-set", "-setpcap"},
		{"setpriv", "--bounding-set", "-sys_admin,-dac_read_search"},
		{"setpriv", "--reuid", "65534", "--clear-groups"},
		{"setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin"},
		{"setpriv", "--no-new-privs"},
	} {
		r := runConfined(t, capability.Of(unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH), false, before...)
		if r.Err != "" || !r.Filter {
			t.Errorf("%q: %+v", before, r)
		}
		for _, thread := range r.Threads {
			if thread["NoNewPrivs"] != "1" || thread["Seccomp"] != "2" || thread["CapAmb"] != "0000000000000000" || thread["CapEff"] != r.Threads[0]["CapEff"] {
				t.Errorf("%q: %v", before, thread)
			}
		}
	}
}

// TestFilter runs the filter in user space, also for calls of other ABIs.
func TestFilter(t *testing.T) {
	a, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	program, err := assemble(&Profile{}, a)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(id, nr uint32, args ...uint64) uint32 {
		t.Helper()
		// The machine of x/net reads big-endian numbers. The halves of arguments are where the
		// filter looks for them on a little-endian processor.
		data := make([]byte, 64)
		binary.BigEndian.PutUint32(data, nr)
		binary.BigEndian.PutUint32(data[4:], id)
		for i, arg := range args {
			binary.BigEndian.PutUint32(data[16+8*i:], uint32(arg))
			binary.BigEndian.PutUint32(data[20+8*i:], uint32(arg>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(got)
	}
	native := uint32(a.ID)
	number := func(name string) uint32 { return uint32(a.SyscallNames[name]) }
	const allow, eperm, enosys = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, d := range denied {
		for _, name := range d.names {
			if nr, ok := a.SyscallNames[name]; ok {
				if got := answer(native, uint32(nr)); got != eperm {
					t.Errorf("%s: %s: %x", a.Name, name, got)
				}
			}
		}
	}
	for _, name := range []string{"read", "write", "openat", "bpf", "perf_event_open", "setns", "unshare", "mount", "fsopen", "open_by_handle_at", "process_vm_readv", "kcmp", "pidfd_send_signal", "exit_group", "madvise"} {
		if got := answer(native, number(name)); got != allow {
			t.Errorf("%s: %s: %x", a.Name, name, got)
		}
	}
	thread := uint64(unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD)
	for _, tt := range []struct {
		what string
		got  uint32
		want uint32
	}{
		{"a thread", answer(native, number("clone"), thread), allow},
		{"the proof", answer(native, number("clone"), allowedClone), allow},
		{"the proof and more", answer(native, number("clone"), allowedClone|unix.CLONE_NEWNS), eperm},
		{"a process", answer(native, number("clone"), uint64(unix.SIGCHLD)), eperm},
		{"clone3", answer(native, number("clone3")), enosys},
		{"memory", answer(native, number("mmap"), 0, 4096, unix.PROT_READ|unix.PROT_WRITE), allow},
		{"code", answer(native, number("mmap"), 0, 4096, unix.PROT_READ|unix.PROT_EXEC), eperm},
		{"a socket", answer(native, number("socket"), unix.AF_UNIX), allow},
		{"AF_NETLINK", answer(native, number("socket"), unix.AF_NETLINK), allow},
		{"AF_INET", answer(native, number("socket"), unix.AF_INET), eperm},
		{"AF_UNIX with more bits", answer(native, number("socket"), 1<<32|unix.AF_UNIX), eperm},
		{"a later call", answer(native, newestCall+1), enosys},
		{"listns", answer(native, newestCall), allow},
		{"x32", answer(native, 1<<30), enosys},
		{"i386", answer(uint32(arch.I386.ID), 4), enosys},
		{"32-bit ARM", answer(uint32(arch.ARM.ID), 4), enosys},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s: %x, want %x", a.Name, tt.what, tt.got, tt.want)
		}
	}
	if program, err = assemble(&Profile{Network: true}, a); err != nil {
		t.Fatal(err)
	}
	if vm, err = bpf.NewVM(program); err != nil {
		t.Fatal(err)
	}
	for family, want := range map[uint64]uint32{unix.AF_UNIX: allow, unix.AF_NETLINK: allow, unix.AF_INET: allow, unix.AF_INET6: allow, unix.AF_PACKET: eperm, unix.AF_VSOCK: eperm} {
		if got := answer(native, number("socket"), family); got != want {
			t.Errorf("%s: a socket of the family %d with a network: %x, want %x", a.Name, family, got, want)
		}
	}
	for _, d := range denied {
		for _, name := range d.names {
			if !slices.ContainsFunc([]*arch.Info{arch.X86_64, arch.AARCH64, arch.I386, arch.ARM}, func(a *arch.Info) bool { _, ok := a.SyscallNames[name]; return ok }) {
				t.Errorf("no architecture has a call %s", name)
			}
		}
	}
}

// TestExecAllowed checks that a process that starts others can do so, and that these inherit the filter.
func TestExecAllowed(t *testing.T) {
	r := runConfined(t, 0, true)
	for _, name := range []string{"start", "fork", "code"} {
		if r.Errors[name] != 0 {
			t.Errorf("%s: %v", name, unix.Errno(r.Errors[name]))
		}
	}
	if r.Errors["inet"] != int(unix.EPERM) {
		t.Errorf("%v", r.Errors)
	}
}

// TestLandlock restricts a process to some files.
func TestLandlock(t *testing.T) {
	r := runWithin(t, ^capability.Set(0), false, &Files{Read: []string{"/proc", "/nonexistent"}, Write: []string{t.TempDir()}})
	if _, err := landlockVersion(); err != nil {
		if r.Err != "" || r.Landlock || !slices.ContainsFunc(r.Lacking, func(s string) bool { return strings.Contains(s, "Landlock") }) {
			t.Errorf("%+v", r)
		}
		return
	}
	if r.Err != "" || !r.Landlock || len(r.Lacking) != 0 {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]unix.Errno{"shadow": unix.EACCES, "mount": unix.EPERM, "unix": 0} {
		if got := unix.Errno(r.Errors[name]); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
