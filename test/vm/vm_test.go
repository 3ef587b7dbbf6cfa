// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/test/e2e/helpers"
	"github.com/nstrace/nstrace/test/vm/wire"
)

// Paths in a guest. The tests' folder has the same path as in the repository, so that relative
// paths in the tests mean the same.
const (
	guestSource = "/src"
	guestBinary = "/usr/libexec/guest.test"
	guestTracer = "/usr/bin/nstrace"
)

// maxGuests is the number of guests that run at once. Each uses one of the host's processors, see
// Guest.boot.
const maxGuests = 2

// guests is a semaphore for maxGuests.
var guests = make(chan struct{}, maxGuests)

// What make test runs on the kernels of Debian's releases. In a guest, the whole suite takes between
// a quarter of an hour and three quarters; make test-all runs it on each kernel.
const (
	// betweenTests are for the kernels between the oldest and the newest: each backend alone.
	betweenTests = "^(TestAlone|TestBackends)$"
	// edgeTests are for the oldest and the newest kernel: also what reads the kernel's tables and
	// types in a way that differs between kernels.
	edgeTests = "^(TestCoverage|TestAlone|TestBackends|TestHolders|TestLimit|TestList|TestUnmounted|TestShowNetwork|TestGraph|TestDiffNew)$"
)

// slowTests are about half of the time of the whole suite. make test-all runs them in one guest, and
// the rest in another one beside it: a guest uses one of the host's processors.
const slowTests = "^(TestCoverage|TestDrift|TestFilter|TestHistory|TestLimit|TestOutOfPIDs|TestPlaces|TestPlacesRun|TestReuse|TestStandby)$"

// flavoured are kernels of the current stable release that are not for clouds: one of them preempts
// everything (PREEMPT_RT). make test-all runs the whole suite on them.
var flavoured = []string{"6.12-full", "6.12-rt"}

// TestKernel runs the end-to-end tests on the kernels of Debian's releases, each in its own guest,
// and reports them as subtests: TestKernel/6.1/TestName/sub.
func TestKernel(t *testing.T) {
	t.Parallel()
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	trackInputs(t)
	kernels := &Kernels{Log: t.Logf}
	all, newest, err := kernels.Backports(t.Context())
	if err != nil {
		newest = Newest // its subtest then fails; the others need no network
		t.Log(err)
	}
	series := []string{"5.10", "6.1", "6.12", newest}
	whole := os.Getenv("NSTRACE_TEST_ALL") == "1"
	if whole {
		series = append(series, all...)
	}
	first, last := series[0], newest
	if only := runFilter(1); whole || slices.Contains(flavoured, only) {
		series = append(series, flavoured...)
	}
	build := sync.OnceValues(func() (*payload, error) {
		pkg := "test/e2e"
		if other := os.Getenv("NSTRACE_GUEST_TESTS"); other != "" {
			pkg = path.Clean(other)
		}
		return buildPayload(t, amd64, pkg)
	})
	if only := runFilter(1); slices.Contains(series, only) {
		series = []string{only} // as a pattern 6.1 would mean 6.12 as well
		first, last = only, only
	}
	slices.SortFunc(series, compareVersions)
	onKernels(t, slices.Compact(series), build, func(s string, p *payload) {
		p.short = !whole
		if _, err := os.Stat(systemdSysctl); err == nil {
			p.programs = append(slices.Clone(p.programs), systemdSysctl)
		}
		switch {
		case whole && guestFilter() == "":
			p.split, p.kernelOnly = slowTests, true
		case whole:
		case s == first, s == last:
			p.only = edgeTests
		default:
			p.only = betweenTests
		}
	})
}

// systemdSysctl is for TestExplainCases.
const systemdSysctl = "/usr/lib/systemd/systemd-sysctl"

// arm64Tests are the core of the suite: every kind of event with each backend, and each backend
// alone. They compare the totals of each run with its events.
const (
	arm64Tests      = "^(TestTrace|TestTamper|TestCoverage|TestAlone|TestBackends)$"
	arm64QuickTests = "^(TestBackends|TestAlone)$" // for make test
)

