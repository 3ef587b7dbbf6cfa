// SPDX-License-Identifier: Apache-2.0

// Package resolve finds what the arguments of commands mean: a namespace, or a workload and the
// namespaces that it is in. All commands share its grammar.
//
//	r := resolve.New(nil, names)
//	target, err := r.Find(ctx, "web")
//	ns, err := target.In(event.NSTypeNet)
//
// Names of containers come from their runtimes. The cgroups of processes say which container and
// which unit a process belongs to. A container that has no process has no namespace and is not found.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/procfs"
)

// ErrUnknown is wrapped by the error for an argument that means nothing on this host.
var ErrUnknown = errors.New("not found")

// ErrAmbiguous is wrapped by the error for an argument that means several things.
var ErrAmbiguous = errors.New("ambiguous")

// ErrNoNamespace is wrapped by the error of Target.In if the target has no namespace of the type, or
// if that is unknown.
var ErrNoNamespace = errors.New("no such namespace")

// A What says what an argument means.
type What string

// Meanings of arguments.
const (
	Namespace What = "namespace"
	Process   What = "process"
	Container What = "container"
	Pod       What = "pod"
	Unit      What = "unit"
)

// A Target is what an argument means: one namespace, or a workload.
type Target struct {
	What What
	Text string // the argument

	// Namespace is set if the argument names one.
	Namespace *inventory.Namespace
	// Name is the name of Namespace in /run/netns or /run/docker/netns, if the argument is that.
	Name string

	// Processes are those of a workload, by PID. Without an inventory only PID, Comm and Cgroup
	// of them are known.
	Processes []*inventory.Process
	// ID is the id of a container, or the UID of a pod, or the unit; "" for other targets.
	ID string

	r *Resolver
}

// A Resolver finds what arguments mean.
type Resolver struct {
	inv   *inventory.Inventory // nil: look at /proc
	names Names
	dirs  *attribution.CgroupDirs

	processes []*inventory.Process
	scanned   bool
	host      map[event.NSType]uint32
	known     []Known // from names
	failed    []error // of runtimes
	asked     bool
}

// New returns a Resolver that works on an inventory. Without one it reads from /proc only what an argument
// needs, which is faster, and takes an inventory if nothing else helps. It asks names, which can be nil,
// only if the host has containers.
func New(inv *inventory.Inventory, names Names) *Resolver {
	return &Resolver{inv: inv, names: names, dirs: attribution.ShownCgroupDirs()}
}

// all returns all processes, by PID.
func (r *Resolver) all() []*inventory.Process {
	switch {
	case r.inv != nil:
		return r.inv.Processes()
	case !r.scanned:
		r.processes, r.scanned = scan(), true
	}
	return r.processes
}

// in returns the number of the namespace of a type that a process is in, 0 if it is unknown.
func (r *Resolver) in(p *inventory.Process, typ event.NSType) uint32 {
	if id := p.In(typ); id != 0 || r.inv != nil {
		return id
	}
	id, _ := procfs.NamespaceOf(strconv.FormatUint(uint64(p.PID), 10), typ)
	return id
}

// namespace returns a namespace that has a way to it, which is added if there is no inventory that has
// the namespace.
func (r *Resolver) namespace(ref inventory.Ref, way func(*inventory.Namespace)) *inventory.Namespace {
	if r.inv != nil {
		if n := r.inv.Find(ref); n != nil {
			return n
		}
	}
	n := &inventory.Namespace{Ref: ref, Host: r.Hosts()[ref.Type] == ref.ID}
	way(n)
	return n
}

// of returns the namespace of a process.
func (r *Resolver) of(ref inventory.Ref, p *inventory.Process) *inventory.Namespace {
	return r.namespace(ref, func(n *inventory.Namespace) { n.Oldest = p })
}

// mounted returns the namespace whose file is at a path.
func (r *Resolver) mounted(ref inventory.Ref, path string) *inventory.Namespace {
	return r.namespace(ref, func(n *inventory.Namespace) {
		n.Mounts = []inventory.Mount{{Path: path, PID: procfs.Self()}}
	})
}

