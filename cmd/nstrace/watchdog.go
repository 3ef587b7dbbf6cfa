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

// watchdogInterval is the WatchdogSec= of the unit that nstrace runs as, 0 without one.
func watchdogInterval() time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		fmt.Fprintf(os.Stderr, "nstrace: systemd's watchdog is not used: %v\n", err)
		return 0
	}
	return interval
}

// A watchdog is a Handler that answers systemd's watchdog for the Handler behind it. Run calls
// Idle between events, so nothing answers while Run or a Handler hangs, and systemd restarts
// nstrace.
type watchdog struct {
	tracer.Handler
	asked    atomic.Bool // the next Idle is to answer
	answered chan struct{}
}

// watch puts a watchdog in front of next, unless interval is 0. wake has Run call Idle. The
// function that it returns ends the watchdog.
func watch(next tracer.Handler, interval time.Duration, wake func()) (tracer.Handler, func()) {
	if interval == 0 {
		return next, func() {}
	}
	w := &watchdog{Handler: next, answered: make(chan struct{}, 1)}
	end := make(chan struct{})
	go w.feed(interval/3, wake, end)
	return w, func() { close(end) }
}

// Idle passes the call on and answers if that was a success.
func (w *watchdog) Idle() error {
	if err := w.Handler.Idle(); err != nil {
		return err
	}
	if w.asked.CompareAndSwap(true, false) {
		w.answered <- struct{}{} // feed takes it before it asks again
	}
	return nil
}

// feed asks for an answer at each tick and sends it to systemd. Idle does not do that itself:
// the socket can be full.
func (w *watchdog) feed(every time.Duration, wake func(), end <-chan struct{}) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	told := false
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
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil && !told {
			told = true
			fmt.Fprintf(os.Stderr, "nstrace: systemd's watchdog is not fed: %v\n", err)
		}
	}
}
