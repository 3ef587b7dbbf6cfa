// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// The kernel attaches fentry, fexit, kprobe and kretprobe programs by ftrace, which root
// can turn off (kernel.ftrace_enabled=0), and root can turn off kprobes alone
// (/sys/kernel/debug/kprobes/enabled). The kernel then still attaches a program and
// reports success, but never runs it. Worse, a detach while ftrace is off leaves the
// kernel's books of ftrace wrong: the next attach, by any tool, makes the kernel
// disable ftrace until the next boot.
//
// So nstrace attaches nothing by ftrace while that is off, proves by a canary that
// programs run, and turns ftrace on for the moment in which it detaches.

// ftraceSetting is missing where the kernel has no ftrace, or no switch for it.
const ftraceSetting = "/proc/sys/kernel/ftrace_enabled"

// Reasons why the kernel does not run programs of fentry or kprobe.
var (
	errFtraceOff = errors.New("ftrace is off (kernel.ftrace_enabled=0)")
	errNotRun    = errors.New("the kernel attaches such programs, but does not run them")
)

// needsFtrace says whether the kernel attaches a program by ftrace.
func needsFtrace(p *ebpf.ProgramSpec) bool {
	switch p.Type {
	case ebpf.Kprobe:
		return true
	case ebpf.Tracing:
		return p.AttachType == ebpf.AttachTraceFEntry || p.AttachType == ebpf.AttachTraceFExit
	}
	return false
}

// notes are sentences about the run. Each goes to Options.Notify at once, and into the
// next event of the run that has notes.
type notes struct {
	notify func(string) // nil: nobody wants to know
	kept   []string
}

func (n *notes) say(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	n.kept = append(n.kept, message)
	if n.notify != nil {
		n.notify(message)
	}
}

// take returns what was said since the last time.
func (n *notes) take() []string {
	kept := n.kept
	n.kept = nil
	return kept
}

// ftrace is the kernel's switch for ftrace.
type ftrace struct {
	fd    int // of ftraceSetting, -1 where it is missing
	notes *notes
}

