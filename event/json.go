// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strconv"
)

// An Encoder writes events as JSON, as schema/event.v1.json describes it. The zero
// value is ready to use. An Encoder is not safe for concurrent use.
//
// The text is always valid UTF-8: each byte that is not becomes U+FFFD, and Event.Bytes has it. Control and
// format characters are written as \u escapes, so that a terminal never gets them
// raw. Times are RFC 3339 with nine digits of fraction in UTC, so that lines sort by
// time as text.
//
// An Encoder neither allocates nor uses reflection, because encoding is most of the work for
// an event in a storm. It caches the encoding of recent processes.
//
// json.Unmarshal decodes a line to an Event. The fields that the line does not have, such as
// Ref, are then zero. RestoreBytes then restores the strings that are not UTF-8.
type Encoder struct {
	times     timeEncoder
	processes processCache
}

// The functions below have a line for each field of an event's types, in the order of the
// JSON line: plain fields first, then objects and times. TestEncoderHasEveryField fails
// until a new field has its line here.
//
// Do not change the order: a history hashes the lines that are encoded from decoded events.

// Append appends the JSON object of ev to b, without a newline, and returns the extended
// buffer.
func (enc *Encoder) Append(b []byte, ev *Event) []byte {
	start := len(b)
	b = strconv.AppendInt(append(b, `,"v":`...), int64(ev.V), 10)
	b = enc.times.append(append(b, `,"time":`...), ev.Time)
	b = enc.times.appendMember(b, `,"last_time":`, ev.LastTime)
	b = appendText(b, `,"run_id":`, ev.RunID)
	b = strconv.AppendUint(append(b, `,"seq":`...), ev.Seq, 10)
	b = appendText(b, `,"host":`, ev.Host)
	b = appendText(b, `,"boot_id":`, ev.BootID)
	if len(ev.Labels) > 0 {
		b = appendTextMap(append(b, `,"labels":`...), ev.Labels)
	}
	b = AppendString(append(b, `,"type":`...), string(ev.Type))
	b = appendText(b, `,"outcome":`, string(ev.Outcome))
	b = appendText(b, `,"error":`, ev.Error)
	b = appendText(b, `,"via":`, ev.Via)
	b = appendNumber(b, `,"child_pid":`, uint64(ev.ChildPID))
	b = appendNumber(b, `,"count":`, ev.Count)
	b = appendTrue(b, `,"late":`, ev.Late)
	b = appendNumber(b, `,"skipped":`, ev.Skipped)
	b = appendList(b, `,"alert":`, ev.Alert, appendAlert)
	if ev.Trace != nil {
		b = enc.appendTrace(append(b, `,"trace":`...), ev.Trace)
	}
	if ev.Namespace != nil {
		b = enc.AppendNamespace(append(b, `,"namespace":`...), ev.Namespace)
	}
	if ev.Sysctl != nil {
		b = enc.appendSysctl(append(b, `,"sysctl":`...), ev.Sysctl)
	}
	if ev.Netdev != nil {
		b = enc.appendNetdev(append(b, `,"netdev":`...), ev.Netdev)
	}
	if ev.Process != nil {
		b = enc.appendProcess(append(b, `,"process":`...), ev.Process)
	}
	if ev.Container != nil {
		b = appendContainer(append(b, `,"container":`...), ev.Container)
	}
	if ev.Pod != nil {
		b = appendPod(append(b, `,"pod":`...), ev.Pod)
	}
	b = appendText(b, `,"unit":`, ev.Unit)
	if ev.Loss != nil {
		b = enc.appendLoss(append(b, `,"loss":`...), ev.Loss)
	}
	if ev.Tamper != nil {
		b = appendTamper(append(b, `,"tamper":`...), ev.Tamper)
	}
	if ev.Between != nil {
		b = enc.appendBetween(append(b, `,"between":`...), ev.Between)
	}
	b = appendList(b, `,"refusal":`, ev.Refusal, enc.appendRefusal)
	if ev.Request != nil {
		b = appendRequest(append(b, `,"request":`...), ev.Request)
	}
	if len(ev.Bytes) > 0 {
		b = appendTextMap(append(b, `,"bytes":`...), ev.Bytes)
	}
	return object(b, start)
}

