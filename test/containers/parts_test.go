// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// hostile is a name that would break out of a table, a picture or a line, if it were printed as it is.
const hostile = "\x1b[31m\r\n\"><script>&'`\\n|%s\u00a0\u202ex--"

// A part is a workload on the host, as its own program describes it.
type part struct {
	what  string // for messages
	pid   string // of one of its processes
	show  string // what names it for nstrace show
	netns string // the name of its network namespace
	owner owned  // of the namespaces that only it is in
}

// An owned is the owner of a namespace, as far as it is known.
type owned struct{ container, name, image, runtime, pod, podNamespace, podUID, unit string }

// ownedBy returns the owner that nstrace reports.
func ownedBy(o *event.Owner) (by owned) {
	if o == nil {
		return by
	}
	by.unit = o.Unit
	if c := o.Container; c != nil {
		by.container, by.name, by.image, by.runtime = c.ID, c.Name, c.Image, c.Runtime
	}
	if p := o.Pod; p != nil {
		by.pod, by.podNamespace, by.podUID = p.Name, p.Namespace, p.UID
	}
	return by
}

// common returns the owner of a namespace that several parts are in: only a pod can be.
func common(parts []*part) owned {
	all := parts[0].owner
	for _, p := range parts[1:] {
		if p.owner.podUID != all.podUID || p.owner.podUID == "" {
			return owned{}
		}
		all = owned{pod: all.pod, podNamespace: all.podNamespace, podUID: all.podUID}
	}
	return all
}

// A partsHost is a host with many parts.
type partsHost struct {
	t     *testing.T
	dir   string
	image string // the file
	parts []*part
	nets  map[string]string // addresses that must be there, by process and device

	rename  []func()            // give processes hostile names
	pods    map[string]string   // what names a pod for nstrace show, by a process
	devices map[string][]string // those of hostile names, which ip does not write as valid JSON, by process
}

func (h *partsHost) add(p *part) *part {
	h.parts = append(h.parts, p)
	return p
}

// TestSystemdParts runs what makes namespaces on a host at the same time: Docker, Podman with a pod and
// as a user, containerd with a pod of Kubernetes, units, systemd-nspawn and ip netns. It compares what
// nstrace says of each with what their own programs and /proc say. Names that others choose stay names.
func TestSystemdParts(t *testing.T) {
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("starts many engines: make test-all")
	}
	onSystemd(t)
	runtimetest.Need(t, "docker", "podman", "containerd", "crun", "systemd-nspawn", "machinectl", "ip", "lsns")
	t.Setenv("TMPDIR", "/run") // on one file system with the sockets that nstrace looks for
	dir := runtimetest.Dir(t)
	h := &partsHost{t: t, dir: dir, image: runtimetest.ImageTar(t, dir), nets: map[string]string{}, devices: map[string][]string{}, pods: map[string]string{}}
	h.docker(h.containerd())
	h.podman()
	h.rootless()
	h.units()
	h.nspawn()
	h.ipNetns()

	for _, run := range []struct {
		name string
		test func(*testing.T, report)
	}{{"List", h.testList}, {"Show", h.testShow}, {"Graph", h.testGraph}, {"Text", h.testText}} {
		t.Run(run.name, func(t *testing.T) {
			// Processes come and go.
			for range 3 {
				var wrong []string
				run.test(t, func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) })
				if len(wrong) == 0 {
					return
				}
				t.Logf("wrong: %s", strings.Join(wrong, "\n"))
			}
			t.Error("it stays wrong")
		})
		if run.name == "List" { // a command name with a line feed ends lsns
			for _, rename := range h.rename {
				rename()
			}
		}
	}
}

// A report notes what is wrong.
type report func(format string, args ...any)

