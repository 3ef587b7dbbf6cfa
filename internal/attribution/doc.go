// SPDX-License-Identifier: Apache-2.0

// Package attribution finds the container, pod, systemd unit and user of a process or a namespace.
//
// It uses what the kernel reported at the time of the event, such as the path of a cgroup, which is
// known even if the process is gone. Package runtimes adds what only user space knows, such as the
// name of a container. What is not certain is left out: no container is better than a wrong one.
package attribution
