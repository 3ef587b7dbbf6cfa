// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

const (
	// commandTime bounds the time in which all command lines are read.
	commandTime = time.Second
	// commandWait is how long one of them may take. The process decides that: the kernel waits for
	// the lock of its memory.
	commandWait = 20 * time.Millisecond
	// maxStuck is how many reads may be stuck. Each holds a thread.
	maxStuck = 4
)

// manyCommands is from how many processes on it is cheaper to walk all processes once than to compare
// the start time of each.
const manyCommands = 64

// ReadCommands sets the Args of processes. It leaves out those that cannot be read in time, and
// those that have ended.
func (inv *Inventory) ReadCommands(ctx context.Context, processes []*Process) {
	if inv.Source == Iterators && len(processes) >= manyCommands && readMany(ctx, processes) == nil {
		return
	}
	readAll(ctx, processes, func(bool) commandLine { return readOne })
}

// readMany does the same from the memory of the processes, with one walk over all processes that tells
// which are still the same.
func readMany(ctx context.Context, processes []*Process) error {
	var walkAll func(func(processKey)) error
	var end func()
	loaded := make(chan error, 1)
	go func() {
		var err error
		walkAll, end, err = loadSame()
		loaded <- err
	}()
	var denied atomic.Bool
	readAll(ctx, processes, func(late bool) commandLine {
		buf := make([]byte, procfs.ArgsLen)
		return func(k processKey) []byte {
			// A process can map a file there whose server never answers. /proc does not wait for that.
			if !late && !denied.Load() {
				args, err := procfs.ArgsInMemory(k.pid, k.argStart, k.argEnd, buf)
				if err == nil {
					return args
				}
				if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
					denied.Store(true) // a security module may log each attempt
				}
			}
			return procfs.AnyCommandLine(k.pid, buf)
		}
	})
	err := <-loaded
	same := make(map[uint32]processKey, len(processes))
	for _, p := range processes {
		same[p.PID] = processKey{}
	}
	if err == nil {
		defer end()
		err = walkAll(func(k processKey) {
			if _, ok := same[k.pid]; ok {
				same[k.pid] = k
			}
		})
	}
	var again []*Process
	for _, p := range processes {
		switch now := same[p.PID]; {
		case err != nil || now.start != p.Start: // another process may have had the pid
			p.Args = nil
		case now != p.key(): // it has executed another program
			p.Args = nil
			again = append(again, p)
		}
	}
	if err == nil {
		readAll(ctx, again, func(bool) commandLine { return readOne })
	}
	return err
}

// readOne reads the command line of one process, and compares its start time.
func readOne(k processKey) []byte { return procfs.CommandLine(k.pid, k.start) }

// A commandLine reads a command line. The next call can reuse the memory.
type commandLine func(processKey) []byte

// maxReaders is how many processors read command lines.
const maxReaders = 2

// readAll reads command lines on several processors. It gets a commandLine for each, and another one after
// each that took too long.
func readAll(ctx context.Context, processes []*Process, reader func(late bool) commandLine) {
	deadline := time.Now().Add(commandTime)
	workers := min(runtime.GOMAXPROCS(0), maxReaders, len(processes)/manyCommands+1)
	var stuck atomic.Int32
	var wg sync.WaitGroup
	for i := range workers {
		part := processes[len(processes)*i/workers : len(processes)*(i+1)/workers]
		wg.Go(func() {
			var again []*Process
			for len(part) > 0 && ctx.Err() == nil && stuck.Load() < maxStuck {
				var late *Process
				if late, part = readCommands(ctx, part, deadline, reader(len(again) > 0), &stuck); late != nil {
					again = append(again, late)
				}
			}
			// The host may only have been busy.
			for _, p := range again {
				if ctx.Err() == nil && stuck.Load() < maxStuck {
					readCommands(ctx, []*Process{p}, deadline, reader(true), &stuck)
				}
			}
		})
	}
	wg.Wait()
}