// docker runs a container with a network behind a bridge, and one that joins its network. It shares
// containerd with the pod, as it does on most hosts.
func (h *partsHost) docker(containerd string) {
	t := h.t
	runtimetest.Output(t, "ip", "link", "add", "nst-br", "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "nst-br").Run() })
	runtimetest.Output(t, "ip", "address", "add", "10.88.7.1/24", "dev", "nst-br")
	dir := filepath.Join(h.dir, "docker")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := runtimetest.Docker(t, dir, "--exec-root", "/run/docker", "--bridge", "nst-br", "--host", "unix:///run/docker.sock", "--containerd", containerd)
	d.Output(t, "load", "--input", h.image)
	run := func(name string, args ...string) *part {
		// Everybody who may run a container chooses its labels.
		args = append([]string{"run", "--detach", "--name", name, "--label", "note=" + hostile, "--security-opt", "apparmor=unconfined"}, args...)
		id := d.Output(t, append(args, runtimetest.Image, "sleep", "100000")...)
		t.Cleanup(func() { _ = exec.Command(d.CLI[0], d.Args("rm", "--force", id)...).Run() })
		p := h.add(&part{
			what: "docker " + name, pid: d.Output(t, "inspect", "--format", "{{.State.Pid}}", id), show: name,
			owner: owned{container: id, name: name, image: runtimetest.Image, runtime: "docker", unit: "docker-" + id + ".scope"},
		})
		if key := d.Output(t, "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", id); key != "" {
			p.netns = filepath.Base(key)
		}
		return p
	}
	web := run("nst.web_1")
	h.nets[web.pid+" eth0"] = d.Output(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.IPPrefixLen}}", "nst.web_1")
	peer := run("nst-peer", "--network", "container:nst.web_1")
	peer.netns = web.netns
}

// podman runs a pod with two containers.
func (h *partsHost) podman() {
	t := h.t
	podman := func(args ...string) string {
		t.Helper()
		return runtimetest.Output(t, "podman", append([]string{"--storage-driver", "vfs", "--events-backend", "file"}, args...)...)
	}
	podman("load", "--input", h.image)
	// In an emulated guest, the services of Podman take longer to start than nstrace waits. They stay.
	const conf = "/etc/containers/containers.conf.d/nst.conf"
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("[engine]\nservice_timeout = 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(conf) })
	runtimetest.Output(t, "systemctl", "start", "podman.socket")
	runtimetest.Output(t, "podman", "--remote", "--url", "unix:///run/podman/podman.sock", "version")
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", "podman.socket", "podman.service").Run() })
	pod := podman("pod", "create", "--name", "nst-pod", "--network", "none", "--infra-image", runtimetest.Image, "--infra-command", "sleep 100000")
	t.Cleanup(func() { _ = exec.Command("podman", "--storage-driver", "vfs", "pod", "rm", "--force", pod).Run() })
	ids := map[string]string{}
	for _, name := range []string{"nst-front", "nst-back"} {
		ids[name] = podman("run", "--detach", "--pod", "nst-pod", "--name", name, "--label", "note="+hostile, "--security-opt", "apparmor=unconfined", runtimetest.Image, "sleep", "100000")
	}
	ids["infra"] = podman("pod", "inspect", "--format", "{{.InfraContainerID}}", "nst-pod")
	for name, id := range ids {
		if name == "infra" {
			name = podman("inspect", "--format", "{{.Name}}", id)
		}
		p := h.add(&part{
			what: "podman " + name, pid: podman("inspect", "--format", "{{.State.Pid}}", id), show: name,
			owner: owned{container: id, name: name, image: runtimetest.Image, runtime: "podman", pod: "nst-pod", podUID: pod, unit: "libpod-" + id + ".scope"},
		})
		h.pods[p.pid] = "nst-pod"
	}
}

// rootless runs a container of a user.
func (h *partsHost) rootless() {
	t := h.t
	e := userPodman(t)
	id := e.keep(t, "nst-user", "--network", "none")
	h.add(&part{
		what: "podman of a user", pid: e.pid(t, "nst-user"), show: "nst-user",
		owner: owned{container: id, name: "nst-user", image: runtimetest.Image, runtime: "podman", unit: fmt.Sprintf("user@%d.service", testerUID)},
	})
}

// containerd runs a pod as the kubelet does, whose names are hostile: containerd takes any. It returns
// containerd's socket.
func (h *partsHost) containerd() string {
	t := h.t
	const uid = "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f11"
	dir := filepath.Join(h.dir, "containerd")
	for _, d := range []string{dir, "/run/containerd"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := runtimetest.StartContainerd(t, dir)
	const usual = "/run/containerd/containerd.sock"
	_ = os.Remove(usual)
	if err := os.Link(c.Socket, usual); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(usual) })
	pod := c.Pod("web"+hostile, "shop", uid, &cri.LinuxPodSandboxConfig{CgroupParent: "/kubepods/besteffort/pod" + uid})
	sandbox := c.RunPod(t, pod)
	id := c.CreateContainer(t, pod, sandbox, "nginx"+hostile, nil, "sleep", "100000")
	c.StartContainer(t, id)
	pid, netns := sandboxOf(t, c, sandbox)
	h.add(&part{
		what: "the sandbox of a pod", pid: pid, show: sandbox, netns: filepath.Base(netns),
		owner: owned{container: sandbox, image: runtimetest.Image, runtime: "containerd", pod: "web" + hostile, podNamespace: "shop", podUID: uid},
	})
	status, err := c.CRI.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	said := status.Status.Image
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	h.add(&part{
		what: "a container of a pod", pid: strconv.Itoa(info.PID), show: id, netns: filepath.Base(netns),
		owner: owned{container: id, name: "nginx" + hostile, image: cmp.Or(said.UserSpecifiedImage, said.Image), runtime: "containerd", pod: "web" + hostile, podNamespace: "shop", podUID: uid},
	})
	h.pods[pid] = "shop/web" + hostile
	// One that the kubelet does not know.
	c.Output(t, "run", "--detach", "--snapshotter", "native", runtimetest.Image, "nst-ctr", "sleep", "100000")
	t.Cleanup(func() {
		_ = exec.Command(c.CLI[0], c.Args("task", "rm", "--force", "nst-ctr")...).Run()
		_ = exec.Command(c.CLI[0], c.Args("container", "rm", "nst-ctr")...).Run()
	})
	tasks := c.Output(t, "task", "ls")
	for l := range strings.Lines(tasks) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "nst-ctr" {
			h.add(&part{what: "ctr run", pid: f[1], show: "nst-ctr", owner: owned{container: "nst-ctr", runtime: "containerd"}})
			return c.Socket
		}
	}
	t.Fatalf("ctr has no task: %s", tasks)
	return ""
}

