// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// That a program is attached does not mean that the kernel runs it: ftrace can be off, the
// compiler can have copied a function into its callers, somebody can have detached a link. An
// observation works if a call that nstrace itself makes comes back through the ring.
//
// A thread of its own makes these calls, in a UTS namespace of its own. None of them changes
// anything for others. The programs send a proof (REC_PROOF) in place of an event of this thread,
// which they know by its name. Other tools see the calls; docs/kernels.md lists them.

// proofThread is the name of the thread that makes the calls, PROOF_COMM in bpf/lib/proof.h. It is
// also the host name that the thread gives its UTS namespace.
const proofThread = "nstrace-proof"

// A proofKey tells which call a proof is of.
type proofKey struct {
	kind bpf.NstraceRecordKind
	via  bpf.NstraceCallVia
}

// proofs is the observation that a record shows to work. The record can be a proof or that of an
// event. It has only what a call of nstrace can prove. The others have hooks of the same backends,
// which the canaries prove:
//
//	unpin    a mount that can be unmounted would have to exist first
//	netconf, netdev   need devices
//	appear, vanish    need a device or a module
//	exec     needs a new process
//	tamper   needs another process
var proofs = map[proofKey]string{
	{bpf.NstraceRecordKindREC_NS_CREATE, bpf.NstraceCallViaVIA_CLONE}:            "clone",
	{bpf.NstraceRecordKindREC_NS_CREATE, bpf.NstraceCallViaVIA_CLONE3}:           "clone",
	{bpf.NstraceRecordKindREC_NS_CREATE, bpf.NstraceCallViaVIA_UNSHARE}:          "unshare",
	{bpf.NstraceRecordKindREC_NS_CREATE, bpf.NstraceCallViaVIA_OPEN_TREE}:        "mount",
	{bpf.NstraceRecordKindREC_NS_ENTER, bpf.NstraceCallViaVIA_SETNS}:             "setns",
	{bpf.NstraceRecordKindREC_NS_DESTROY, bpf.NstraceCallViaVIA_NONE}:            "destroy",
	{bpf.NstraceRecordKindREC_NS_PIN, bpf.NstraceCallViaVIA_MOUNT}:               "pin",
	{bpf.NstraceRecordKindREC_SYSCTL_WRITE, bpf.NstraceCallViaVIA_WRITE}:         "sysctl",
	{bpf.NstraceRecordKindREC_SYSCTL_WRITE, bpf.NstraceCallViaVIA_OPEN}:          "open",
	{bpf.NstraceRecordKindREC_SYSCTL_WRITE, bpf.NstraceCallViaVIA_SETHOSTNAME}:   "hostname",
	{bpf.NstraceRecordKindREC_SYSCTL_WRITE, bpf.NstraceCallViaVIA_SETDOMAINNAME}: "hostname",
}

// proofBits is 1 << n for each proofKey, where provenNames[n] is the observation.
var (
	proofBits   [16][32]uint32
	provenNames []string
)

func init() {
	for key, name := range proofs {
		n := slices.Index(provenNames, name)
		if n < 0 {
			n = len(provenNames)
			provenNames = append(provenNames, name)
		}
		proofBits[key.kind][key.via] = 1 << n
	}
}

// proofRecords interprets proofs, and notes which observations the records of events prove.
type proofRecords struct {
	bits uint32 // 1 << n: a record proved the observation provenNames[n]
	// namespace is the inode number of the UTS namespace of the thread, 0 for none. Its end is
	// reported as that of any other namespace: the kernel frees some namespaces in a softirq, which can
	// interrupt the thread.
	namespace atomic.Uint32
	// suspect says that a process did something to nstrace's programs, maps or links.
	suspect bool
}

func newProofRecords(in *interpreter) recordInterpreter { return in.proofs }

func (p *proofRecords) parse(*record) error { return nil }

func (p *proofRecords) interpret(r *record) error {
	p.add(bpf.NstraceRecordKind(r.head.Ret), bpf.NstraceCallVia(r.head.Via))
	return nil
}

func (p *proofRecords) add(kind bpf.NstraceRecordKind, via bpf.NstraceCallVia) {
	p.bits |= proofBits[kind%16][via%32]
}

