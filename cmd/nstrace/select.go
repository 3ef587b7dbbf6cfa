// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/pipeline"
)

// newSelection reads --container and --netns.
func newSelection(containers, netns []string) (pipeline.Selection, error) {
	s := pipeline.Selection{Containers: containers}
	if slices.Contains(containers, "") {
		return s, usagef("--container takes a container's name or the beginning of its id")
	}
	for _, text := range netns {
		n, err := parseNet(text)
		if err != nil {
			return s, usagef("--netns: %w", err)
		}
		s.Nets = append(s.Nets, n)
	}
	return s, nil
}

// firstInode is the number of the first namespace, PROC_DYNAMIC_FIRST of fs/proc/generic.c;
// those of the host are a little below. No pid is that high.
const firstInode = 0xf0000000 - 64

// parseNet takes an inode number, a PID, a path, and a name, of ip netns or of a
// container. Only the latter need not exist yet.
func parseNet(text string) (pipeline.NetSelector, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		if n >= firstInode {
			return pipeline.NetSelector{ID: uint32(n)}, nil
		}
		id, err := netAt(fmt.Sprintf("/proc/%d/ns/net", n))
		if err != nil {
			return pipeline.NetSelector{}, fmt.Errorf("%q is neither a namespace's number nor the pid of a process: %w", text, err)
		}
		return pipeline.NetSelector{ID: id}, nil
	}
	switch {
	case text == "":
		return pipeline.NetSelector{}, fmt.Errorf("%q is no network namespace: it takes a number, a pid, a path, or a name of ip netns or of a container", text)
	case strings.HasPrefix(text, "/"):
		id, err := netAt(text)
		if err != nil {
			return pipeline.NetSelector{}, err
		}
		return pipeline.NetSelector{ID: id}, nil
	}
	return pipeline.NetSelector{Name: text}, nil
}

// netAt returns the number of the network namespace at a path.
func netAt(path string) (uint32, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("%s is not the file of a namespace", filepath.Clean(path))
	}
	return uint32(st.Ino), nil
}
