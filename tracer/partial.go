// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"slices"
	"strings"
)

// vital are the observations without which a trace is not what its reader takes it for, and what
// they see.
var vital = []struct{ observation, sees string }{
	{"clone", "creates"},
	{"unshare", "creates"},
	{"setns", "enters"},
	{"sysctl", "sysctl writes"},
}

// unseen says in one sentence which vital observations are not attached, and why; "" if all are
// that the options ask for.
func (l *loaded) unseen() string {
	var what, why []string
	for _, v := range vital {
		for _, c := range l.picks {
			if c.obs.name != v.observation || c.way != nil || c.later {
				continue
			}
			if !slices.Contains(what, v.sees) {
				what = append(what, v.sees)
			}
			// The last reason is that of the tracepoint way, which needs the least.
			if n := len(c.reasons); n > 0 && !slices.Contains(why, c.reasons[n-1]) {
				why = append(why, c.reasons[n-1])
			}
		}
	}
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("there is no way to see %s here: %s", list(what), strings.Join(why, "; "))
}

// missingHere adds to the choices what they do not see where nstrace runs.
func (k *kernel) missingHere(l *loaded) {
	for i := range l.picks {
		c := &l.picks[i]
		switch {
		case c.way == nil, k.attachedBefore(c.obs.name) != nil:
		case c.obs.name == "sysctl" && k.foreign != nil:
			c.missing = append(c.missing, k.outsideCgroup(c.way.backend))
		case c.obs.name == "destroy" && c.way.backend == Tracepoint && !l.pids.knowsEnds():
			c.missing = append(c.missing, "the end of namespaces, as nstrace is in a PID namespace and does not see all processes")
		}
	}
}

// outsideCgroup says what is missing where nstrace cannot open the root of cgroup v2.
func (k *kernel) outsideCgroup(b Backend) string {
	what := "sysctl writes"
	if b != Tracepoint {
		what = "the old value of sysctl writes"
	}
	return fmt.Sprintf("%s from outside nstrace's own cgroup, as nstrace is in a cgroup namespace and the kernel refuses to %v", what, k.foreign)
}

// list joins words as in a sentence.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// accept returns ErrPartial if something vital is missing and the options do not accept that. If
// they do, it notes what is missing.
func (k *kernel) accept(l *loaded, o *Options) error {
	for _, c := range l.picks {
		if k.attachedBefore(c.obs.name) != nil {
			continue
		}
		for _, missing := range c.missing {
			k.ftrace.notes.add("not seen: %s", missing)
		}
	}
	if !k.extend {
		for _, missing := range withoutPrivileges() {
			k.ftrace.notes.add("%s", missing)
		}
	}
	unseen := l.unseen()
	switch {
	case unseen == "":
		return nil
	case o.Partial:
		k.ftrace.notes.add("%s", unseen)
		return nil
	}
	return partialError(unseen)
}

// A partialError says what is missing.
type partialError string

func (e partialError) Error() string { return string(e) }
func (partialError) Unwrap() error   { return ErrPartial }
