// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/procfs"
)

// maxProcFile bounds what is read of a file of /proc that is about one process.
const maxProcFile = 64 << 10

// scan returns all processes with their cgroups, by PID.
func scan() (all []*inventory.Process) {
	pids, _ := procfs.PIDs() // without /proc there is none
	for _, pid := range pids {
		if text := read("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/cgroup"); text != nil {
			all = append(all, &inventory.Process{PID: pid, Cgroup: attribution.ParseProcCgroup(string(text))})
		}
	}
	slices.SortFunc(all, func(a, b *inventory.Process) int { return cmp.Compare(a.PID, b.PID) })
	return all
}

// read returns the beginning of a file, nil if it cannot be read.
func read(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxProcFile))
	if err != nil {
		return nil
	}
	return text
}

// comm returns the command name of a process.
func comm(p *inventory.Process) string {
	if p.Comm != "" {
		return p.Comm
	}
	return string(bytes.TrimSuffix(read("/proc/"+strconv.FormatUint(uint64(p.PID), 10)+"/comm"), []byte("\n")))
}