// proves reports whether a record proved an observation since the last reset.
func (p *proofRecords) proves(observation string) bool {
	n := slices.Index(provenNames, observation)
	return n >= 0 && p.bits&(1<<n) != 0
}

func (p *proofRecords) reset() { p.bits = 0 }

// own reports whether a namespace that ended, and that no event has announced, is the one of the
// thread.
func (p *proofRecords) own(inum uint32) bool { return inum != 0 && p.namespace.Load() == inum }

// A prover makes the calls. Its thread lives as long as the Tracer: to start threads again and
// again is a risk on a host that is out of process ids.
type prover struct {
	requests  chan func(proven map[string]bool)
	namespace *atomic.Uint32 // of proofRecords
	round     int
}

func newProver(p *proofRecords) *prover {
	v := &prover{requests: make(chan func(map[string]bool)), namespace: &p.namespace}
	go v.serve()
	return v
}

func (v *prover) serve() {
	runtime.LockOSThread() // never unlocked: no other goroutine may run under this name
	name := append([]byte(proofThread), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	host, err := os.Open("/proc/thread-self/ns/uts")
	if err == nil {
		defer host.Close()
	}
	for done := range v.requests {
		made := map[string]bool{}
		if err == nil {
			v.calls(int(host.Fd()), made)
		}
		done(made)
	}
}

func (v *prover) close() {
	if v != nil {
		close(v.requests)
	}
}

// start makes the calls, and passes to done the observations that must have seen one. A call that
// something refused before it came to the hook, such as a seccomp filter or a read-only mount,
// proves nothing. done runs on the thread, behind the calls.
func (v *prover) start(done func(made map[string]bool)) { v.requests <- done }

func (v *prover) calls(hostUTS int, made map[string]bool) {
	v.round++
	made["clone"] = errors.Is(cloneRefused(), unix.EINVAL)
	made["open"] = errors.Is(openRefused(), unix.EACCES)
	made["pin"] = errors.Is(pinRefused(), unix.EINVAL)
	made["mount"] = errors.Is(openTreeRefused(), unix.EBADF)
	if unix.Unshare(unix.CLONE_NEWUTS) != nil {
		return
	}
	made["unshare"] = true
	v.namespace.Store(0)
	var st unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/uts", &st) == nil {
		v.namespace.Store(uint32(st.Ino))
	}
	made["hostname"] = unix.Sethostname([]byte(proofThread)) == nil
	// Each round writes another value: a way that does not know the result of a write takes the
	// same one within two seconds for a repeat.
	made["sysctl"] = write("/proc/sys/kernel/domainname", fmt.Sprint(proofThread, "-", v.round)) == nil
	if unix.Setns(hostUTS, unix.CLONE_NEWUTS) == nil {
		made["setns"], made["destroy"] = true, v.namespace.Load() != 0
	}
}

