// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// A replacement is a change of how the observations are attached, while Run runs or before it.
type replacement struct {
	reason string    // a Loss.Reason
	since  time.Time // events can be missing since then; zero: since the detach
	what   string    // what happened, for people
	then   string    // what nstrace does about it
	// optional says that what is attached stays if nothing can replace it.
	optional bool
}

// replace loads the programs that suit the kernel now, detaches all others, and attaches the new
// ones. Nothing is detached before the new ones are loaded: loading takes longest. The maps stay,
// and with them the ring and the counters.
func (t *Tracer) replace(r replacement) error {
	if t.rest != nil {
		if err := t.finishRest(); err != nil {
			return err
		}
	}
	old := t.attached.loaded
	o := t.opts
	if t.off != nil {
		o.Backend = Tracepoint
	}
	var k *kernel
	var l *loaded
	var refused map[string]error
	var loadErr error
	t.threads.run(func() {
		if k, loadErr = openKernel(t.threads, t.ftrace, t.off); loadErr != nil {
			return
		}
		k.reuse, k.silent = old, t.silent
		l, refused, loadErr = k.prepare(&o, nil)
	})
	if k != nil {
		defer t.threads.run(k.close)
	}
	if loadErr != nil && r.optional {
		t.notes.add("%s, and nstrace cannot attach anew: %v", r.what, short(loadErr))
		if r.since.IsZero() || !t.ran.Load() {
			return nil
		}
		return t.emitReplacement(&r, time.Now(), nil)
	}
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if err := t.detachAll(old); err != nil {
		return err
	}
	if loadErr == nil {
		t.threads.run(func() {
			if l, loadErr = k.finish(&o, l, refused); loadErr != nil {
				return
			}
			l.inherit(old)
			t.attached.loaded = l
			t.use(l)
			loadErr = t.attached.registerOwn()
		})
	}
	to := time.Now()
	if loadErr != nil {
		r.then, t.nothing = "nothing replaces them", true
		t.noteReplacement(&r, to)
		if !t.ran.Load() {
			return loadErr
		}
		return errors.Join(t.emitReplacement(&r, to, nil), t.finish(), loadErr)
	}
	t.noteReplacement(&r, to)
	t.attached.proven, t.tried = to, to
	if _, err := t.attached.wasOff(); err != nil { // r covers that
		return err
	}
	if t.ran.Load() {
		if err := t.emitReplacement(&r, to, t.picked); err != nil {
			return err
		}
	}
	if err := t.learnAgain(); err != nil {
		return err
	}
	t.again = true
	if t.ran.Load() {
		t.startProof(time.Now())
	}
	return nil
}

// detachAll detaches all programs but those that last, and takes what they have sent.
func (t *Tracer) detachAll(old *loaded) error {
	if err := t.attached.setStopping(true); err != nil {
		return err
	}
	var err error
	t.threads.run(func() {
		t.attached.skips.read()
		// These need no ftrace, and must not miss any process: see lasting.
		err = old.detach(lasting...)
	})
	if err != nil {
		return err
	}
	if err := t.drain(); err != nil {
		return err
	}
	if t.ran.Load() {
		if err := t.reportSkips(true); err != nil {
			return err
		}
	}
	if err := old.forgetCalls(); err != nil {
		return err
	}
	if err := t.attached.releaseShares(); err != nil {
		return err
	}
	return t.attached.setStopping(false)
}

// learnAgain does what a run does at its start. The namespaces that ended in between have events.
func (t *Tracer) learnAgain() error {
	inv, err := t.attached.snapshot()
	if err != nil {
		return err
	}
	ended := t.interpreter.takeSnapshot(inv)
	if t.ran.Load() {
		if err := t.interpreter.inferEnds(ended); err != nil {
			return err
		}
	}
	if ended, err = t.learnPins(); err != nil {
		return err
	}
	if t.ran.Load() {
		if err := t.interpreter.inferEnds(ended); err != nil {
			return err
		}
	}
	if t.ran.Load() {
		t.watch.start(t.wake)
	}
	t.interpreter.scanSoon()
	return nil
}

// noteReplacement adds the note for emitReplacement.
func (t *Tracer) noteReplacement(r *replacement, to time.Time) {
	if !t.ran.Load() { // nobody was promised anything yet
		t.notes.add("%s: %s", r.what, r.then)
		return
	}
	t.notes.add("%s: events of up to %v are lost; %s", r.what, roughly(to.Sub(r.since)), r.then)
}

// emitReplacement emits a trace.loss for an unknown number of events. instead is how the
// observations are attached from then on.
func (t *Tracer) emitReplacement(r *replacement, to time.Time, instead []event.Observation) error {
	return t.out.emit(&event.Event{
		Type: event.TraceLoss, Time: time.Now().UTC(),
		Loss:  &event.Loss{Reason: r.reason, From: r.since.UTC(), To: to.UTC()},
		Trace: &event.Trace{Observations: instead, Notes: t.notes.take()},
	})
}

// callMaps hold the calls in progress, by thread. LRU maps are not among them: what is left in
// those makes room by itself.
var callMaps = []string{
	bpf.NstraceMapNsCalls, bpf.NstraceMapWrites, bpf.NstraceMapSpareWrites, bpf.NstraceMapLongValues,
	bpf.NstraceMapRtnlCalls, bpf.NstraceMapPinCalls, bpf.NstraceMapOpenChecks, bpf.NstraceMapExecs,
}

// forgetCalls forgets the calls whose end no program saw.
func (l *loaded) forgetCalls() error {
	for _, name := range callMaps {
		if err := empty(l.coll.Maps[name]); err != nil {
			return fmt.Errorf("empty the map %s: %w", name, err)
		}
	}
	return nil
}

// empty deletes all entries of a map.
func empty(m *ebpf.Map) error {
	for range m.MaxEntries() {
		key, err := m.NextKeyBytes(nil)
		if err != nil || key == nil {
			return err
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// constant reports whether a map of the object holds constants, which differ between the ways.
func constant(name string) bool { return strings.HasPrefix(name, ".rodata") }

// reusable returns the maps that programs which replace those of l can use.
func (l *loaded) reusable() map[string]*ebpf.Map {
	if l == nil {
		return nil
	}
	all := maps.Clone(l.coll.Maps)
	maps.DeleteFunc(all, func(name string, _ *ebpf.Map) bool { return constant(name) })
	return all
}

// lasting are the programs that a fallback does not replace.
var lasting = slices.Concat([]string{bpf.NstraceProgIterTasks, bpf.NstraceProgIterPids}, alwaysPrograms, followPrograms)

// inherit takes over the maps of old, which others refer to, and the programs that last. It
// closes the rest of old.
func (l *loaded) inherit(old *loaded) { l.takeOver(old, lasting) }

// takeOver takes over the maps of old and some of its programs. It closes the rest of old.
func (l *loaded) takeOver(old *loaded, programs []string) {
	for name, m := range old.reusable() {
		l.coll.Maps[name].Close() // the same one
		l.coll.Maps[name] = m
		delete(old.coll.Maps, name)
	}
	l.coll.Variables = old.coll.Variables
	for _, name := range programs {
		if p := old.coll.Programs[name]; p != nil {
			l.coll.Programs[name] = p
			delete(old.coll.Programs, name)
		}
		if lk := old.links[name]; lk != nil {
			l.links[name] = lk
			delete(old.links, name)
		}
	}
	old.coll.Close()
}
