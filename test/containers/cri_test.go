// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

// TestCRI makes containerd run a pod as the kubelet does: with a cgroup below kubepods, a network
// by CNI plugins, a parameter set for the pod, and a container in it.
func TestCRI(t *testing.T) {
	if !runtimetest.IsGuest() {
		t.Skip("CNI plugins change the host: go test ./test/vm -run TestContainers")
	}
	runtimetest.Need(t, "nsenter", "sysctl")
	const uid = "8fbb1b12-7d3c-4fd0-a6a7-9c1b0c3f2f10"
	c := runtimetest.StartContainerd(t, runtimetest.Dir(t))
	s := trace(t, "--runtime-socket", "cri:"+c.Socket)
	pod := c.Pod("web-0", "shop", uid, &cri.LinuxPodSandboxConfig{
		CgroupParent:    "/kubepods/besteffort/pod" + uid,
		Sysctls:         map[string]string{parameter: "651"},
		SecurityContext: &cri.LinuxSandboxSecurityContext{Privileged: true},
	})
	sandbox := c.RunPod(t, pod)
	id := c.CreateContainer(t, pod, sandbox, "nginx", &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{Privileged: true}},
		"sh", "-c", "echo 652 >/proc/sys/net/ipv4/tcp_keepalive_time; exec sleep 300")
	c.StartContainer(t, id)
	made := known{sandbox: {""}, id: {"nginx"}}
	pid, netns := sandboxOf(t, c, sandbox)
	// The runtime reports the names a moment later.
	runtimetest.Eventually(t, "the pod's name is known", func() bool {
		runtimetest.Output(t, "nsenter", "--target", pid, "--net", "sysctl", "-q", "-w", parameter+"=653")
		text, err := os.ReadFile(s.file)
		return err == nil && strings.Contains(string(text), `"name":"web-0"`)
	})
	net := ns(t, pid, "net")
	events := s.end()

	for _, e := range events {
		for _, who := range []struct {
			container *event.Container
			pod       *event.Pod
		}{{e.Container, e.Pod}, {owner(e), ownerPod(e)}} {
			if c := who.container; c != nil {
				if made[c.ID] == nil || (c.Source == event.FromRuntime) != (c.Image != "") || c.Image != "" && c.Name != made[c.ID][0] {
					t.Errorf("an unknown container: %s", line(e))
				}
				if who.pod == nil {
					t.Errorf("a container without its pod: %s", line(e))
				}
			}
			if p := who.pod; p != nil && (p.UID != uid || p.Name != "" && (p.Name != "web-0" || p.Namespace != "shop")) {
				t.Errorf("an unknown pod: %s", line(e))
			}
		}
	}
	for value, want := range map[string]struct {
		container string
		role      string
	}{"651": {sandbox, attribution.RoleRuntime}, "652": {id, ""}, "653": {"", ""}} {
		wrote := pick(about(events, event.SysctlWrite, net), func(e *event.Event) bool { return *e.Sysctl.New == value })
		if len(wrote) == 0 {
			t.Fatalf("no event has a write of %s", value)
		}
		e := wrote[len(wrote)-1]
		switch {
		case want.container == "" && e.Container != nil, want.container != "" && (e.Container == nil || e.Container.ID != want.container), e.Process.Role != want.role:
			t.Errorf("want a write by container %q in the role %q: %s", want.container, want.role, line(e))
		case ownerPod(e) == nil || ownerPod(e).UID != uid || owner(e) != nil && owner(e).ID != sandbox:
			t.Errorf("want a write to the pod's network: %s", line(e))
		case e.Sysctl.Namespace.Name != filepath.Base(netns):
			t.Errorf("want a namespace with the name of %s: %s", netns, line(e))
		}
		if value == "653" && (ownerPod(e).Name != "web-0" || ownerPod(e).Namespace != "shop") {
			t.Errorf("the pod has no name: %s", line(e))
		}
	}
	plugins := pick(about(events, event.NamespaceEnter, net), func(e *event.Event) bool { return e.Process.Role == attribution.RoleCNI })
	if len(plugins) == 0 {
		t.Error("no plugin entered the pod's network")
	}
	for _, e := range plugins {
		if e.Container != nil || e.Pod != nil {
			t.Errorf("a plugin is in no container: %s", line(e))
		}
	}
}

// sandboxOf returns the process of a pod's sandbox and the file of its network namespace, as
// containerd reports them.
func sandboxOf(t *testing.T, c *runtimetest.Containerd, sandbox string) (pid, netns string) {
	t.Helper()
	status, err := c.CRI.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		PID  int `json:"pid"`
		Spec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string } `json:"namespaces"`
			} `json:"linux"`
		} `json:"runtimeSpec"`
	}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		t.Fatalf("%v: %v", err, status.Info)
	}
	for _, ns := range info.Spec.Linux.Namespaces {
		if ns.Type == "network" {
			netns = ns.Path
		}
	}
	if info.PID == 0 || netns == "" {
		t.Fatalf("no process or no network: %v", status.Info)
	}
	return strconv.Itoa(info.PID), netns
}