// readCommands reads command lines in another goroutine, one after the other, until one takes too long.
// It returns that process and those behind it. As long as the read goes on, it counts in stuck.
func readCommands(ctx context.Context, processes []*Process, deadline time.Time, read commandLine, stuck *atomic.Int32) (late *Process, rest []*Process) {
	const batch = 64 // so that the goroutines rarely wait for each other
	type batchRead struct {
		n    int // how many of the processes are done
		args [][]string
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var at atomic.Int64 // the process that is being read
	reads := make(chan batchRead, len(processes)/batch+1)
	keys := make([]processKey, len(processes))
	for i, p := range processes {
		keys[i] = p.key()
	}
	var ended atomic.Bool // the goroutine has ended, or has been given up
	go func() {
		defer close(reads)
		defer func() {
			if ended.Swap(true) {
				stuck.Add(-1)
			}
		}()
		var args [][]string
		for i, k := range keys {
			if ctx.Err() != nil {
				return
			}
			at.Store(int64(i))
			args = append(args, procfs.SplitArgs(read(k)))
			if len(args) == batch || i == len(keys)-1 {
				reads <- batchRead{i + 1, args}
				args = nil
			}
		}
	}()
	ticker := time.NewTicker(commandWait)
	defer ticker.Stop()
	last := int64(-1)
	done := 0
	for {
		select {
		case r, ok := <-reads:
			if !ok {
				return nil, nil
			}
			for i, a := range r.args {
				processes[done+i].Args = a
			}
			done = r.n
		case <-ctx.Done():
			return nil, nil
		case <-ticker.C:
			now := at.Load()
			if time.Now().After(deadline) {
				return nil, nil
			}
			if now != last {
				last = now
				continue
			}
			if ended.Swap(true) { // what it read is in the channel
				continue
			}
			stuck.Add(1)
			// The results of its batch before it are lost with it, and read again.
			if rest = processes[now+1:]; int(now) > done {
				rest = append(slices.Clone(processes[done:now]), rest...)
			}
			return processes[now], rest
		}
	}
}

// A processKey identifies a process, and the program that it runs.
type processKey struct {
	pid              uint32
	start            uint64
	argStart, argEnd uint64
}

func (p *Process) key() processKey { return processKey{p.PID, p.Start, p.argStart, p.argEnd} }

// Event returns the namespace as the subject of an event without a type, so that the filters of
// events apply to it. Its process is Oldest.
func (inv *Inventory) Event(n *Namespace) *event.Event {
	e := &event.Event{Namespace: inv.EventNamespace(n)}
	if n.Owner != nil {
		e.Container, e.Pod, e.Unit = n.Owner.Container, n.Owner.Pod, n.Owner.Unit
	}
	if p := n.Oldest; p != nil {
		e.Process = &event.Process{PID: p.PID, TID: p.PID, PPID: p.PPID, UID: p.UID, Comm: p.Comm, Args: p.Args, Cgroup: p.Cgroup, NS: p.Namespaces()}
	}
	return e
}

// EventNamespace returns the namespace as events show it. It has a UID if the kernel has ids.
func (inv *Inventory) EventNamespace(n *Namespace) *event.Namespace {
	ns := &event.Namespace{Type: n.Type, ID: n.ID, Name: n.Name, Host: n.Host, UserNS: n.UserNS, Owner: n.Owner, Created: n.Created}
	if c := n.Creator; c != nil {
		ns.Creator = &event.Actor{PID: c.PID, UID: c.UID, Comm: c.Comm}
	}
	if n.KernelID != 0 {
		ns.UID = strconv.FormatUint(n.KernelID, 10)
		if inv.idsPerType {
			ns.UID = string(n.Type) + ":" + ns.UID
		}
	}
	return ns
}

// Namespaces returns the ids of the namespaces that the process is in, as far as they are known.
func (p *Process) Namespaces() map[event.NSType]uint32 {
	all := map[event.NSType]uint32{}
	for i, id := range p.ns {
		if id != 0 {
			all[types[i]] = id
		}
	}
	return all
}
