// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stormRow is one storm, with a number of writers and one backend.
type stormRow struct {
	Writers     int               `json:"writers"`
	Backend     string            `json:"backend"`
	Values      string            `json:"values"`
	Seconds     float64           `json:"seconds"`
	Alone       spread            `json:"alone_per_s"`  // writes of all writers with nothing attached
	Traced      spread            `json:"traced_per_s"` // and with nstrace
	PerWrite    float64           `json:"us_per_write"` // how much longer one write takes
	Writes      uint64            `json:"writes"`       // with nstrace attached
	Totals      map[string]uint64 `json:"totals"`
	LostPercent float64           `json:"lost_percent"`
	CPUPerEvent float64           `json:"cpu_us_per_event"`
	Counted     counted           `json:"counted"`
	Backlog     *backlog          `json:"backlog,omitempty"` // with one writer
}

// backlog is how fast nstrace reads events that came while it was stopped. It reads with one CPU
// while nothing else runs.
type backlog struct {
	Events      uint64  `json:"events"`
	CPUPerEvent float64 `json:"cpu_us_per_event"`
}

// backlogRing has room for more than a writer writes while nstrace is stopped.
const backlogRing = "256MiB"

// counted is a storm of which bench read every line.
type counted struct {
	Writes   uint64 `json:"writes"`
	Lines    uint64 `json:"lines"`
	Reported uint64 `json:"reported"` // by these lines, with their count
	Lost     uint64 `json:"lost"`     // by trace.loss lines
}

func (c counted) percent() float64 {
	return 100 * float64(c.Reported+c.Lost) / float64(max(1, c.Writes))
}

func (c counted) String() string {
	return fmt.Sprintf("%.2f %%: %d in %d lines + %d lost, of %d", c.percent(), c.Reported, c.Lines, c.Lost, c.Writes)
}

// stormResult is the work of one writer.
type stormResult struct {
	Writes uint64
	Rates  []float64 // writes a second in each part of the storm
}

// stormParts is how many values a storm gives.
const stormParts = 10

// storm writes as fast as it can.
func (j *job) storm() (any, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare net: %w", err)
	}
	var cpu unix.CPUSet
	cpu.Set(j.CPU)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return nil, fmt.Errorf("run on CPU %d: %w", j.CPU, err)
	}
	fd, err := unix.Open(sysctlFile, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sysctlFile, err)
	}
	if err := waitForStart(); err != nil {
		return nil, err
	}
	var v values
	value := v.next()
	var b stormResult
	begin := time.Now()
	for part := range stormParts {
		end := j.Duration * time.Duration(part+1) / stormParts
		from, before := time.Since(begin), b.Writes
		for now := from; now < end; now = time.Since(begin) {
			// A clock that needs a system call would be a part of the storm.
			for range 128 {
				if j.Values == "distinct" {
					value = v.next()
				}
				if _, err := unix.Pwrite(fd, value, 0); err != nil {
					return nil, fmt.Errorf("%s: %w", sysctlFile, err)
				}
				b.Writes++
			}
		}
		rate := 0.0 // if it had no CPU during the whole part
		if b.Writes > before {
			rate = float64(b.Writes-before) / (time.Since(begin) - from).Seconds()
		}
		b.Rates = append(b.Rates, rate)
	}
	return &b, nil
}

func (b *bench) runStorm(ctx context.Context, backends []string) error {
	cpus, err := affinity()
	if err != nil {
		return err
	}
	writers := b.stormWriters
	if len(writers) == 0 {
		for n := 1; n < len(cpus); n *= 2 {
			writers = append(writers, n)
		}
		writers = append(writers, len(cpus))
	}
	for _, n := range writers {
		jobs := func(d time.Duration) []*job {
			var all []*job
			for i := range n {
				all = append(all, &job{Do: "storm", Duration: d, Values: b.stormValues, CPU: cpus[i%len(cpus)]})
			}
			return all
		}
		progress("storm of %s: nothing", plural(n, "writer"))
		if err := b.noteOthers(); err != nil {
			return err
		}
		_, alone, err := runWriters(ctx, jobs(b.storm), func() error { return nil })
		if err != nil {
			return fmt.Errorf("storm with nothing attached: %w", err)
		}
		for _, name := range backends {
			progress("storm of %s: nstrace %s", plural(n, "writer"), name)
			t := &nstrace{bin: b.nstrace, backend: name}
			row := stormRow{Writers: n, Backend: name, Values: b.stormValues, Seconds: b.storm.Seconds(), Alone: alone}
			if err := row.measure(ctx, t, jobs(b.storm)); err != nil {
				return fmt.Errorf("storm with nstrace %s: %w", name, err)
			}
			if err := row.Counted.measure(ctx, t, jobs(b.storm/5)); err != nil {
				return fmt.Errorf("storm with nstrace %s, read: %w", name, err)
			}
			if n == 1 {
				if row.Backlog, err = measureBacklog(ctx, t, jobs(min(b.storm, time.Second))); err != nil {
					return fmt.Errorf("backlog of nstrace %s: %w", name, err)
				}
			}
			b.report.Storm = append(b.report.Storm, row)
		}
	}
	return nil
}