func appendAlert(b []byte, a *Alert) []byte {
	start := len(b)
	b = AppendString(append(b, `,"name":`...), a.Name)
	b = AppendString(append(b, `,"severity":`...), a.Severity)
	b = appendText(b, `,"message":`, a.Message)
	return object(b, start)
}

func (enc *Encoder) appendRefusal(b []byte, r *Refusal) []byte {
	start := len(b)
	b = AppendString(append(b, `,"reason":`...), string(r.Reason))
	b = appendText(b, `,"type":`, string(r.Type))
	b = appendText(b, `,"sysctl":`, r.Sysctl)
	b = appendInt(b, `,"value":`, r.Value)
	b = appendInt(b, `,"count":`, r.Count)
	b = appendNumber(b, `,"user_ns":`, uint64(r.UserNS))
	b = appendID(b, `,"level":`, r.Level)
	b = appendID(b, `,"uid":`, r.UID)
	b = appendText(b, `,"user":`, r.User)
	b = appendText(b, `,"capability":`, r.Capability)
	b = appendTrue(b, `,"read_later":`, r.Later)
	if r.SetBy != nil {
		b = enc.appendWriter(append(b, `,"set_by":`...), r.SetBy)
	}
	return object(b, start)
}

func appendRequest(b []byte, r *Request) []byte {
	start := len(b)
	b = appendTexts(b, `,"types":`, r.Types)
	b = appendNumber(b, `,"pid":`, uint64(r.PID))
	b = appendText(b, `,"path":`, r.Path)
	return object(b, start)
}

func (enc *Encoder) appendWriter(b []byte, w *Writer) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"pid":`...), uint64(w.PID), 10)
	b = strconv.AppendUint(append(b, `,"uid":`...), uint64(w.UID), 10)
	b = AppendString(append(b, `,"comm":`...), w.Comm)
	b = appendText(b, `,"user":`, w.User)
	b = appendText(b, `,"login_user":`, w.LoginUser)
	b = appendText(b, `,"container":`, w.Container)
	b = appendText(b, `,"unit":`, w.Unit)
	b = enc.times.append(append(b, `,"time":`...), w.Time)
	return object(b, start)
}

func (enc *Encoder) appendBetween(b []byte, t *Between) []byte {
	start := len(b)
	b = AppendString(append(b, `,"boot":`...), t.Boot)
	b = appendTrue(b, `,"reset":`, t.Reset)
	b = appendTrue(b, `,"recording":`, t.Recording)
	b = enc.times.append(append(b, `,"from":`...), t.From)
	b = enc.times.append(append(b, `,"to":`...), t.To)
	return object(b, start)
}

// AppendNamespace appends the JSON object of a namespace.
func (enc *Encoder) AppendNamespace(b []byte, ns *Namespace) []byte {
	start := len(b)
	b = appendText(b, `,"type":`, string(ns.Type))
	b = appendNumber(b, `,"id":`, uint64(ns.ID))
	b = appendText(b, `,"uid":`, ns.UID)
	b = appendText(b, `,"name":`, ns.Name)
	b = appendTrue(b, `,"host":`, ns.Host)
	b = appendNumber(b, `,"from":`, uint64(ns.From))
	b = appendNumber(b, `,"user_ns":`, uint64(ns.UserNS))
	b = appendText(b, `,"path":`, ns.Path)
	b = appendNumber(b, `,"mnt_ns":`, uint64(ns.MntNS))
	b = appendTrue(b, `,"copy":`, ns.Copy)
	if ns.Owner != nil {
		b = AppendOwner(append(b, `,"owner":`...), ns.Owner)
	}
	b = appendInt(b, `,"lifetime_ms":`, ns.LifetimeMS)
	if ns.Creator != nil {
		b = appendActor(append(b, `,"creator":`...), ns.Creator)
	}
	b = appendText(b, `,"detected":`, ns.Detected)
	b = enc.times.appendMember(b, `,"created":`, ns.Created)
	return object(b, start)
}

func appendActor(b []byte, a *Actor) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"pid":`...), uint64(a.PID), 10)
	b = strconv.AppendUint(append(b, `,"uid":`...), uint64(a.UID), 10)
	b = AppendString(append(b, `,"comm":`...), a.Comm)
	return object(b, start)
}

