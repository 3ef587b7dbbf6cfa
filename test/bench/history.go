// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
)

// historyResult has the cost of recording and the time of queries.
type historyResult struct {
	Events     int     `json:"events"`
	PerSecond  float64 `json:"events_per_s"`
	CPU        float64 `json:"cpu_us_per_event"` // including the time to make the event
	Bytes      float64 `json:"bytes_per_event"`
	Parameters int     `json:"parameters"`
	Blame      timing  `json:"blame"`
	Writes     int     `json:"writes"` // to the parameter of history_sysctl
	Parameter  timing  `json:"history_sysctl"`
	Explain    timing  `json:"explain"`       // of that parameter, whose declared value was never written
	Diff       timing  `json:"diff_declared"` // of declaredParameters in declaredFiles
}

// timing has the times of a command from start to end, in milliseconds.
type timing struct {
	Cold  spread `json:"cold_ms"` // with none of the database in the page cache
	Again spread `json:"again_ms"`
	CPU   spread `json:"cpu_ms"` // over all runs
}

const (
	// lookedUp is the parameter that is looked up. One event in a thousand is about it.
	lookedUp = "net.ipv4.ip_forward"
	every    = 1000
	// syncEvery is the number of events after which record waits for the disk. The buffer has room
	// for many more.
	syncEvery = 200_000
)

// A busyHost makes the events of a busy host. Nine in ten are writes with different values by 64
// processes to 3,000 parameters. One in ten is a namespace that a new process creates.
type busyHost struct {
	n     int
	boot  string
	at    time.Time
	who   [64]*event.Process
	names [3000][2]string
	value [2]string
	sys   event.Sysctl
	ns    event.Namespace
	host  event.Namespace
	e     event.Event
}

func newBusyHost() *busyHost {
	h := &busyHost{boot: procfs.BootID(), at: time.Now().UTC().Add(-time.Hour), host: event.Namespace{Type: event.NSTypeNet, ID: 4026531840, UID: "net:1", Host: true, UserNS: 4026531837}}
	for i := range h.who {
		h.who[i] = h.process(uint32(1000 + i))
	}
	for i := range h.names {
		h.names[i] = [2]string{
			fmt.Sprintf("net.ipv4.neigh.eth%d.base_reachable_time_ms", i), fmt.Sprintf("/proc/sys/net/ipv4/neigh/eth%d/base_reachable_time_ms", i),
		}
	}
	return h
}

func (h *busyHost) process(pid uint32) *event.Process {
	login := uint32(1000)
	return &event.Process{
		PID: pid, TID: pid, PPID: 900, StartTime: h.at, Comm: "sysctl", Exe: "/usr/sbin/sysctl", Args: []string{"sysctl", "-q", "-w", "--system"},
		User: "root", LoginUID: &login, LoginUser: "admin", Cgroup: "/user.slice/user-1000.slice/session-4.scope",
		NS: map[event.NSType]uint32{
			"cgroup": 4026531835, "ipc": 4026531839, "mnt": 4026531841, "net": 4026531840,
			"pid": 4026531836, "time": 4026531834, "user": 4026531837, "uts": 4026531838,
		},
		Ancestors: []event.Actor{{PID: 900, Comm: "bash"}, {PID: 890, Comm: "sshd"}, {PID: 700, Comm: "sshd"}, {PID: 1, Comm: "systemd"}},
	}
}

// next returns the next event. It is valid until the next call.
func (h *busyHost) next() *event.Event {
	n := h.n
	h.n++
	h.at = h.at.Add(10 * time.Microsecond)
	h.e = event.Event{
		V: event.SchemaVersion, Time: h.at, Seq: uint64(n + 1), Host: "bench", BootID: h.boot, Outcome: event.Success,
		Type: event.SysctlWrite, Via: "write", Process: h.who[n%len(h.who)],
	}
	if n%10 == 9 {
		h.ns = event.Namespace{Type: event.NSTypeNet, ID: 4026532000 + uint32(n%100_000), UID: fmt.Sprint("net:", n), UserNS: 4026531837}
		h.e.Type, h.e.Via, h.e.Namespace, h.e.Process = event.NamespaceCreate, "unshare", &h.ns, h.process(uint32(2000+n%4_000_000))
		return &h.e
	}
	name := h.names[n%len(h.names)]
	if n%every == 0 {
		name = [2]string{lookedUp, "/proc/sys/net/ipv4/ip_forward"}
	}
	h.value = [2]string{fmt.Sprint(n % 977), fmt.Sprint((n + 1) % 977)}
	h.sys = event.Sysctl{Name: name[0], Path: name[1], Old: &h.value[0], New: &h.value[1], After: &h.value[1], Namespace: &h.host}
	h.e.Sysctl = &h.sys
	return &h.e
}

