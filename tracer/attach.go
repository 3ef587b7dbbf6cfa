// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/lockdown"
	"github.com/nstrace/nstrace/internal/procfs"
)

// ErrUnsupported means that this host cannot be traced as requested: no privileges, no BTF, a
// kernel that is too old, or no way to attach.
var ErrUnsupported = errors.New("this host can't")

// ErrPartial means that nstrace cannot see all creates, enters or sysctl writes here, and
// Options.Partial does not accept that. It wraps ErrUnsupported.
var ErrPartial = fmt.Errorf("%w", ErrUnsupported)

// maxActive is how many tasks can be inside one kretprobed function before the kernel misses
// the end of a call. The kernel's default, ten or two for each CPU, is less than the
// containers that start at once on a small host.
const maxActive = 1024

// kernel is what the running kernel offers.
type kernel struct {
	btf        *btf.Spec
	cache      *btf.Cache                           // to read the types once
	modules    []*btf.Spec                          // of modules with types that programs use
	object     func() (*ebpf.CollectionSpec, error) // what bpf2go made; copy it before use
	tried      map[string]error                     // what tryKprobe found, by function
	threads    *mountThread
	fentry     error // why the kernel does not offer it, nil if it does
	kprobe     error
	tracepoint error
	cgroup     error
	foreign    error // see cgroupRoot
	ftrace     *ftrace
	canaries   map[Backend]*canary  // of the offered backends, until load takes them
	reuse      *loaded              // use its maps; nil: make new ones
	extend     bool                 // what reuse has attached stays attached
	abandoned  atomic.Bool          // load nothing more
	silent     map[string][]Backend // backends whose hooks of an observation the kernel does not run
	preempts   string               // how it preempts kernel code, "" if it does not
	limitAgain func()               // limits locked memory again
}

// openKernel finds out what the running kernel offers. It fails with ErrUnsupported only if
// nothing can work. If off is not nil, it says why neither fentry nor kprobe is tried. Close
// the kernel after use: until then, there is no limit on locked memory.
func openKernel(m *mountThread, f *ftrace, off error) (*kernel, error) {
	k := &kernel{
		threads: m, ftrace: f, canaries: map[Backend]*canary{}, fentry: off, kprobe: off,
		object: sync.OnceValues(bpf.LoadNstrace), tried: map[string]error{}, limitAgain: liftMemlock(),
	}
	if err := k.open(off); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) open(off error) error {
	if err := mounted(); err != nil {
		return err
	}
	if err := probeBPF(); err != nil {
		return err
	}
	go k.object() // in parallel: it takes as long as reading the kernel's types
	var err error
	k.cache = btf.NewCache()
	if k.btf, err = k.cache.Kernel(); err != nil {
		return fmt.Errorf("%w: the kernel has no type information (%v): want Linux 5.10 or newer with CONFIG_DEBUG_INFO_BTF=y", ErrUnsupported, err)
	}
	k.modules = k.typesOfModules()
	// Before all else: cilium/ebpf remembers where it found tracefs, or that it did not.
	k.tracepoint = k.threads.tracefs()
	if off == nil {
		k.fentry = k.probe(Fentry)
		k.kprobe = k.probe(Kprobe)
	}
	var root *cgroupRoot
	if root, k.cgroup = k.threads.cgroup2(); k.cgroup == nil {
		k.foreign = root.foreign
		k.cgroup = canAttachToCgroups()
	}
	p := openPreemption()
	defer p.close()
	k.preempts = p.reason()
	return nil
}

// typesOfModules returns the types of the one module that can have types which programs use, if
// the kernel itself lacks them. By default cilium/ebpf reads the types of all modules.
func (k *kernel) typesOfModules() []*btf.Spec {
	var dev *btf.Struct
	if k.btf.TypeByName("inet6_dev", &dev) == nil {
		return nil
	}
	ipv6, err := k.cache.Module("ipv6")
	if err != nil { // the kernel has no IPv6
		return nil
	}
	return []*btf.Spec{ipv6}
}

// liftMemlock lifts the limit on locked memory. 5.10 charges maps against it, together with
// those of all other processes of the user; later kernels do not, and there it does not matter
// if lifting fails. restore puts the limit back, because a traced command inherits it.
func liftMemlock() (restore func()) {
	var was unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was) != nil {
		return func() {}
	}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) != nil {
		return func() {}
	}
	return func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was) }
}

