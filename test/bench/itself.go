// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// itself has the cost of an nstrace that has nothing to do.
type itself struct {
	Binary  float64 `json:"binary_mib"`
	Start   spread  `json:"start_ms"` // to its first event
	Crowd   int     `json:"crowd"`    // processes that existed for Crowded, a tenth of them in a namespace of their own
	Crowded spread  `json:"crowded_start_ms"`
	RSS     float64 `json:"rss_mib"`
	IdleCPU float64 `json:"idle_cpu_percent"`
}

func (b *bench) runItself(ctx context.Context) error {
	st, err := os.Stat(b.nstrace)
	if err != nil {
		return err
	}
	i := &itself{Binary: float64(st.Size()) / (1 << 20)}
	n := &nstrace{bin: b.nstrace, backend: "auto"}
	progress("nstrace itself")
	if i.Start, err = b.starts(ctx, n); err != nil {
		return err
	}
	if i.Crowd = b.crowd; i.Crowd > 0 {
		progress("the start of nstrace among %d processes", i.Crowd)
		g, err := newGang([]*job{{Do: "crowd", Processes: i.Crowd, Namespaces: i.Crowd / 10}})
		if err != nil {
			return err
		}
		i.Crowded, err = b.starts(ctx, n)
		g.end()
		if err != nil {
			return err
		}
	}
	t, _, err := n.piped(ctx, func([]byte) {})
	if err != nil {
		return err
	}
	err = errors.Join(b.measureIdle(ctx, t, i), t.stop())
	b.report.Itself = i
	return err
}

// starts measures the time from the start of n to its first event, in milliseconds.
func (b *bench) starts(ctx context.Context, n *nstrace) (spread, error) {
	var ready []float64
	for range b.rounds {
		t, took, err := n.piped(ctx, func([]byte) {})
		if err != nil {
			return spread{}, err
		}
		ready = append(ready, float64(took.Microseconds())/1000)
		if err := t.stop(); err != nil {
			return spread{}, err
		}
	}
	return summarize(ready), nil
}

// crowd makes processes that do nothing until this process ends.
func (j *job) crowd() (any, error) {
	for i := range j.Processes {
		flags := uintptr(unix.SIGCHLD)
		if i < j.Namespaces {
			flags |= cmp.Or(j.Flags, unix.CLONE_NEWUTS)
		}
		if _, errno := forkSleeper(flags); errno != 0 {
			return nil, fmt.Errorf("clone: %w", errno)
		}
	}
	return nil, waitForStart()
}

func (b *bench) measureIdle(ctx context.Context, t *tracing, i *itself) error {
	if err := t.idle(ctx); err != nil {
		return err
	}
	pid := t.cmd.Process.Pid
	begin := time.Now()
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	select {
	case <-time.After(b.idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	i.IdleCPU = 100 * (after - before).Seconds() / time.Since(begin).Seconds()
	i.RSS, err = memory(pid, "VmRSS")
	return err
}

// soak has the resources that nstrace uses after it has seen many processes and namespaces.
type soak struct {
	Processes   int               `json:"processes"`
	Namespaces  int               `json:"namespaces"`
	Seconds     float64           `json:"seconds"`
	Before      float64           `json:"rss_before_mib"`
	After       float64           `json:"rss_after_mib"`
	Peak        float64           `json:"rss_peak_mib"`
	CPUPerEvent float64           `json:"cpu_us_per_event"`
	Totals      map[string]uint64 `json:"totals"`
}

func (b *bench) runSoak(ctx context.Context) error {
	progress("soak of %d processes", b.soak)
	n := &nstrace{bin: b.nstrace, backend: "auto"}
	var all []*job
	cpus := min(runtime.NumCPU(), b.soak)
	for i := range cpus {
		// Divide them evenly. The first ones make one more.
		share := func(n int) int { return n*(i+1)/cpus - n*i/cpus }
		all = append(all, &job{Do: "soak", Processes: share(b.soak), Namespaces: share(b.soakNamespaces)})
	}
	t, err := n.discarding(ctx)
	if err != nil {
		return err
	}
	r := &soak{Processes: b.soak, Namespaces: b.soakNamespaces}
	used, err := r.watch(ctx, t, all)
	totals, stopErr := t.close()
	if err := errors.Join(err, stopErr); err != nil {
		return fmt.Errorf("soak: %w", err)
	}
	r.Totals = totals
	if received := totals["seen"] - totals["lost"]; received > 0 {
		r.CPUPerEvent = float64(used.Nanoseconds()) / 1000 / float64(received)
	}
	b.report.Soak = r
	return nil
}

// watch runs the jobs under t and returns the CPU time that t has used for them.
func (r *soak) watch(ctx context.Context, t *tracing, all []*job) (used time.Duration, err error) {
	g, err := newGang(all)
	if err != nil {
		return 0, err
	}
	defer g.end()
	if err := t.idle(ctx); err != nil {
		return 0, err
	}
	pid := t.cmd.Process.Pid
	if r.Before, err = memory(pid, "VmRSS"); err != nil {
		return 0, err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := g.work(ctx, func([]byte) error { return nil }); err != nil {
		return 0, err
	}
	r.Seconds = time.Since(begin).Seconds()
	if err := t.idle(ctx); err != nil {
		return 0, err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return 0, err
	}
	if r.After, err = memory(pid, "VmRSS"); err != nil {
		return 0, err
	}
	r.Peak, err = memory(pid, "VmHWM")
	return after - before, err
}

// hostname is the parameter that the soak's processes write. Its UTS namespace is the cheapest
// type.
var hostname = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'y', 's', '/', 'k', 'e', 'r', 'n', 'e', 'l', '/',
	'h', 'o', 's', 't', 'n', 'a', 'm', 'e', 0}

// soak makes processes, one after the other.
func (j *job) soak() (any, error) {
	// Do not change the host's name.
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return nil, fmt.Errorf("unshare uts: %w", err)
	}
	if err := waitForStart(); err != nil {
		return nil, err
	}
	for i := range j.Processes {
		flags := uintptr(unix.SIGCHLD)
		if (i+1)*j.Namespaces/j.Processes > i*j.Namespaces/j.Processes {
			flags |= unix.CLONE_NEWUTS
		}
		pid, errno := forkWriter(flags)
		if errno != 0 {
			return nil, fmt.Errorf("clone: %w", errno)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			return nil, fmt.Errorf("wait: %w", err)
		}
		if status.ExitStatus() != 0 {
			return nil, fmt.Errorf("the process could not write its hostname: %w", unix.Errno(status.ExitStatus()))
		}
	}
	return nil, nil
}