// units runs services with namespaces of their own.
func (h *partsHost) units() {
	t := h.t
	start := func(unit string, args ...string) {
		args = append([]string{"--quiet", "--unit", unit, "-p", "Type=exec", "-p", "PrivateNetwork=yes"}, args...)
		runtimetest.Output(t, "systemd-run", append(args, "sleep", "100000")...)
		t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
		h.add(&part{what: unit, pid: runtimetest.Output(t, "systemctl", "show", "--property=MainPID", "--value", "--", unit), show: unit, owner: owned{unit: unit}})
	}
	start(`nst-\x3cscript\x3e\x22--x.service`, "-p", "PrivateUsers=yes", "-p", "ProtectHostname=yes", "-p", "Description="+strings.ReplaceAll(hostile, "\n", ""))
	start("nst-parts.service")
	start("nst-joins.service", "-p", "JoinsNamespaceOf=nst-parts.service")
}

// nspawn runs a container of systemd-nspawn with a network of its own.
func (h *partsHost) nspawn() {
	t := h.t
	m := startMachine(t, "nst-box", "--network-veth", "echo >/ready; exec sleep 100000")
	h.add(&part{what: "systemd-nspawn", pid: m.leader, show: "nst-box", owner: owned{container: "nst-box", runtime: "systemd-nspawn", unit: m.unit}})
}