// affinity returns the CPUs that this process may run on.
func affinity() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// runWriters starts the writers once all are ready and before has returned. It returns the number
// of writes, and the number per second.
func runWriters(ctx context.Context, all []*job, before func() error) (writes uint64, rate spread, err error) {
	g, err := newGang(all)
	if err != nil {
		return 0, spread{}, err
	}
	defer g.end()
	if err := before(); err != nil {
		return 0, spread{}, err
	}
	rates := make([]float64, stormParts)
	err = g.work(ctx, func(text []byte) error {
		var w stormResult
		if err := json.Unmarshal(text, &w); err != nil {
			return err
		}
		writes += w.Writes
		for i, r := range w.Rates {
			rates[i] += r
		}
		return nil
	})
	// Leave out a part in which no writer got a CPU.
	rates = slices.DeleteFunc(rates, func(r float64) bool { return r == 0 })
	return writes, summarize(rates), err
}

// measure runs the writers with nstrace attached.
func (r *stormRow) measure(ctx context.Context, n *nstrace, all []*job) error {
	t, err := n.discarding(ctx)
	if err != nil {
		return err
	}
	pid := t.cmd.Process.Pid
	var before, after time.Duration
	r.Writes, r.Traced, err = runWriters(ctx, all, func() (err error) {
		if err := t.idle(ctx); err != nil {
			return err
		}
		before, err = cpuTime(pid)
		return err
	})
	if err == nil {
		err = t.idle(ctx) // the events in the ring count, too
	}
	if err == nil {
		after, err = cpuTime(pid)
	}
	totals, stopErr := t.close()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	r.Totals = totals
	r.PerWrite = 1e6 * float64(r.Writers) * (1/r.Traced.Median - 1/r.Alone.Median)
	r.LostPercent = 100 * float64(totals["lost"]) / float64(max(1, totals["seen"]))
	if received := totals["seen"] - totals["lost"]; received > 0 {
		if after == before {
			progress("nstrace %s did not run during that storm: it read all events at its end", n.backend)
		}
		r.CPUPerEvent = float64((after - before).Nanoseconds()) / 1000 / float64(received)
	}
	return nil
}

// measureBacklog stops nstrace, runs the writers, and continues nstrace.
func measureBacklog(ctx context.Context, n *nstrace, all []*job) (*backlog, error) {
	t, err := n.discarding(ctx, "--ring-size", backlogRing)
	if err != nil {
		return nil, err
	}
	for _, j := range all {
		j.Values = "distinct" // the kernel side counts repeats
	}
	var b backlog
	b.Events, _, err = runWriters(ctx, all, func() error {
		return errors.Join(t.idle(ctx), t.cmd.Process.Signal(unix.SIGSTOP))
	})
	var before, after time.Duration
	if err == nil {
		before, err = cpuTime(t.cmd.Process.Pid)
	}
	err = errors.Join(err, t.cmd.Process.Signal(unix.SIGCONT))
	if err == nil {
		err = t.idle(ctx)
	}
	if err == nil {
		after, err = cpuTime(t.cmd.Process.Pid)
	}
	totals, stopErr := t.close()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	if totals["lost"] != 0 || totals["written"] < b.Events {
		return nil, fmt.Errorf("%d writes, and %v", b.Events, totals)
	}
	b.CPUPerEvent = float64((after - before).Nanoseconds()) / 1000 / float64(b.Events)
	return &b, nil
}

// measure runs the writers and reads everything that nstrace reports.
func (c *counted) measure(ctx context.Context, n *nstrace, all []*job) error {
	var mu sync.Mutex
	var bad error
	t, _, err := n.piped(ctx, func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		if err := c.read(line); err != nil && bad == nil {
			bad = fmt.Errorf("%w: %s", err, line)
		}
	})
	if err != nil {
		return err
	}
	c.Writes, _, err = runWriters(ctx, all, func() error { return t.idle(ctx) })
	err = errors.Join(err, t.stop()) // no line comes after that
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(err, bad)
}

func (c *counted) read(line []byte) error {
	// Most lines are of this kind. To decode all of them would take longer than they take to
	// arrive.
	if bytes.Contains(line, []byte(`"type":"sysctl.write"`)) && !bytes.Contains(line, []byte(`"count":`)) {
		c.Lines++
		c.Reported++
		return nil
	}
	var e struct {
		Type  string
		Count *uint64
		Loss  struct{ Records map[string]uint64 }
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	switch e.Type {
	case "sysctl.write":
		c.Lines++
		if e.Count == nil {
			c.Reported++ // another field has that name
		} else {
			c.Reported += *e.Count
		}
	case "trace.loss":
		c.Lost += e.Loss.Records["sysctl.write"]
	}
	return nil
}
