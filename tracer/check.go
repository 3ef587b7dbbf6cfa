// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"runtime"

	"github.com/nstrace/nstrace/event"
)

// A Capability is something that nstrace uses and a host can lack.
type Capability struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why not, or what it means
}

// Report says what a host offers to nstrace.
type Report struct {
	Kernel       string              `json:"kernel"`
	Arch         string              `json:"arch"`
	Capabilities []Capability        `json:"capabilities,omitempty"`
	Observations []event.Observation `json:"observations,omitempty"`
}

// Check finds out what this host offers, by attaching everything as a run with o
// would and detaching it at once. The report is never nil; the error is New's.
func Check(o Options) (*Report, error) {
	r := &Report{Kernel: readHost().kernel, Arch: runtime.GOARCH}
	if err := o.validate(); err != nil {
		return r, err
	}
	m := newMounts()
	defer m.close()
	var err error
	f := openFtrace(&notes{notify: o.Notify})
	defer f.close()
	m.do(func() { err = r.fill(m, f, &o) })
	return r, err
}

func (r *Report) fill(m *mounts, f *ftrace, o *Options) error {
	defer liftMemlock()()
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
	add("fentry", k.fentry, "")
	add("kprobe", k.kprobe, "")
	add("tracefs", k.tracepoint, mountedWhere(m.private, tracefsDir))
	path, err := m.cgroup2()
	add("cgroup2", err, path)
	l, err := k.load(o)
	if err != nil {
		return err
	}
	k.explain(l, o)
	for _, c := range l.picks {
		r.Observations = append(r.Observations, c.report(l.spec))
	}
	return l.close()
}

func mountedWhere(private bool, dir string) string {
	if private {
		return "mounted for nstrace alone"
	}
	return dir
}