// TestArm64 runs the core of the end-to-end tests on kernels for arm64, with Debian's programs for
// it. The kernels differ most in how they let programs attach: 5.10 has kprobes without ftrace and no
// fentry, and its BTF has no static functions.
func TestArm64(t *testing.T) {
	t.Parallel()
	if err := arm64.check(); err != nil {
		t.Fatal(err)
	}
	trackInputs(t)
	series := []string{"5.10"}
	whole := os.Getenv("NSTRACE_TEST_ALL") == "1"
	if whole {
		series = []string{"5.10", "6.12", Newest}
	}
	if only := runFilter(1); only != "" && !strings.ContainsAny(only, "^$") {
		series = []string{only}
	}
	build := sync.OnceValues(func() (*payload, error) { return buildPayload(t, arm64, "test/e2e") })
	onKernels(t, series, build, func(_ string, p *payload) {
		p.short = !whole
		p.only = arm64QuickTests
		if whole {
			p.only = arm64Tests
		}
	})
}

// onKernels runs the tests of a payload in a guest of each kernel series, as a subtest of t. set
// changes the copy of the payload for one series.
func onKernels(t *testing.T, series []string, build func() (*payload, error), set func(series string, p *payload)) {
	for _, s := range series {
		t.Run(s, func(t *testing.T) {
			t.Parallel()
			guests <- struct{}{}
			defer func() { <-guests }()
			p, err := build()
			if err != nil {
				t.Fatal(err)
			}
			kernels := &Kernels{Log: t.Logf}
			kernel, err := kernels.Get(t.Context(), p.arch.prefix()+s)
			if err != nil {
				t.Fatal(err)
			}
			mine := *p
			set(s, &mine)
			if mine.split == "" {
				runTests(t, kernel, &mine)
				return
			}
			rest := mine
			mine.only, rest.skip = mine.split, mine.split
			var half sync.WaitGroup
			defer half.Wait()
			half.Go(func() {
				guests <- struct{}{}
				defer func() { <-guests }()
				runTests(t, kernel, &rest)
			})
			runTests(t, kernel, &mine)
		})
	}
}

// TestFtrace runs the end-to-end test that turns ftrace off and on, in guests with one CPU: an
// emulated kernel with two can crash while it rewrites its own code. 6.12 can turn everything off
// at any time. 5.10 refuses some of it, and the newest kernel refuses most.
func TestFtrace(t *testing.T) {
	t.Parallel()
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	trackInputs(t)
	series := []string{"6.12"}
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		series = []string{"5.10", "6.1", "6.12", Newest}
	}
	if only := runFilter(1); only != "" && !strings.ContainsAny(only, "^$") {
		series = []string{only}
	}
	build := sync.OnceValues(func() (*payload, error) { return buildPayload(t, amd64, "test/e2e") })
	onKernels(t, series, build, func(_ string, p *payload) {
		p.cpus, p.only = 1, "^TestFtrace$"
		p.short = os.Getenv("NSTRACE_TEST_ALL") != "1"
	})
}

// containersKernel is the kernel of a guest with container engines. The guest has only cgroup v2,
// whatever the host has.
const containersKernel = "6.12"

// TestContainers runs the tests with container engines in a guest. For make test it runs one, docker run
// --sysctl, with fentry and kprobes: the host has run all of them with its backend.
func TestContainers(t *testing.T) {
	t.Parallel()
	runContainers(t, func(p *payload) {
		if os.Getenv("NSTRACE_TEST_ALL") != "1" {
			p.short, p.only = true, "^TestDocker$/^Sysctl$"
		}
		p.trees = append(p.trees, "/usr/lib/cni")
	}, append([]string{"podman", "conmon", "tar"}, engines...)...)
}

// engines are the programs of Docker and containerd.
var engines = []string{"dockerd", "docker", "docker-init", "docker-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc"}