// mounted checks that the file systems are there without which nothing works.
func mounted() error {
	for _, fs := range []struct {
		dir, name string
		magic     int64
	}{{"/proc", "procfs", unix.PROC_SUPER_MAGIC}, {"/sys", "sysfs", unix.SYSFS_MAGIC}} {
		var st unix.Statfs_t
		if unix.Statfs(fs.dir, &st) != nil || int64(st.Type) != fs.magic {
			return fmt.Errorf("%w: %s is not mounted on %s where nstrace runs", ErrUnsupported, fs.name, fs.dir)
		}
	}
	return nil
}

// CheckPrivileges returns the error that New would return if the kernel lets this process use no BPF programs.
func CheckPrivileges() error {
	if err := mounted(); err != nil {
		return err
	}
	defer liftMemlock()()
	return probeBPF()
}

// probeBPF checks that bpf(2) can be used at all.
func probeBPF() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "nstrace_probe", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	switch {
	case err == nil:
		m.Close()
		if err := lockdown.Check(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return nil
	case errors.Is(err, os.ErrPermission):
		if in, err := procfs.InInitial(event.NSTypeUser); err == nil && !in {
			return fmt.Errorf("%w: the kernel refuses bpf(2) in a user namespace: run nstrace outside it", ErrUnsupported)
		}
		return fmt.Errorf("%w: the kernel refuses bpf(2) (%v): run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN; in a container also allow bpf in its seccomp profile", ErrUnsupported, short(err))
	case scarce(err):
		return err
	default:
		return fmt.Errorf("%w: the kernel has no BPF ring buffer (%v): want Linux 5.10 or newer", ErrUnsupported, err)
	}
}

var returnZero = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}

// tryKprobe attaches an empty program to a function of the kernel, and detaches it. It tries each
// function once.
func (k *kernel) tryKprobe(function string) error {
	err, ok := k.tried[function]
	if !ok {
		err = k.attachEmpty(function)
		k.tried[function] = err
	}
	return err
}

func (k *kernel) attachEmpty(function string) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "nstrace_probe", Type: ebpf.Kprobe, License: "Dual BSD/GPL", Instructions: returnZero,
	})
	if err != nil {
		return fmt.Errorf("the kernel refuses kprobe programs: %w", short(err))
	}
	defer prog.Close()
	if k.ftrace.off() {
		return errFtraceOff
	}
	l, err := link.Kprobe(function, prog, nil)
	if err != nil {
		return fmt.Errorf("the kernel refuses a kprobe at %s: %w", function, short(err))
	}
	return k.ftrace.detach(l.Close)
}

// oftenTwice are functions whose name another function has in some kernels (5.10 and 6.1 of
// Debian). These kernels refuse kprobes for the name. If that was found out after loading,
// everything would be loaded again.
var oftenTwice = map[string]bool{"kern_path": true}

// short returns the kernel's error, which cilium/ebpf wraps many times.
func short(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) && ve.Cause != nil {
		err = ve.Cause
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func (k *kernel) offers(b Backend) error {
	switch b {
	case Fentry:
		return k.fentry
	case Kprobe:
		return k.kprobe
	default:
		return nil // a tracepoint way can have cgroup/sysctl programs only
	}
}

// typeOfFunc returns the type of a function of the kernel, nil if BTF has none. BTF lacks some of
// the functions that exist: on arm64 5.10 all static ones.
func (k *kernel) typeOfFunc(name string) *btf.FuncProto {
	var f *btf.Func
	if k.btf.TypeByName(name, &f) != nil {
		return nil
	}
	proto, _ := f.Type.(*btf.FuncProto)
	return proto
}

// hasFunc reports whether the kernel has a function of that name.
func (k *kernel) hasFunc(name string) bool {
	return k.typeOfFunc(name) != nil || k.kprobe == nil && k.tryKprobe(name) == nil
}

// operations are the members of structs that have the type of a static function of the kernel.
var operations = map[string]struct{ of, member string }{
	"proc_sys_permission": {"inode_operations", "permission"},
}

// hasNSID reports whether each namespace has an id that is unique among all types
// (ns_common.ns_id, 6.18; in an unnamed struct from 6.19).
func (k *kernel) hasNSID() bool {
	var ns *btf.Struct
	return k.btf.TypeByName("ns_common", &ns) == nil && hasMember(ns.Members, "ns_id")
}

func hasMember(members []btf.Member, name string) bool {
	return slices.ContainsFunc(members, func(m btf.Member) bool {
		if m.Name != "" {
			return m.Name == name
		}
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			return hasMember(t.Members, name)
		case *btf.Union:
			return hasMember(t.Members, name)
		}
		return false
	})
}

