// SPDX-License-Identifier: Apache-2.0

// Package runtimes asks container runtimes for what only they know, such as a
// container's name: Docker and Podman by Docker's API, containerd and CRI-O by CRI.
//
// A Stage stands between a tracer and what takes its events, and adds that to them.
package runtimes
