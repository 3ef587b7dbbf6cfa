// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/test/vm/wire"
)

// harnessKernel is the kernel for the tests of the guests themselves.
const harnessKernel = "6.1"

// TestHarness checks that the results of tests in a guest are reported as they are. It runs
// TestKernel in a child process, with tests in testdata, because some of them must fail.
func TestHarness(t *testing.T) {
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	const prefix = "TestKernel/" + harnessKernel
	for _, tt := range []struct {
		name, smoke, run string
		limit            time.Duration
		pass             bool
		want             []string
		not              []string
	}{
		{
			name: "good", run: "TestSystem|TestOutcomes", pass: true,
			want: []string{
				"--- PASS: " + prefix + "/TestSystem/pivot_root",
				"--- PASS: " + prefix + "/TestSystem/runc",
				"passing along",
				"--- SKIP: " + prefix + "/TestOutcomes/skip",
				"not today",
				"--- PASS: " + prefix + "/TestOutcomes/strange_name/with_slash/and_more",
				"    printed, not logged\n",
				"--- PASS: " + prefix + "/TestOutcomes/same#01",
				"--- PASS: " + prefix + "/TestOutcomes/parallel/a",
				"line 0 of many", "line 1999 of many",
			},
			not: []string{"--- FAIL", "\x16", "\n    === RUN"},
		},
		{
			name: "fail", run: "TestFail",
			want: []string{
				"--- FAIL: " + prefix + "/TestFail/bad", "wrong by 1",
				"--- PASS: " + prefix + "/TestFail/ok",
			},
			not: []string{"trying again"},
		},
		{
			name: "gopanic", run: "TestGoPanic",
			want: []string{"--- FAIL: " + prefix + "/TestGoPanic/sub", "panic: out of coffee", "goroutine "},
		},
		{
			name: "exit", run: "TestExit",
			want: []string{"--- FAIL: " + prefix + "/TestExit", "exited with status 0 before they were done"},
		},
		{
			name: "kernelpanic", run: "TestKernelPanic",
			want: []string{
				"--- FAIL: " + prefix + "/TestKernelPanic", "the last words",
				"Kernel panic - not syncing: sysrq triggered crash; its console:",
				"Linux version " + harnessKernel, "sysrq_handle_crash", // the console from end to end
			},
			not: []string{"trying again"},
		},
		{
			name: "poweroff", run: "TestPowerOff",
			want: []string{"--- FAIL: " + prefix + "/TestPowerOff", "ended without reporting how its program did", "Linux version"},
			not:  []string{"trying again"},
		},
		{
			name: "hang", run: "TestHang", limit: 48 * time.Second,
			want: []string{"--- FAIL: " + prefix + "/TestHang", "panic: test timed out", "smoke.TestHang("},
		},
		{
			name: "hardhang", run: "TestHardHang", limit: 20 * time.Second,
			want: []string{"--- FAIL: " + prefix + "/TestHardHang", "the guest was not done after 20s; its console:", "Linux version"},
			not:  []string{"trying again"},
		},
		{
			name: "none", run: "TestNoSuchThing",
			want: []string{"--- FAIL: " + prefix, `no tests were run (filter "TestNoSuchThing")`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if (testing.Short() || os.Getenv("NSTRACE_TEST_ALL") != "1") && tt.name != "good" && tt.name != "fail" {
				t.Skip("two boots are enough: make test-all")
			}
			t.Parallel()
			guests <- struct{}{}
			defer func() { <-guests }()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^TestKernel$/^"+harnessKernel+"$")
			cmd.Env = append(os.Environ(),
				"NSTRACE_GUEST_TESTS=test/vm/testdata/smoke",
				"NSTRACE_GUEST_RUN="+tt.run,
				"NSTRACE_SMOKE="+tt.name)
			if tt.limit != 0 {
				cmd.Env = append(cmd.Env, "NSTRACE_GUEST_TIMEOUT="+tt.limit.String())
			}
			out, err := cmd.CombinedOutput()
			if passed := err == nil; passed != tt.pass {
				t.Errorf("passed: %v (%v), want %v", passed, err, tt.pass)
			}
			for _, s := range tt.want {
				if !bytes.Contains(out, []byte(s)) {
					t.Errorf("the output lacks %q", s)
				}
			}
			for _, s := range tt.not {
				if bytes.Contains(out, []byte(s)) {
					t.Errorf("the output has %q", s)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// TestBoot has guests that never start their program, and one whose program cannot be started.
func TestBoot(t *testing.T) {
	if testing.Short() {
		t.Skip("TestHarness boots a guest that works")
	}
	kernels := &Kernels{Log: t.Logf}
	kernel, err := kernels.Get(t.Context(), harnessKernel)
	if err != nil {
		t.Fatal(err)
	}
	full, err := NewGuestRoot(t.Context(), ".", kernel)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		root      *Root
		bootLimit time.Duration
		retries   int
		want      string
	}{
		{"panic", NewRoot(), 0, maxBoots - 1, "the guest ended before its program was started: Kernel panic"},
		{"slow", full, 50 * time.Millisecond, maxBoots - 1, "the guest was not up after 50ms"},
		{"noprogram", full, 0, 0, "the guest's init failed: exec: \"no-such-program\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			retries := 0
			guest := Guest{
				Kernel:    kernel,
				Root:      tt.root,
				Job:       wire.Job{Args: []string{"no-such-program"}},
				BootLimit: tt.bootLimit,
				Log:       func(string, ...any) { retries++ },
			}
			_, err := guest.Start(t.Context())
			var ge *GuestError
			if !errors.As(err, &ge) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if retries != tt.retries {
				t.Errorf("%d more boots, want %d", retries, tt.retries)
			}
		})
	}
}

func TestParseMirrors(t *testing.T) {
	for _, tt := range []struct{ name, in, mirror, security string }{
		{
			name: "usual",
			in: `'http://mirror.example/debian/dists/bookworm/InRelease' a 0 
'http://mirror.example/debian/dists/bookworm-updates/InRelease' b 0 
'http://sec.example/debian-security/dists/bookworm-security/InRelease' c 0 
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0 
`,
			mirror: "http://mirror.example/debian", security: "http://sec.example/debian-security",
		},
		{
			name: "others first",
			in: `'https://third.example/linux/dists/bookworm/InRelease' a 0 
'https://m.example/some/path/dists/trixie-updates/InRelease' b 0 
`,
			mirror: "https://m.example/some/path", security: "https://m.example/some/path-security",
		},
		{name: "none", in: "'https://third.example/linux/dists/stable/InRelease' a 0 \n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mirror, security := parseMirrors(tt.in)
			if mirror != tt.mirror || security != tt.security {
				t.Errorf("got %q and %q, want %q and %q", mirror, security, tt.mirror, tt.security)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	ascending := []string{
		"5.10.0-9-cloud-amd64", "5.10.0-30-cloud-amd64", "6.1.0-0.deb11.48-cloud-amd64", "6.1.0-48-cloud-amd64",
		"6.12.90+deb13-cloud-amd64", "6.12.90+deb13.1-cloud-amd64", "6.12.117~rc1-cloud-amd64",
		"6.12.117+deb13-cloud-amd64", "7.0.9+deb13-cloud-amd64", "7.0.13+deb13-cloud-amd64",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			if got := compareVersions(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s against %s: %d", a, b, got)
			}
		}
	}
}

func TestImageName(t *testing.T) {
	for name, series := range map[string]string{
		"linux-image-5.10.0-46-cloud-amd64":            "5.10",
		"linux-image-6.1.0-0.deb11.48-cloud-amd64":     "6.1",
		"linux-image-6.1.0-56-cloud-amd64-unsigned":    "6.1",
		"linux-image-6.12.115+deb13.1-cloud-amd64":     "6.12",
		"linux-image-5.10.0-32-cloud-arm64-unsigned":   "5.10",
		"linux-image-7.3.4+deb13-cloud-arm64":          "7.3",
		"linux-image-6.12-cloud-amd64":                 "",
		"linux-image-cloud-amd64":                      "",
		"linux-image-6.12.117+deb13-amd64":             "6.12-full",
		"linux-image-6.1.0-56-amd64-unsigned":          "6.1-full",
		"linux-image-6.12.117+deb13-rt-amd64":          "6.12-rt",
		"linux-image-6.12.117+deb13-rt-amd64-unsigned": "6.12-rt",
		"linux-image-rt-amd64":                         "",
		"linux-image-amd64":                            "",
		"linux-image-6.12.117+deb13-rt-amd64-dbg":      "",
		"linux-image-7.3.4+deb13-cloud-amd64-dbg":      "",
		"linux-binary-7.3.4+deb13-cloud-amd64":         "",
		"linux-image-amd64-signed-template":            "",
		"linux-image-6.12.117+deb13-cloud-amd64-extra": "",
	} {
		var got string
		for _, flavour := range []string{"", flavourRT, flavourFull} {
			for _, arch := range arches {
				if m := imageName(arch.name, flavour).FindStringSubmatch(name); m != nil {
					got += m[2] + flavour
				}
			}
		}
		if got != series {
			t.Errorf("%s: series %q, want %q", name, got, series)
		}
	}
}

func TestSplitSeries(t *testing.T) {
	for s, want := range map[string]struct {
		arch   *arch
		series string
	}{
		"6.12": {amd64, "6.12"}, "newest": {amd64, "newest"}, "arm64-6.12": {arm64, "6.12"}, "arm64-newest": {arm64, "newest"},
		"amd64-5.10": {amd64, "5.10"}, "riscv64-6.12": {amd64, "riscv64-6.12"},
	} {
		if arch, series := splitSeries(s); arch != want.arch || series != want.series {
			t.Errorf("%s: %s %s", s, arch.name, series)
		}
	}
}

// TestResolve checks that no link in the folder of a guest's programs leads to the host's files.
func TestResolve(t *testing.T) {
	r := NewRoot()
	r.system = t.TempDir()
	for _, dir := range []string{"bin", "sbin"} {
		if err := os.Mkdir(filepath.Join(r.system, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.system, "bin/kmod"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"sbin/modprobe": "/bin/kmod", "bin/lsmod": "kmod", "bin/passwd": "/etc/passwd", "bin/loop": "loop", "bin/out": "../../bin/sh"} {
		if err := os.Symlink(target, filepath.Join(r.system, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"modprobe": "bin/kmod", "lsmod": "bin/kmod", "passwd": "", "loop": "", "out": "", "missing": ""} {
		path, err := r.look(name)
		if err == nil {
			path, err = r.resolve(path)
		}
		if got := strings.TrimPrefix(path, r.system+"/"); err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

// TestRoot checks with cpio(1) what Root writes.
func TestRoot(t *testing.T) {
	cpio, err := lookProgram("cpio")
	if err != nil {
		t.Fatal("this host has no cpio, to check guests' roots with: apt-get install cpio")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := NewRoot()
	r.AddBytes([]byte("hello"), "/bin/../lib/greeting", 0o640)
	r.AddTree(script, "/opt/tool")
	r.AddProgram("/bin/true", "/bin/true")
	var archive bytes.Buffer
	n, err := r.WriteTo(&archive)
	if err != nil || n != int64(archive.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, archive.Len(), err)
	}
	cmd := exec.CommandContext(t.Context(), cpio, "-itv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = &archive
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[2]+" "+strings.Join(f[8:], " "))
	}
	for _, want := range []string{
		"lrwxrwxrwx 0 bin -> usr/bin",
		"drwxr-xr-x 0 usr/lib",
		"-rw-r----- 0 usr/lib/greeting",
		"-rwxr-xr-x 0 opt/tool", // whatever the umask was
		"-rwxr-xr-x 0 usr/bin/true",
		"-rwxr-xr-x 0 usr/lib64/ld-linux-x86-64.so.2",
		"drwxr-xr-x 1000 home/tester",
		"drwxrwxrwt 0 tmp",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(got, "\n"))
		}
	}

	r.AddProgram(filepath.Join(dir, "missing"), "/usr/bin/missing")
	if _, err := r.WriteTo(io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}

// TestInterrupted checks that Get does not use a download that was cut short.
func TestInterrupted(t *testing.T) {
	if err := CheckHost(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	kernels := &Kernels{Dir: t.TempDir(), Log: func(format string, args ...any) {
		if strings.HasPrefix(format, "downloading") {
			cancel()
		}
	}}
	if _, err := kernels.Get(ctx, Newest); err == nil {
		t.Fatal("a download that was canceled gave a kernel")
	}
	left, err := os.ReadDir(filepath.Join(kernels.Dir, "kernels"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