// numParams returns how many parameters a function of the kernel has, 0 if that is unknown.
func (k *kernel) numParams(name string) int {
	if proto := k.typeOfFunc(name); proto != nil {
		return len(proto.Params)
	}
	var ops *btf.Struct
	op, ok := operations[name]
	if !ok || k.btf.TypeByName(op.of, &ops) != nil {
		return 0
	}
	for _, m := range ops.Members {
		if m.Name != op.member {
			continue
		}
		if p, ok := m.Type.(*btf.Pointer); ok {
			if proto, ok := p.Target.(*btf.FuncProto); ok {
				return len(proto.Params)
			}
		}
	}
	return 0
}

// can returns why a program cannot be used, nil if no reason is known.
func (k *kernel) can(p *ebpf.ProgramSpec) error {
	switch p.Type {
	case ebpf.Tracing:
		if p.AttachType != ebpf.AttachTraceRawTp && p.AttachType != ebpf.AttachTraceIter && k.typeOfFunc(p.AttachTo) == nil {
			return fmt.Errorf("the kernel has no type of a function %s", p.AttachTo)
		}
	case ebpf.Kprobe:
		// A kprobe needs no type. If the compiler removed an argument of a function, the name of
		// the function ends in .isra or .constprop.
		if oftenTwice[p.AttachTo] || k.typeOfFunc(p.AttachTo) == nil {
			return k.tryKprobe(p.AttachTo)
		}
	case ebpf.TracePoint:
		return k.tracepoint
	case ebpf.CGroupSysctl:
		return k.cgroup
	}
	return nil
}

// A choice is how one observation is attached.
type choice struct {
	obs      *observation
	way      *way // nil: it cannot be attached
	programs []string
	hooks    []string // of the programs
	reasons  []string // why earlier ways were not chosen
	missing  []string // what is not seen here, beside what the way does not see anywhere
	later    bool     // Run attaches it, see deferred
}

// choose chooses the first way of the observation that the kernel offers and none of whose
// programs is in refused.
func (k *kernel) choose(o *observation, force Backend, spec *ebpf.CollectionSpec, refused map[string]error) choice {
	c := choice{obs: o}
	if len(k.silent[o.name]) > 0 {
		force = Auto // better another backend than none
	}
	for _, w := range k.inOrder(o.ways) {
		if force != Auto && w.backend != force {
			continue
		}
		if slices.Contains(k.silent[o.name], w.backend) {
			c.reasons = append(c.reasons, fmt.Sprintf("the kernel does not run the hooks of %s", w.backend))
			continue
		}
		if w.forced && force == Auto {
			c.reasons = append(c.reasons, fmt.Sprintf("all of it is seen only with --backend %s, because that slows down every open of a file", w.backend))
			continue
		}
		if err := k.offers(w.backend); err != nil {
			c.reasons = append(c.reasons, err.Error())
			continue
		}
		for _, set := range w.programs {
			err := k.usable(set, spec, refused)
			if err == nil {
				c.way, c.programs = w, slices.Clone(set)
				for _, name := range w.optional {
					if err := k.usable([]string{name}, spec, refused); err == nil {
						c.programs = append(c.programs, name)
					} else if other := insteadOf[name]; other != "" && k.kprobe == nil && k.usable([]string{other}, spec, refused) == nil {
						c.programs = append(c.programs, other)
					} else if p := spec.Programs[name]; p.Type != ebpf.TracePoint && k.hasFunc(p.AttachTo) {
						c.missing = append(c.missing, "calls of "+p.AttachTo)
					}
				}
				return c
			}
			c.reasons = append(c.reasons, err.Error())
		}
	}
	if len(c.reasons) == 0 {
		c.reasons = []string{fmt.Sprintf("there is no %s way to observe it", force)}
	}
	return c
}

