// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// The kernel attaches fentry, fexit, kprobe and kretprobe programs by ftrace. Root can turn
// ftrace off (kernel.ftrace_enabled=0), or kprobes alone (/sys/kernel/debug/kprobes/enabled).
// The kernel then still attaches a program and reports success, but never runs it. Worse, a
// detach while ftrace is off leaves its records wrong: the next attach, by any tool, makes
// the kernel disable ftrace until the next boot.
//
// So nstrace
//   - attaches nothing by ftrace while that is off,
//   - proves by a canary that programs run, at the start and once a second, and falls back to
//     tracepoints if they do not,
//   - reports what it did not notice that way: the cgroup/sysctl program, which needs no ftrace, sees
//     who turns it on,
//   - turns ftrace on while it detaches.

// ftraceSetting is missing if the kernel has no ftrace, or no switch for it.
const ftraceSetting = "/proc/sys/kernel/ftrace_enabled"

// Reasons why the kernel does not run fentry and kprobe programs.
var (
	errFtraceOff = errors.New("ftrace is off (kernel.ftrace_enabled=0)")
	errNotRun    = errors.New("the kernel attaches such programs, but does not run them")
)

// needsFtrace reports whether the kernel attaches a program by ftrace.
func needsFtrace(p *ebpf.ProgramSpec) bool {
	switch p.Type {
	case ebpf.Kprobe:
		return true
	case ebpf.Tracing:
		return p.AttachType == ebpf.AttachTraceFEntry || p.AttachType == ebpf.AttachTraceFExit
	}
	return false
}

// notes are sentences about the run. Each goes to Options.Notify at once, and into the next
// event of the run that has notes.
type notes struct {
	notify  func(string) // can be nil
	pending []string
}

func (n *notes) add(format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	n.pending = append(n.pending, message)
	if n.notify != nil {
		n.notify(message)
	}
}

// take removes and returns the pending notes.
func (n *notes) take() []string {
	pending := n.pending
	n.pending = nil
	return pending
}

// ftrace is the kernel's switch for ftrace.
type ftrace struct {
	fd    int // of ftraceSetting, -1 if that is missing
	notes *notes
	// taken says that the caller takes the signals that can end nstrace, see Options.TakesSignals.
	taken atomic.Bool
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

// off reports whether ftrace is turned off.
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

// detach calls closeLinks, which closes links of fentry and kprobe programs, while ftrace is
// on. If it is off, detach turns it on and afterwards off again.
func (f *ftrace) detach(closeLinks func() error) error {
	if f.fd < 0 {
		return closeLinks()
	}
	// The lock keeps another nstrace that turned ftrace on from turning it off while this
	// one relies on it.
	f.lock(unix.LOCK_SH)
	defer unix.Flock(f.fd, unix.LOCK_UN)
	if !f.off() {
		return closeLinks()
	}
	f.lock(unix.LOCK_EX)
	if !f.off() {
		return closeLinks()
	}
	defer f.holdSignals()()
	began := time.Now()
	if err := f.set("1"); err != nil {
		f.notes.add("cannot turn kernel.ftrace_enabled on to detach safely (%v): ftrace can fail until the next boot", short(err))
		return closeLinks()
	}
	detachErr := closeLinks()
	if err := f.set("0"); err != nil {
		f.notes.add("turned kernel.ftrace_enabled on to detach safely, and cannot turn it off again: %v", short(err))
	} else {
		f.notes.add("turned kernel.ftrace_enabled on for %v to detach safely", roughly(time.Since(began)))
	}
	return detachErr
}

// lockWait bounds the wait for the lock. Every user may read the file, and so lock it.
const lockWait = time.Second

func (f *ftrace) lock(how int) {
	for limit := time.Now().Add(lockWait); unix.Flock(f.fd, how|unix.LOCK_NB) != nil && time.Now().Before(limit); {
		time.Sleep(5 * time.Millisecond)
	}
}

// holdSignals holds back the signals that can end nstrace until release is called, which sends
// them again. If the caller takes them, it gets them anyway, and must not get them twice.
func (f *ftrace) holdSignals() (release func()) {
	if f.taken.Load() {
		return func() {}
	}
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

// A canary is a program that counts the calls of unshare(2). It proves that the kernel runs
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
			c.close() // not attached, so ftrace does not matter
		}
	}()
	// Read through a mapping and not by bpf(2), as counts in bpf/lib/ring.h.
	if c.calls, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: canaryName, Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	}); err == nil {
		c.count, err = c.calls.Memory()
	}
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses a BPF map that user space can map: %w", short(err))
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