// ipNetns makes network namespaces with names that anybody could misread.
func (h *partsHost) ipNetns() {
	t := h.t
	for i, name := range []string{"nst-blue", hostile, "--help", "a b\u00a0c\rd"} {
		ip := func(args ...string) { runtimetest.Output(t, "ip", args...) }
		runtimetest.Output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		path := "/run/netns/" + name
		dev := []string{"nst0", "\x1b[2J\"><b>\\", "--x", "`&|'\u202e#;x"}[i]
		ip("-n", name, "link", "add", "nst1", "type", "veth", "peer", "name", "nst2")
		ip("-n", name, "link", "set", "dev", "nst1", "name", dev)
		ip("-n", name, "link", "set", "dev", dev, "alias", hostile)
		cmd := exec.Command("nsenter", "--net="+path, "sh", "-c", `echo; read x; printf '\033]0;<b>\n"x' >/proc/self/comm; echo; read x; exit 0`)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
		says := func() {
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		says()
		h.rename = append(h.rename, func() {
			if _, err := io.WriteString(in, "\n"); err != nil {
				t.Fatal(err)
			}
			says()
		})
		pid := strconv.Itoa(cmd.Process.Pid)
		h.add(&part{what: fmt.Sprintf("ip netns %q", name), pid: pid, show: name, netns: name, owner: owned{unit: unitOfProcess(t, pid)}})
		h.devices[pid] = []string{dev, "lo", "nst2"}
	}
}

// unitOfProcess returns the unit of a process that is in no container.
func unitOfProcess(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSpace(string(text)), "/") {
		if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") {
			return name
		}
	}
	return ""
}

// A listedNS is a line of nstrace list -o json, in part.
type listedNS struct {
	Namespace event.Namespace `json:"namespace"`
	Processes int             `json:"processes"`
	Oldest    *struct {
		PID int `json:"pid"`
	} `json:"oldest"`
}

// patient has nstrace wait for the answers of engines, which need seconds in an emulated guest.
const patient = "--runtime-wait=1m"

// list runs nstrace list and returns the namespaces by type and number.
func (h *partsHost) list(t *testing.T, args ...string) map[string]listedNS {
	t.Helper()
	all := map[string]listedNS{}
	for l := range strings.Lines(runtimetest.Output(t, nstraceBin, append([]string{"list", "-o", "json", patient}, args...)...)) {
		var n listedNS
		if err := json.Unmarshal([]byte(l), &n); err != nil {
			t.Fatalf("%v in %s", err, l)
		}
		all[fmt.Sprint(n.Namespace.Type, " ", n.Namespace.ID)] = n
	}
	return all
}

// lsns returns the number of processes, and one of them, of each namespace.
func lsns(t *testing.T) map[string][2]int {
	t.Helper()
	var out struct {
		Namespaces []struct {
			NS     uint32 `json:"ns"`
			Type   string `json:"type"`
			NProcs int    `json:"nprocs"`
			PID    int    `json:"pid"`
		} `json:"namespaces"`
	}
	text := runtimetest.Output(t, "lsns", "--json", "--output", "NS,TYPE,NPROCS,PID")
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string][2]int{}
	for _, n := range out.Namespaces {
		all[fmt.Sprint(n.Type, " ", n.NS)] = [2]int{n.NProcs, n.PID}
	}
	return all
}

// namespaces calls do with each namespace of a part that is not the host's.
func (h *partsHost) namespaces(p *part, do func(typ event.NSType, id uint32)) {
	h.t.Helper()
	for _, typ := range event.NSTypes() {
		if id := ns(h.t, p.pid, string(typ)); id != ns(h.t, "1", string(typ)) {
			do(typ, id)
		}
	}
}

// testList compares the owners and processes of all namespaces of all parts.
func (h *partsHost) testList(t *testing.T, wrong report) {
	for _, source := range []string{"bpf", "proc"} {
		before := lsns(t)
		all := h.list(t, "--source", source)
		after := lsns(t)
		seen := map[string]bool{}
		for _, p := range h.parts {
			h.namespaces(p, func(typ event.NSType, id uint32) {
				key := fmt.Sprint(typ, " ", id)
				n, ok := all[key]
				if !ok {
					wrong("%s: %s: no %s", source, p.what, key)
					return
				}
				if want := before[key]; !seen[key] && want == after[key] && (n.Processes != want[0] || n.Oldest == nil || n.Oldest.PID != want[1]) {
					wrong("%s: %s: %s has %d processes, the oldest is %+v, lsns has %v", source, p.what, key, n.Processes, n.Oldest, want)
				}
				seen[key] = true
				h.checkOwner(wrong, source, p, &n.Namespace)
			})
		}
	}
}