// Host returns the host's namespace of a type: that of process 1.
func (r *Resolver) Host(typ event.NSType) (*inventory.Namespace, error) {
	id := r.Hosts()[typ]
	if id == 0 {
		return nil, fmt.Errorf("the host's %s namespace: %w: the namespaces of process 1 cannot be read", typ, ErrNoNamespace)
	}
	ref := inventory.Ref{Type: typ, ID: id}
	for _, pid := range []uint32{1, 2} {
		if now, err := procfs.NamespaceOf(strconv.FormatUint(uint64(pid), 10), typ); err == nil && now == id {
			return r.of(ref, &inventory.Process{PID: pid}), nil
		}
	}
	return r.of(ref, &inventory.Process{PID: procfs.Self()}), nil
}

// Hosts returns the numbers of the host's namespaces, as far as they are known.
func (r *Resolver) Hosts() map[event.NSType]uint32 {
	switch {
	case r.inv != nil:
		return r.inv.Host
	case r.host == nil:
		r.host = procfs.HostNamespaces()
	}
	return r.host
}

// Open opens the file of a namespace that a Resolver or a Target returned. See inventory.Inventory.Open.
func (r *Resolver) Open(n *inventory.Namespace) (*os.File, error) {
	inv := r.inv
	if inv == nil {
		inv = &inventory.Inventory{}
	}
	return inv.Open(n)
}

// Target returns a namespace as the meaning of an argument.
func (r *Resolver) Target(n *inventory.Namespace) *Target {
	return &Target{What: Namespace, Text: fmt.Sprintf("%s:[%d]", n.Type, n.ID), Namespace: n, r: r}
}

// Find returns what an argument means. The error wraps ErrSyntax, ErrUnknown or ErrAmbiguous if the
// argument is at fault. It says what was looked for, or lists the candidates.
func (r *Resolver) Find(ctx context.Context, text string) (*Target, error) {
	arg, err := Parse(text)
	if err != nil {
		return nil, err
	}
	var found []*Target
	var looked string
	switch arg.Kind {
	case KindInode:
		return r.inode(ctx, arg)
	case KindPath:
		return r.path(text)
	case KindPID:
		t, err := r.process(arg)
		if t != nil || err != nil {
			return t, err
		}
		looked = "no process has this pid, and no network namespace or container has this name"
		found = append(r.named(text), r.containers(ctx, text, false)...)
	case KindPod:
		looked = "no pod with this name is running, as far as the container runtimes say"
		found = r.pods(ctx, text)
	case KindUnit:
		looked = "no process belongs to a unit with this name, and no network namespace or container has it"
		found = append(r.units(text), r.named(text)...)
		found = append(found, r.containers(ctx, text, true)...)
	default:
		looked = "no network namespace in " + strings.Join(procfs.NetnsDirs, " or ") + " has this name, and no running container or pod has this name or id"
		found = append(r.named(text), r.containers(ctx, text, true)...)
		found = append(found, r.pods(ctx, text)...)
	}
	switch len(found) {
	case 0:
		if len(r.failed) > 0 {
			looked += ", as far as nstrace can tell"
		}
		return nil, fmt.Errorf("%q: %w: %s%s", text, ErrUnknown, looked, list(r.failed))
	case 1:
		return found[0], nil
	}
	return nil, ambiguous(text, "", found)
}

// list returns errors as the end of a sentence.
func list(errs []error) (text string) {
	for _, err := range errs {
		text += "; " + err.Error()
	}
	return text
}

// maxCandidates is how many candidates a message lists.
const maxCandidates = 8

func ambiguous[T fmt.Stringer](text, of string, found []T) error {
	var list []string
	for _, t := range found {
		if len(list) == maxCandidates {
			list = append(list, fmt.Sprintf("%d more", len(found)-maxCandidates))
			break
		}
		list = append(list, t.String())
	}
	return fmt.Errorf("%q: %w: %sit can be %s", text, ErrAmbiguous, of, strings.Join(list, "; "))
}