func appendContainer(b []byte, c *Container) []byte {
	start := len(b)
	b = AppendString(append(b, `,"id":`...), c.ID)
	b = appendText(b, `,"name":`, c.Name)
	b = appendText(b, `,"image":`, c.Image)
	b = appendText(b, `,"runtime":`, c.Runtime)
	b = AppendString(append(b, `,"source":`...), string(c.Source))
	return object(b, start)
}

func appendPod(b []byte, p *Pod) []byte {
	start := len(b)
	b = appendText(b, `,"name":`, p.Name)
	b = appendText(b, `,"namespace":`, p.Namespace)
	b = appendText(b, `,"uid":`, p.UID)
	b = AppendString(append(b, `,"source":`...), string(p.Source))
	return object(b, start)
}

// AppendOwner appends the JSON of an owner, as the namespace of an event has it.
func AppendOwner(b []byte, o *Owner) []byte {
	start := len(b)
	if o.Container != nil {
		b = appendContainer(append(b, `,"container":`...), o.Container)
	}
	if o.Pod != nil {
		b = appendPod(append(b, `,"pod":`...), o.Pod)
	}
	b = appendText(b, `,"unit":`, o.Unit)
	b = AppendString(append(b, `,"source":`...), string(o.Source))
	return object(b, start)
}

func (enc *Encoder) appendSysctl(b []byte, s *Sysctl) []byte {
	start := len(b)
	b = AppendString(append(b, `,"name":`...), s.Name)
	b = AppendString(append(b, `,"path":`...), s.Path)
	b = appendValue(b, `,"old":`, s.Old)
	b = appendValue(b, `,"new":`, s.New)
	b = appendValue(b, `,"after":`, s.After)
	b = appendTrue(b, `,"after_read":`, s.AfterRead)
	b = appendNumber(b, `,"offset":`, uint64(s.Offset))
	b = appendNumber(b, `,"ifindex":`, uint64(s.Ifindex))
	b = appendTrue(b, `,"truncated":`, s.Truncated)
	if s.Cause != nil {
		b = appendCause(append(b, `,"cause":`...), s.Cause)
	}
	if s.Expected != nil {
		b = appendExpected(append(b, `,"expected":`...), s.Expected)
	}
	if s.Parameters != nil {
		b = appendParameters(append(b, `,"parameters":`...), s.Parameters)
	}
	if s.Namespace != nil {
		b = enc.AppendNamespace(append(b, `,"namespace":`...), s.Namespace)
	}
	return object(b, start)
}