func (k *kernel) usable(programs []string, spec *ebpf.CollectionSpec, refused map[string]error) error {
	for _, name := range programs {
		if err := refused[name]; err != nil {
			return err
		}
		p := spec.Programs[name]
		if err := k.can(p); err != nil {
			return err
		}
		if n := params[name]; n != 0 && n != k.numParams(p.AttachTo) {
			return fmt.Errorf("the kernel's %s does not have %d parameters", p.AttachTo, n)
		}
	}
	return nil
}

// hook returns the usual name of an attachment, such as fexit/ksys_unshare.
func hook(p *ebpf.ProgramSpec) string {
	return strings.TrimSuffix(p.SectionName, "/")
}

// report returns how the observation is attached.
func (c *choice) report() event.Observation {
	o := event.Observation{Name: c.obs.name, Backend: string(None)}
	if c.way == nil {
		o.Missing = []string{strings.Join(append([]string{"all of it"}, c.reasons...), ": ")}
		return o
	}
	o.Backend = string(c.way.backend)
	o.Hooks = slices.Concat(c.hooks, c.way.files)
	o.Missing = slices.Compact(slices.Concat(c.way.missing, c.missing))
	return o
}

// An attachError is the kernel's refusal of one program.
type attachError struct {
	program, hook string
	err           error
}

func (e *attachError) Error() string { return fmt.Sprintf("the kernel refuses %s: %v", e.hook, e.err) }
func (e *attachError) Unwrap() error { return e.err }

// attach attaches one loaded program as its section says.
func (k *kernel) attach(name string, spec *ebpf.ProgramSpec, prog *ebpf.Program) (link.Link, error) {
	if needsFtrace(spec) && k.ftrace.off() {
		return nil, &silentError{why: errFtraceOff}
	}
	var l link.Link
	var err error
	switch spec.Type {
	case ebpf.Tracing:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog})
	case ebpf.Kprobe:
		if strings.HasPrefix(spec.SectionName, "kretprobe/") {
			opts := &link.KprobeOptions{}
			if k.tracepoint == nil { // a value other than the default needs tracefs
				opts.RetprobeMaxActive = maxActive
			}
			l, err = link.Kretprobe(spec.AttachTo, prog, opts)
			if errors.Is(err, os.ErrPermission) { // only root may write to tracefs
				l, err = link.Kretprobe(spec.AttachTo, prog, nil)
			}
		} else {
			l, err = link.Kprobe(spec.AttachTo, prog, nil)
		}
	case ebpf.TracePoint:
		group, event, _ := strings.Cut(spec.AttachTo, "/")
		l, err = link.Tracepoint(group, event, prog, nil)
	case ebpf.CGroupSysctl:
		var root *cgroupRoot
		if root, err = k.threads.cgroup2(); err == nil {
			// A RawLink would not tell which cgroup it is attached to; see loaded.detached.
			l, err = link.AttachCgroup(link.CgroupOptions{
				Path: fmt.Sprintf("/proc/thread-self/fd/%d", root.fd), Program: prog, Attach: ebpf.AttachCGroupSysctl,
			})
		}
	default:
		err = fmt.Errorf("no way to attach a %s program", spec.Type)
	}
	if err != nil {
		return nil, &attachError{program: name, hook: hook(spec), err: err}
	}
	return l, nil
}

// loaded is a set of programs in the kernel.
type loaded struct {
	coll     *ebpf.Collection
	spec     *ebpf.CollectionSpec
	links    map[string]link.Link // kept, because a link without a reference is closed
	picks    []choice
	pids     *pidSpace
	seed     uint64              // for the hashes that the programs make
	ftrace   *ftrace             // to detach by
	canaries map[Backend]*canary // of the backends in use
	proven   time.Time           // when the kernel was last known to run the programs, at the start
	// countsSkips says that the kernel counts what it skips of kprobes and tracepoints.
	countsSkips bool
	kept        map[string]bool // programs that were attached before the others
}

// load chooses, loads and attaches the programs. If the kernel refuses a program, or does not
// run those of a backend any more, load starts again without it.
func (k *kernel) load(o *Options) (*loaded, error) {
	l, refused, err := k.prepare(o, nil)
	if err != nil {
		return nil, err
	}
	return k.finish(o, l, refused)
}

