// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// A place is whose the processes of one cgroup are. Events share it, and it is
// never changed.
type place struct {
	container *event.Container
	pod       *event.Pod
	unit      string
}

var nowhere = &place{}

// places are those of the cgroups that were heard of last.
type places map[string]*place

// maxPlaces is far more than the cgroups of most hosts, each some 500 bytes.
const maxPlaces = 16384

// at returns whose the cgroup at path is.
func (p places) at(path string) *place {
	if path == "" || path == "/" {
		return nowhere
	}
	if known := p[path]; known != nil {
		return known
	}
	if len(p) >= maxPlaces {
		clear(p)
	}
	c := attribution.ParseCgroup(path)
	pl := &place{unit: c.Unit}
	if c.ContainerID != "" {
		pl.container = &event.Container{ID: c.ContainerID, Runtime: c.Runtime, Source: event.FromCgroup, UserID: c.UserID}
	}
	if c.PodUID != "" {
		pl.pod = &event.Pod{UID: c.PodUID, Source: event.FromCgroup}
	}
	p[path] = pl
	return pl
}

// owner makes those who live there the owners of a namespace; nil for nobody.
func (p *place) owner() *event.Owner {
	if p.container == nil && p.pod == nil && p.unit == "" {
		return nil
	}
	return &event.Owner{Container: p.container, Pod: p.pod, Unit: p.unit, Source: event.FromNamespace}
}

// contained says whether those who live there are in a container or pod.
func (p *place) contained() bool { return p.container != nil || p.pod != nil }

// makesForOthers says whether a process with this role makes namespaces that a
// container is then put into.
func makesForOthers(role string) bool {
	switch role {
	case attribution.RoleRuntime, attribution.RoleEngine, attribution.RoleShim, attribution.RoleCNI:
		return true
	}
	return false
}

// startInside has the programs whose container's first process is made together with
// its namespaces, and put into the container's cgroup only then, with the runtime that
// attribution.ParseCgroup finds there.
var startInside = map[string]string{
	"systemd-nspawn": "systemd-nspawn",
	"lxc-start":      "lxc",
	"lxc-execute":    "lxc",
	"lxd":            "lxc",
	"incusd":         "lxc",
}

// A namespace is its maker's, if that is in a container: runC has its first process in
// the container's cgroup before it makes the container's namespaces. One that an engine
// or a plugin makes beforehand (Podman, CNI), or a runtime whose process is moved into
// the cgroup afterwards (crun), is of the container in which a runtime's process is found
// to be in it first, and nobody's until then; one that comes with a container's first
// process that is no more its runtime (systemd-nspawn, LXC) of the container of that
// runtime that lives in it, once one does. One whose first process is made in another cgroup is of
// whoever is found to live in it. Any other is its maker's unit's.

// madeBy says whose a namespace is that p, which lives in w, has made: for itself, or for
// a child that it put elsewhere.
func (ns *liveNS) madeBy(p *event.Process, w *place, elsewhere bool) {
	ns.orphan, ns.runtime = false, ""
	switch {
	case elsewhere:
		ns.orphan = true
	case w.contained() || !makesForOthers(p.Role):
		ns.owner = w.owner()
	case startInside[path.Base(p.Exe)] != "":
		ns.orphan, ns.runtime = true, startInside[path.Base(p.Exe)]
	default:
		ns.adoptable = true
	}
}

// canBe says whether ns can be of those who live in w.
func (ns *liveNS) canBe(w *place) bool {
	return ns.runtime == "" || (w.container != nil && w.container.Runtime == ns.runtime)
}

// inhabit gives the namespaces that were made for c's container to that.
func (r *registry) inhabit(c *caller) {
	if !c.place.contained() {
		return
	}
	for kind, id := range c.ns {
		ns := r.live[id]
		if ns == nil || ns.typ != nsTypes[kind] {
			continue
		}
		if ns.adoptable && c.p.Role == attribution.RoleRuntime || ns.orphan && ns.runtime != "" && ns.canBe(c.place) {
			ns.owner, ns.adoptable, ns.orphan = c.place.owner(), false, false
		}
	}
}