// TestSystemd runs the tests that need units or a system booted by systemd, in a guest where
// systemd is process 1.
func TestSystemd(t *testing.T) {
	t.Parallel()
	programs := []string{"podman", "conmon", "crun", "newuidmap", "newgidmap", "tar"}
	whole := os.Getenv("NSTRACE_TEST_ALL") == "1"
	if whole { // TestSystemdParts
		programs = append(programs, engines...)
	}
	runContainers(t, func(p *payload) {
		p.systemd = true
		p.short, p.only = !whole, "^TestSystemd"
		if whole {
			p.trees = append(p.trees, "/usr/lib/cni")
		}
	}, programs...)
}

// TestSystemdBoot runs the test that looks at the boot of a guest in which systemd starts nstrace.
func TestSystemdBoot(t *testing.T) {
	t.Parallel()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("boots a guest for one test: make test-all")
	}
	runContainers(t, func(p *payload) {
		p.systemd, p.only = true, "^TestBootRecorded$"
		p.overlay = "test/containers/testdata/boot"
	})
}

// runContainers runs test/containers in a guest that also has these programs.
func runContainers(t *testing.T, set func(*payload), programs ...string) {
	t.Helper()
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	guests <- struct{}{}
	defer func() { <-guests }()
	trackInputs(t)
	kernels := &Kernels{Log: t.Logf}
	kernel, err := kernels.Get(t.Context(), containersKernel)
	if err != nil {
		t.Fatal(err)
	}
	p, err := buildPayload(t, amd64, "test/containers")
	if err != nil {
		t.Fatal(err)
	}
	p.memory = 4096
	p.boot = 3 * time.Minute // there is much to unpack
	p.trees = []string{"/etc/containers", "/usr/share/containers"}
	set(p)
	for _, name := range programs {
		file, err := lookProgram(name)
		if err != nil {
			t.Fatal(err)
		}
		p.programs = append(p.programs, file)
	}
	runTests(t, kernel, p)
}

// payload is what a guest tests.
type payload struct {
	arch    *arch  // of the programs
	module  string // root of the repository
	pkg     string // folder of the tests, below module
	tests   string // test binary
	nstrace string // empty if the tests do not use it
	helpers string // folder of the tests' own C programs; also empty if unused

	programs []string // more programs for the tests, if the host has them
	trees    []string // more folders
	memory   int      // of the guest, MiB; 0: the default
	cpus     int      // of the guest; 0: the default
	short    bool     // run with -test.short
	systemd  bool     // systemd is the guest's process 1
	overlay  string   // a folder, below module, with files for the boot of a guest with systemd and udev; empty: none
	only     string   // -test.run, unless the host was given one
	skip     string   // -test.skip
	split    string   // the tests that get a guest of their own; empty: one guest runs all

	// kernelOnly leaves out the tests that do not depend on the kernel.
	kernelOnly bool

	boot time.Duration // how long a boot may take; 0: the default
}