// canaryTries is how often a canary may stay silent. The kernel skips a program while another
// one runs on the same CPU.
const canaryTries = 5

// runs reports whether the kernel runs the canary.
func (c *canary) runs() bool {
	before := c.read()
	for try := range canaryTries {
		if try > 0 {
			time.Sleep(time.Millisecond)
		}
		// Without flags this changes nothing.
		if err := unix.Unshare(0); err != nil {
			return true // a seccomp filter refuses the call, which says nothing about the canary
		}
		if c.read() != before {
			return true
		}
	}
	return false
}

func (c *canary) read() (calls [8]byte) {
	_, _ = c.count.ReadAt(calls[:], 0) // cannot fail within the map
	return calls
}

func (c *canary) close() error {
	var err error
	if c.link != nil {
		err = c.link.Close()
	}
	return errors.Join(err, c.prog.Close(), c.calls.Close())
}

// probe returns why the kernel does not offer a backend, nil if it does. Then the backend's
// canary stays attached.
func (k *kernel) probe(b Backend) error {
	if k.ftrace.off() {
		return errFtraceOff
	}
	c, err := k.newCanary(b)
	if err != nil {
		return err
	}
	if err := k.listen(c); err != nil {
		_ = k.ftrace.detach(c.close)
		return err
	}
	k.canaries[b] = c
	return nil
}

// listen returns why the kernel does not run a canary, nil if it does.
func (k *kernel) listen(c *canary) error {
	ran := c.runs()
	switch {
	case k.ftrace.off():
		return errFtraceOff
	case !ran:
		return errNotRun
	}
	return nil
}

// prove makes sure that the kernel runs what is attached.
func (k *kernel) prove(l *loaded) error {
	l.proven = time.Now()
	for b, c := range k.canaries {
		if !l.uses(b) {
			continue
		}
		if err := k.listen(c); err != nil {
			return &silentError{b, err}
		}
	}
	return nil
}

// A silentError says that the kernel does not run the programs of a backend that it offered
// before.
type silentError struct {
	backend Backend
	why     error
}

func (e *silentError) Error() string { return e.why.Error() }
func (e *silentError) Unwrap() error { return e.why }

// withdraw notes which backends the kernel does not offer any more, if err is a silentError.
// It reports whether it is.
func (k *kernel) withdraw(err error) bool {
	var silent *silentError
	if !errors.As(err, &silent) {
		return false
	}
	for b, offer := range map[Backend]*error{Fentry: &k.fentry, Kprobe: &k.kprobe} {
		if *offer == nil && (b == silent.backend || errors.Is(silent.why, errFtraceOff)) {
			*offer = silent.why
		}
	}
	return true
}

