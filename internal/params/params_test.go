// SPDX-License-Identifier: Apache-2.0

package params

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

func openRoot(t *testing.T) *Root {
	t.Helper()
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// within fails a test if do takes longer than it can: it waits for somebody.
func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestRead(t *testing.T) {
	r := openRoot(t)
	for _, file := range []string{"/proc/sys/kernel/ostype", "/proc/sys/vm/swappiness", "/proc/sys/net/ipv4/ip_forward"} {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := r.Read(file)
		if err != nil || v.Cut || v.Text+"\n" != string(want) {
			t.Errorf("%s: %+v %v, want %q", file, v, err, want)
		}
	}
	if _, err := r.Read("/proc/sys/kernel/no_such_parameter"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := r.Read("/proc/sys/net/ipv4/route/flush"); !errors.Is(err, ErrWriteOnly) {
		t.Errorf("what nobody can read: %v", err)
	}
	if _, err := r.ReadIf("/proc/sys/kernel/ostype", 0o200); !errors.Is(err, os.ErrPermission) {
		t.Errorf("what nobody can write: %v", err)
	}
}

// Only the shortest form of a path below /proc/sys is one, and nothing is opened otherwise.
func TestOtherPaths(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/sys/kernel/ostype", link); err != nil {
		t.Fatal(err)
	}
	r := openRoot(t)
	for _, file := range []string{
		"", "/", ".", "kernel/ostype", "/proc/sys", "/proc/sys/", "/proc/sys/.", "/proc/sys/..", "/proc/system/x", fifo, link, "/dev/zero", "/etc/passwd",
		"/proc/sys/../version", "/proc/sys/kernel/../kernel/ostype", "/proc/sys/kernel/./ostype", "/proc/sys//kernel/ostype", "//proc/sys/kernel/ostype",
		"/proc/sys/kernel/ostype/", "/proc/sys/kernel/ostype\x00", "/proc/sys/kernel/ostype\x00/x", "/proc/sys/" + strings.Repeat("../", 10) + "dev/zero",
		"/proc/self/root/proc/sys/kernel/ostype", "/proc/sys/fs/binfmt_misc", "/proc/sys/fs/binfmt_misc/status",
		"/proc/sys/" + strings.Repeat("x/", 5000) + "x",
	} {
		within(t, func() {
			if v, err := r.Read(file); !errors.Is(err, ErrPath) || len(err.Error()) > 1000 {
				t.Errorf("%.80q: %+v %v", file, v, err)
			}
		})
		if name, err := Name(file); err == nil {
			t.Errorf("%.80q is %q", file, name)
		}
	}
	if v, err := r.Read("/proc/sys/kernel"); !errors.Is(err, ErrFile) {
		t.Errorf("a folder: %+v %v", v, err)
	}
	for _, file := range []string{"/proc/sys/kernel/ostype/x", "/proc/sys/" + strings.Repeat("x", 300)} {
		if v, err := r.Read(file); err == nil {
			t.Errorf("%.80q: %+v", file, v)
		}
	}
}

// onThread does something on a thread of its own with new namespaces, which end with it.
func onThread(t *testing.T, flags int, prepare func() error, do func()) {
	t.Helper()
	within(t, func() {
		done := make(chan struct{})
		var there func()
		there = func() {
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() { // it would not end
				defer runtime.UnlockOSThread()
				again := make(chan struct{})
				go func() {
					defer close(again)
					there()
				}()
				<-again
				return
			}
			// Never unlocked.
			err := unix.Unshare(flags)
			if err == nil {
				err = prepare()
			}
			if err != nil {
				t.Errorf("new namespaces: %v", err)
				return
			}
			do()
		}
		go func() {
			defer close(done)
			there()
		}()
		<-done
	})
}

func inNet(t *testing.T, do func()) {
	t.Helper()
	onThread(t, unix.CLONE_NEWNET, func() error { return nil }, do)
}

func inMounts(t *testing.T, do func()) {
	t.Helper()
	onThread(t, unix.CLONE_NEWNS, func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }, do)
}

// Read reads nothing that is mounted over a parameter: it does not wait for the writer of a pipe,
// does not read a device without end, and does not return the text of another file or a link.
func TestMountedOver(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to mount")
	}
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	links := filepath.Join(dir, "links")
	if err := os.Mkdir(links, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"zero": "/dev/zero", "dir": "/proc/sys/net"} {
		if err := os.Symlink(to, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	inMounts(t, func() {
		for _, m := range []struct{ from, over, read string }{
			{fifo, "/proc/sys/kernel/ostype", "/proc/sys/kernel/ostype"},
			{"/dev/zero", "/proc/sys/kernel/osrelease", "/proc/sys/kernel/osrelease"},
			{file, "/proc/sys/kernel/version", "/proc/sys/kernel/version"},
			{links, "/proc/sys/kernel/random", "/proc/sys/kernel/random/zero"},
		} {
			if err := unix.Mount(m.from, m.over, "", unix.MS_BIND, ""); err != nil {
				t.Error(err)
				return
			}
			r, err := Open()
			if err != nil {
				t.Error(err)
				return
			}
			v, err := r.Read(m.read)
			if err == nil || !errors.Is(err, ErrFile) && !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s over %s: %d bytes, %v", m.from, m.read, len(v.Text), err)
			}
			r.Close()
		}
		// Not even where the link leads to another parameter.
		r, err := Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		if v, err := r.Read("/proc/sys/kernel/random/dir/ipv4/ip_forward"); !errors.Is(err, unix.ELOOP) {
			t.Errorf("by a link: %+v %v", v, err)
		}
		if err := r.Walk(t.Context(), "/proc/sys/kernel/random", func(file string) { t.Errorf("%s is listed", file) }); !errors.Is(err, ErrFile) {
			t.Errorf("a listing of another file system: %v", err)
		}
		// Nor is anything else that is where /proc/sys should be.
		if err := unix.Mount(links, Dir, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
			return
		}
		if _, err := Open(); !errors.Is(err, ErrFile) {
			t.Errorf("another /proc/sys: %v", err)
		}
	})
}