func openFtrace(n *notes) *ftrace {
	fd, err := unix.Open(ftraceSetting, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &ftrace{fd: fd, notes: n}
}

func (f *ftrace) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// off reads the setting.
func (f *ftrace) off() bool {
	if f.fd < 0 {
		return false
	}
	var b [16]byte
	n, err := unix.Pread(f.fd, b[:], 0)
	return err == nil && string(bytes.TrimSpace(b[:n])) == "0"
}

func (f *ftrace) set(value string) error {
	file, err := os.OpenFile(ftraceSetting, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(value)
	return err
}

// detach calls do, which closes links of fentry and kprobe programs, while ftrace is on. If
// it is off, detach turns it on and afterwards off again.
func (f *ftrace) detach(do func() error) error {
	if f.fd < 0 {
		return do()
	}
	// Another nstrace that has turned ftrace on for itself does not turn it off while
	// this one relies on it.
	f.lock(unix.LOCK_SH)
	defer unix.Flock(f.fd, unix.LOCK_UN)
	if !f.off() {
		return do()
	}
	f.lock(unix.LOCK_EX)
	if !f.off() {
		return do()
	}
	defer holdSignals()()
	began := time.Now()
	if err := f.set("1"); err != nil {
		f.notes.say("could not turn kernel.ftrace_enabled on to detach safely (%v): ftrace can fail until the next boot", short(err))
		return do()
	}
	detachErr := do()
	if err := f.set("0"); err != nil {
		f.notes.say("turned kernel.ftrace_enabled on to detach safely, and could not turn it off again: %v", short(err))
	} else {
		f.notes.say("turned kernel.ftrace_enabled on for %v to detach safely", roughly(time.Since(began)))
	}
	return detachErr
}

// lockWait bounds the wait for the lock: everybody may read the file, and so lock it.
const lockWait = time.Second

func (f *ftrace) lock(how int) {
	for limit := time.Now().Add(lockWait); unix.Flock(f.fd, how|unix.LOCK_NB) != nil && time.Now().Before(limit); {
		time.Sleep(5 * time.Millisecond)
	}
}

// holdSignals keeps the signals that can end nstrace until release is called, which then
// sends them again.
func holdSignals() (release func()) {
	held := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if !signal.Ignored(sig) {
			signal.Notify(held, sig)
		}
	}
	return func() {
		signal.Stop(held)
		for {
			select {
			case sig := <-held:
				_ = unix.Kill(os.Getpid(), sig.(syscall.Signal))
			default:
				return
			}
		}
	}
}

// A canary is a program that counts the calls of unshare(2), to prove that the kernel runs
// the programs of its backend.
type canary struct {
	calls *ebpf.Map
	count *ebpf.Memory // of calls
	prog  *ebpf.Program
	link  link.Link
}

// canaryTarget is the function that a canary is attached to: every supported kernel has it,
// and it is rarely called.
const canaryTarget = "ksys_unshare"

const canaryName = "nstrace_canary"

// newCanary attaches a canary. Some kernels, among them those of microVMs, load fentry
// programs and then refuse to attach them.
func (k *kernel) newCanary(b Backend) (_ *canary, err error) {
	c := &canary{}
	defer func() {
		if err != nil {
			c.close() // it is not attached
		}
	}()
	// Mapped, and not read by bpf(2), as counts in bpf/common.h.
	if c.calls, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: canaryName, Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	}); err == nil {
		c.count, err = c.calls.Memory()
	}
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses a map that can be mapped: %w", short(err))
	}
	spec := &ebpf.ProgramSpec{
		Name: canaryName, Type: ebpf.Kprobe, License: "Dual BSD/GPL",
		Instructions: append(asm.Instructions{
			asm.LoadMapValue(asm.R1, c.calls.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		}, returnZero...),
	}
	if b == Fentry {
		spec.Type, spec.AttachType, spec.AttachTo = ebpf.Tracing, ebpf.AttachTraceFEntry, canaryTarget
	}
	coll, err := ebpf.NewCollectionWithOptions(
		&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{canaryName: spec}},
		ebpf.CollectionOptions{Cache: k.cache})
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses %s programs: %w", b, short(err))
	}
	c.prog = coll.DetachProgram(canaryName)
	coll.Close()
	if b == Fentry {
		c.link, err = link.AttachTracing(link.TracingOptions{Program: c.prog})
	} else {
		c.link, err = link.Kprobe(canaryTarget, c.prog, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses to attach %s programs: %w", b, short(err))
	}
	return c, nil
}

// canaryTries is how often a canary may stay silent: the kernel skips a program while
// another one is at work on the same CPU.
const canaryTries = 5

// runs says whether the kernel runs the canary.
func (c *canary) runs() bool {
	before := c.read()
	for try := range canaryTries {
		if try > 0 {
			time.Sleep(time.Millisecond)
		}
		// Without flags it changes nothing of the thread that calls it.
		if err := unix.Unshare(0); err != nil {
			return true // a seccomp filter can refuse it, which says nothing about the canary
		}
		if c.read() != before {
			return true
		}
	}
	return false
}

func (c *canary) read() (calls [8]byte) {
	_, _ = c.count.ReadAt(calls[:], 0) // it cannot fail within the map
	return calls
}

func (c *canary) close() error {
	var err error
	if c.link != nil {
		err = c.link.Close()
	}
	return errors.Join(err, c.prog.Close(), c.calls.Close())
}

// probe says why the kernel does not offer a backend. It leaves the canary of one that it
// offers attached.
func (k *kernel) probe(b Backend) error {
	if k.ftrace.off() {
		return errFtraceOff
	}
	c, err := k.newCanary(b)
	if err != nil {
		return err
	}
	if err := k.hears(c); err != nil {
		_ = k.ftrace.detach(c.close)
		return err
	}
	k.canaries[b] = c
	return nil
}

// hears says why the kernel does not run a canary, nil if it does.
func (k *kernel) hears(c *canary) error {
	ran := c.runs()
	switch {
	case k.ftrace.off():
		return errFtraceOff
	case !ran:
		return errNotRun
	}
	return nil
}

// prove makes sure, once all is attached, that the kernel runs it.
func (k *kernel) prove(l *loaded) error {
	l.proven = time.Now()
	for b, c := range k.canaries {
		if !l.uses(b) {
			continue
		}
		if err := k.hears(c); err != nil {
			return &deafError{b, err}
		}
	}
	return nil
}

