// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// startMemory is up to where the start collects no garbage: twice what it takes in all.
const startMemory = 128 << 20

// withoutGC has no garbage collected up to startMemory, until what it returns is called: the
// start makes tens of megabytes that are all needed until it is over.
func withoutGC() (restore func()) {
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(startMemory)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// giveBack lets go of the memory that only the start takes: the heap, of which loading uses
// ten times what running does, and the constants in the binary, the BPF objects among them.
// What is read again is mapped again, from the page cache. Failing at it is no harm.
// The same could be done with the code, but that would take uprobes away that
// somebody has on it.
func giveBack() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var mode string
		// Nothing is ever written to constants, so that no page of them differs from the file.
		if !strings.HasSuffix(lines.Text(), " "+exe) {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err == nil && mode == "r--p" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
