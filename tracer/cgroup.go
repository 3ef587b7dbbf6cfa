// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// isCgroup reports whether the cgroup at path has an id (of kernfs). It returns true if that
// cannot be found out.
func (m *mountThread) isCgroup(path string, id uint64) bool {
	root, err := m.cgroup2()
	if err != nil {
		return true
	}
	var st unix.Stat_t
	if unix.Stat(root+path, &st) != nil || st.Ino != id {
		return v1Controller() != ""
	}
	return true
}

// v1Controllers are the controllers of cgroup v1 in whose hierarchies runtimes put
// containers. All runtimes use the first one.
var v1Controllers = []string{"pids", "memory", "cpu", "devices"}

// v1Controller returns the first of v1Controllers that has a hierarchy, "" for none.
var v1Controller = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/cgroups") // #subsys_name hierarchy num_cgroups enabled
	if err != nil {
		return ""
	}
	used := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 4 && f[1] != "0" {
			used[f[0]] = true
		}
	}
	for _, c := range v1Controllers {
		if used[c] {
			return c
		}
	}
	return ""
})

// v1Subsys returns the index of v1Controller in the kernel's css_set.subsys, -1 for none.
func (k *kernel) v1Subsys() int32 {
	var ids *btf.Enum
	controller := v1Controller()
	if controller == "" || k.btf.TypeByName("cgroup_subsys_id", &ids) != nil {
		return -1
	}
	for _, v := range ids.Values {
		if v.Name == controller+"_cgrp_id" {
			return int32(v.Value)
		}
	}
	return -1
}