// process finds a process, nil if no process has the pid.
func (r *Resolver) process(arg Arg) (*Target, error) {
	var p *inventory.Process
	if r.inv != nil {
		p = r.inv.Process(arg.PID)
	}
	if p == nil {
		pid := strconv.FormatUint(uint64(arg.PID), 10)
		switch _, err := procfs.NamespaceOf(pid, event.NSTypeMnt); {
		case errors.Is(err, os.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("%q: %w: the namespaces of this process cannot be read: %w", arg.Text, ErrNoNamespace, err)
		case r.inv != nil:
			return nil, nil // it is newer than the inventory
		}
		p = &inventory.Process{PID: arg.PID}
	}
	return &Target{What: Process, Text: arg.Text, Processes: []*inventory.Process{p}, r: r}, nil
}

// inode finds a namespace by its number.
func (r *Resolver) inode(ctx context.Context, arg Arg) (*Target, error) {
	if r.inv == nil {
		if n := r.easy(arg); n != nil {
			return &Target{What: Namespace, Text: arg.Text, Namespace: n, r: r}, nil
		}
		// Something else than a process or a mount in the usual place holds it.
		inv, err := inventory.Take(ctx, inventory.Options{})
		if err != nil {
			return nil, err
		}
		r.inv = inv
	}
	n := r.inv.FindID(arg.ID)
	if arg.Type != "" {
		n = r.inv.Find(inventory.Ref{Type: arg.Type, ID: arg.ID})
	}
	if n == nil {
		what := "namespace"
		if arg.Type != "" {
			if other := r.inv.FindID(arg.ID); other != nil {
				return nil, fmt.Errorf("%q: %w: %d is a namespace of type %s", arg.Text, ErrUnknown, arg.ID, other.Type)
			}
			what = string(arg.Type) + " namespace"
		}
		return nil, fmt.Errorf("%q: %w: no %s has this inode number", arg.Text, ErrUnknown, what)
	}
	return &Target{What: Namespace, Text: arg.Text, Namespace: n, Name: n.Name, r: r}, nil
}

// easy finds a namespace that a process is in, or that has a name.
func (r *Resolver) easy(arg Arg) *inventory.Namespace {
	types := event.NSTypes()
	if arg.Type != "" {
		types = []event.NSType{arg.Type}
	}
	for _, p := range r.all() {
		for _, typ := range types {
			if r.in(p, typ) == arg.ID {
				return r.of(inventory.Ref{Type: typ, ID: arg.ID}, p)
			}
		}
	}
	for _, dir := range procfs.NetnsDirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if ref, place, err := refAt(path); err == nil && ref.ID == arg.ID && slices.Contains(types, ref.Type) {
				return r.mounted(ref, place)
			}
		}
	}
	return nil
}

// path finds the namespace whose file is at a path.
func (r *Resolver) path(text string) (*Target, error) {
	abs, err := filepath.Abs(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	ref, place, err := refAt(abs)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", text, ErrUnknown, err)
	}
	t := &Target{What: Namespace, Text: text, Namespace: r.mounted(ref, place), r: r}
	if slices.Contains(procfs.NetnsDirs, filepath.Dir(abs)) {
		t.Name = filepath.Base(abs)
	}
	return t, nil
}

