// SPDX-License-Identifier: Apache-2.0

// Package resolver looks up what other users control in a process of its own: names of users, command
// lines, and what container runtimes say.
//
// Whoever answers such a question can send anything, and can let the one who asks wait for ever. A
// goroutine that waits in the kernel cannot be ended; a process can. So [Client], in the process that
// traces, starts this program again as a child (see [Main]), and asks it over a socket. The child has no
// capability. It can hang, crash or be killed at any time: then the answers are missing until the Client
// has started another one.
//
// What needs privilege stays with the Client, and the child gets a descriptor: of the file that has
// the names of users, of a command line, and of a connection to a container runtime.
package resolver
