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

// startMemory is the heap size up to which the start runs without garbage collection. It is
// twice what the start needs.
const startMemory = 128 << 20

// withoutGC turns garbage collection off up to startMemory, until restore is called. The start
// allocates tens of megabytes that stay in use until its end, so collecting is wasted work.
func withoutGC() (restore func()) {
	percent, limit := debug.SetGCPercent(-1), debug.SetMemoryLimit(startMemory)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// giveBack returns memory that only the start needs to the kernel: free heap (loading needs ten
// times as much as running) and the pages of constants in the binary, which include the BPF
// objects. The kernel maps a page again from the page cache if it is read again, and a failure
// does no harm. The pages of code are kept: dropping them would remove uprobes.
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
		// Constants are never written, so no page of them differs from the file.
		if !strings.HasSuffix(lines.Text(), " "+exe) {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err == nil && mode == "r--p" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
