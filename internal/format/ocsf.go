// SPDX-License-Identifier: Apache-2.0

package format

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// OCSFVersion is the version of the Open Cybersecurity Schema Framework that the format ocsf follows.
const OCSFVersion = "1.8.0"

// An ocsfClass is a class of events.
type ocsfClass struct {
	uid, category int64
	name          string
}

var (
	ocsfBase       = ocsfClass{0, 0, "Base Event"}
	ocsfKernel     = ocsfClass{1003, 1, "Kernel Activity"}
	ocsfEventLog   = ocsfClass{1008, 1, "Event Log Activity"}
	ocsfKernelScan = ocsfClass{5006, 5, "Kernel Object Query"}
	ocsfState      = ocsfClass{5019, 5, "Device Config State Change"}
)

// An ocsfActivity is what happened, within a class.
type ocsfActivity struct {
	id   int64
	name string
}

// ocsfOther is the activity for which a class has no number: its name says what happened.
const ocsfOther = 99

// ocsfKind returns the class and the activity of an event.
//
// Namespaces, parameters and network devices are resources of the kernel, and their events have a process that acted: Kernel
// Activity. What nstrace found by looking, when it had not seen it happen, is the result of a query; but a parameter
// that changed has another state. Events about the trace say what happened to the log that nstrace keeps.
func ocsfKind(ev *event.Event) (ocsfClass, ocsfActivity) {
	switch ev.Type {
	case event.TraceStart:
		return ocsfEventLog, ocsfActivity{6, "Start"}
	case event.TraceStop:
		return ocsfEventLog, ocsfActivity{7, "Stop"}
	case event.SysctlDrift:
		return ocsfState, ocsfActivity{2, "Collect"}
	}
	if found(ev) {
		return ocsfKernelScan, ocsfActivity{1, "Query"}
	}
	switch ev.Type {
	case event.NamespaceCreate, event.SysctlAppear:
		return ocsfKernel, ocsfActivity{1, "Create"}
	case event.NamespaceDestroy, event.SysctlVanish:
		return ocsfKernel, ocsfActivity{3, "Delete"}
	case event.NamespaceEnter:
		return ocsfKernel, ocsfActivity{ocsfOther, "Enter"}
	case event.NamespacePin:
		return ocsfKernel, ocsfActivity{ocsfOther, "Pin"}
	case event.NamespaceUnpin:
		return ocsfKernel, ocsfActivity{ocsfOther, "Unpin"}
	case event.SysctlWrite:
		return ocsfKernel, ocsfActivity{ocsfOther, "Write"}
	case event.NetdevMove:
		if ev.Netdev != nil && ev.Netdev.Created {
			return ocsfKernel, ocsfActivity{1, "Create"}
		}
		return ocsfKernel, ocsfActivity{ocsfOther, "Move"}
	}
	if family, what, _ := strings.Cut(string(ev.Type), "."); family == "trace" {
		return ocsfEventLog, ocsfActivity{ocsfOther, cmp.Or(what, family)}
	}
	return ocsfBase, ocsfActivity{ocsfOther, cmp.Or(string(ev.Type), "Other")}
}

// found reports whether nstrace found what an event is about by looking, and did not see it happen.
func found(ev *event.Event) bool {
	return ev.Between != nil || ev.Namespace != nil && ev.Namespace.Detected == event.DetectedScan
}

// exists reports whether what such an event is about is there.
func exists(ev *event.Event) bool {
	switch ev.Type {
	case event.NamespaceDestroy, event.NamespaceGone, event.NamespaceUnpin, event.SysctlVanish:
		return false
	}
	return true
}