// refAt returns which namespace the file at a path is, and its path without links: the mount, or the same
// path for a link of /proc such as /proc/PID/ns/net. It follows links, and opens only the file of a namespace.
func refAt(path string) (ref inventory.Ref, real string, err error) {
	fail := func(op string, err error) (inventory.Ref, string, error) {
		return inventory.Ref{}, "", &os.PathError{Op: op, Path: path, Err: err}
	}
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(place)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(place, &fs); err != nil {
		return fail("statfs", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return ref, "", errors.New("the file is not that of a namespace")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	ns, ok := procfs.Identify(fd)
	if !ok {
		return ref, "", errors.New("the namespace is of a type that nstrace does not know")
	}
	return inventory.Ref{Type: ns.Type, ID: ns.ID}, withoutLinks(path), nil
}

// withoutLinks follows the links of a path to the file of a namespace, as far as these have the path of a
// file. A link such as /proc/PID/ns/net has not.
func withoutLinks(path string) string {
	for range 40 { // as many as the kernel follows
		if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			path = filepath.Join(dir, filepath.Base(path))
		}
		target, err := os.Readlink(path)
		if _, isNS := procfs.ParseNSLink(target); err != nil || isNS {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return path
}

// named finds network namespaces by their name in /run/netns and /run/docker/netns.
func (r *Resolver) named(name string) (found []*Target) {
	if name == "." || name == ".." || strings.Contains(name, "/") {
		return nil
	}
	for _, dir := range procfs.NetnsDirs {
		path := filepath.Join(dir, name)
		ref, place, err := refAt(path)
		if err != nil || slices.ContainsFunc(found, func(t *Target) bool { return t.Namespace.Ref == ref }) {
			continue
		}
		found = append(found, &Target{What: Namespace, Text: name, Namespace: r.mounted(ref, place), Name: name, r: r})
	}
	return found
}

// units finds the processes of a unit. A user names the units of his service manager: one of the
// host's manager goes first.
func (r *Resolver) units(name string) []*Target {
	host := &Target{What: Unit, Text: name, ID: name, r: r}
	users := map[string]*Target{}
	var ids []string
	for _, p := range r.all() {
		o := attribution.ParseCgroup(p.Cgroup)
		switch {
		case o.Unit == name || inSlice(p.Cgroup, name):
			host.Processes = append(host.Processes, p)
		case (o.UserUnit == name || o.UnitPath(p.Cgroup) == name) && o.UserID != "":
			if users[o.UserID] == nil {
				users[o.UserID] = &Target{What: Unit, Text: name, ID: name + " of user " + o.UserID, r: r}
				ids = append(ids, o.UserID)
			}
			users[o.UserID].Processes = append(users[o.UserID].Processes, p)
		}
	}
	if len(host.Processes) > 0 {
		return []*Target{host}
	}
	var found []*Target
	for _, id := range ids {
		found = append(found, users[id])
	}
	return found
}

// inSlice reports whether a cgroup is in a slice of the host's service manager. Its slices are the
// names at the beginning of a path; the owner of a cgroup below can choose any name.
func inSlice(cgroup, slice string) bool {
	if !strings.HasSuffix(slice, ".slice") {
		return false
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(cgroup, "/"), "/") {
		if name == slice {
			return true
		}
		if !strings.HasSuffix(name, ".slice") {
			return false
		}
	}
	return false
}

// Types returns the types of namespaces that the target has.
func (t *Target) Types() []event.NSType {
	if t.Namespace != nil {
		return []event.NSType{t.Namespace.Type}
	}
	return event.NSTypes()
}

// In returns the namespace of a type that the target is, or that all processes of the workload are in.
// The error wraps ErrNoNamespace, or ErrAmbiguous if the processes are in several.
func (t *Target) In(typ event.NSType) (*inventory.Namespace, error) {
	if t.Namespace != nil {
		if t.Namespace.Type != typ {
			return nil, fmt.Errorf("%q: %w: it is a namespace of type %s, not %s", t.Text, ErrNoNamespace, t.Namespace.Type, typ)
		}
		return t.Namespace, nil
	}
	var in []inNamespace
	for _, p := range t.Processes {
		id := t.r.in(p, typ)
		if id == 0 || slices.ContainsFunc(in, func(c inNamespace) bool { return c.ref.ID == id }) {
			continue
		}
		in = append(in, inNamespace{inventory.Ref{Type: typ, ID: id}, p})
	}
	switch len(in) {
	case 0:
		return nil, fmt.Errorf("%q: %w: the %s namespace of its processes cannot be read", t.Text, ErrNoNamespace, typ)
	case 1:
		return t.r.of(in[0].ref, in[0].p), nil
	}
	return nil, ambiguous(t.Text, "its processes are in several "+string(typ)+" namespaces: ", in)
}

type inNamespace struct {
	ref inventory.Ref
	p   *inventory.Process
}

func (c inNamespace) String() string {
	return fmt.Sprintf("%s:[%d] (pid %d, %q)", c.ref.Type, c.ref.ID, c.p.PID, comm(c.p))
}

// String describes the target in a message.
func (t *Target) String() string {
	switch {
	case t.Namespace != nil && t.Name != "":
		return fmt.Sprintf("the %s namespace %d with the name %q", t.Namespace.Type, t.Namespace.ID, t.Name)
	case t.Namespace != nil:
		return fmt.Sprintf("the %s namespace %d", t.Namespace.Type, t.Namespace.ID)
	case t.What == Process && len(t.Processes) > 0:
		return fmt.Sprintf("the process %d (%q)", t.Processes[0].PID, comm(t.Processes[0]))
	}
	return fmt.Sprintf("the %s %q", t.What, t.ID)
}