// buildPayload compiles the tests of pkg, a folder, and nstrace. Tests below testdata are about the
// guests and need no nstrace.
func buildPayload(t *testing.T, arch *arch, pkg string) (*payload, error) {
	gomod, err := run(t.Context(), "", "go", "env", "GOMOD")
	if err != nil {
		return nil, err
	}
	p := &payload{arch: arch, module: filepath.Dir(strings.TrimSpace(string(gomod))), pkg: pkg}
	dir := t.TempDir()
	p.tests = filepath.Join(dir, "guest.test")
	if err := goBuild(t.Context(), arch, p.module, p.tests, "./"+p.pkg, true); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.tests); err != nil {
		return nil, fmt.Errorf("no tests in %s", p.pkg)
	}
	if !strings.Contains(p.pkg, "testdata") {
		p.helpers = filepath.Join(dir, "helpers")
		if err := os.Mkdir(p.helpers, 0o755); err != nil {
			return nil, err
		}
		if err := helpers.Build(t.Context(), arch.compiler, filepath.Join(p.module, "test/e2e/testdata"), p.helpers); err != nil {
			return nil, err
		}
		p.nstrace = filepath.Join(dir, "nstrace")
		if err := goBuild(t.Context(), arch, p.module, p.nstrace, "./cmd/nstrace", false); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// root assembles the guest's root.
func (p *payload) root(ctx context.Context, kernel *Kernel) (*Root, error) {
	r, err := NewGuestRoot(ctx, p.module, kernel)
	if err != nil {
		return nil, err
	}
	r.AddProgram(p.tests, guestBinary)
	if p.nstrace != "" {
		r.AddProgram(p.nstrace, guestTracer)
	}
	for _, file := range p.programs {
		r.AddProgram(file, file)
	}
	for _, dir := range p.trees {
		r.AddTree(dir, dir)
	}
	if p.systemd {
		r.AddSystemd()
		// As make install has it.
		for _, unit := range []string{"nstrace.service", "nstrace-folder.service"} {
			r.AddTree(filepath.Join(p.module, "systemd", unit), "/usr/local/lib/systemd/system/"+unit)
		}
		r.Symlink(guestTracer, "/usr/local/bin/nstrace")
		if p.overlay != "" {
			r.AddUdev()
			r.AddTree(filepath.Join(p.module, p.overlay), "/")
		}
	}
	r.Mkdir(path.Join(guestSource, p.pkg), 0o755, 0)
	for _, name := range []string{"go.mod", "schema", path.Join(p.pkg, "testdata")} {
		if _, err := os.Stat(filepath.Join(p.module, name)); err == nil {
			r.AddTree(filepath.Join(p.module, name), path.Join(guestSource, name))
		}
	}
	for _, dir := range []string{p.helpers, os.Getenv("NSTRACE_GUEST_BIN")} {
		if dir != "" {
			r.AddTree(dir, "/usr/local/bin")
		}
	}
	return r, r.err
}

// runTests runs the tests in a guest and reports them as subtests of t. It can run beside another
// call with the same t.
func runTests(t *testing.T, kernel *Kernel, p *payload) {
	root, err := p.root(t.Context(), kernel)
	if err != nil {
		t.Error(err)
		return
	}
	limit, err := timeLimit(t)
	if err != nil {
		t.Error(err)
		return
	}
	filter := guestFilter()
	if filter == "" {
		filter = p.only
	}
	args := []string{guestBinary, "-test.v=test2json", "-test.run=" + filter,
		// The tests' own limit comes first, because its error shows where they are. The guest's limit
		// includes the boot, and an emulated processor can take ten seconds to print the error.
		"-test.timeout=" + max(limit-max(limit/10, 30*time.Second), limit/4).String()}
	if p.skip != "" {
		args = append(args, "-test.skip="+p.skip)
	}
	if testing.Short() || p.short {
		args = append(args, "-test.short")
	}
	env := append(slices.Clone(DefaultEnv), "NSTRACE_BIN="+guestTracer)
	if p.kernelOnly {
		env = append(env, "NSTRACE_KERNEL_ONLY=1")
	}
	if kernel.Modules == "" {
		t.Logf("the archive has no modules for %s, so there is no veth, bridge, dummy or overlay", kernel.Release)
		env = append(env, "NSTRACE_GUEST_NO_MODULES=1")
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "NSTRACE_") && !strings.HasPrefix(kv, "NSTRACE_CACHE=") && !strings.HasPrefix(kv, "NSTRACE_BIN=") {
			env = append(env, kv)
		}
	}

	// Two steps turn the output into events: test2json knows its many forms.
	toJSON := exec.CommandContext(t.Context(), "go", "tool", "test2json")
	toJSON.Stderr = os.Stderr
	output, err := toJSON.StdinPipe()
	if err != nil {
		t.Error(err)
		return
	}
	events, err := toJSON.StdoutPipe()
	if err != nil {
		t.Error(err)
		return
	}
	if err := toJSON.Start(); err != nil {
		t.Error(err)
		return
	}
	type outcome struct {
		result *Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		guest := Guest{
			Kernel: kernel,
			Root:   root,
			Job: wire.Job{
				Args:     args,
				Env:      env,
				Dir:      path.Join(guestSource, p.pkg),
				Hostname: "nstrace-guest",
				Merge:    true,
				Systemd:  p.systemd,
			},
			Memory:    p.memory,
			CPUs:      p.cpus,
			Limit:     limit,
			BootLimit: p.boot,
			Stdout:    output,
			Log:       t.Logf,
		}
		result, err := guest.Start(t.Context())
		done <- outcome{result, errors.Join(err, output.Close())}
	}()
	m := newMirror(t)
	readErr := m.follow(events)
	// Even if that failed, the guest must still have a reader.
	io.Copy(io.Discard, events)
	end := <-done
	waitErr := toJSON.Wait()
	m.close()

	if err := errors.Join(readErr, waitErr); err != nil {
		t.Errorf("reading the guest's test output: %v", err)
	}
	var ge *GuestError
	switch result := end.result; {
	case errors.As(end.err, &ge):
		t.Errorf("kernel %s: %v; its console:\n%s", kernel.Release, ge, ge.Console)
	case end.err != nil:
		t.Error(end.err)
	case result.Signal != 0:
		t.Errorf("a signal ended the tests: %v", syscall.Signal(result.Signal))
	case result.Code != 0 && !m.failed:
		t.Errorf("the tests exited with status %d, though none has failed", result.Code)
	case result.Code == 0 && m.unfinished:
		t.Errorf("the tests exited with status 0 before they were done")
	case m.tests == 0:
		t.Errorf("no tests were run (filter %q)", filter)
	}
	if end.result != nil {
		t.Logf("kernel %s: up after %.1f s, done after another %.1f s", kernel.Release, end.result.Boot.Seconds(), end.result.Run.Seconds())
		if lines := faults(end.result.Console); lines != nil {
			t.Errorf("the kernel %s reported a fault: %s\nits console:\n%s", kernel.Release, lines[0], end.result.Console)
		}
	}
}

