// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// mountPath undoes what mangle_path() in fs/seq_file.c does to a mount point.
var mountPath = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// A mountLine is a line of a mountinfo file, as far as it is of use here.
type Mountpoint struct {
	ID    uint32
	Root  string // what of the file system is mounted
	Point string // where
}

// eachMount calls f for each mount of a file system type in a mountinfo file. A file
// that can't be read has none.
func EachMount(mountinfo, fstype string, f func(Mountpoint)) {
	file, err := os.Open(mountinfo)
	if err != nil {
		return
	}
	defer file.Close()
	for sc := bufio.NewScanner(file); sc.Scan(); {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) >= 5 && strings.HasPrefix(after, fstype+" ") {
			id, _ := strconv.ParseUint(fields[0], 10, 32)
			f(Mountpoint{ID: uint32(id), Root: fields[3], Point: mountPath.Replace(fields[4])})
		}
	}
}
