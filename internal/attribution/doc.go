// SPDX-License-Identifier: Apache-2.0

// Package attribution says who acted and whose a namespace is: container, pod,
// systemd unit, person.
//
// It judges by what the kernel said at the moment of the event, such as the path
// of a cgroup, which is there however short a process lived. What only user space
// knows, such as a container's name, is asked for afterwards and added. Where
// nothing is certain it says nothing: no container is better than a wrong one.
package attribution
