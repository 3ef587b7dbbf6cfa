// SPDX-License-Identifier: Apache-2.0

// Package smoke replaces the end-to-end tests in tests of the guests themselves. Tests that must
// fail do so only if NSTRACE_SMOKE is set.
package smoke

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sh runs a script and returns what it prints.
func sh(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-e", "-u", "-o", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func needModules(t *testing.T) {
	t.Helper()
	if os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("the archive has no modules for this kernel")
	}
}

// TestSystem checks that a guest can do what the end-to-end tests need.
func TestSystem(t *testing.T) {
	t.Run("kernel", func(t *testing.T) {
		t.Log(sh(t, "uname -r"))
		for _, path := range []string{"/sys/kernel/btf/vmlinux", "/sys/fs/cgroup/cgroup.procs", "/dev/null", "/dev/fd/0", "/home/tester"} {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
		if data, err := os.ReadFile("/proc/mounts"); err != nil || strings.Contains(string(data), "debugfs") {
			t.Errorf("want no debugfs: %v\n%s", err, data)
		}
	})
	t.Run("loopback", func(t *testing.T) {
		if got := sh(t, "ip -br addr show lo"); !strings.Contains(got, "127.0.0.1") {
			t.Errorf("lo is not up: %s", got)
		}
	})
	t.Run("hostname", func(t *testing.T) {
		if got := sh(t, "hostname"); got == "" || got == "(none)" {
			t.Errorf("host name is %q", got)
		}
	})
	t.Run("netns", func(t *testing.T) {
		sh(t, "ip netns add one; ip -n one link set lo up; ip netns exec one sysctl -w net.ipv4.ip_forward=1; ip netns del one")
	})
	t.Run("devices", func(t *testing.T) {
		needModules(t)
		sh(t, `ip netns add two
			ip link add v0 type veth peer name v1; ip link set v1 netns two
			ip link add br9 type bridge; ip link add d9 type dummy
			ip link del br9; ip link del d9; ip link del v0; ip netns del two`)
	})
	t.Run("overlay", func(t *testing.T) {
		needModules(t)
		sh(t, `cd $(mktemp -d); mkdir lower upper work all; echo x >lower/f
			mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all
			grep -q x all/f; umount all`)
	})
	t.Run("pivot_root", func(t *testing.T) {
		if got := sh(t, "bwrap --unshare-all --bind / / --proc /proc readlink /proc/self/ns/net"); got == sh(t, "readlink /proc/self/ns/net") {
			t.Errorf("bwrap left its command in the host's %s", got)
		}
	})
	t.Run("user", func(t *testing.T) {
		got := sh(t, "setpriv --reuid tester --regid tester --init-groups bwrap --unshare-user --bind / / id -u")
		if got != "1000" {
			t.Errorf("id -u: %s", got)
		}
		got = sh(t, `setpriv --reuid tester --regid tester --init-groups bash -c '
			cd $(mktemp -d); mkfifo mapped
			unshare -U bash -c "read <mapped; cat /proc/self/uid_map" & pid=$!
			until [ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do :; done
			newuidmap $pid 0 100000 65536; echo >mapped; wait $pid'`)
		if got := strings.Join(strings.Fields(got), " "); got != "0 100000 65536" {
			t.Errorf("uid_map: %s", got)
		}
	})
	t.Run("runc", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		got := sh(t, `cd `+dir+`; cp /usr/bin/busybox rootfs; runc spec
			sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"\/busybox", "id", "-u"/' config.json
			runc run smoke`)
		if got != "0" {
			t.Errorf("runc run: %s", got)
		}
	})
	t.Run("strace", func(t *testing.T) {
		if got := sh(t, "strace -f -e trace=unshare unshare -u true 2>&1"); !strings.Contains(got, "CLONE_NEWUTS") {
			t.Error(got)
		}
	})
}

// TestOutcomes has one test of each outcome.
func TestOutcomes(t *testing.T) {
	t.Run("pass", func(t *testing.T) { t.Log("passing along") })
	t.Run("skip", func(t *testing.T) { t.Skip("not today") })
	t.Run("strange name/with slash", func(t *testing.T) {
		t.Run("and more", func(t *testing.T) { fmt.Println("printed, not logged") })
	})
	t.Run("same", func(t *testing.T) {})
	t.Run("same", func(t *testing.T) {})
	t.Run("parallel", func(t *testing.T) {
		ch := make(chan bool)
		t.Run("a", func(t *testing.T) { t.Parallel(); t.Log("a waits for b"); <-ch })
		t.Run("b", func(t *testing.T) { t.Parallel(); t.Log("b lets a go"); ch <- true })
	})
	t.Run("flood", func(t *testing.T) {
		for i := range 2000 {
			fmt.Printf("line %d of many, to see that none is lost on its way to the host\n", i)
		}
	})
}

func bad(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("NSTRACE_SMOKE") != what {
		t.Skipf("only with NSTRACE_SMOKE=%s", what)
	}
}

func TestFail(t *testing.T) {
	bad(t, "fail")
	t.Run("ok", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Errorf("wrong by %d", 1) })
}

func TestGoPanic(t *testing.T) {
	bad(t, "gopanic")
	t.Run("sub", func(t *testing.T) { panic("out of coffee") })
}

func TestExit(t *testing.T) {
	bad(t, "exit")
	os.Exit(0)
}

func TestKernelPanic(t *testing.T) {
	bad(t, "kernelpanic")
	t.Log("the last words")
	sh(t, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
}

func TestPowerOff(t *testing.T) {
	bad(t, "poweroff")
	sh(t, "busybox reboot -f")
}

func TestHang(t *testing.T) {
	bad(t, "hang")
	select {}
}

// TestHardHang stops the machine so that none of its own timers can help.
func TestHardHang(t *testing.T) {
	bad(t, "hardhang")
	sh(t, "kill -STOP $PPID; sleep inf")
}