// timeLimit returns how long a guest may take: NSTRACE_GUEST_TIMEOUT, or half an hour, or an hour
// for the whole suite. It is always less than the time until go test itself gives up, because go
// test cannot show the console.
func timeLimit(t *testing.T) (time.Duration, error) {
	limit := 30 * time.Minute
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		limit = time.Hour
	}
	if s := os.Getenv("NSTRACE_GUEST_TIMEOUT"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, fmt.Errorf("NSTRACE_GUEST_TIMEOUT: %w", err)
		}
		limit = d
	}
	if deadline, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-15*time.Second)
	}
	if limit < 5*time.Second {
		return 0, errors.New("no time is left for this kernel: use a longer go test -timeout")
	}
	return limit.Round(time.Second), nil
}

// guestFilter is the -test.run of the guest: NSTRACE_GUEST_RUN, or else what follows the kernel in
// the host's own -run.
func guestFilter() string {
	if filter := os.Getenv("NSTRACE_GUEST_RUN"); filter != "" {
		return filter
	}
	return runFilter(2)
}

// runFilter returns part n of the pattern in this test binary's -run: the kernel is part 1,
// everything after it is part 2. It does not support alternatives like A/B|C/D; go test then
// chooses which subtests to show.
func runFilter(n int) string {
	pattern := flag.Lookup("test.run").Value.String()
	parts := strings.SplitN(pattern, "/", 3)
	if n >= len(parts) || strings.ContainsAny(pattern, "|[(") {
		return ""
	}
	return parts[n]
}

// trackInputs makes go test's cache depend on the sources. go test watches which files a test
// opens, but not what the tests compile here. Without this, it would repeat an old result after a
// change to the tracer.
func trackInputs(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if err == nil {
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody is editing it
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
