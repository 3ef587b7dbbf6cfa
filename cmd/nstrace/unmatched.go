// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/runtimes"
)

// parametersTime limits how long nstrace looks for the names of parameters: users can make any number of
// devices, and each has parameters.
const parametersTime = time.Second

// warnPattern says which parts of the flags can match nothing, whatever happens: comparisons of --filter and
// of alert rules, and names of parameters that this host does not have now.
func (f *streamFlags) warnPattern(note func(string)) {
	if f.program != nil {
		for _, w := range f.program.Warnings() {
			note("--filter: " + w)
		}
	}
	for _, s := range f.sinks {
		if s.filter == nil {
			continue
		}
		for _, w := range s.filter.Warnings() {
			note("--sink " + s.text + ": filter: " + w)
		}
	}
	if f.alerts != nil {
		for _, w := range f.alerts.Warnings() {
			note("--alert: " + w)
		}
	}
	for _, w := range missingParameters(f.sysctls, false) {
		note("--sysctl: " + w)
	}
}

// warnAbsent says which processes, containers and network namespaces of the flags do not exist now. They can
// come later. A runtime has listed its containers to stage, or has not answered yet.
func (f *streamFlags) warnAbsent(filter *event.Filter, stage *runtimes.Stage, scan func() (ids []uint32, ok bool), note func(string)) {
	for _, pid := range filter.PIDs {
		if _, err := os.Lstat("/proc/" + strconv.FormatUint(uint64(pid), 10)); os.IsNotExist(err) && procfs.ShowsAll() {
			note(fmt.Sprintf("--pid: no process has the id %d now", pid))
		}
	}
	for _, want := range f.containers {
		if !stage.Knows(want) {
			note(fmt.Sprintf("--container: no container runtime knows %q now", want))
		}
	}
	var ids []uint32
	for i, n := range f.selected.Nets {
		switch {
		case n.ID != 0:
			var ok bool
			if ids == nil {
				if ids, ok = scan(); !ok {
					continue
				}
			}
			if !slices.Contains(ids, n.ID) {
				note(fmt.Sprintf("--netns: no network namespace has the inode number %d now", n.ID))
			}
		case !stage.Knows(n.Name) && !slices.ContainsFunc(procfs.NetnsDirs, func(dir string) bool {
			_, err := os.Lstat(filepath.Join(dir, n.Name))
			return err == nil
		}):
			note(fmt.Sprintf("--netns: no network namespace in %s and no container has the name %q now", strings.Join(procfs.NetnsDirs, " or "), f.netns[i]))
		}
	}
}

// missingParameters says which of some names and globs match no parameter of this host. below says that a
// name also matches the parameters below it.
func missingParameters(globs []string, below bool) (missing []string) {
	if len(globs) == 0 {
		return nil
	}
	names, ok := parameterNames()
	if !ok {
		return nil
	}
	for _, glob := range globs {
		if slices.ContainsFunc(names, func(name string) bool { return event.MatchSysctl(glob, name) }) {
			continue
		}
		hint := ""
		if slices.ContainsFunc(names, func(name string) bool { return isBelow(name, glob) }) {
			if below {
				continue
			}
			hint = fmt.Sprintf(" (did you mean %q?)", strings.TrimSuffix(glob, ".")+".*")
		} else if !strings.ContainsAny(glob, "*?[") {
			hint = didYouMean(glob, names)
		}
		missing = append(missing, fmt.Sprintf("no parameter of this host matches %q now%s", glob, hint))
	}
	return missing
}

// suggestParameters notes which names of parameters are near those that were given.
func suggestParameters(globs []string, below bool) {
	for _, w := range missingParameters(globs, below) {
		if strings.Contains(w, "did you mean") {
			notify(w)
		}
	}
}

// isBelow reports whether a parameter is in a folder of parameters: net.ipv4.ip_forward in net.ipv4.
func isBelow(name, folder string) bool {
	return strings.HasPrefix(name, strings.TrimSuffix(folder, ".")+".")
}

// parameterNames returns the names of all parameters that this process sees. ok is false if there is no time
// for all, or they cannot be listed.
func parameterNames() (names []string, ok bool) {
	root, err := params.Open()
	if err != nil {
		return nil, false
	}
	defer root.Close()
	ctx, cancel := context.WithTimeout(context.Background(), parametersTime)
	defer cancel()
	err = root.Walk(ctx, params.Dir, func(file string) {
		if name, ok := event.SysctlName(file); ok {
			names = append(names, name)
		}
	})
	return names, err == nil
}
