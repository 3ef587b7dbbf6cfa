// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// Cgroups as runtimes name them.
var (
	idA = strings.Repeat("a", 64)
	idB = strings.Repeat("b", 64)

	hostShell = "/user.slice/user-1000.slice/session-2.scope"
	engine    = "/system.slice/podman.service"
	dockerA   = "/system.slice/docker-" + idA + ".scope"
	dockerB   = "/system.slice/docker-" + idB + ".scope"
	nspawn    = "/machine.slice/systemd-nspawn@web.service/payload"
	podA      = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-" + idA + ".scope"
	podB      = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-" + idB + ".scope"
	otherPod  = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod66666666_2222_3333_4444_555555555555.slice/cri-containerd-" + idB + ".scope"
)

// sameUnit is the cgroup of a container of a pod below containerd's own.
func sameUnit(pod, id string) string {
	return "/system.slice/containerd.service/kubepods-besteffort-pod" + pod + "_2222_3333_4444_555555555555.slice:cri-containerd:" + id
}

// ownerText returns an owner in short: "container aaa", "pod 111", "unit x", "nobody".
func ownerText(o *event.Owner) string {
	switch {
	case o == nil:
		return "nobody"
	case o.Container != nil:
		return "container " + o.Container.ID[:min(3, len(o.Container.ID))]
	case o.Pod != nil:
		return "pod " + o.Pod.UID[:3]
	}
	return "unit " + o.Unit
}

