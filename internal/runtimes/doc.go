// SPDX-License-Identifier: Apache-2.0

// Package runtimes queries container runtimes for what only they know, such as the name of a
// container: Docker and Podman by the API of Docker, containerd and CRI-O by CRI.
//
// A Stage adds the answers to events. It is the first step behind a tracer.
package runtimes
