// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"net"
	"path/filepath"
	"testing"
)

func TestPodman(t *testing.T) {
	need(t, "podman", "conmon", "nsenter", "sysctl")
	dir := t.TempDir()
	socket := filepath.Join(dir, "podman.sock")
	e := &engine{
		command: []string{
			"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
			"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
		},
		runtime: "podman", spec: "podman:" + socket, made: known{}, dir: dir, network: "none", image: "localhost/" + testImage,
		slow: true,                                                                    // podman run has the container locked until it has started, and events come by a look each 250 ms
		more: []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, // the default takes a privilege that not every root has
	}
	e.do(t, "import", image(t), testImage)
	start(t, filepath.Join(dir, "log"), e.command[0], e.args("system", "service", "--time=0", "unix://"+socket)...)
	eventually(t, "podman listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	e.testAll(t)
}