// prepare chooses and loads the programs, without those that are refused. It adds to these what the
// kernel refuses.
func (k *kernel) prepare(o *Options, refused map[string]error) (*loaded, map[string]error, error) {
	if refused == nil {
		refused = map[string]error{}
	}
	for {
		l, err := k.tryLoad(o, refused)
		if err == nil {
			return l, refused, nil
		}
		if !k.without(err, refused, o) {
			return nil, nil, err
		}
	}
}

// finish attaches what prepare loaded. If the kernel refuses something, finish prepares again.
func (k *kernel) finish(o *Options, l *loaded, refused map[string]error) (*loaded, error) {
	for {
		err := k.attachAll(l, o)
		if err == nil {
			err = k.prove(l)
		}
		if err == nil {
			k.takeCanaries(l)
			return l, nil
		}
		l.close()
		if !k.withdraw(err) && !k.without(err, refused, o) {
			return nil, err
		}
		if l, refused, err = k.prepare(o, refused); err != nil {
			return nil, err
		}
	}
}

// without adds the program that the kernel refuses to refused. It reports whether loading can go on
// without it.
func (k *kernel) without(err error, refused map[string]error, o *Options) bool {
	var ae *attachError
	if !errors.As(err, &ae) || refused[ae.program] != nil || slices.Contains(o.extraPrograms(), ae.program) {
		return false
	}
	refused[ae.program] = ae
	return true
}

func (k *kernel) tryLoad(o *Options, refused map[string]error) (*loaded, error) {
	object, err := k.object()
	if err != nil {
		return nil, err
	}
	spec := object.Copy()
	for name, t := range programCopies {
		if p := spec.Programs[t.of]; p != nil { // another architecture's otherwise
			spec.Programs[name] = t.at(p)
		}
	}
	l := &loaded{spec: spec, links: map[string]link.Link{}, ftrace: k.ftrace, countsSkips: k.countsSkips()}
	keep := map[string]bool{bpf.NstraceProgIterTasks: true}
	if in, err := procfs.InInitial(event.NSTypePID); err != nil || !in {
		keep[bpf.NstraceProgIterPids] = true
	}
	writeResult, any := true, false
	observed := o.observed()
	for i := range observations {
		obs := &observations[i]
		if !obs.feeds(observed) || (obs.since != "" && !k.hasFunc(obs.since)) {
			continue
		}
		if before := k.attachedBefore(obs.name); before != nil {
			l.picks = append(l.picks, *before)
			any = true
			if obs.name == "sysctl" {
				writeResult = before.way.backend != Tracepoint
			}
			continue
		}
		if k.reuse == nil && o.defers(obs) {
			l.picks = append(l.picks, choice{obs: obs, later: true, reasons: []string{"nstrace attaches it after the start"}})
			continue
		}
		c := k.choose(obs, o.Backend, spec, refused)
		if obs.feed[0] == event.TraceTamper {
			c.programs = withoutFirstCall(c.programs, spec, keep)
		}
		for _, name := range c.programs {
			keep[name] = true
			c.hooks = append(c.hooks, hook(spec.Programs[name]))
		}
		l.picks = append(l.picks, c)
		if c.way != nil {
			any = any || (obs.feeds(o.Filter.Types) && obs.feed[0] != event.TraceTamper)
			if obs.name == "sysctl" {
				writeResult = c.way.backend != Tracepoint
			}
		}
	}
	if !any {
		why := "none of the requested observations can be attached"
		if len(l.picks) > 0 && len(l.picks[0].reasons) > 0 {
			why = strings.Join(l.picks[0].reasons, "; ")
		}
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, why)
	}
	for _, name := range o.extraPrograms() {
		keep[name] = true
	}
	if k.reuse != nil {
		for _, name := range lasting {
			keep[name] = false
		}
		l.seed = k.reuse.seed // of the hashes in the maps
	} else {
		l.seed = randomSeed()
	}
	for name := range spec.Programs {
		if !keep[name] || k.extend && k.reuse.program(name) != nil {
			delete(spec.Programs, name)
		}
	}
	if err := k.removeKfuncs(spec); err != nil {
		return nil, err
	}
	if err := o.set(spec, l.seed, writeResult, typedTask(!writeResult), k.v1Subsys()); err != nil {
		return nil, err
	}
	if err := k.loadAll(l); err != nil {
		l.close()
		return nil, loadError(err)
	}
	if err := k.translate(l, o); err != nil {
		l.close()
		return nil, err
	}
	k.missingHere(l)
	if err := o.fill(l.coll); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// translate makes the PIDs of the filter those of the initial PID namespace, once.
