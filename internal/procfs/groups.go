// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Groups returns the groups of a process, also the supplementary ones; nil if they are not known.
func Groups(pid uint32) (groups []uint32) {
	fd, err := unix.Open("/proc/"+strconv.FormatUint(uint64(pid), 10)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	text, err := readAtMost(FDReader(fd), statusLen)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		name, values, _ := strings.Cut(line, ":")
		if name != "Gid" && name != "Groups" {
			continue
		}
		for _, value := range strings.Fields(values) {
			if id, err := strconv.ParseUint(value, 10, 32); err == nil {
				groups = append(groups, uint32(id))
			}
		}
	}
	return groups
}

// statusLen is how much of /proc/PID/status Groups reads: what is before the groups, and some hundred of these.
const statusLen = 4096
