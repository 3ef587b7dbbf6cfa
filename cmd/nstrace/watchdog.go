// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/nstrace/nstrace/tracer"
)

// watchdogInterval returns the WatchdogSec= of the unit that runs nstrace, 0 without one.
func watchdogInterval() time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		fmt.Fprintf(os.Stderr, "nstrace: cannot use the systemd watchdog: %v\n", err)
		return 0
	}
	return interval
}

// A watchdog is a Handler that answers systemd's watchdog for the Handler behind it. Run calls
// Idle between events, so nothing answers while Run or a Handler hangs, and systemd restarts
// nstrace.
type watchdog struct {
	tracer.Handler
	asked    atomic.Bool // the next Idle must answer
	answered chan struct{}
}

// watch returns next with a watchdog in front of it, unless interval is 0, and a function that
// ends the watchdog. wake makes Run call Idle.
func watch(next tracer.Handler, interval time.Duration, wake func()) (tracer.Handler, func()) {
	if interval == 0 {
		return next, func() {}
	}
	w := &watchdog{Handler: next, answered: make(chan struct{}, 1)}
	end := make(chan struct{})
	go w.feed(interval/3, wake, end)
	return w, func() { close(end) }
}

// Idle passes the call on, and answers if that succeeded.
func (w *watchdog) Idle() error {
	if err := w.Handler.Idle(); err != nil {
		return err
	}
	if w.asked.CompareAndSwap(true, false) {
		w.answered <- struct{}{} // feed takes it before it asks again
	}
	return nil
}

// feed asks for an answer at each tick and notifies systemd. Idle does not notify by itself,
// because the socket can be full.
func (w *watchdog) feed(every time.Duration, wake func(), end <-chan struct{}) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	reported := false
	for {
		select {
		case <-ticker.C:
		case <-end:
			return
		}
		w.asked.Store(true)
		wake()
		select {
		case <-w.answered:
		case <-end:
			return
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil && !reported {
			reported = true
			fmt.Fprintf(os.Stderr, "nstrace: cannot notify the systemd watchdog: %v\n", err)
		}
	}
}