// enteredBy says whose a namespace is that p, which lives in w, has entered.
func (ns *liveNS) enteredBy(p *event.Process, w *place) {
	if ns.adoptable && w.contained() && p.Role == attribution.RoleRuntime {
		ns.owner, ns.adoptable = w.owner(), false
	}
}

// A settlement finds owners, among those who live in them, for namespaces whose makers do
// not tell: those that were there before the tracer looked, and those of startInside.
type settlement struct {
	t      *Tracer
	cgroup map[uint64]*place // by kernfs id
	homes  map[*liveNS][]*place
}

// add takes note of a task.
func (s *settlement) add(inv *bpf.NstraceInventory) {
	var home *place
	for i := range inv.Ns {
		ns := s.t.reg.live[inv.Ns[i].Inum]
		if ns == nil || !ns.orphan {
			continue
		}
		if home == nil {
			home = s.home(inv)
		}
		if ns.canBe(home) && !slices.Contains(s.homes[ns], home) {
			s.homes[ns] = append(s.homes[ns], home)
		}
	}
}

// home is whose the task is. It is asked for once for each cgroup.
func (s *settlement) home(inv *bpf.NstraceInventory) *place {
	if p := s.cgroup[inv.Cgroup]; p != nil {
		return p
	}
	p := nowhere
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", inv.Pid)); err == nil {
		path := attribution.ParseProcCgroup(string(text))
		if s.t.mounts.isCgroup(path, inv.Cgroup) {
			p = s.t.places.at(path)
		}
	}
	s.cgroup[inv.Cgroup] = p
	return p
}

// done gives each namespace to those who live there, as far as they agree, and has
// those that nobody lives in wait.
func (s *settlement) done(now uint64) {
	for ns, homes := range s.homes {
		ns.orphan = false
		ns.owner = agreed(homes)
	}
	for _, ns := range s.t.reg.live {
		if ns.orphan {
			ns.again = now + settleAgain<<min(ns.tries, settleDoubled)
			ns.tries++
		}
	}
}

// agreed returns whose a namespace is in which these live: the one container's, whoever
// else came in; the pod's that several are of; the unit's, if nobody is in a
// container.
func agreed(homes []*place) *event.Owner {
	var in []*place
	for _, p := range homes {
		if p.contained() {
			in = append(in, p)
		}
	}
	if len(in) == 0 {
		in = homes
	}
	all := *in[0]
	for _, p := range in[1:] {
		if id(all.container) != id(p.container) {
			all.container = nil
		}
		if all.pod != nil && (p.pod == nil || p.pod.UID != all.pod.UID) {
			all.pod = nil
		}
		if p.unit != all.unit {
			all.unit = ""
		}
	}
	if len(in) > 1 && all.container == nil && all.pod == nil && in[0].contained() {
		return nil // each container's unit is only that one's
	}
	return all.owner()
}

func id(c *event.Container) string {
	if c == nil {
		return ""
	}
	return c.ID
}

// isCgroup says whether the cgroup at path has this kernfs id, which the kernel
// gave for the same process a moment before; true where that can't be found out.
func (m *mounts) isCgroup(path string, id uint64) bool {
	root, err := m.cgroup2()
	if err != nil {
		return true
	}
	var st unix.Stat_t
	if unix.Stat(root+path, &st) != nil || st.Ino != id {
		return v1Controller() != ""
	}
	return true
}

// v1Controllers are those by which containers are put into hierarchies of cgroup v1, the
// one that all runtimes use first.
var v1Controllers = []string{"pids", "memory", "cpu", "devices"}

// v1Controller returns the first of v1Controllers that has a hierarchy of v1, "" for none.
var v1Controller = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/cgroups") // #subsys_name hierarchy num_cgroups enabled
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 4 && f[1] != "0" {
			used[f[0]] = true
		}
	}
	for _, c := range v1Controllers {
		if used[c] {
			return c
		}
	}
	return ""
})

// v1Subsys is the place of v1Controller in the kernel's css_set.subsys, -1 for none.
func (k *kernel) v1Subsys() int32 {
	var ids *btf.Enum
	controller := v1Controller()
	if controller == "" || k.btf.TypeByName("cgroup_subsys_id", &ids) != nil {
		return -1
	}
	for _, v := range ids.Values {
		if v.Name == controller+"_cgrp_id" {
			return int32(v.Value)
		}
	}
	return -1
}
