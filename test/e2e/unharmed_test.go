// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// TestUnharmed does to the kernel, while nstrace is attached with each backend, what else changes its
// code or its processors: other programs attach to the same functions and detach, a module comes and
// goes, a processor goes and comes. After each, every stream sees a namespace and a write. The kernel
// logs no warning, which test/vm checks for each test as well.
func TestUnharmed(t *testing.T) {
	if os.Getenv("NSTRACE_BIN") == "" {
		t.Skip("not in a guest: a real host is not for such tests")
	}
	warnings := kernelWarnings(t)
	h := watch(t, backends...)
	act := func(t *testing.T) {
		t.Helper()
		w := h.sh(t, "exec unshare --uts sh -c 'echo unharmed >/proc/sys/kernel/domainname'")
		w.each(t, func(t *testing.T, s *stream, events []*emitted) {
			made := only(events, event.NamespaceCreate)
			written := only(events, event.SysctlWrite)
			if len(made) != 1 || made[0].Namespace.Type != event.NSTypeUTS || len(written) != 1 || written[0].Sysctl.Name != "kernel.domainname" {
				t.Errorf("%v:\n%s", s, dump(events))
			}
		})
	}
	t.Run("before", act)
	for _, b := range backends {
		t.Run("nstrace by "+string(b), func(t *testing.T) {
			s := startStream(t, "--backend", string(b))
			s.awaitStart(t)
			act(t)
			s.interrupt(t)
			s.checkEnd(t, false)
			act(t)
		})
	}
	t.Run("kprobe", func(t *testing.T) {
		dir := tracefs(t)
		events := filepath.Join(dir, "kprobe_events")
		if _, err := os.Stat(events); errors.Is(err, os.ErrNotExist) {
			t.Skip("the kernel has no kprobes")
		}
		// Not with O_TRUNC: that removes the kprobes of others too.
		appendFile(t, events, "p:unharmed/ns create_new_namespaces\nr:unharmed/nsret create_new_namespaces\n")
		defer appendFile(t, events, "-:unharmed/ns\n-:unharmed/nsret\n")
		enable := filepath.Join(dir, "events/unharmed/enable")
		writeFile(t, enable, "1")
		act(t)
		writeFile(t, enable, "0")
		act(t)
		if trace := readFile(t, filepath.Join(dir, "trace")); !strings.Contains(trace, "create_new_namespaces") {
			t.Errorf("the other kprobe did not run:\n%s", trace)
		}
	})
	t.Run("function tracer", func(t *testing.T) {
		dir := tracefs(t)
		filter, current := filepath.Join(dir, "set_ftrace_filter"), filepath.Join(dir, "current_tracer")
		if _, err := os.Stat(filter); errors.Is(err, os.ErrNotExist) {
			t.Skip("the kernel has no function tracer")
		}
		writeFile(t, filter, "create_new_namespaces\nproc_sys_write\n")
		writeFile(t, current, "function")
		act(t)
		writeFile(t, current, "nop")
		writeFile(t, filter, "")
		act(t)
	})
	t.Run("module", func(t *testing.T) {
		if !hasModules {
			t.Skip("the archive has no modules for this kernel")
		}
		output(t, "modprobe", "dummy")
		act(t)
		output(t, "modprobe", "-r", "dummy")
		act(t)
	})
	t.Run("processor", func(t *testing.T) {
		const online = "/sys/devices/system/cpu/cpu1/online"
		if _, err := os.Stat(online); errors.Is(err, os.ErrNotExist) {
			t.Skip("no processor can be taken away")
		}
		writeFile(t, online, "0")
		act(t)
		writeFile(t, online, "1")
		act(t)
	})
	h.close(t)
	if n := kernelWarnings(t); n != warnings {
		t.Errorf("the kernel's log has %d new warnings", n-warnings)
	}
}

// tracefs mounts tracefs, and returns where.
func tracefs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		t.Skipf("no tracefs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func writeFile(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func appendFile(t *testing.T, file, value string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
