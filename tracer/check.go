// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"runtime"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// A Capability is a part of the kernel that nstrace uses and a host can lack.
type Capability struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why it is missing, or where it is
}

// A Report says what a host supports, and how each observation attaches.
type Report struct {
	Kernel       string              `json:"kernel"`
	Arch         string              `json:"arch"`
	Capabilities []Capability        `json:"capabilities,omitempty"`
	Observations []event.Observation `json:"observations,omitempty"`
	// Complete says that nstrace sees everything here, and Missing what it does not see: names
	// of observations, a colon, and what; or what a capability would let it see.
	Complete bool     `json:"complete"`
	Missing  []string `json:"missing,omitempty"`
}

// Check attaches everything as a run with these options does, detaches it at once, and reports
// what this host supports. The report is never nil. The error is that of New.
func Check(o Options) (*Report, error) {
	r := &Report{Kernel: readHostInfo().kernel, Arch: runtime.GOARCH}
	if err := o.validate(); err != nil {
		return r, err
	}
	m := newMountThread()
	defer m.close()
	var err error
	f := openFtrace(&notes{notify: o.Notify})
	defer f.close()
	m.run(func() { err = r.fill(m, f, &o) })
	return r, err
}

func (r *Report) fill(m *mountThread, f *ftrace, o *Options) error {
	k, err := openKernel(m, f, nil)
	if err != nil {
		return err
	}
	defer k.close()
	add := func(name string, err error, detail string) {
		c := Capability{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			c.Detail = err.Error()
		}
		r.Capabilities = append(r.Capabilities, c)
	}
	add("btf", nil, "/sys/kernel/btf/vmlinux")
	add("fentry", k.fentry, k.avoidsFentry())
	add("kprobe", k.kprobe, "")
	add("tracefs", k.tracepoint, mountedWhere(m.private, tracefsDir))
	root, err := m.cgroup2()
	if err == nil {
		add("cgroup2", root.foreign, root.where)
	} else {
		add("cgroup2", err, "")
	}
	l, err := k.load(o)
	if err != nil {
		return err
	}
	k.explain(l, o)
	refused := k.accept(l, o)
	r.Observations = l.observations()
	r.summarize()
	return errors.Join(refused, l.close())
}

// summarize finds what is missing in all observations together.
func (r *Report) summarize() {
	var missing []string
	names := map[string][]string{}
	for _, o := range r.Observations {
		for _, m := range o.Missing {
			if names[m] == nil {
				missing = append(missing, m)
			}
			names[m] = append(names[m], o.Name)
		}
	}
	for _, m := range missing {
		r.Missing = append(r.Missing, strings.Join(names[m], ", ")+": "+m)
	}
	r.Missing = append(r.Missing, withoutPrivileges()...)
	r.Complete = len(r.Observations) > 0 && len(r.Missing) == 0
}

func mountedWhere(private bool, dir string) string {
	if private {
		return "not mounted; nstrace mounts it for itself"
	}
	return dir
}
