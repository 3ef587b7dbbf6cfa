// SPDX-License-Identifier: Apache-2.0

// Package resolve finds what the arguments of commands mean: a namespace, or a workload and the
// namespaces that it is in. All commands share its grammar.
//
//	r := resolve.New(take, names)
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

	// Processes are those of a workload, by PID.
	Processes []*inventory.Process
	// ID is the id of a container, or the UID of a pod, or the unit; "" for other targets.
	ID string

	inv *inventory.Inventory
}

// A Resolver finds what arguments mean.
type Resolver struct {
	take  func(ctx context.Context, o inventory.Options) (*inventory.Inventory, error)
	names Names

	tasks, full *inventory.Inventory
	known       []Known // from names
	asked       bool
}

// New returns a Resolver that takes its inventories with take, which is inventory.Take, or a function
// that returns an inventory that the caller has. It asks first for what tasks are in, which is fast,
// and for everything only if an argument needs it. It asks names, which can be nil, only if the host
// has containers.
func New(take func(ctx context.Context, o inventory.Options) (*inventory.Inventory, error), names Names) *Resolver {
	return &Resolver{take: take, names: names}
}

// inventory returns what tasks are in.
func (r *Resolver) inventory(ctx context.Context) (*inventory.Inventory, error) {
	if r.full != nil {
		return r.full, nil
	}
	if r.tasks == nil {
		inv, err := r.take(ctx, inventory.Options{TasksOnly: true})
		if err != nil {
			return nil, err
		}
		r.tasks = inv
	}
	return r.tasks, nil
}