// sharers returns the parts that are in a namespace.
func (h *partsHost) sharers(typ event.NSType, id uint32) (all []*part) {
	for _, p := range h.parts {
		if ns(h.t, p.pid, string(typ)) == id {
			all = append(all, p)
		}
	}
	return all
}

// checkOwner compares the owner of a namespace with the parts that are in it.
func (h *partsHost) checkOwner(wrong report, where string, p *part, n *event.Namespace) {
	if got, want := ownedBy(n.Owner), common(h.sharers(n.Type, n.ID)); got != want {
		wrong("%s: %s: the owner of %s %d:\n got %q\nwant %q", where, p.what, n.Type, n.ID, got, want)
	}
	if n.Type == event.NSTypeNet && p.netns != "" && n.Name != p.netns {
		wrong("%s: %s: the network namespace has the name %q, want %q", where, p.what, n.Name, p.netns)
	}
}

// testShow shows each part by its name.
func (h *partsHost) testShow(t *testing.T, wrong report) {
	for pid, name := range h.pods {
		out, err := runtimetest.Try(nstraceBin, "show", "-o", "json", patient, "--events", "0", "--", name)
		if want := fmt.Sprintf(`"type":"net","id":%d,`, ns(t, pid, "net")); err != nil || !strings.Contains(out, want) {
			wrong("show %q: %v, or no %s: %s", name, err, want, out)
		}
	}
	for _, p := range h.parts {
		var page struct {
			Namespaces []listedNS `json:"namespaces"`
		}
		out, err := runtimetest.Try(nstraceBin, "show", "-o", "json", patient, "--events", "0", "--", p.show)
		if err != nil {
			wrong("%s: %v", p.what, err)
			continue
		}
		if err := json.Unmarshal([]byte(out), &page); err != nil {
			wrong("%s: %v in %s", p.what, err, out)
			continue
		}
		got := map[event.NSType]*event.Namespace{}
		for i := range page.Namespaces {
			n := &page.Namespaces[i].Namespace
			got[n.Type] = n
		}
		types := event.NSTypes()
		if strings.HasPrefix(p.what, "ip netns") {
			types = []event.NSType{event.NSTypeNet}
		}
		if len(got) != len(types) || len(page.Namespaces) != len(types) {
			wrong("%s: %d namespaces, want %d: %s", p.what, len(page.Namespaces), len(types), out)
		}
		for _, typ := range types {
			id, host := ns(t, p.pid, string(typ)), ns(t, "1", string(typ))
			switch n := got[typ]; {
			case n == nil || n.ID != id || n.Host != (id == host):
				wrong("%s: the %s namespace is %+v, want %d", p.what, typ, n, id)
			case !n.Host:
				h.checkOwner(wrong, "show", p, n)
			}
		}
	}
}