// TestOwner has a row for each row of the table in owner.go, and for what follows from
// several of them.
func TestOwner(t *testing.T) {
	type process struct{ exe, role, cgroup string }
	sh := func(cgroup string) process { return process{"/bin/sh", "", cgroup} }
	runc := func(cgroup string) process { return process{"/usr/bin/runc", attribution.RoleRuntime, cgroup} }
	for _, row := range []struct {
		name      string
		maker     *process // nil: unknown
		elsewhere bool     // its child went to another cgroup
		host      bool     // the host's own namespace
		seen      []process
		entered   []process
		residents []string // cgroups of the tasks that are in the namespace
		want      string
	}{
		{name: "the host's", host: true, residents: []string{hostShell}, want: "nobody"},
		{name: "a shell's", maker: &process{"/bin/sh", "", hostShell}, residents: []string{dockerA}, want: "unit session-2.scope"},
		{name: "made in a container", maker: &process{"/bin/sh", "", dockerA}, residents: []string{hostShell}, want: "container aaa"},
		{name: "runC in the container's cgroup", maker: &process{"/usr/bin/runc", attribution.RoleRuntime, dockerA}, want: "container aaa"},
		{name: "made in a pod", maker: &process{"/bin/sh", "", podA}, want: "container aaa"},

		{name: "an engine's, not used yet", maker: &process{"/usr/bin/podman", attribution.RoleEngine, engine}, want: "nobody"},
		{name: "an engine's, a runtime in a container enters", maker: &process{"/usr/bin/podman", attribution.RoleEngine, engine}, entered: []process{runc(dockerA)}, want: "container aaa"},
		{name: "an engine's, the first runtime counts", maker: &process{"/usr/bin/podman", attribution.RoleEngine, engine}, entered: []process{runc(dockerA), runc(dockerB)}, want: "container aaa"},
		{name: "an engine's, a runtime outside of containers enters", maker: &process{"/usr/bin/podman", attribution.RoleEngine, engine}, entered: []process{runc(engine)}, want: "nobody"},
		{name: "an engine's, a shell in a container enters", maker: &process{"/usr/bin/podman", attribution.RoleEngine, engine}, entered: []process{sh(dockerA)}, want: "nobody"},
		{name: "crun's, moved into the cgroup afterwards", maker: &process{"/usr/bin/crun", attribution.RoleRuntime, engine}, seen: []process{runc(dockerA)}, want: "container aaa"},
		{name: "a plugin's, tasks do not decide", maker: &process{"/opt/cni/bin/bridge", attribution.RoleCNI, engine}, residents: []string{hostShell}, want: "nobody"},

		{name: "nspawn's, its payload appears", maker: &process{"/usr/bin/systemd-nspawn", attribution.RoleRuntime, engine}, seen: []process{sh(nspawn)}, want: "container web"},
		{name: "nspawn's, another container's process appears", maker: &process{"/usr/bin/systemd-nspawn", attribution.RoleRuntime, engine}, seen: []process{sh(dockerA)}, want: "nobody"},
		{name: "nspawn's, its payload is in it", maker: &process{"/usr/bin/systemd-nspawn", attribution.RoleRuntime, engine}, residents: []string{hostShell, nspawn}, want: "container web"},

		{name: "a child elsewhere", maker: &process{"/usr/bin/launch", "", hostShell}, elsewhere: true, want: "nobody"},
		{name: "a child elsewhere, a container's process appears", maker: &process{"/usr/bin/launch", "", hostShell}, elsewhere: true, seen: []process{sh(dockerA)}, want: "nobody"},
		{name: "a child elsewhere, in a container", maker: &process{"/usr/bin/launch", "", hostShell}, elsewhere: true, residents: []string{dockerA}, want: "container aaa"},

		{name: "older, empty", want: "nobody"},
		{name: "older, a container", residents: []string{dockerA}, want: "container aaa"},
		{name: "older, a container and a shell", residents: []string{hostShell, dockerA, hostShell}, want: "container aaa"},
		{name: "older, two containers", residents: []string{dockerA, dockerB}, want: "nobody"},
		{name: "older, two containers of a pod", residents: []string{podA, podB}, want: "pod 111"},
		{name: "older, two pods", residents: []string{podA, otherPod}, want: "nobody"},
		{name: "older, two pods in one unit", residents: []string{sameUnit("11111111", idA), sameUnit("66666666", idB)}, want: "nobody"},
		{name: "older, one unit", residents: []string{hostShell, hostShell}, want: "unit session-2.scope"},
		{name: "older, two units", residents: []string{hostShell, engine}, want: "nobody"},
		{name: "older, a process of the root cgroup", residents: []string{"/"}, want: "nobody"},
	} {
		t.Run(row.name, func(t *testing.T) {
			const id = 4026532000
			host := &fakeHost{cgroups: map[uint32]string{}}
			in := offline(host, newCollect())
			if row.host {
				in.registry.host[event.NSTypeNet] = id
			}
			ns, _ := in.registry.add(event.NSTypeNet, id, 0, 0, 1)
			call := func(p process) *caller {
				c := &caller{process: &event.Process{Exe: p.exe}, claim: attribution.Claim{Role: p.role}, workload: in.workloads.Of(p.cgroup)}
				c.ns[bpf.NstraceNsKindNS_NET] = id
				return c
			}
			if row.maker != nil {
				ns.ownership.made(call(*row.maker), row.elsewhere)
			}
			for _, p := range row.seen {
				in.registry.claim(call(p))
			}
			for _, p := range row.entered {
				ns.ownership.entered(call(p))
			}
			var tasks []bpf.NstraceTaskNs
			for i, cgroup := range row.residents {
				task := bpf.NstraceTaskNs{Pid: uint32(i + 1), Cgroup: uint64(i + 1)}
				task.Ns[bpf.NstraceNsKindNS_NET] = bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: id}
				host.cgroups[task.Pid] = cgroup
				tasks = append(tasks, task)
			}
			in.resolveOwners(tasks)
			if got := ownerText(ns.ownership.owner); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// TestResolveOwnerWaits counts the walks through all tasks for a namespace that no task is in:
// each waits twice as long as the one before.
func TestResolveOwnerWaits(t *testing.T) {
	host := &fakeHost{}
	in := offline(host, newCollect())
	now := uint64(1 << 40)
	in.clock.now = func() uint64 { return now }
	ns, _ := in.registry.add(event.NSTypeNet, 7, 0, 0, now)
	resolve := func(after uint64, walks int) {
		t.Helper()
		now += after
		if err := in.resolveOwner(ns); err != nil {
			t.Fatal(err)
		}
		if host.walks != walks {
			t.Fatalf("%d walks, want %d", host.walks, walks)
		}
	}
	resolve(0, 1)
	resolve(resolveAfter-1, 1)
	resolve(1, 2)
	resolve(2*resolveAfter-1, 2)
	resolve(1, 3)
	for range 2 * resolveDoublings {
		now += resolveAfter << resolveDoublings
		resolve(0, host.walks+1)
	}
	host.inventory = []bpf.NstraceTaskNs{{Pid: 1, Cgroup: 1}}
	host.inventory[0].Ns[0] = bpf.NstraceNsChange{Kind: uint8(bpf.NstraceNsKindNS_NET), Inum: 7}
	resolve(resolveAfter<<resolveDoublings, host.walks+1)
	if ns.ownership.pending != ownerFinal {
		t.Errorf("still pending, though a task is in it: %+v", ns.ownership)
	}
	resolve(1<<40, host.walks)
}