// A deafError says that the kernel would not run, or does not run, the programs of a
// backend that it offered before.
type deafError struct {
	backend Backend
	why     error
}

func (e *deafError) Error() string { return e.why.Error() }
func (e *deafError) Unwrap() error { return e.why }

// withdraw takes back what the kernel does not offer any more. It says whether there is a
// choice to be made again.
func (k *kernel) withdraw(err error) bool {
	var deaf *deafError
	if !errors.As(err, &deaf) {
		return false
	}
	for b, offer := range map[Backend]*error{Fentry: &k.fentry, Kprobe: &k.kprobe} {
		if *offer == nil && (b == deaf.backend || errors.Is(deaf.why, errFtraceOff)) {
			*offer = deaf.why
		}
	}
	return true
}

// close detaches the canaries that nobody took.
func (k *kernel) close() {
	if len(k.canaries) == 0 {
		return
	}
	_ = k.ftrace.detach(func() error {
		for _, c := range k.canaries {
			_ = c.close()
		}
		return nil
	})
	clear(k.canaries)
}

// takeCanaries gives l the canaries of the backends that it uses.
func (k *kernel) takeCanaries(l *loaded) {
	l.canaries = map[Backend]*canary{}
	for b, c := range k.canaries {
		if l.uses(b) {
			l.canaries[b] = c
			delete(k.canaries, b)
		}
	}
}

// explain says why l uses tracepoints alone where the kernel has a better way that is off.
func (k *kernel) explain(l *loaded, o *Options) {
	if o.Backend != Auto || l.needsFtrace() {
		return
	}
	switch {
	case k.fentry == errFtraceOff || k.kprobe == errFtraceOff:
		k.ftrace.notes.say("%v: the kernel would not run fentry and kprobe programs, so nstrace uses tracepoints", errFtraceOff)
	case k.fentry == errNotRun || k.kprobe == errNotRun:
		k.ftrace.notes.say("the kernel attaches fentry or kprobe programs, but does not run them, so nstrace uses tracepoints")
	}
}

// uses says whether an observation is attached by a backend.
func (l *loaded) uses(b Backend) bool {
	return slices.ContainsFunc(l.picks, func(c choice) bool { return c.way != nil && c.way.backend == b })
}

// needsFtrace says whether anything is attached by ftrace.
func (l *loaded) needsFtrace() bool { return l.uses(Fentry) || l.uses(Kprobe) }

// deaf says why the kernel does not run what is attached by ftrace: a reason of a
// trace.loss, "" if it does.
func (l *loaded) deaf() string {
	for _, c := range l.canaries {
		ran := c.runs()
		switch {
		case l.ftrace.off():
			return event.LossFtraceOff
		case !ran:
			return event.LossProbesOff
		}
	}
	return ""
}

// proveEvery is how often a run makes sure that the kernel runs its programs.
const proveEvery = time.Second

// proofDue is when to make sure again, zero for never.
func (t *Tracer) proofDue() time.Time {
	if len(t.loaded.canaries) == 0 {
		return time.Time{}
	}
	return t.loaded.proven.Add(proveEvery)
}

// prove makes sure that the kernel runs what is attached, and falls back to tracepoints if
// it does not.
func (t *Tracer) prove(h Handler) error {
	now := time.Now()
	reason := t.loaded.deaf()
	if reason == "" {
		t.loaded.proven = now
		return nil
	}
	return t.fallBack(h, reason)
}

// fallBack replaces all programs by those of the tracepoint way. The maps stay, and with
// them the ring and the books.
func (t *Tracer) fallBack(h Handler, reason string) error {
	old := t.loaded
	stopping := old.coll.Variables[bpf.NstraceVarStopping]
	if err := stopping.Set(true); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	var err error
	t.mounts.do(func() {
		t.countProbeMisses()
		// Who is followed has to be known without a gap, and needs no ftrace.
		err = old.detach(followPrograms...)
	})
	if err != nil {
		return err
	}
	if err := t.drain(h); err != nil {
		return err
	}
	if err := old.forgetCalls(); err != nil {
		return err
	}
	if err := stopping.Set(false); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	watched := t.watch != nil
	t.mounts.do(func() { err = t.attachInstead(reason) })
	to := time.Now()
	if err != nil {
		return errors.Join(t.tellDeaf(h, reason, old.proven, to, nil), t.finish(h), err)
	}
	if err := t.tellDeaf(h, reason, old.proven, to, t.picked); err != nil {
		return err
	}
	// As at the start, but what has ended meanwhile is told.
	ended, err := t.takeInventory()
	if err != nil {
		return err
	}
	for _, ns := range ended {
		if err := t.inferEnd(h, ns, bootNow()); err != nil {
			return err
		}
	}
	clear(t.pins)
	if err := t.takePins(bootNow()); err != nil {
		return err
	}
	if !watched {
		t.watch.start(func() { t.ring.Flush() })
	}
	t.look()
	t.stirred = true
	return nil
}

