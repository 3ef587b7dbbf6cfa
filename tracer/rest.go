// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// sysctlFirst are the observations that New attaches with Options.SysctlFirst.
var sysctlFirst = []string{"sysctl", "appear", "vanish"}

// defers reports whether Run attaches an observation, and not New.
func (o *Options) defers(obs *observation) bool {
	types := o.observed()
	return o.SysctlFirst && !o.Follow && (types == nil || types[event.SysctlWrite]) && !slices.Contains(sysctlFirst, obs.name)
}

// defers reports whether Run attaches an observation.
func (l *loaded) defers() bool {
	return slices.ContainsFunc(l.picks, func(c choice) bool { return c.later })
}

// attachedBefore returns how an observation is attached already, nil if it is not.
func (k *kernel) attachedBefore(name string) *choice {
	if !k.extend {
		return nil
	}
	for i := range k.reuse.picks {
		if c := &k.reuse.picks[i]; c.obs.name == name && c.way != nil {
			return c
		}
	}
	return nil
}

// A deferred is what New leaves to Run, because of Options.SysctlFirst. Its programs are loaded in the
// background, by a thread of low priority, while Run reads the ring. Then Run attaches them, and
// learns which namespaces exist as at the start.
type deferred struct {
	kernel *kernel
	opts   Options

	loading bool
	done    chan struct{} // closed when the programs are loaded
	loaded  *loaded
	refused map[string]error
	err     error
}

// errAbandoned is the error of loading after nobody needs the programs any more.
var errAbandoned = errors.New("the run has ended")

func newRest(k *kernel, first *loaded) *deferred {
	k.reuse, k.extend = first, true
	return &deferred{kernel: k, done: make(chan struct{})}
}

// loadRest begins to load what New left.
func (t *Tracer) loadRest() {
	r := t.rest
	if r == nil {
		return
	}
	r.opts, r.loading = t.opts, true
	go func() {
		t.threads.run(func() { r.loaded, r.refused, r.err = r.kernel.prepare(&r.opts, nil) })
		close(r.done)
		t.wake()
	}()
}

// isLoaded reports whether the rest can be attached.
func (r *deferred) isLoaded() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// attachRest attaches the rest, and emits a trace.attach.
func (t *Tracer) attachRest() error {
	r, first := t.rest, t.attached.loaded
	defer t.dropRest()
	if r.err != nil {
		return explain(r.err)
	}
	var err error
	t.threads.run(func() {
		var l *loaded
		l, err = r.kernel.finish(&r.opts, r.loaded, r.refused)
		r.loaded = nil // it is closed, or l
		if err != nil {
			return
		}
		if err = r.kernel.accept(l, &r.opts); err != nil {
			err = errors.Join(err, l.close())
			return
		}
		l.keep(first)
		t.attached.loaded = l
		t.use(l)
		err = t.attached.registerOwn()
	})
	if err != nil {
		return explain(err)
	}
	if err := t.out.emit(&event.Event{Type: event.TraceAttach, Time: time.Now().UTC(), Trace: &event.Trace{
		Observations: t.picked, Notes: t.notes.take(),
	}}); err != nil {
		return err
	}
	t.again = true
	if err := t.learnAgain(); err != nil {
		return err
	}
	t.proof.due, t.proof.suspect = time.Now(), true
	return nil
}

// finishRest leaves nothing for later. Before Run, the programs that replace the first ones are for all
// observations.
func (t *Tracer) finishRest() error {
	if !t.rest.loading {
		t.dropRest()
		return nil
	}
	<-t.rest.done
	return t.attachRest()
}

// keep takes over everything of first, to which l adds.
func (l *loaded) keep(first *loaded) {
	l.kept = map[string]bool{}
	for name := range first.links {
		l.kept[name] = true
	}
	names := slices.Concat(slices.Collect(maps.Keys(first.coll.Programs)), slices.Collect(maps.Keys(first.links)))
	maps.Copy(l.canaries, first.canaries)
	l.takeOver(first, names)
}

// dropRest frees what New left for Run, unless Run has attached it.
func (t *Tracer) dropRest() {
	r := t.rest
	if r == nil {
		return
	}
	t.rest = nil
	r.kernel.abandoned.Store(true)
	if r.loading {
		<-r.done
	}
	t.threads.run(func() {
		if r.loaded != nil {
			_ = r.loaded.close()
		}
		r.kernel.close()
	})
}

// lowPriority lets everything else on the host run before this thread, which ends with its goroutine.
func lowPriority() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
}