// cloneRefused tries to make a process that shares its root with the parent, and has a user
// namespace of its own. copy_process() refuses that before it makes anything.
func cloneRefused() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUTS|unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	for pid == 0 { // the child that no kernel makes
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// openRefused tries to open a parameter for writing that nobody can write.
func openRefused() error {
	fd, err := unix.Open("/proc/sys/kernel/osrelease", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// pinRefused tries to bind the mount namespace of the thread to a file in it. mnt_ns_loop()
// refuses that: such a namespace would never end.
func pinRefused() error {
	const target = "/proc/version"
	err := unix.Mount("/proc/thread-self/ns/mnt", target, "", unix.MS_BIND, "")
	if err == nil { // no kernel does that
		_ = unix.Unmount(target, unix.MNT_DETACH)
	}
	return err
}

// openTreeRefused tries to make a mount namespace (OPEN_TREE_NAMESPACE, 7.0) from a descriptor that
// does not exist.
func openTreeRefused() error {
	const openTreeNamespace = 1 << 1
	none := -1
	empty := []byte{0}
	fd, _, errno := unix.Syscall(unix.SYS_OPEN_TREE, uintptr(none), uintptr(unsafe.Pointer(&empty[0])), openTreeNamespace|unix.AT_EMPTY_PATH)
	if errno != 0 {
		return errno
	}
	unix.Close(int(fd))
	return nil
}

// write writes a parameter without waiting for anything: the file is in /proc/sys.
func write(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// provable reports whether a call of the prover can prove how an observation is attached.
func (c *choice) provable() bool {
	if c.way == nil {
		return false
	}
	switch c.obs.name {
	case "destroy", "pin":
		// By tracepoint a scan finds both. kprobe_source does not see a bind that is refused.
		return c.way.backend != Tracepoint && !slices.Contains(c.programs, bpf.NstraceProgKprobeSource)
	case "mount":
		return c.way.backend != Tracepoint // 7.1 often skips the entry of this call
	}
	return true
}

// silentAmong returns the observations that must have seen a call, and from which no record came.
func (l *loaded) silentAmong(made map[string]bool, p *proofRecords) (names []string) {
	for i := range l.picks {
		if c := &l.picks[i]; made[c.obs.name] && c.provable() && !p.proves(c.obs.name) || l.detached(c) {
			names = append(names, c.obs.name)
		}
	}
	return names
}

// detached reports whether somebody detached a program of an observation. The kernel allows that
// for links to cgroups, and then says that they are of no cgroup (bpf_cgroup_link_fill_link_info()
// in kernel/bpf/cgroup.c). Beside other hooks such a program only adds to what these see.
func (l *loaded) detached(c *choice) bool {
	return slices.ContainsFunc(c.programs, func(name string) bool {
		_, detached := l.detachedLink(name)
		return detached
	})
}

// detachedLink returns the id of the link of a program, and whether somebody detached it.
func (l *loaded) detachedLink(name string) (id uint32, detached bool) {
	lk, p := l.links[name], l.program(name)
	if lk == nil || p == nil || p.Type() != ebpf.CGroupSysctl { // the kernel detaches no others
		return 0, false
	}
	info, err := lk.Info()
	if err != nil || info.Type != link.CgroupType {
		return 0, false
	}
	cg := info.Cgroup()
	return uint32(info.ID), cg != nil && cg.CgroupId == 0
}

// allProven reports whether records proved all observations that the prover can prove.
func (l *loaded) allProven(p *proofRecords) bool {
	made := map[string]bool{}
	for _, name := range provenNames {
		made[name] = true
	}
	return len(l.silentAmong(made, p)) == 0
}

// DefaultProveEvery is how often a run makes the calls that show whether its hooks work.
const DefaultProveEvery = time.Minute

// proofTries is how often an observation can miss the calls before it counts as silent. The kernel
// skips a program while another one runs on the same CPU.
const proofTries = 3

// suspectAfter is how long after a process did something to nstrace's objects the proof follows.
const suspectAfter = 500 * time.Millisecond

// A proofState says where a run is in proving its hooks.
type proofState struct {
	every   time.Duration // 0: never while Run runs
	due     time.Time     // when to make the calls next
	began   time.Time     // when the prover began to make the calls under way
	suspect bool          // make them then also if every is 0
	running bool
	made    chan map[string]bool // of the calls under way, size 1
	check   map[string]bool      // what they must have proved; judged when their records were read
	behind  int                  // how many bytes of the ring are to be read before that
	tries   int
	proven  time.Time // when the last complete proof began
}

func newProofState(every time.Duration) proofState {
	if every == 0 {
		every = DefaultProveEvery
	}
	return proofState{every: max(every, 0), made: make(chan map[string]bool, 1)}
}

// next returns when proveHooks has something to do, the zero time for never.
func (s *proofState) next() time.Time {
	switch {
	case s.check != nil:
		return time.Unix(1, 0)
	case s.running || s.every == 0 && !s.suspect:
		return time.Time{} // the prover wakes Run
	}
	return s.due
}

// proveAtStart proves the hooks before Run. Records of events stay in t.early for Run.
func (t *Tracer) proveAtStart() error {
	for {
		silent, err := t.proveNow()
		if err != nil || len(silent) == 0 {
			return err
		}
		if err := t.replaceSilent(silent); err != nil {
			return err
		}
	}
}

// proveNow makes the calls, waits for them, and takes what is in the ring by then. It returns the observations
// that stayed silent each time that it tried.
func (t *Tracer) proveNow() (silent []string, err error) {
	s := &t.proof
	for range proofTries {
		made := make(chan map[string]bool, 1)
		s.began = time.Now()
		t.prover.start(func(m map[string]bool) { made <- m })
		s.check = <-made // the calls do not wait for anything
		if err := t.drain(); err != nil {
			return nil, err
		}
		if silent = t.judge(); len(silent) == 0 {
			break
		}
	}
	return silent, nil
}

// judge ends a proof. It returns the observations that stayed silent.
func (t *Tracer) judge() []string {
	s := &t.proof
	silent := t.attached.loaded.silentAmong(s.check, t.interpreter.proofs)
	s.check = nil
	if len(silent) == 0 {
		s.tries = 0
		s.proven = s.began
		s.due = time.Now().Add(s.every)
		t.interpreter.proofs.reset()
		clear(t.reattached)
	}
	return silent
}

// take interprets a record, or keeps it for Run.
func (t *Tracer) take(raw []byte) error {
	if t.ran.Load() {
		return t.interpreter.interpret(raw)
	}
	var r record
	if err := r.open(raw); err != nil {
		return err
	}
	switch r.head.Kind {
	case uint16(bpf.NstraceRecordKindREC_PROOF):
		return t.interpreter.interpret(raw)
	case uint16(bpf.NstraceRecordKindREC_NS_DESTROY):
		var d bpf.NstraceDestroyRecord
		rest := raw
		if err := fixed(&rest, &d); err != nil {
			return err
		}
		if p := t.interpreter.proofs; p.own(d.Inum) {
			p.add(bpf.NstraceRecordKindREC_NS_DESTROY, 0)
			p.namespace.Store(0)
			t.interpreter.accounts.filtered++ // the kernel counted it as seen
			return nil
		}
	}
	t.early = append(t.early, slices.Clone(raw))
	return nil
}

// proveHooks makes the calls when it is time, and acts on what came of them. drained says that the
// ring was just empty.
func (t *Tracer) proveHooks(now time.Time, drained bool) error {
	s := &t.proof
	if s.running {
		select {
		case s.check = <-s.made:
			s.running = false
			s.behind = t.attached.ring.AvailableBytes()
			t.again = true // their records can be behind those that were just read
		default:
		}
		return nil
	}
	if s.check != nil {
		if !drained && s.behind > 0 {
			return nil
		}
		silent := t.judge()
		if len(silent) == 0 {
			return nil
		}
		if s.tries++; s.tries < proofTries {
			t.startProof(now)
			return nil
		}
		s.tries = 0
		return t.replaceSilent(silent)
	}
	if p := t.interpreter.proofs; p.suspect {
		p.suspect = false
		p.reset()
		s.due, s.suspect = now.Add(suspectAfter), true // the record is of the entry of the call
		return nil
	}
	if s.every == 0 && !s.suspect || now.Before(s.due) {
		return nil
	}
	s.suspect = false
	if t.attached.loaded.allProven(t.interpreter.proofs) { // by events
		s.proven = now.Add(-s.every)
		s.due = now.Add(s.every)
		t.interpreter.proofs.reset()
		return nil
	}
	t.startProof(now)
	return nil
}

func (t *Tracer) startProof(now time.Time) {
	s := &t.proof
	s.running, s.began = true, now
	t.prover.start(func(made map[string]bool) {
		s.made <- made
		t.wake()
	})
}

// silentAtEnd returns the observations that do not work at the end of a run.
func (t *Tracer) silentAtEnd() ([]string, error) {
	if s := &t.proof; s.running {
		<-s.made
		s.running = false
	}
	return t.proveNow()
}

// replaceSilent attaches observations whose hooks stay silent in another way. In a run it first
// tries the same way again, because somebody can have detached a hook.
func (t *Tracer) replaceSilent(silent []string) error {
	var words []string
	for i := range t.attached.loaded.picks {
		c := &t.attached.loaded.picks[i]
		if !slices.Contains(silent, c.obs.name) {
			continue
		}
		words = append(words, fmt.Sprintf("%s (%s)", c.obs.name, c.way.backend))
		if t.ran.Load() && !t.reattached[c.obs.name] {
			t.reattached[c.obs.name] = true
			continue
		}
		t.silent[c.obs.name] = append(t.silent[c.obs.name], c.way.backend)
	}
	return t.replace(replacement{
		reason: event.LossHookSilent, since: t.proof.proven,
		what: "the kernel does not run the hooks of " + strings.Join(words, ", "),
		then: "nstrace attaches again", optional: t.ran.Load(),
	})
}
