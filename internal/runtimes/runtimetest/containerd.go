// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Containerd is containerd with its CRI plugin, which the kubelet uses.
type Containerd struct {
	*Daemon
	CRI cri.RuntimeServiceClient

	dir string
}

// cniDir is Debian's folder for network plugins.
const cniDir = "/usr/lib/cni"

// StartContainerd starts containerd and loads the image. The plugins in cniDir make the network of
// a pod.
func StartContainerd(t *testing.T, dir string) *Containerd {
	t.Helper()
	Need(t, "containerd", "ctr", "runc")
	socket := filepath.Join(dir, "containerd.sock")
	conf := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
address = "%[2]s"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "%[3]s"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "%[4]s"
conf_dir = "%[1]s"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
`, dir, socket, Image, cniDir), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-test.conflist"), fmt.Appendf(nil, `{"cniVersion": "0.4.0", "name": "test", "plugins": [
		{"type": "ptp", "ipam": {"type": "host-local", "dataDir": "%s/ipam", "subnet": "10.89.7.0/24"}}
	]}`, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Daemon: Start(t, dir, socket, "containerd", "--config", conf), dir: dir}
	c.CLI = []string{"ctr", "--address", socket, "--namespace", "k8s.io"}
	c.Output(t, "images", "import", "--snapshotter", "native", ImageTar(t, dir))
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.CRI = cri.NewRuntimeServiceClient(conn)
	return c
}

// Pod is what the kubelet says about a pod.
func (c *Containerd) Pod(name, namespace, uid string, linux *cri.LinuxPodSandboxConfig) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Labels:       podLabels(name, namespace, uid),
		LogDirectory: c.dir,
		Linux:        linux,
	}
}

func podLabels(name, namespace, uid string) map[string]string {
	return map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": uid}
}

// RunPod starts a pod, which ends with the test, and returns its sandbox's id.
func (c *Containerd) RunPod(t *testing.T, pod *cri.PodSandboxConfig) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	sandbox, err := c.CRI.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if _, err := c.CRI.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId}); err != nil {
			t.Error(err)
		}
		if _, err := c.CRI.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId}); err != nil {
			t.Error(err)
		}
	})
	return sandbox.PodSandboxId
}

// CreateContainer makes a container in a pod, and returns its id.
func (c *Containerd) CreateContainer(t *testing.T, pod *cri.PodSandboxConfig, sandbox, name string, linux *cri.LinuxContainerConfig, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	labels := podLabels(pod.Metadata.Name, pod.Metadata.Namespace, pod.Metadata.Uid)
	labels["io.kubernetes.container.name"] = name
	made, err := c.CRI.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sandbox, SandboxConfig: pod, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: Image, UserSpecifiedImage: "box:1.2"},
		Labels:   labels,
		Command:  command,
		Linux:    linux,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return made.ContainerId
}

// StartContainer starts a container that CreateContainer made.
func (c *Containerd) StartContainer(t *testing.T, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if _, err := c.CRI.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}
