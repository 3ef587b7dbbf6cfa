// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/history"
)

// TestSync asks recorders that run, that cannot write, and that have ended.
func TestSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	if err := history.Sync(t.Context(), path); !errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("without a history: %v", err)
	}
	r := create(t, history.Options{Path: path})
	var writes atomic.Int64
	var failure atomic.Pointer[error]
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.ServeSync(ctx, func(context.Context) error {
			writes.Add(1)
			if err := failure.Load(); err != nil {
				return *err
			}
			return r.Sync()
		}, noState)
	}()
	awaitSync(t, path)
	if info, err := os.Lstat(path + "-sock"); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("its socket: %v %v", info, err)
	}
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := newStorm(t)
	for i := range 5 {
		if err := r.Append(s.next()); err != nil {
			t.Fatal(err)
		}
		if err := history.Sync(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if n, err := db.Last(); err != nil || n != int64(i+1) {
			t.Errorf("after %d events the history has %d: %v", i+1, n, err)
		}
	}
	// Others make it write at most ten times a second.
	before, start := writes.Load(), time.Now()
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() { _ = history.Sync(t.Context(), path) })
	}
	all.Wait()
	if n, limit := writes.Load()-before, int64(time.Since(start)/(100*time.Millisecond))+2; n > limit {
		t.Errorf("30 requests made it write %d times, want at most %d", n, limit)
	}
	full := errors.New("the disk is full")
	failure.Store(&full)
	if err := history.Sync(t.Context(), path); err == nil || errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("while it cannot write: %v", err)
	}
	stop()
	<-served
	if err := errors.Join(r.Close(), history.Sync(t.Context(), path)); !errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := os.Lstat(path + "-sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket after its end: %v", err)
	}
}

func awaitSync(t *testing.T, path string) {
	t.Helper()
	for {
		err := history.Sync(t.Context(), path)
		if err == nil {
			return
		}
		if errors.Is(err, history.ErrNoRecorder) || t.Context().Err() != nil {
			t.Fatal(err) // it has the lock
		}
		time.Sleep(time.Millisecond)
	}
}

// serve answers for a recorder until the test or stop ends it.
func serve(t *testing.T, r *history.Recorder) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		r.ServeSync(ctx, func(context.Context) error { return r.Sync() }, noState)
	}()
	stop = func() { cancel(); <-served }
	t.Cleanup(stop)
	return stop
}

// TestSyncNoAnswer has what can be in the place of the socket while a recorder has the history. None of it
// means that no recorder runs.
func TestSyncNoAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	r := create(t, history.Options{Path: path})
	at := &net.UnixAddr{Net: "unix", Name: path + "-sock"}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		make func() error
	}{
		{"nothing", func() error { return nil }},
		{"a file", func() error { return os.WriteFile(at.Name, nil, 0o600) }},
		{"a socket that nobody listens on", func() error {
			return errors.Join(os.Remove(at.Name), unix.Bind(fd, &unix.SockaddrUnix{Name: at.Name}))
		}},
		{"the socket of a recorder that was killed", func() error { return unix.Close(fd) }},
	} {
		if err := tt.make(); err != nil {
			t.Fatal(err)
		}
		if err := history.Sync(t.Context(), path); err == nil || errors.Is(err, history.ErrNoRecorder) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	stop := serve(t, r) // it replaces the last one
	awaitSync(t, path)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := history.Sync(t.Context(), link); err != nil {
		t.Errorf("through a symbolic link: %v", err)
	}
	stop()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := history.Sync(t.Context(), path); !errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("after its end: %v", err)
	}
}

// TestSyncWhere asks a recorder whose path is longer than an address, from another network namespace and as
// another user.
func TestSyncWhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for another namespace and user")
	}
	dir, err := os.MkdirTemp("", "sync") // which others can reach, unlike t.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, strings.Repeat("long", 40), "history.db")
	r := create(t, history.Options{Path: path})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, r)
	awaitSync(t, path)
	for _, tt := range []struct {
		name   string
		change func() error
		ok     bool
	}{
		{"from another network namespace", func() error { return unix.Unshare(unix.CLONE_NEWNET) }, true},
		{"as another user", func() error {
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				return errno
			}
			return nil
		}, false},
	} {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			if err := tt.change(); err != nil {
				t.Error(err)
			}
			result <- history.Sync(t.Context(), path)
		}()
		if err := <-result; (err == nil) != tt.ok || errors.Is(err, history.ErrNoRecorder) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestSyncShared records in a folder that others can write to. It makes no socket there, and nothing believes the
// one of another user.
func TestSyncShared(t *testing.T) {
	dir, err := os.MkdirTemp("", "sync") // which others can reach, unlike t.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "history.db")
	r := create(t, history.Options{Path: path})
	serve(t, r)
	for range 20 {
		if err := history.Sync(t.Context(), path); err == nil || errors.Is(err, history.ErrNoRecorder) {
			t.Fatalf("a socket: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if os.Geteuid() != 0 {
		return
	}
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
		}
		l, err := net.Listen("unix", path+"-sock")
		if err != nil {
			t.Error(err)
		}
		listening <- l
	}()
	l := <-listening
	if l == nil {
		return
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("synced"))
			c.Close()
		}
	}()
	if err := history.Sync(t.Context(), path); err == nil || errors.Is(err, history.ErrNoRecorder) {
		t.Errorf("when another user answers: %v", err)
	}
}

// TestSyncAtStart asks again and again while recorders start. None takes that for another recorder.
func TestSyncAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 3 {
		asking.Go(func() {
			for ctx.Err() == nil {
				_ = history.Sync(ctx, path)
			}
		})
	}
	for range 30 {
		r := create(t, history.Options{Path: path, Report: func(message string) { t.Error(message) }})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	asking.Wait()
}