// attachInstead loads and attaches the tracepoint way with the maps that are there.
func (t *Tracer) attachInstead(reason string) error {
	defer liftMemlock()()
	why := errNotRun
	if reason == event.LossFtraceOff {
		why = errFtraceOff
	}
	k, err := openKernel(t.mounts, t.ftrace, why)
	if err != nil {
		return err
	}
	k.reuse = t.loaded
	o := t.opts
	o.Backend = Tracepoint
	l, err := k.load(&o)
	if err != nil {
		return err
	}
	l.inherit(t.loaded)
	t.use(l)
	return t.watchOwn()
}

// tellDeaf tells that an unknown number of events is lost between two times. instead is how
// things are attached from then on, nil if they are not.
func (t *Tracer) tellDeaf(h Handler, reason string, from, to time.Time, instead []event.Observation) error {
	what, then := "the kernel does not run nstrace's programs any more", "nstrace ends"
	if reason == event.LossFtraceOff {
		what = "ftrace was turned off (kernel.ftrace_enabled=0)"
	}
	if instead != nil {
		then = "nstrace uses tracepoints until it is started again"
	}
	t.notes.say("%s: the events of up to %v are lost, and %s", what, roughly(to.Sub(from)), then)
	return t.emit(h, &event.Event{
		Type: event.TraceLoss, Time: time.Now().UTC(),
		Loss:  &event.Loss{Reason: reason, From: from.UTC(), To: to.UTC()},
		Trace: &event.Trace{Observations: instead, Notes: t.notes.take()},
	})
}

// roughly is a time as people say it.
func roughly(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return max(d.Round(time.Millisecond), time.Millisecond)
}

// callMaps hold the calls under way, by thread. Those of LRU type need no care: what is left
// in them makes room by itself.
var callMaps = []string{
	bpf.NstraceMapNsCalls, bpf.NstraceMapWrites, bpf.NstraceMapLongValues,
	bpf.NstraceMapRtnlCalls, bpf.NstraceMapPinCalls, bpf.NstraceMapOpenChecks, bpf.NstraceMapExecs,
}

// forgetCalls forgets the calls whose ends no program has seen.
func (l *loaded) forgetCalls() error {
	for _, name := range callMaps {
		if err := empty(l.coll.Maps[name]); err != nil {
			return fmt.Errorf("empty the map %s: %w", name, err)
		}
	}
	return nil
}

// empty deletes all that is in a map.
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

// constant says whether a map of the object holds constants, which differ between the ways.
func constant(name string) bool { return strings.HasPrefix(name, ".rodata") }

// reusable are the maps that programs which replace those of l can use.
func (l *loaded) reusable() map[string]*ebpf.Map {
	if l == nil {
		return nil
	}
	all := maps.Clone(l.coll.Maps)
	maps.DeleteFunc(all, func(name string, _ *ebpf.Map) bool { return constant(name) })
	return all
}

// lasting are the programs that a replacement of the others leaves alone.
var lasting = slices.Concat([]string{bpf.NstraceProgIterTasks}, alwaysPrograms, followPrograms)

// inherit takes from old what lasts: its maps, which others refer to, and the programs that
// l lacks. The rest of old is closed.
func (l *loaded) inherit(old *loaded) {
	for name, m := range old.reusable() {
		l.coll.Maps[name].Close() // the same one
		l.coll.Maps[name] = m
		delete(old.coll.Maps, name)
	}
	l.coll.Variables = old.coll.Variables
	for _, name := range lasting {
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