// close detaches the canaries that takeCanaries left, and limits locked memory again.
func (k *kernel) close() {
	defer k.limitAgain()
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

// explain adds a note if l uses tracepoints only because a better way of the kernel is off.
func (k *kernel) explain(l *loaded, o *Options) {
	if o.Backend != Auto || l.needsFtrace() {
		return
	}
	switch {
	case errors.Is(k.fentry, errFtraceOff) || errors.Is(k.kprobe, errFtraceOff):
		k.ftrace.notes.add("%v, so the kernel runs no fentry and kprobe programs: nstrace uses tracepoints", errFtraceOff)
	case errors.Is(k.fentry, errNotRun) || errors.Is(k.kprobe, errNotRun):
		k.ftrace.notes.add("the kernel attaches fentry or kprobe programs, but does not run them: nstrace uses tracepoints")
	}
}

// notRun returns why the kernel runs neither fentry nor kprobe programs although it has them, nil if
// it runs them or has none. Then l uses tracepoints only for now.
func (k *kernel) notRun(l *loaded, o *Options) error {
	if o.Backend == Tracepoint || l.needsFtrace() {
		return nil
	}
	for _, why := range []error{k.fentry, k.kprobe} {
		if errors.Is(why, errFtraceOff) || errors.Is(why, errNotRun) {
			return why
		}
	}
	return nil
}

// uses reports whether an observation is attached by a backend.
func (l *loaded) uses(b Backend) bool {
	return slices.ContainsFunc(l.picks, func(c choice) bool { return c.way != nil && c.way.backend == b })
}

// needsFtrace reports whether anything is attached by ftrace.
func (l *loaded) needsFtrace() bool { return l.uses(Fentry) || l.uses(Kprobe) }

// silent returns why the kernel does not run what is attached by ftrace, as a Loss.Reason; ""
// if it does.
func (l *loaded) silent() string {
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

// proofDue returns when to make sure again, the zero time for never.
func (t *Tracer) proofDue() time.Time {
	if len(t.attached.loaded.canaries) == 0 {
		return time.Time{}
	}
	return t.attached.proven.Add(proveEvery)
}

// prove makes sure that the kernel runs what is attached, and falls back to tracepoints if
// it does not.
func (t *Tracer) prove() error {
	now := time.Now() // before the proof: what is lost can be lost since then
	if reason := t.attached.loaded.silent(); reason != "" {
		return t.fallBack(reason)
	}
	reported, err := t.reportShortOff(now)
	if err != nil {
		return err
	}
	t.attached.proven = now
	if reported {
		return t.learnAgain()
	}
	return nil
}

// wasOff reports whether ftrace was off at any time since the last call, for a time that is over.
func (a *attachment) wasOff() (bool, error) {
	c, err := a.counters()
	was := c.FtraceOff != a.offs
	a.offs = c.FtraceOff
	return was, err
}

// reportShortOff emits a trace.loss if ftrace was off between two proofs. It reports whether it did.
func (t *Tracer) reportShortOff(now time.Time) (bool, error) {
	was, err := t.attached.wasOff()
	if !was || err != nil {
		return false, err
	}
	r := replacement{reason: event.LossFtraceOff, since: t.attached.proven, what: "ftrace was off for a short time (kernel.ftrace_enabled=0)",
		then: "the kernel runs nstrace's programs again"}
	t.noteReplacement(&r, now)
	return true, t.emitReplacement(&r, now, nil)
}

// fallBack attaches everything by tracepoints, for as long as the kernel does not run fentry and
// kprobe programs.
func (t *Tracer) fallBack(reason string) error {
	t.off = errNotRun
	if reason == event.LossFtraceOff {
		t.off = errFtraceOff
	}
	return t.replace(replacement{reason: reason, since: t.attached.proven, what: whatSilent(reason),
		then: "nstrace uses tracepoints until the kernel runs them again"})
}

// whatSilent says for people what a Loss.Reason of a canary means.
func whatSilent(reason string) string {
	if reason == event.LossFtraceOff {
		return "ftrace was turned off (kernel.ftrace_enabled=0)"
	}
	return "the kernel stopped running nstrace's programs"
}

// recoverEvery is how often a run that fell back to tracepoints tries what is better, unless ftrace
// says that it is off.
const recoverEvery = time.Minute

// recoverDue returns when to try again, the zero time for never.
func (t *Tracer) recoverDue() time.Time {
	if t.off == nil || !t.ran.Load() {
		return time.Time{}
	}
	if errors.Is(t.off, errFtraceOff) {
		return t.tried.Add(proveEvery)
	}
	return t.tried.Add(recoverEvery)
}

// recover returns to fentry and kprobe if the kernel runs such programs again.
func (t *Tracer) recover() error {
	t.tried = time.Now()
	if t.ftrace.off() {
		return nil
	}
	was := t.off
	t.off = nil
	var works bool
	t.threads.run(func() {
		k, err := openKernel(t.threads, t.ftrace, nil)
		if err != nil {
			return
		}
		defer k.close()
		works = k.fentry == nil || k.kprobe == nil
	})
	if !works {
		t.off = was
		return nil
	}
	what := "the kernel runs fentry and kprobe programs again"
	if errors.Is(was, errFtraceOff) {
		what = "ftrace is on again"
	}
	return t.replace(replacement{reason: event.LossReattach, what: what, then: "nstrace uses fentry and kprobe again", optional: true})
}

// roughly rounds a time for people.
func roughly(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return max(d.Round(time.Millisecond), time.Millisecond)
}