func (b *bench) runHistory(ctx context.Context) error {
	progress("history of %d events", b.history)
	path := filepath.Join(b.scratch, "history.db")
	h := &historyResult{Events: b.history, Parameters: len(newBusyHost().names) + 1, Writes: (b.history + every - 1) / every}
	if err := h.record(ctx, path); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	size := int64(0)
	for _, suffix := range []string{"", "-wal"} {
		if st, err := os.Stat(path + suffix); err == nil {
			size += st.Size()
		}
	}
	h.Bytes = float64(size) / float64(h.Events)
	for _, ask := range []struct {
		to   *timing
		args []string
	}{
		{&h.Blame, []string{"blame", "-o", "json", "--db", path}},
		{&h.Parameter, []string{"history", "sysctl", lookedUp, "-o", "json", "--db", path}},
	} {
		progress("nstrace %s", ask.args[0])
		if err := b.ask(ctx, path, ask.to, ask.args); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	files := filepath.Join(b.scratch, "declared")
	if err := declare(ctx, files); err != nil {
		return fmt.Errorf("declare parameters: %w", err)
	}
	progress("nstrace explain and diff --declared")
	if err := declaring(files, func() error {
		return errors.Join(
			b.ask(ctx, path, &h.Explain, []string{"explain", lookedUp, "-o", "json", "--rules", "systemd", "--db", path}),
			b.ask(ctx, path, &h.Diff, []string{"diff", "--declared", "-o", "json", "--rules", "systemd", "--db", path}),
		)
	}); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	b.report.History = h
	return errors.Join(os.Remove(path), os.RemoveAll(path+"-wal"), os.RemoveAll(path+"-shm"), os.RemoveAll(path+"-lock"))
}

// record records the events and waits until they are on the disk.
func (h *historyResult) record(ctx context.Context, path string) error {
	var reported error
	r, err := history.Create(history.Options{Path: path, Report: func(m string) { reported = errors.New(m) }})
	if err != nil {
		return err
	}
	from := newBusyHost()
	begin, before := time.Now(), ownCPU()
	for n := range h.Events {
		if n%syncEvery == 0 {
			if err = errors.Join(r.Sync(), ctx.Err()); err != nil {
				break
			}
		}
		if err = r.Append(from.next()); err != nil {
			break
		}
	}
	err = errors.Join(err, r.Close(), reported)
	h.PerSecond = float64(h.Events) / time.Since(begin).Seconds()
	h.CPU = float64((ownCPU() - before).Nanoseconds()) / 1000 / float64(h.Events)
	if l := r.TakeLoss(); l != nil {
		err = errors.Join(err, fmt.Errorf("events were lost: %v", l.Records))
	}
	return err
}

// ownCPU returns the CPU time of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ask measures a command. Each round runs it twice: after the page cache has dropped the database,
// and again. The exit status 1 of a command that compares something is not an error.
func (b *bench) ask(ctx context.Context, path string, to *timing, args []string) error {
	var cold, again, cpu []float64
	for range b.rounds {
		if err := forget(path); err != nil {
			return err
		}
		for _, all := range []*[]float64{&cold, &again} {
			begin := time.Now()
			cmd := exec.CommandContext(ctx, b.nstrace, args...)
			if out, err := cmd.Output(); err != nil && !(args[0] == "diff" && cmd.ProcessState.ExitCode() == 1) {
				return withStderr(fmt.Errorf("%q: %w", args, err), string(stderrOf(err)))
			} else if len(out) == 0 {
				return fmt.Errorf("%q printed nothing", args)
			}
			*all = append(*all, float64(time.Since(begin).Microseconds())/1000)
			cpu = append(cpu, float64((cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()).Microseconds())/1000)
		}
	}
	to.Cold, to.Again, to.CPU = summarize(cold), summarize(again), summarize(cpu)
	return nil
}

func stderrOf(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// forget drops a file from the page cache.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // the kernel keeps dirty pages
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
