// SPDX-License-Identifier: Apache-2.0

// Package osmemory returns memory to the kernel.
package osmemory

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// GiveBack returns memory that only the start needs to the kernel: free heap (loading needs ten
// times as much as running) and the pages of code and constants in the binary, which include the BPF
// objects. The kernel maps a page again from the page cache if it is used again, and a failure
// does no harm.
func GiveBack() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	var from, to uintptr // of the constants that the lines are about
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		var start, end uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &start, &end, &mode); n == 3 {
			from, to = 0, 0
			if (mode == "r--p" || mode == "r-xp") && strings.HasSuffix(line, " "+exe) {
				from, to = start, end
			}
		}
		// Pages that differ from the file would be lost: the linker changed them at the start (RELRO), or
		// somebody has uprobes in the code.
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); ok && from != 0 && strings.TrimSpace(rest) == "0 kB" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}
