// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
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
		})
	}()
	for errors.Is(history.Sync(t.Context(), path), history.ErrNoRecorder) {
		if t.Context().Err() != nil {
			t.Fatal("it never answers")
		}
		time.Sleep(time.Millisecond)
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
	if os.Geteuid() != 0 {
		return
	}

	// Another user takes its address. The kernel notes who began to listen.
	var st unix.Stat_t
	if err := unix.Stat(path+"-lock", &st); err != nil {
		t.Fatal(err)
	}
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Error(errno)
		}
		l, err := net.Listen("unix", fmt.Sprintf("@nstrace-record-%x-%x", st.Dev, st.Ino))
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
