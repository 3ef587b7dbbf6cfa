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
		slow: true, // podman run has the container locked until it has started, and events come by a look each 250 ms
	}
	e.do(t, "load", "--input", runtimetest.ImageTar(t, dir))
	e.testAll(t)
}
