// SPDX-License-Identifier: Apache-2.0

// Package otelmap maps events to log records of OpenTelemetry. docs/otel.md has the table.
//
// The body of a record is the event's line of JSON. It has all of the event, so whoever reads the record back gets the
// event again. The attributes are for selection: their names are those of the semantic conventions, or else nstrace.
// and the path in the JSON.
package otelmap

import (
	"bytes"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/severity"
)

// SchemaURL is the version of the semantic conventions that the attributes follow.
const SchemaURL = "https://opentelemetry.io/schemas/1.43.0"

// Scope is the name of the instrumentation scope.
const Scope = "github.com/nstrace/nstrace"

// Attributes that a query needs.
const (
	Type   = "nstrace.type"
	RunID  = "nstrace.run_id"
	Seq    = "nstrace.seq"
	UID    = "log.record.uid" // the same for each copy of an event
	Host   = "host.name"
	BootID = "nstrace.boot_id"
	Label  = "nstrace.label." // what a label's name begins with
)

// A Mapper maps events. Its fields are what events do not have.
type Mapper struct {
	Version string // of nstrace
	HostID  string // machine-id(5), "" if unknown
}

// An Item is an event with its line.
type Item struct {
	Event *event.Event
	Line  []byte // the event as JSON, with or without a newline
}

// Request returns a request for events, in their order. Events of different runs and hosts have different resources.
func (m *Mapper) Request(items []Item, observed time.Time) *collectorpb.ExportLogsServiceRequest {
	return &collectorpb.ExportLogsServiceRequest{ResourceLogs: m.resourceLogs(items, observed)}
}

func (m *Mapper) resourceLogs(items []Item, observed time.Time) (all []*logspb.ResourceLogs) {
	var last *event.Event
	var scope *logspb.ScopeLogs
	for _, it := range items {
		e := it.Event
		if last == nil || e.RunID != last.RunID || e.Host != last.Host || e.BootID != last.BootID || !maps.Equal(e.Labels, last.Labels) {
			scope = &logspb.ScopeLogs{Scope: &commonpb.InstrumentationScope{Name: Scope, Version: m.Version}, SchemaUrl: SchemaURL}
			all = append(all, &logspb.ResourceLogs{Resource: m.Resource(e), ScopeLogs: []*logspb.ScopeLogs{scope}, SchemaUrl: SchemaURL})
		}
		last = e
		scope.LogRecords = append(scope.LogRecords, Record(e, it.Line, observed))
	}
	return all
}

// AppendJSON appends an event as a line of the OTLP file format to b: a LogsData message with one record. The event
// counts as observed when it happened, so that the line of an event is always the same.
func (m *Mapper) AppendJSON(b []byte, it Item) ([]byte, error) {
	data := &logspb.LogsData{ResourceLogs: m.resourceLogs([]Item{it}, it.Event.Time)}
	text, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(data)
	if err != nil {
		return b, err
	}
	w := bytes.NewBuffer(b)
	err = json.Compact(w, text) // protojson adds spaces at random
	return append(w.Bytes(), '\n'), err
}

// Resource returns what made an event.
func (m *Mapper) Resource(e *event.Event) *resourcepb.Resource {
	var a attributes
	a.text("service.name", "nstrace")
	a.text("service.version", m.Version)
	a.text("service.instance.id", e.RunID)
	a.text(Host, e.Host)
	a.text("host.id", m.HostID)
	a.text(BootID, e.BootID)
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		a.text(Label+key, e.Labels[key])
	}
	return &resourcepb.Resource{Attributes: a}
}

// numbers are the severities of the OpenTelemetry data model for those of syslog (appendix B of its specification).
var numbers = map[severity.Level]logspb.SeverityNumber{
	severity.Critical: logspb.SeverityNumber_SEVERITY_NUMBER_ERROR2,
	severity.Warning:  logspb.SeverityNumber_SEVERITY_NUMBER_WARN,
	severity.Notice:   logspb.SeverityNumber_SEVERITY_NUMBER_INFO2,
	severity.Info:     logspb.SeverityNumber_SEVERITY_NUMBER_INFO,
}

var names = map[severity.Level]string{
	severity.Critical: "critical", severity.Warning: "warning", severity.Notice: "notice", severity.Info: "info",
}

// Record returns the log record of an event.
func Record(e *event.Event, line []byte, observed time.Time) *logspb.LogRecord {
	level := severity.Of(e)
	return &logspb.LogRecord{
		TimeUnixNano:         nanoseconds(e.Time),
		ObservedTimeUnixNano: nanoseconds(observed),
		SeverityNumber:       numbers[level],
		SeverityText:         names[level],
		EventName:            "nstrace." + string(e.Type),
		Body:                 text(string(bytes.TrimSuffix(line, []byte("\n")))),
		Attributes:           attributesOf(e),
	}
}

func nanoseconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// RecordUID identifies an event. A trace.loss that stands for events of a sink has the number of the last of them, and
// its reason as a mark.
func RecordUID(e *event.Event) string {
	if e.RunID == "" {
		return ""
	}
	uid := e.RunID + "-" + strconv.FormatUint(e.Seq, 10)
	if e.Loss != nil && (e.Loss.Reason == event.LossSink || e.Loss.Reason == event.LossRejected) {
		uid += "-" + e.Loss.Reason
	}
	return uid
}

