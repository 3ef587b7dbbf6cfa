// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"

	"github.com/nstrace/nstrace/internal/runtimes/runtimetest"
)

func TestPodman(t *testing.T) {
	dir := runtimetest.Dir(t)
	d := runtimetest.Podman(t, dir)
	e := &engine{
		command: d.CLI, runtime: "podman", spec: "podman:" + d.Socket, made: known{}, dir: dir, network: "none",
		slow: true, // podman run locks the container until it has started, and Podman polls for events every 250 ms
	}
	e.do(t, "load", "--input", runtimetest.ImageTar(t, dir))
	e.testAll(t)
}