// testGraph compares the devices of the parts, and what they are connected to.
func (h *partsHost) testGraph(t *testing.T, wrong report) {
	var g struct {
		Namespaces []struct {
			ID      uint32
			Name    string
			UID     string
			Host    bool
			Owner   *event.Owner
			Devices []struct {
				Ifindex   int
				Name      string
				Alias     string
				Addresses []string
			}
		}
		Links []struct {
			Kind     string
			From, To struct {
				Namespace uint32
				Ifindex   int
			}
		}
	}
	text := runtimetest.Output(t, nstraceBin, "graph", patient, "--format", "json")
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	host := ns(t, "1", "net")
	done := map[uint32]bool{}
	for _, p := range h.parts {
		id := ns(t, p.pid, "net")
		if id == host || done[id] {
			continue
		}
		done[id] = true
		i := slices.IndexFunc(g.Namespaces, func(n struct {
			ID      uint32
			Name    string
			UID     string
			Host    bool
			Owner   *event.Owner
			Devices []struct {
				Ifindex   int
				Name      string
				Alias     string
				Addresses []string
			}
		}) bool {
			return n.ID == id
		})
		if i < 0 {
			wrong("%s: the graph lacks %d", p.what, id)
			continue
		}
		n := g.Namespaces[i]
		h.checkOwner(wrong, "graph", p, &event.Namespace{Type: event.NSTypeNet, ID: id, Name: n.Name, Owner: n.Owner})
		if want := h.devices[p.pid]; want != nil {
			var names []string
			for _, d := range n.Devices {
				names = append(names, d.Name)
				if d.Name == want[0] && d.Alias != hostile {
					wrong("%s: the alias of %q is %q", p.what, d.Name, d.Alias)
				}
			}
			slices.Sort(names)
			if !slices.Equal(slices.Sorted(slices.Values(want)), names) {
				wrong("%s: the devices are %q, want %q", p.what, names, want)
			}
			continue
		}
		var devices []struct {
			Ifindex int
			Ifname  string
			Ifalias string
			Addr    []struct {
				Local     string
				Prefixlen int
			} `json:"addr_info"`
			Link     int  `json:"link_index"`
			LinkNSID *int `json:"link_netnsid"`
		}
		out := runtimetest.Output(t, "nsenter", "--target", p.pid, "--net", "ip", "-j", "address")
		if err := json.Unmarshal([]byte(out), &devices); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if len(devices) != len(n.Devices) {
			wrong("%s: %d devices, want those of %s", p.what, len(n.Devices), out)
			continue
		}
		for j, d := range devices {
			var addresses []string
			for _, a := range d.Addr {
				addresses = append(addresses, fmt.Sprintf("%s/%d", a.Local, a.Prefixlen))
			}
			if got := n.Devices[j]; got.Ifindex != d.Ifindex || got.Name != d.Ifname || !slices.Equal(got.Addresses, addresses) {
				wrong("%s: device %+v, want %+v", p.what, got, d)
			}
			if want := h.nets[p.pid+" "+d.Ifname]; want != "" && !slices.Contains(addresses, want) {
				wrong("%s: %s has %v, want %s", p.what, d.Ifname, addresses, want)
			}
			// The other end of a veth pair that leads to the host.
			if d.LinkNSID != nil {
				connected := slices.ContainsFunc(g.Links, func(l struct {
					Kind     string
					From, To struct {
						Namespace uint32
						Ifindex   int
					}
				}) bool {
					return l.Kind == "veth" && l.From.Namespace == host && l.From.Ifindex == d.Link && l.To.Namespace == id && l.To.Ifindex == d.Ifindex
				})
				if !connected {
					wrong("%s: %s is not connected to device %d of the host", p.what, d.Ifname, d.Link)
				}
			}
		}
	}
}

// testText reads everything that is made for people and programs: no name may do anything there.
func (h *partsHost) testText(t *testing.T, wrong report) {
	rows := len(h.list(t))
	for _, args := range [][]string{
		{"list", "--no-headings"},
		{"list", "-o", "wide", "--no-headings"},
		{"show", "--", hostile},
		{"show", "--", "--help"},
		{"graph", "--fold", "0", "--format", "svg"},
		{"graph", "--fold", "0", "--format", "dot"},
		{"graph", "--fold", "0", "--format", "mermaid"},
		{"graph", "--format", "json"},
	} {
		what := strings.Join(args, " ")
		out, err := runtimetest.Try(nstraceBin, append([]string{args[0], patient}, args[1:]...)...)
		if err != nil {
			wrong("%q: %v", what, err)
			continue
		}
		if slices.Contains(args, "dot") {
			out = strings.ReplaceAll(out, "\n\t", "\n") // it is indented by tabs
			out = strings.ReplaceAll(out, "\n\t", "\n")
		}
		if i := strings.IndexFunc(out, acts); i >= 0 {
			wrong("%q: %q at byte %d", what, out[max(0, i-80):min(len(out), i+80)], i)
		}
		if n := strings.Count(out, "\n") + 1; args[0] == "list" && (n < rows-20 || n > rows+20) {
			wrong("%q: %d lines for %d namespaces", what, n, rows)
		}
		if slices.Contains(args, "svg") {
			checkSVG(wrong, out)
		}
	}
}

// acts reports whether a character could do something to a terminal or to the text around it.
func acts(r rune) bool {
	return unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

// checkSVG parses a picture, which may have no program in it.
func checkSVG(wrong report, text string) {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			wrong("the picture: %v", err)
			return
		}
		if e, ok := token.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "b") {
			wrong("the picture has the element %s", e.Name.Local)
		}
	}
}