func (e *encoder) ocsf(ev *event.Event) {
	class, activity := ocsfKind(ev)
	e.integer("category_uid", class.category)
	e.integer("class_uid", class.uid)
	e.text("class_name", class.name)
	e.integer("activity_id", activity.id)
	e.text("activity_name", activity.name)
	e.integer("type_uid", class.uid*100+activity.id)
	e.text("type_name", class.name+": "+activity.name)
	e.integer("time", ev.Time.UnixMilli())
	e.must("message", e.message(ev))
	id, severity := ocsfSeverity(ev)
	e.integer("severity_id", id)
	e.text("severity", severity)
	if len(ev.Alert) > 0 {
		e.key("is_alert")
		e.b = append(e.b, "true"...)
	}
	e.ocsfStatus(ev)
	e.positive("count", ev.Count)
	from, to := period(ev)
	e.millis("start_time", from)
	e.millis("end_time", to)
	e.object("metadata", func() { e.ocsfMetadata(ev) })
	e.object("device", func() { e.ocsfDevice(ev) })
	e.object("actor", func() { e.ocsfActor(ev, class) })
	switch class {
	case ocsfKernel, ocsfKernelScan:
		e.object("kernel", func() { e.ocsfResource(ev) })
	case ocsfEventLog:
		e.text("log_name", "nstrace")
		e.text("log_provider", "nstrace")
		e.integer("log_type_id", 1)
		e.text("log_type", "OS")
	case ocsfState:
		e.integer("state_id", ocsfOther)
		e.text("state", "Changed")
	}
	if class == ocsfKernelScan {
		if exists(ev) {
			e.integer("query_result_id", 1)
			e.text("query_result", "Exists")
		} else {
			e.integer("query_result_id", 3)
			e.text("query_result", "Does not exist")
		}
	}
	e.rest("unmapped", ev, func(rest *event.Event, p *event.Process) {
		rest.RunID, rest.Host, rest.BootID, rest.Outcome, rest.Error, rest.Count = "", "", "", "", "", 0
		p.Exe, p.User = "", ""
	})
}

// ocsfSeverity maps the severities of alerts. What is missing from the stream, and what somebody does to nstrace itself,
// is at least medium.
func ocsfSeverity(ev *event.Event) (int64, string) {
	switch logLevel(ev) {
	case "critical":
		return 5, "Critical"
	case "warning":
		return 3, "Medium"
	}
	return 1, "Informational"
}

func (e *encoder) ocsfStatus(ev *event.Event) {
	switch ev.Outcome {
	case event.Success:
		e.integer("status_id", 1)
		e.text("status", "Success")
	case event.Failure:
		e.integer("status_id", 2)
		e.text("status", "Failure")
	default:
		e.integer("status_id", 0)
		e.text("status", "Unknown")
	}
	e.text("status_code", ev.Error)
	var reasons []string
	for i := range ev.Refusal {
		reasons = append(reasons, string(ev.Refusal[i].Reason))
	}
	if ev.Loss != nil {
		reasons = append(reasons, ev.Loss.Reason)
	}
	e.text("status_detail", strings.Join(reasons, ", "))
}

func (e *encoder) ocsfMetadata(ev *event.Event) {
	e.text("version", OCSFVersion)
	e.object("product", func() {
		e.text("name", "nstrace")
		e.text("vendor_name", "nstrace")
		if ev.Type == event.TraceStart && ev.Trace != nil {
			e.text("version", ev.Trace.Version)
		}
	})
	e.text("uid", eventID(ev))
	e.text("correlation_uid", ev.RunID)
	e.text("event_code", string(ev.Type))
	e.text("original_time", rfc3339(ev.Time))
	e.integer("sequence", int64(ev.Seq))
	e.text("log_name", "nstrace")
	e.text("log_version", number(uint64(ev.V)))
	profiles := []string{"host"}
	if p := ev.Process; p != nil {
		if ev.Container != nil {
			profiles = append(profiles, "container")
		}
		if p.LoginUID != nil {
			profiles = append(profiles, "linux/linux_users")
		}
	}
	if len(ev.Alert) > 0 {
		profiles = append(profiles, "security_control")
	}
	slices.Sort(profiles)
	e.texts("profiles", profiles...)
}

func (e *encoder) ocsfDevice(ev *event.Event) {
	e.integer("type_id", 0)
	e.text("type", "Unknown")
	e.text("hostname", ev.Host)
	e.text("boot_uid", ev.BootID)
	e.object("os", func() {
		e.text("name", "Linux")
		e.text("type", "Linux")
		e.integer("type_id", 200)
		if ev.Trace != nil {
			e.text("kernel_release", ev.Trace.Kernel)
		}
	})
}

