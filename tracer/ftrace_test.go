// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHoldSignals sends a signal while signals are held back. A caller who takes it gets it once. The
// second time, it is the one that was held back.
func TestHoldSignals(t *testing.T) {
	for _, taken := range []bool{true, false} {
		got := make(chan os.Signal, 8)
		signal.Notify(got, unix.SIGHUP, unix.SIGWINCH)
		f := &ftrace{}
		f.taken.Store(taken)
		release := f.holdSignals()
		kill := func(sig unix.Signal) {
			t.Helper()
			if err := unix.Kill(os.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
		}
		kill(unix.SIGHUP)
		if sig := <-got; sig != unix.SIGHUP {
			t.Errorf("taken %v: got %v", taken, sig)
		}
		release()
		want := os.Signal(unix.SIGHUP)
		if taken {
			kill(unix.SIGWINCH)
			want = unix.SIGWINCH
		}
		if sig := <-got; sig != want {
			t.Errorf("taken %v: then got %v, want %v", taken, sig, want)
		}
		signal.Stop(got)
	}
}