// Host returns the host's namespace of a type: that of process 1. Find must have been called.
func (r *Resolver) Host(typ event.NSType) (*inventory.Namespace, error) {
	inv := r.tasksOrFull()
	if id := inv.Host[typ]; id != 0 {
		if n := inv.Find(inventory.Ref{Type: typ, ID: id}); n != nil {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the host's %s namespace: %w: the namespaces of process 1 cannot be read", typ, ErrNoNamespace)
}

// Hosts returns the numbers of the host's namespaces, as far as they are known. Find must have been
// called.
func (r *Resolver) Hosts() map[event.NSType]uint32 { return r.tasksOrFull().Host }

// Open opens the file of a namespace that a Target has. See inventory.Inventory.Open.
func (t *Target) Open(n *inventory.Namespace) (*os.File, error) { return t.inv.Open(n) }

// OpenHost opens the file of a namespace that Host returned.
func (r *Resolver) OpenHost(n *inventory.Namespace) (*os.File, error) { return r.tasksOrFull().Open(n) }

func (r *Resolver) tasksOrFull() *inventory.Inventory {
	if r.full != nil {
		return r.full
	}
	return r.tasks
}

// Find returns what an argument means. The error wraps ErrSyntax, ErrUnknown or ErrAmbiguous if the
// argument is at fault. It says what was looked for, or lists the candidates.
func (r *Resolver) Find(ctx context.Context, text string) (*Target, error) {
	arg, err := Parse(text)
	if err != nil {
		return nil, err
	}
	inv, err := r.inventory(ctx)
	if err != nil {
		return nil, err
	}
	var found []*Target
	var looked string
	switch arg.Kind {
	case KindInode:
		return r.inode(ctx, arg)
	case KindPath:
		return r.path(text, inv)
	case KindPID:
		if _, err := procfs.NamespaceOf(strconv.FormatUint(uint64(arg.PID), 10), event.NSTypeNet); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%q: %w: the namespaces of this process cannot be read: %w", text, ErrNoNamespace, err)
		}
		looked = "no process has this pid, and no network namespace or container has this name"
		if p := inv.Process(arg.PID); p != nil {
			found = append(found, &Target{What: Process, Text: text, Processes: []*inventory.Process{p}, inv: inv})
		}
		found = append(found, r.named(text, inv)...)
		found = append(found, r.containers(ctx, text, false, inv)...)
	case KindPod:
		looked = "no pod with this name is running, as far as the container runtimes say"
		found = r.pods(ctx, text, inv)
	case KindUnit:
		looked = "no process belongs to a unit with this name, and no network namespace or container has it"
		found = append(r.units(text, inv), r.named(text, inv)...)
		found = append(found, r.containers(ctx, text, true, inv)...)
	default:
		looked = "no network namespace in " + strings.Join(procfs.NetnsDirs, " or ") + " has this name, and no running container has this name or id"
		found = append(r.named(text, inv), r.containers(ctx, text, true, inv)...)
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q: %w: %s", text, ErrUnknown, looked)
	case 1:
		return found[0], nil
	}
	return nil, ambiguous(text, "", found)
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

// inode finds a namespace by its number.
func (r *Resolver) inode(ctx context.Context, arg Arg) (*Target, error) {
	find := func(inv *inventory.Inventory) *inventory.Namespace {
		if arg.Type != "" {
			return inv.Find(inventory.Ref{Type: arg.Type, ID: arg.ID})
		}
		return inv.FindID(arg.ID)
	}
	inv := r.tasksOrFull()
	n := find(inv)
	if n == nil && r.full == nil {
		full, err := r.take(ctx, inventory.Options{})
		if err != nil {
			return nil, err
		}
		r.full, inv = full, full
		n = find(inv)
	}
	if n == nil {
		what := "namespace"
		if arg.Type != "" {
			if other := inv.FindID(arg.ID); other != nil {
				return nil, fmt.Errorf("%q: %w: %d is a namespace of type %s", arg.Text, ErrUnknown, arg.ID, other.Type)
			}
			what = string(arg.Type) + " namespace"
		}
		return nil, fmt.Errorf("%q: %w: no %s has this inode number", arg.Text, ErrUnknown, what)
	}
	return &Target{What: Namespace, Text: arg.Text, Namespace: n, Name: n.Name, inv: inv}, nil
}

// path finds the namespace whose file is at a path.
func (r *Resolver) path(text string, inv *inventory.Inventory) (*Target, error) {
	abs, err := filepath.Abs(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	ref, err := refAt(abs)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: %w", text, ErrUnknown, err)
	}
	t := &Target{What: Namespace, Text: text, Namespace: at(ref, abs, inv), inv: inv}
	if slices.Contains(procfs.NetnsDirs, filepath.Dir(abs)) {
		t.Name = filepath.Base(abs)
	}
	return t, nil
}

// at returns a namespace whose file is at a path. If no task is in it, an inventory of tasks does not
// have it.
func at(ref inventory.Ref, path string, inv *inventory.Inventory) *inventory.Namespace {
	if n := inv.Find(ref); n != nil {
		return n
	}
	return &inventory.Namespace{
		Ref: ref, Host: inv.Host[ref.Type] == ref.ID,
		Mounts: []inventory.Mount{{Path: path, PID: uint32(os.Getpid())}},
	}
}

// refAt returns which namespace the file at a path is. It follows links, and opens only the file of a
// namespace.
func refAt(path string) (ref inventory.Ref, err error) {
	fail := func(op string, err error) (inventory.Ref, error) {
		return inventory.Ref{}, &os.PathError{Op: op, Path: path, Err: err}
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
		return ref, errors.New("the file is not that of a namespace")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail("open", err)
	}
	defer unix.Close(fd)
	flag, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fail("ioctl", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail("stat", err)
	}
	typ, ok := procfs.TypeOfFlag(uint32(flag))
	if !ok {
		return ref, errors.New("the namespace is of a type that nstrace does not know")
	}
	return inventory.Ref{Type: typ, ID: uint32(st.Ino)}, nil
}

// named finds network namespaces by their name in /run/netns and /run/docker/netns.
func (r *Resolver) named(name string, inv *inventory.Inventory) (found []*Target) {
	if name == "." || name == ".." || strings.Contains(name, "/") {
		return nil
	}
	for _, dir := range procfs.NetnsDirs {
		path := filepath.Join(dir, name)
		ref, err := refAt(path)
		if err != nil || slices.ContainsFunc(found, func(t *Target) bool { return t.Namespace.Ref == ref }) {
			continue
		}
		found = append(found, &Target{What: Namespace, Text: name, Namespace: at(ref, path, inv), Name: name, inv: inv})
	}
	return found
}

// units finds the processes of a unit. A user names the units of his service manager: one of the
// host's manager goes first.
func (r *Resolver) units(name string, inv *inventory.Inventory) []*Target {
	host := &Target{What: Unit, Text: name, ID: name, inv: inv}
	users := map[string]*Target{}
	var ids []string
	for _, p := range inv.Processes() {
		o := attribution.ParseCgroup(p.Cgroup)
		switch {
		case o.Unit == name || inSlice(p.Cgroup, name):
			host.Processes = append(host.Processes, p)
		case o.UserUnit == name && o.UserID != "":
			if users[o.UserID] == nil {
				users[o.UserID] = &Target{What: Unit, Text: name, ID: name + " of user " + o.UserID, inv: inv}
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
// names at the beginning of a path; whoever owns a cgroup below can choose any name.
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
		id := p.In(typ)
		if id == 0 || slices.ContainsFunc(in, func(c inNamespace) bool { return c.ref.ID == id }) {
			continue
		}
		in = append(in, inNamespace{inventory.Ref{Type: typ, ID: id}, p})
	}
	switch len(in) {
	case 0:
		return nil, fmt.Errorf("%q: %w: the %s namespace of its processes cannot be read", t.Text, ErrNoNamespace, typ)
	case 1:
		if n := t.inv.Find(in[0].ref); n != nil {
			return n, nil
		}
		return nil, fmt.Errorf("%q: %w: the inventory has no %s namespaces", t.Text, ErrNoNamespace, typ)
	}
	return nil, ambiguous(t.Text, "its processes are in several "+string(typ)+" namespaces: ", in)
}

type inNamespace struct {
	ref inventory.Ref
	p   *inventory.Process
}

func (c inNamespace) String() string {
	return fmt.Sprintf("%s:[%d] (pid %d, %q)", c.ref.Type, c.ref.ID, c.p.PID, c.p.Comm)
}

// String describes the target in a message.
func (t *Target) String() string {
	switch {
	case t.Namespace != nil && t.Name != "":
		return fmt.Sprintf("the %s namespace %d with the name %q", t.Namespace.Type, t.Namespace.ID, t.Name)
	case t.Namespace != nil:
		return fmt.Sprintf("the %s namespace %d", t.Namespace.Type, t.Namespace.ID)
	case t.What == Process && len(t.Processes) > 0:
		return fmt.Sprintf("the process %d (%q)", t.Processes[0].PID, t.Processes[0].Comm)
	}
	return fmt.Sprintf("the %s %q", t.What, t.ID)
}