func (k *kernel) translate(l *loaded, o *Options) (err error) {
	if k.reuse != nil {
		l.pids = k.reuse.pids
		return nil
	}
	if l.pids, err = newPIDSpace(l.coll); err != nil || o.translated {
		return err
	}
	if l.pids.nested() {
		k.ftrace.notes.add("nstrace runs in a PID namespace: it takes the PIDs of that one, and events have those of the host")
	}
	o.translated = true
	pids := slices.Clone(o.Filter.PIDs)
	for i, pid := range pids {
		if pids[i], err = l.pids.host(pid); err != nil {
			return fmt.Errorf("%w: filter on pid %d: %w", ErrOption, pid, err)
		}
	}
	o.Filter.PIDs = pids
	return nil
}

// withoutFirstCall removes tracepoints of system calls from programs if keep has none: the first
// one makes every system call on the host slower.
func withoutFirstCall(programs []string, spec *ebpf.CollectionSpec, keep map[string]bool) []string {
	ofCall := func(name string) bool {
		return strings.HasPrefix(spec.Programs[name].SectionName, "tracepoint/syscalls/")
	}
	for name := range keep {
		if ofCall(name) {
			return programs
		}
	}
	return slices.DeleteFunc(programs, ofCall)
}

// removeKfuncs removes calls of kernel functions that this kernel lacks from the programs.
// cilium/ebpf does the same, but first it searches all BTF in the kernel, including that of
// every program, for each reference: thousands of system calls.
func (k *kernel) removeKfuncs(spec *ebpf.CollectionSpec) error {
	var fn *btf.Func
	if err := k.btf.TypeByName(rdonlyCast, &fn); err == nil || !errors.Is(err, btf.ErrNotFound) {
		return err
	}
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			if ins.Reference() != rdonlyCast {
				continue
			}
			absent := asm.LoadImm(ins.Dst, 0, asm.DWord) // its address
			if !ins.OpCode.IsDWordLoad() {
				absent = asm.BuiltinFunc(unknownFunc).Call() // behind a branch that is never taken
			}
			*ins = absent.WithSymbol(ins.Symbol()).WithSource(ins.Source())
		}
	}
	return nil
}

const (
	rdonlyCast  = "bpf_rdonly_cast" // 6.2
	unknownFunc = 0xbadca11         // the verifier refuses it where it can be reached
)