func appendParameters(b []byte, p *Parameters) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"count":`...), p.Count, 10)
	b = appendNumber(b, `,"namespaces":`, p.Namespaces)
	b = appendList(b, `,"tables":`, p.Tables, appendTable)
	b = appendList(b, `,"unmet":`, p.Unmet, appendUnmet)
	return object(b, start)
}

func appendTable(b []byte, t *ParameterTable) []byte {
	start := len(b)
	b = AppendString(append(b, `,"prefix":`...), t.Prefix)
	b = appendTexts(b, `,"names":`, t.Names)
	return object(b, start)
}

func appendUnmet(b []byte, u *Unmet) []byte {
	start := len(b)
	b = AppendString(append(b, `,"name":`...), u.Name)
	b = AppendString(append(b, `,"value":`...), u.Value)
	b = appendExpected(append(b, `,"expected":`...), &u.Expected)
	return object(b, start)
}

func appendCause(b []byte, c *Cause) []byte {
	start := len(b)
	b = appendNumber(b, `,"seq":`, c.Seq)
	b = appendText(b, `,"name":`, c.Name)
	return object(b, start)
}

func appendExpected(b []byte, x *Expected) []byte {
	start := len(b)
	b = AppendString(append(b, `,"state":`...), x.State)
	b = AppendString(append(b, `,"comparison":`...), x.Comparison)
	b = appendTexts(b, `,"values":`, x.Values)
	b = appendText(b, `,"severity":`, x.Severity)
	b = AppendString(append(b, `,"file":`...), x.File)
	b = appendNumber(b, `,"line":`, uint64(x.Line))
	return object(b, start)
}

func (enc *Encoder) appendNetdev(b []byte, d *Netdev) []byte {
	start := len(b)
	b = AppendString(append(b, `,"name":`...), d.Name)
	b = appendText(b, `,"new_name":`, d.NewName)
	b = appendText(b, `,"kind":`, d.Kind)
	b = appendNumber(b, `,"ifindex":`, uint64(d.Ifindex))
	b = appendNumber(b, `,"new_ifindex":`, uint64(d.NewIfindex))
	b = appendTrue(b, `,"created":`, d.Created)
	if d.From != nil {
		b = enc.AppendNamespace(append(b, `,"from":`...), d.From)
	}
	if d.To != nil {
		b = enc.AppendNamespace(append(b, `,"to":`...), d.To)
	}
	return object(b, start)
}

func (enc *Encoder) appendLoss(b []byte, l *Loss) []byte {
	start := len(b)
	if len(l.Records) > 0 {
		b = appendMap(append(b, `,"records":`...), l.Records)
	}
	b = AppendString(append(b, `,"reason":`...), l.Reason)
	if l.UID != nil {
		b = strconv.AppendUint(append(b, `,"uid":`...), uint64(*l.UID), 10)
	}
	b = appendNumber(b, `,"first_seq":`, l.FirstSeq)
	b = appendNumber(b, `,"last_seq":`, l.LastSeq)
	b = enc.times.appendMember(b, `,"from":`, l.From)
	b = enc.times.appendMember(b, `,"to":`, l.To)
	return object(b, start)
}

func appendTamper(b []byte, t *Tamper) []byte {
	start := len(b)
	b = AppendString(append(b, `,"action":`...), t.Action)
	b = appendText(b, `,"signal":`, t.Signal)
	b = appendText(b, `,"object":`, t.Object)
	return object(b, start)
}

func (enc *Encoder) appendTrace(b []byte, t *Trace) []byte {
	start := len(b)
	b = appendText(b, `,"version":`, t.Version)
	b = appendText(b, `,"kernel":`, t.Kernel)
	b = appendText(b, `,"arch":`, t.Arch)
	b = appendList(b, `,"observations":`, t.Observations, appendObservation)
	if t.Totals != nil {
		b = appendTotals(append(b, `,"totals":`...), t.Totals)
	}
	if t.Head != nil {
		b = appendHead(append(b, `,"head":`...), t.Head)
	}
	b = appendText(b, `,"signal":`, t.Signal)
	b = appendTexts(b, `,"notes":`, t.Notes)
	if t.SameBoot != nil {
		b = strconv.AppendBool(append(b, `,"same_boot":`...), *t.SameBoot)
	}
	b = appendText(b, `,"ended":`, t.Ended)
	b = enc.times.appendMember(b, `,"from":`, t.From)
	b = enc.times.appendMember(b, `,"to":`, t.To)
	return object(b, start)
}

func appendObservation(b []byte, o *Observation) []byte {
	start := len(b)
	b = AppendString(append(b, `,"name":`...), o.Name)
	b = AppendString(append(b, `,"backend":`...), o.Backend)
	b = appendTexts(b, `,"hooks":`, o.Hooks)
	b = appendTexts(b, `,"missing":`, o.Missing)
	return object(b, start)
}

func appendHead(b []byte, h *Head) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"id":`...), h.ID, 10)
	b = AppendString(append(b, `,"hash":`...), h.Hash)
	return object(b, start)
}

func appendTotals(b []byte, t *Totals) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"seen":`...), t.Seen, 10)
	b = strconv.AppendUint(append(b, `,"written":`...), t.Written, 10)
	b = appendNumber(b, `,"folded":`, t.Folded)
	b = strconv.AppendUint(append(b, `,"filtered":`...), t.Filtered, 10)
	b = strconv.AppendUint(append(b, `,"lost":`...), t.Lost, 10)
	b = appendNumber(b, `,"alerts":`, t.Alerts)
	b = strconv.AppendInt(append(b, `,"duration_ms":`...), t.DurationMS, 10)
	b = appendTexts(b, `,"uncounted":`, t.Uncounted)
	return object(b, start)
}
