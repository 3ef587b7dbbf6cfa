// SPDX-License-Identifier: Apache-2.0

package format

import (
	"maps"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// ECSVersion is the version of the Elastic Common Schema that the format ecs follows.
const ECSVersion = "9.4.0"

// ecsKind is event.category and event.type.
type ecsKind struct{ category, typ string }

// ecsKinds has the kind of each type. A namespace and a parameter are part of how a system and its processes are
// configured; ECS has no category that is nearer.
var ecsKinds = map[event.Type]ecsKind{
	event.NamespaceCreate:   {"configuration", "creation"},
	event.NamespaceAppeared: {"configuration", "creation"},
	event.NamespaceEnter:    {"process", "change"},
	event.NamespacePin:      {"configuration", "change"},
	event.NamespaceUnpin:    {"configuration", "change"},
	event.NamespaceDestroy:  {"configuration", "deletion"},
	event.NamespaceGone:     {"configuration", "deletion"},
	event.SysctlWrite:       {"configuration", "change"},
	event.SysctlDrift:       {"configuration", "change"},
	event.SysctlAppear:      {"configuration", "creation"},
	event.SysctlVanish:      {"configuration", "deletion"},
	event.NetdevMove:        {"configuration", "change"},
	event.TraceTamper:       {"intrusion_detection", "info"},
}

func (e *encoder) ecs(ev *event.Event) {
	e.must("@timestamp", rfc3339(ev.Time))
	e.must("message", e.message(ev))
	e.object("ecs", func() { e.text("version", ECSVersion) })
	e.object("event", func() { e.ecsEvent(ev) })
	e.object("error", func() { e.text("code", ev.Error) })
	e.object("log", func() { e.text("level", logLevel(ev)) })
	e.object("agent", func() {
		e.text("type", "nstrace")
		e.text("ephemeral_id", ev.RunID)
		if ev.Type == event.TraceStart && ev.Trace != nil {
			e.text("version", ev.Trace.Version)
		}
	})
	e.object("labels", func() {
		for _, key := range slices.Sorted(maps.Keys(ev.Labels)) {
			e.text(key, ev.Labels[key])
		}
	})
	e.object("host", func() {
		e.text("hostname", ev.Host)
		e.text("name", ev.Host)
		e.object("boot", func() { e.text("id", ev.BootID) })
		e.object("os", func() {
			e.text("type", "linux")
			if ev.Trace != nil {
				e.text("kernel", ev.Trace.Kernel)
			}
		})
		if ev.Trace != nil {
			e.text("architecture", ev.Trace.Arch)
		}
	})
	if s := ev.Sysctl; s != nil && s.Parameters == nil {
		e.object("file", func() { e.text("path", s.Path) })
	}
	if p := ev.Process; p != nil {
		e.object("process", func() { e.ecsProcess(p) })
		e.object("user", func() { e.user(p.UID, p.User) })
		e.object("related", func() { e.texts("user", users(p)...) })
	}
	if c := ev.Container; c != nil {
		e.object("container", func() {
			e.text("id", c.ID)
			e.text("name", c.Name)
			e.text("runtime", c.Runtime)
			e.object("image", func() { e.text("name", c.Image) })
		})
	}
	if p := ev.Pod; p != nil {
		e.object("orchestrator", func() {
			if p.Namespace != "" { // the pods of Podman have none
				e.text("type", "kubernetes")
			}
			e.text("namespace", p.Namespace)
			e.object("resource", func() {
				e.text("type", "pod")
				e.text("id", p.UID)
				e.text("name", p.Name)
			})
		})
	}
	if i := highest(ev.Alert); i >= 0 {
		e.object("rule", func() { e.text("name", ev.Alert[i].Name) })
	}
	e.rest("nstrace", ev, func(rest *event.Event, p *event.Process) {
		rest.Labels = nil
		rest.RunID, rest.Host, rest.BootID, rest.Outcome, rest.Error = "", "", "", "", ""
		p.Exe, p.Args, p.User = "", nil, ""
	})
}

func (e *encoder) ecsEvent(ev *event.Event) {
	kind, ok := ecsKinds[ev.Type]
	if !ok {
		kind = ecsKind{"host", "info"}
	}
	if ev.Type == event.NetdevMove && ev.Netdev != nil && ev.Netdev.Created {
		kind.typ = "creation"
	}
	if len(ev.Alert) > 0 {
		e.text("kind", "alert")
	} else {
		e.text("kind", "event")
	}
	e.texts("category", kind.category)
	e.texts("type", kind.typ)
	e.must("action", string(ev.Type))
	if ev.Outcome != "" {
		e.text("outcome", string(ev.Outcome))
	} else {
		e.text("outcome", "unknown")
	}
	e.text("module", "nstrace")
	e.text("dataset", "nstrace."+ev.Type.Family())
	e.text("id", eventID(ev))
	e.integer("sequence", int64(ev.Seq))
	if ev.Loss != nil {
		e.text("reason", ev.Loss.Reason)
	}
	from, to := period(ev)
	e.time("start", from)
	e.time("end", to)
}

func (e *encoder) ecsProcess(p *event.Process) {
	e.positive("pid", uint64(p.PID))
	name := p.Comm
	if p.LeaderComm != "" {
		name = p.LeaderComm
	}
	e.text("name", name)
	e.object("thread", func() {
		e.positive("id", uint64(p.TID))
		e.text("name", p.Comm)
	})
	e.text("executable", p.Exe)
	e.texts("args", p.Args...)
	e.positive("args_count", uint64(len(p.Args)))
	e.text("command_line", strings.Join(p.Args, " "))
	e.time("start", p.StartTime)
	e.object("user", func() { e.user(p.UID, p.User) })
	e.object("group", func() { e.text("id", number(p.GID)) })
	e.object("parent", func() {
		e.positive("pid", uint64(p.PPID))
		if parent := parentOf(p); parent != nil {
			e.text("name", parent.Comm)
			e.object("user", func() { e.user(parent.UID, "") })
		}
	})
}

func (e *encoder) user(uid uint32, name string) {
	e.text("id", number(uid))
	e.text("name", name)
}

// parentOf returns the parent of a process, nil if only its number is known.
func parentOf(p *event.Process) *event.Actor {
	if len(p.Ancestors) > 0 && p.Ancestors[0].PID == p.PPID {
		return &p.Ancestors[0]
	}
	return nil
}

// users returns the names of the users of a process: whose it is, who logged in, and who called sudo.
func users(p *event.Process) (names []string) {
	for i, name := range [...]string{p.User, p.LoginUser, p.SudoUser} {
		if name != "" && (i == 0 || name != p.User) && (i < 2 || name != p.LoginUser) {
			names = append(names, name)
		}
	}
	return names
}

// logLevel is the highest severity of the rules that an event met. What is missing from the stream, and what somebody
// does to nstrace itself, is at least a warning.
func logLevel(ev *event.Event) string {
	level := "info"
	if ev.Type == event.TraceLoss || ev.Type == event.TraceTamper {
		level = "warning"
	}
	if i := highest(ev.Alert); i >= 0 && rank(ev.Alert[i].Severity) > rank(level) {
		level = ev.Alert[i].Severity
	}
	return level
}