func attributesOf(e *event.Event) []*commonpb.KeyValue {
	a := make(attributes, 0, 40)
	a.text(Type, string(e.Type))
	a.text(RunID, e.RunID)
	a.number(Seq, int64(e.Seq))
	a.text(UID, RecordUID(e))
	a.text("nstrace.outcome", string(e.Outcome))
	a.text("error.type", e.Error)
	a.text("nstrace.via", e.Via)
	a.id("nstrace.count", e.Count)
	a.id("nstrace.skipped", e.Skipped)
	a.id("nstrace.child_pid", uint64(e.ChildPID))
	var alerts []string
	for i := range e.Alert {
		alerts = append(alerts, e.Alert[i].Name)
	}
	a.texts("nstrace.alert", alerts)
	a.namespace("nstrace.namespace", e.Namespace)
	if s := e.Sysctl; s != nil {
		a.text("nstrace.sysctl.name", s.Name)
		a.value("nstrace.sysctl.old", s.Old)
		a.value("nstrace.sysctl.new", s.New)
		a.value("nstrace.sysctl.after", s.After)
		a.namespace("nstrace.sysctl.namespace", s.Namespace)
	}
	if d := e.Netdev; d != nil {
		a.text("nstrace.netdev.name", d.Name)
		a.text("nstrace.netdev.new_name", d.NewName)
		a.namespace("nstrace.netdev.from", d.From)
		a.namespace("nstrace.netdev.to", d.To)
	}
	a.process(e.Process)
	if c := e.Container; c != nil {
		a.text("container.id", c.ID)
		a.text("container.name", c.Name)
		a.text("container.runtime.name", c.Runtime)
		a.text("nstrace.container.image", c.Image)
	}
	if p := e.Pod; p != nil {
		if p.Namespace != "" {
			a.text("k8s.namespace.name", p.Namespace)
			a.text("k8s.pod.name", p.Name)
			a.text("k8s.pod.uid", p.UID)
		} else { // it can be one of Podman
			a.text("nstrace.pod.name", p.Name)
			a.text("nstrace.pod.uid", p.UID)
		}
	}
	a.text("nstrace.unit", e.Unit)
	if l := e.Loss; l != nil {
		a.text("nstrace.loss.reason", l.Reason)
		a.id("nstrace.loss.first_seq", l.FirstSeq)
		a.id("nstrace.loss.last_seq", l.LastSeq)
	}
	if t := e.Tamper; t != nil {
		a.text("nstrace.tamper.action", t.Action)
		a.text("nstrace.tamper.signal", t.Signal)
	}
	return a
}

func (a *attributes) process(p *event.Process) {
	if p == nil {
		return
	}
	a.number("process.pid", int64(p.PID))
	a.number("nstrace.process.tid", int64(p.TID))
	a.id("process.parent_pid", uint64(p.PPID))
	if !p.StartTime.IsZero() {
		a.text("process.creation.time", p.StartTime.UTC().Format(time.RFC3339Nano))
	}
	a.text("nstrace.process.comm", p.Comm)
	a.text("process.executable.path", p.Exe)
	if p.Exe != "" {
		a.text("process.executable.name", path.Base(p.Exe))
	}
	a.texts("process.command_args", p.Args)
	a.number("process.real_user.id", int64(p.UID))
	a.text("process.real_user.name", p.User)
	a.user("nstrace.process.login_uid", p.LoginUID)
	a.text("nstrace.process.login_user", p.LoginUser)
	a.user("nstrace.process.sudo_uid", p.SudoUID)
	a.text("nstrace.process.sudo_user", p.SudoUser)
	a.text("process.linux.cgroup", p.Cgroup)
	for _, t := range event.NSTypes() {
		a.id("nstrace.process.ns."+string(t), uint64(p.NS[t]))
	}
}

func (a *attributes) namespace(prefix string, ns *event.Namespace) {
	if ns == nil {
		return
	}
	a.text(prefix+".type", string(ns.Type))
	a.id(prefix+".id", uint64(ns.ID))
	a.text(prefix+".uid", ns.UID)
	a.text(prefix+".name", ns.Name)
	a.id(prefix+".from", uint64(ns.From))
	a.text(prefix+".path", ns.Path)
}

// attributes leave out what is unknown.
type attributes []*commonpb.KeyValue

func (a *attributes) add(key string, v *commonpb.AnyValue) {
	*a = append(*a, &commonpb.KeyValue{Key: key, Value: v})
}

func (a *attributes) text(key, s string) {
	if s != "" {
		a.add(key, text(s))
	}
}

func (a *attributes) value(key string, s *string) {
	if s != nil {
		a.add(key, text(*s))
	}
}

func (a *attributes) texts(key string, all []string) {
	if len(all) == 0 {
		return
	}
	list := &commonpb.ArrayValue{Values: make([]*commonpb.AnyValue, len(all))}
	for i, s := range all {
		list.Values[i] = text(s)
	}
	a.add(key, &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: list}})
}

func (a *attributes) number(key string, n int64) {
	a.add(key, &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: n}})
}

// id adds a number for which 0 means unknown.
func (a *attributes) id(key string, n uint64) {
	if n != 0 {
		a.number(key, int64(n))
	}
}

func (a *attributes) user(key string, n *uint32) {
	if n != nil {
		a.number(key, int64(*n))
	}
}

// text returns a string as the JSON has it: each byte that is not UTF-8 becomes U+FFFD.
func text(s string) *commonpb.AnyValue {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
}
