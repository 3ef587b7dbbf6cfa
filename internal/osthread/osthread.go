// SPDX-License-Identifier: Apache-2.0

// Package osthread is about the threads of the operating system on which goroutines run.
package osthread

import (
	"runtime"
	"sync"
)

// Reserve makes sure that the Go runtime has n threads beside those in use. The runtime ends the
// program if it needs another thread and the kernel has no process id left for it (a fork bomb, a
// limit of the cgroup), and it never ends a thread without cause. So a program that has reserved
// what it needs survives that.
func Reserve(n int) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	release := make(chan struct{})
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // so each goroutine has a thread of its own
			ready.Done()
			<-release
			runtime.UnlockOSThread()
		})
	}
	ready.Wait()
	close(release)
	done.Wait()
}