// ocsfActor writes who acted. Kernel Activity requires that somebody did.
func (e *encoder) ocsfActor(ev *event.Event, class ocsfClass) {
	p := ev.Process
	switch {
	case p != nil:
	case class != ocsfKernel:
		return
	case ev.Type == event.NamespaceDestroy || ev.Type == event.NamespaceUnpin || ev.Via == event.ViaExit || ev.Via == event.ViaDevice:
		e.text("app_name", "kernel")
		return
	default:
		e.text("app_name", "unknown")
		return
	}
	user := func() {
		e.text("uid", number(p.UID))
		e.text("name", p.User)
	}
	e.object("process", func() {
		e.positive("pid", uint64(p.PID))
		e.positive("ptid", uint64(p.TID))
		e.text("name", p.Comm)
		e.text("path", p.Exe)
		e.text("cmd_line", strings.Join(p.Args, " "))
		e.millis("created_time", p.StartTime)
		e.object("user", user)
		if p.LoginUID != nil {
			e.integer("auid", int64(*p.LoginUID))
		}
		e.object("parent_process", func() {
			e.positive("pid", uint64(p.PPID))
			if parent := parentOf(p); parent != nil {
				e.text("name", parent.Comm)
				e.object("user", func() { e.text("uid", number(parent.UID)) })
			}
		})
		e.ancestry(p)
		if c := ev.Container; c != nil {
			e.object("container", func() { e.ocsfContainer(c, ev.Pod) })
		}
	})
	e.object("user", user)
	e.object("session", func() {
		if p.SessionID != nil {
			e.text("uid", number(*p.SessionID))
		}
		e.text("terminal", p.TTY)
	})
}

// ancestry writes the ancestors above the parent.
func (e *encoder) ancestry(p *event.Process) {
	above := p.Ancestors
	if parentOf(p) != nil {
		above = above[1:]
	}
	e.list("ancestry", func() {
		for i := range above {
			e.object("", func() {
				e.positive("pid", uint64(above[i].PID))
				e.text("name", above[i].Comm)
			})
		}
	})
}

// ocsfContainer writes a container without its image, for which OCSF wants an id.
func (e *encoder) ocsfContainer(c *event.Container, pod *event.Pod) {
	e.text("uid", c.ID)
	e.text("name", c.Name)
	e.text("runtime", c.Runtime)
	if pod != nil && pod.Namespace != "" { // the pods of Podman have none, and an id of another form
		e.text("orchestrator", "kubernetes")
		e.text("pod_uuid", pod.UID)
	}
}

// ocsfResource writes the resource of the kernel that an event is about.
func (e *encoder) ocsfResource(ev *event.Event) {
	var name, path, typ string
	switch {
	case ev.Sysctl != nil:
		name, typ = ev.Sysctl.Name, "Sysctl"
		if ev.Sysctl.Parameters == nil {
			path = ev.Sysctl.Path
		}
	case ev.Netdev != nil:
		name, typ = ev.Netdev.Name, "Network Device"
	default:
		name, typ = "namespace", "Namespace"
		if ns := ev.Namespace; ns != nil {
			name, path = namespaceName(ns), ns.Path
		}
	}
	e.must("name", name)
	e.text("path", path)
	e.integer("type_id", ocsfOther)
	e.text("type", typ)
	switch ev.Via {
	case event.ViaCascade, event.ViaDevice, event.ViaNetlink, event.ViaExit: // no system calls
	default:
		e.text("system_call", ev.Via)
	}
}

// namespaceName returns the name of a namespace, or what /proc/PID/ns has, or what is known.
func namespaceName(ns *event.Namespace) string {
	switch {
	case ns.Name != "":
		return ns.Name
	case ns.ID != 0 && ns.Type != "":
		return fmt.Sprintf("%s:[%d]", ns.Type, ns.ID)
	}
	return cmp.Or(string(ns.Type), "namespace")
}
