// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// mountPath undoes what mangle_path() in fs/seq_file.c does to a mount point.
var mountPath = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// maxMountLine is the maximum length of a line of a mountinfo file: two paths of four bytes for each
// escaped one, and the options.
const maxMountLine = 64 << 10

// A Mountpoint is a line of a mountinfo file, in part.
type Mountpoint struct {
	ID    uint32
	Root  string // the directory of the file system that is mounted
	Point string // where it is mounted
}

// EachMount calls f for each mount of a file system type in a mountinfo file. It does nothing
// if the file cannot be read.
func EachMount(mountinfo, fstype string, f func(Mountpoint)) {
	file, err := os.Open(mountinfo)
	if err != nil {
		return
	}
	defer file.Close()
	eachMount(file, fstype, f)
}

// eachMount is EachMount for an open file. It leaves out lines that are longer than maxMountLine.
func eachMount(mountinfo io.Reader, fstype string, f func(Mountpoint)) {
	marker := []byte(" - " + fstype + " ")
	r := bufio.NewReaderSize(mountinfo, maxMountLine)
	for long := false; ; {
		line, err := r.ReadSlice('\n')
		whole := !long && !errors.Is(err, bufio.ErrBufferFull)
		long = errors.Is(err, bufio.ErrBufferFull)
		// Most lines are about other file systems.
		if whole && bytes.Contains(line, marker) {
			before, after, _ := strings.Cut(string(line), " - ")
			// Nothing but a space separates: the kernel escapes spaces, tabs and line feeds in
			// paths, but no other white space.
			fields := strings.Split(before, " ")
			if len(fields) >= 5 && strings.HasPrefix(after, fstype+" ") {
				id, _ := strconv.ParseUint(fields[0], 10, 32)
				f(Mountpoint{ID: uint32(id), Root: fields[3], Point: mountPath.Replace(fields[4])})
			}
		}
		if err != nil && !long {
			return
		}
	}
}