// loadAll loads maps and programs into the kernel, each program once, however many places it is
// for.
func (k *kernel) loadAll(l *loaded) error {
	programs := map[string]*ebpf.ProgramSpec{} // one for all copies
	for name, p := range l.spec.Programs {
		programs[original(name)] = p
	}
	spec := l.spec.Copy()
	spec.Programs = nil
	var err error
	if l.coll, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: k.cache, MapReplacements: k.reuse.reusable()}); err != nil {
		return err
	}
	// In parallel: for privileged callers the verifier holds no lock (bpf_check() in
	// kernel/bpf/verifier.c).
	var mu sync.Mutex
	var wg sync.WaitGroup
	names := make(chan string, len(programs))
	for name := range programs {
		names <- name
	}
	close(names)
	for range k.loaders() {
		wg.Go(func() {
			if k.extend {
				lowPriority()
			}
			for name := range names {
				prog, loadErr := k.loadOne(spec, name, programs[name], l.coll.Maps)
				mu.Lock()
				if loadErr != nil {
					err = cmp.Or(err, loadErr)
				} else {
					l.coll.Programs[name] = prog
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return err
}

// loaders returns how many programs to load at once. cilium/ebpf cannot decode the types of a
// module in parallel with those of the kernel, to which they refer.
func (k *kernel) loaders() int {
	if len(k.modules) > 0 || k.extend {
		return 1
	}
	return min(runtime.GOMAXPROCS(0), 8) // the verifier needs megabytes for each
}

// loadOne loads one program of spec, which uses existing maps.
func (k *kernel) loadOne(spec *ebpf.CollectionSpec, name string, p *ebpf.ProgramSpec, with map[string]*ebpf.Map) (*ebpf.Program, error) {
	if k.abandoned.Load() {
		return nil, errAbandoned
	}
	one := *spec
	one.Programs = map[string]*ebpf.ProgramSpec{name: p}
	coll, err := ebpf.NewCollectionWithOptions(&one, ebpf.CollectionOptions{
		Cache: k.cache, MapReplacements: with,
		Programs: ebpf.ProgramOptions{KernelTypes: k.btf, ExtraRelocationTargets: k.modules},
	})
	if err != nil {
		return nil, &attachError{program: name, hook: hook(p), err: err}
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

// program returns the program of that name, which can have further names.
func (l *loaded) program(name string) *ebpf.Program { return l.coll.Programs[original(name)] }

// typedTask reports whether programs can have the current task as a pointer that the verifier
// follows. Tracing programs can from 5.11 on, and cgroup/sysctl programs, which matter if they
// report by themselves, in some later kernel.
func typedTask(inSysctl bool) bool {
	return features.HaveProgramHelper(ebpf.TracePoint, asm.FnGetCurrentTaskBtf) == nil &&
		(!inSysctl || features.HaveProgramHelper(ebpf.CGroupSysctl, asm.FnGetCurrentTaskBtf) == nil)
}

// release frees what is needed only to load.
func (l *loaded) release() { l.spec = nil }

// attachAll attaches what was loaded. The ends of calls come before their beginnings: an end
// without its beginning is ignored, but a beginning whose end is missed counts as lost.
func (k *kernel) attachAll(l *loaded, o *Options) error {
	var names []string
	if k.reuse == nil { // otherwise they are still attached
		names = slices.Clone(o.extraPrograms())
	}
	for _, c := range l.picks {
		names = append(names, c.programs...)
	}
	slices.SortStableFunc(names, func(a, b string) int { return endsFirst(a) - endsFirst(b) })
	for _, name := range names {
		if k.extend && k.reuse.links[name] != nil {
			continue
		}
		lk, err := k.attach(name, l.spec.Programs[name], l.program(name))
		if err != nil {
			return err
		}
		l.links[name] = lk
	}
	return nil
}

func endsFirst(program string) int {
	for _, end := range []string{"fexit", "kretprobe", "_exit", "_done"} {
		if strings.Contains(program, end) {
			return 0
		}
	}
	return 1
}

// loadError returns ErrUnsupported if the host refuses all programs, and err's cause if it
// refuses one of them.
func loadError(err error) error {
	// Not os.ErrPermission: that includes EACCES, by which the verifier refuses one program.
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: the kernel refuses nstrace's programs (%v)%s", ErrUnsupported, short(err), lackingToLoad())
	}
	var ae *attachError
	if errors.As(err, &ae) {
		return ae
	}
	return fmt.Errorf("load BPF programs: %w", err)
}

// detach detaches all programs except those to keep. Records in the ring stay.
func (l *loaded) detach(keep ...string) error {
	if !l.needsFtrace() || len(l.links)+len(l.canaries) == 0 {
		return l.closeLinks(keep)
	}
	return l.ftrace.detach(func() error { return l.closeLinks(keep) })
}

// maxClosers is how many links are closed at once. Each needs a thread, and a host can be out of process
// ids: whoever uses a Tracer reserves more threads than that.
const maxClosers = 16

// closeLinks is for detach. The kernel waits a grace period for most links, so they are closed
// in parallel. Kretprobes are not, because they can be in the tracefs that only this thread
// sees.
func (l *loaded) closeLinks(keep []string) error {
	errs := make(chan error, len(l.links)+len(l.canaries))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxClosers)
	inParallel := func(f func()) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f()
		})
	}
	for name, lk := range l.links {
		if slices.Contains(keep, name) {
			continue
		}
		delete(l.links, name)
		closeLink := func() {
			if err := lk.Close(); err != nil {
				errs <- fmt.Errorf("detach %s: %w", name, err)
			}
		}
		if strings.HasPrefix(name, "kretprobe") {
			closeLink()
		} else {
			inParallel(closeLink)
		}
	}
	for b, c := range l.canaries {
		inParallel(func() {
			if err := c.close(); err != nil {
				errs <- fmt.Errorf("detach the canary of %s: %w", b, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	clear(l.canaries)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

func (l *loaded) close() error {
	err := l.detach()
	if l.coll != nil {
		l.coll.Close()
	}
	return err
}
