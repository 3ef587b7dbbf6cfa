// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// idler is a Handler whose Idle is as slow as a test wants.
type idler struct{ hold chan struct{} }

func (idler) Event(*event.Event) error { return nil }
func (i idler) Idle() error {
	i.hold <- struct{}{}
	<-i.hold
	return nil
}

// TestWatchdog runs a loop that calls Idle when it is woken, and makes it hang.
func TestWatchdog(t *testing.T) {
	const interval = 60 * time.Millisecond
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	message := func(within time.Duration) string {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := socket.Read(b)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))

	hold, woken := make(chan struct{}), make(chan struct{}, 100)
	h, end := watch(idler{hold}, watchdogInterval(), func() { woken <- struct{}{} })
	loop := make(chan struct{})
	go func() {
		defer close(loop)
		for range woken {
			if err := h.Idle(); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 3 {
		<-hold
		if got := message(3 * interval); got != "" {
			t.Errorf("while Idle %d hangs: %q", i, got)
		}
		hold <- struct{}{}
		if got := message(time.Minute); got != "WATCHDOG=1" {
			t.Errorf("after Idle %d: %q", i, got)
		}
	}
	// The loop is in its next Idle, or will be.
	<-hold
	end()
	hold <- struct{}{}
	if got := message(3 * interval); got != "" && got != "WATCHDOG=1" {
		t.Errorf("at the end: %q", got)
	}
	if got := message(3 * interval); got != "" {
		t.Errorf("after the end: %q", got)
	}
	close(woken)
	<-loop
}

// TestNoWatchdog checks that nothing happens without systemd's variables, with those of another
// process, and with invalid ones.
func TestNoWatchdog(t *testing.T) {
	for _, row := range []struct{ usec, pid string }{
		{"", ""}, {"1000", strconv.Itoa(os.Getpid() + 1)}, {"soon", ""}, {"-1", ""},
	} {
		t.Setenv("WATCHDOG_USEC", row.usec)
		t.Setenv("WATCHDOG_PID", row.pid)
		next := new(idler)
		h, end := watch(next, watchdogInterval(), func() { t.Errorf("%q: it wakes", row) })
		if h != tracer.Handler(next) {
			t.Errorf("%q: got %T", row, h)
		}
		end()
	}
}