// A value that is longer than what is read is cut, and says so.
func TestLongValue(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to set a parameter")
	}
	const file = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	var ports []string
	for p := 1; p < 65536; p += 4 {
		ports = append(ports, strconv.Itoa(p))
	}
	text := strings.Join(ports, ",")
	inNet(t, func() {
		if err := os.WriteFile(file, []byte(text), 0); err != nil {
			t.Error(err)
			return
		}
		r, err := Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		v, err := r.Read(file)
		if err != nil || !v.Cut || v.Text != text[:MaxValue] {
			t.Errorf("%d bytes of %d, cut: %v, %v", len(v.Text), len(text), v.Cut, err)
		}
	})
}

func TestWalk(t *testing.T) {
	r := openRoot(t)
	var all []string
	if err := r.Walk(t.Context(), Dir, func(file string) { all = append(all, file) }); err != nil {
		t.Fatal(err)
	}
	var want []string
	err := filepath.WalkDir(Dir, func(path string, d os.DirEntry, err error) error {
		if path == Dir+"/"+binfmtMisc {
			return filepath.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			want = append(want, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	slices.Sort(want)
	if !slices.Equal(all, want) || len(all) < 200 {
		t.Errorf("%d parameters, want %d", len(all), len(want))
	}
	for _, dir := range []string{"/proc", "/", "/proc/sys/..", "/proc/sys/no_such_folder", "/proc/sys/kernel/ostype"} {
		if err := r.Walk(t.Context(), dir, func(file string) { t.Errorf("%s has %s", dir, file) }); err == nil {
			t.Errorf("%s is a folder of parameters", dir)
		}
	}
}

func TestName(t *testing.T) {
	for name, file := range map[string]string{
		"net.ipv4.ip_forward": "/proc/sys/net/ipv4/ip_forward", "net.ipv4.conf.eth0/100.forwarding": "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
	} {
		got, err := Name(file)
		if err != nil || got != name || event.SysctlPath(name) != file {
			t.Errorf("%s: %q %v, %s", file, got, err, event.SysctlPath(name))
		}
	}
}

// BenchmarkRead reads one parameter.
func BenchmarkRead(b *testing.B) {
	r, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for b.Loop() {
		if _, err := r.Read("/proc/sys/vm/swappiness"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestThread enters a network namespace by the one of several paths that leads to it.
func TestThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to create a namespace")
	}
	const file = "/proc/sys/net/ipv4/tcp_keepalive_time"
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	inNet(t, func() {
		if err := os.WriteFile(file, []byte("612"), 0); err != nil {
			t.Error(err)
			return
		}
		path := "/proc/" + strconv.Itoa(os.Getpid()) + "/task/" + strconv.Itoa(unix.Gettid()) + "/ns/net"
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Error(err)
			return
		}
		id := uint32(st.Ino)
		err := OnThread(func(thread *Thread) error {
			root, err := thread.Enter("net", id, []string{"/nonexistent", fifo, "/proc/1/ns/net", path})
			if err != nil {
				return err
			}
			if v, err := root.Read(file); err != nil || v.Text != "612" {
				t.Errorf("%+v %v", v, err)
			}
			if _, err := thread.Enter("net", id, []string{fifo, "/proc/1/ns/net", "/proc/1/ns/mnt"}); !errors.Is(err, ErrNamespaceGone) {
				t.Errorf("no path leads there: %v", err)
			}
			for _, typ := range []event.NSType{"mnt", "", "../net"} {
				if _, err := thread.Enter(typ, id, []string{path}); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("type %q: %v", typ, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestThreadReturns has threads enter a namespace, and leave their own in a way that OnThread does not
// know. Then no thread of the program may be elsewhere, and threads that returned are used again.
func TestThreadReturns(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tids := map[int]bool{}
	inNet(t, func() {
		path := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		id, err := procfs.NamespaceOf("thread-self", event.NSTypeNet)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range 40 {
			err := OnThread(func(thread *Thread) error {
				tids[unix.Gettid()] = true
				if i%4 == 3 {
					return unix.Unshare(unix.CLONE_NEWIPC)
				}
				_, err := thread.Enter(event.NSTypeNet, id, []string{path})
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	if len(tids) > 30 {
		t.Errorf("%d threads for 40 calls: none was used again", len(tids))
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, typ := range []event.NSType{event.NSTypeNet, event.NSTypeIPC} {
		own, err := procfs.NamespaceOf("self", typ)
		if err != nil {
			t.Fatal(err)
		}
		for {
			away := 0
			tasks, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range tasks {
				if id, err := procfs.NamespaceOf("self/task/"+task.Name(), typ); err == nil && id != own {
					away++
				}
			}
			if away == 0 {
				break
			}
			if time.Now().After(deadline) { // an ended thread takes a moment to go
				t.Fatalf("%d threads are in another %s namespace", away, typ)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestNotMainThread checks that OnThread never uses the main thread, which cannot end.
func TestNotMainThread(t *testing.T) {
	for range 200 {
		err := OnThread(func(*Thread) error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("it runs on the main thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
