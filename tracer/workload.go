// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// A workload is the container, pod and systemd unit of the processes in one cgroup. Events
// share it: it never changes.
type workload struct {
	container *event.Container
	pod       *event.Pod
	unit      string
}

var noWorkload = &workload{}

// A workloadCache holds the workloads of recent cgroups, by path.
type workloadCache map[string]*workload

// maxWorkloads is far more than the cgroups of most hosts. Each takes some 500 bytes.
const maxWorkloads = 16384

// of returns the workload of the cgroup at a path.
func (c workloadCache) of(path string) *workload {
	if path == "" || path == "/" {
		return noWorkload
	}
	if w := c[path]; w != nil {
		return w
	}
	if len(c) >= maxWorkloads {
		clear(c)
	}
	owner := attribution.ParseCgroup(path)
	w := &workload{unit: owner.Unit}
	if owner.ContainerID != "" {
		w.container = &event.Container{ID: owner.ContainerID, Runtime: owner.Runtime, Source: event.FromCgroup, UserID: owner.UserID}
	}
	if owner.PodUID != "" {
		w.pod = &event.Pod{UID: owner.PodUID, Source: event.FromCgroup}
	}
	c[path] = w
	return w
}

// owner returns the workload as the owner of a namespace, nil for none.
func (w *workload) owner() *event.Owner {
	if w.container == nil && w.pod == nil && w.unit == "" {
		return nil
	}
	return &event.Owner{Container: w.container, Pod: w.pod, Unit: w.unit, Source: event.FromNamespace}
}

// contained reports whether the processes are in a container or a pod.
func (w *workload) contained() bool { return w.container != nil || w.pod != nil }

func (w *workload) containerID() string {
	if w.container == nil {
		return ""
	}
	return w.container.ID
}

func (w *workload) podUID() string {
	if w.pod == nil {
		return ""
	}
	return w.pod.UID
}
