// SPDX-License-Identifier: Apache-2.0

package otelmap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
)

// official are the attributes of the semantic conventions that this package uses.
var official = []attribute.Key{
	semconv.ServiceNameKey, semconv.ServiceVersionKey, semconv.ServiceInstanceIDKey, semconv.HostNameKey, semconv.HostIDKey,
	semconv.LogRecordUIDKey, semconv.ErrorTypeKey, semconv.ProcessPIDKey, semconv.ProcessParentPIDKey,
	semconv.ProcessCreationTimeKey, semconv.ProcessExecutablePathKey, semconv.ProcessExecutableNameKey,
	semconv.ProcessCommandArgsKey, semconv.ProcessRealUserIDKey, semconv.ProcessRealUserNameKey, semconv.ProcessLinuxCgroupKey,
	semconv.ContainerIDKey, semconv.ContainerNameKey, semconv.ContainerRuntimeNameKey,
	semconv.K8SNamespaceNameKey, semconv.K8SPodNameKey, semconv.K8SPodUIDKey,
}

func line(e *event.Event) []byte { return new(event.Encoder).Append(nil, e) }

// samples are events with all fields.
func samples() []*event.Event {
	all := eventtest.Sample()
	more := eventtest.Sample()[1]
	more.Pod = &event.Pod{Name: "web", Namespace: "shop", UID: "f3b2"}
	more.Container = &event.Container{ID: "0123", Name: "nginx", Image: "nginx:1", Runtime: "containerd"}
	more.Alert = []event.Alert{{Name: "a", Severity: "warning"}, {Name: "b", Severity: "critical"}}
	p := *more.Process
	p.SudoUID, p.SudoUser, p.Comm = eventtest.Ptr[uint32](1000), "alice", "a\xff\nb"
	more.Process = &p
	podman := eventtest.Sample()[1]
	podman.Pod = &event.Pod{Name: "web", UID: "f3b2"}
	return append(all, more, podman)
}

// TestAttributes compares each attribute with the JSON, and its name with the semantic conventions and the documentation.
func TestAttributes(t *testing.T) {
	doc, err := os.ReadFile("../../docs/otel.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, k := range official {
		known[string(k)] = true
	}
	if SchemaURL != semconv.SchemaURL {
		t.Errorf("schema %s, want %s", SchemaURL, semconv.SchemaURL)
	}
	m := &Mapper{Version: "1", HostID: "abc"}
	seen := map[string]bool{}
	for _, e := range samples() {
		var fields any
		decoder := json.NewDecoder(bytes.NewReader(line(e)))
		decoder.UseNumber()
		if err := decoder.Decode(&fields); err != nil {
			t.Fatal(err)
		}
		for _, kv := range append(m.Resource(e).Attributes, Record(e, line(e), time.Now()).Attributes...) {
			seen[kv.Key] = true
			name := kv.Key
			if strings.HasPrefix(name, "nstrace.process.ns.") {
				name = "nstrace.process.ns.TYPE"
			}
			if key, ok := strings.CutPrefix(kv.Key, Label); ok {
				name = Label + "KEY"
				if got := value(kv.Value); got != e.Labels[key] {
					t.Errorf("%s: %q, want %q", kv.Key, got, e.Labels[key])
				}
			}
			ours, isOurs := strings.CutPrefix(kv.Key, "nstrace.")
			for _, place := range []string{"namespace.", "netdev.from.", "netdev.to."} { // one row for all of them
				if rest, ok := strings.CutPrefix(ours, "sysctl."+place); ok {
					name = "nstrace.sysctl.namespace." + rest
				}
			}
			if !bytes.Contains(doc, []byte("`"+name+"`")) {
				t.Errorf("docs/otel.md does not have %s", name)
			}
			if !isOurs {
				if !known[kv.Key] {
					t.Errorf("%s is not of the semantic conventions", kv.Key)
				}
				continue
			}
			if ours == "alert" || strings.HasPrefix(kv.Key, Label) {
				continue
			}
			if got, want := value(kv.Value), at(fields, ours); got != want {
				t.Errorf("%s: %q, want %q", kv.Key, got, want)
			}
		}
	}
	for _, k := range official {
		if !seen[string(k)] && k != semconv.ErrorTypeKey {
			t.Errorf("no sample has %s", k)
		}
	}
}

func at(v any, path string) string {
	for _, name := range strings.Split(path, ".") {
		fields, _ := v.(map[string]any)
		v = fields[name]
	}
	return fmt.Sprint(v)
}

func value(v *commonpb.AnyValue) string {
	switch v := v.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	}
	return v.String()
}

// TestRoundTrip reads each event back from its record, in both encodings of the protocol.
func TestRoundTrip(t *testing.T) {
	m := &Mapper{Version: "1"}
	for _, e := range samples() {
		want := line(e)
		b, err := proto.Marshal(m.Request([]Item{{e, append(want, '\n')}}, time.Now()))
		if err != nil {
			t.Fatal(err) // text that is not UTF-8
		}
		var binary, text logspb.LogsData // a request has the same fields
		if err := proto.Unmarshal(b, &binary); err != nil {
			t.Fatal(err)
		}
		j, err := m.AppendJSON(nil, Item{e, want})
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(j, '\n') != len(j)-1 {
			t.Errorf("not one line: %q", j)
		}
		if err := protojson.Unmarshal(j, &text); err != nil {
			t.Fatal(err)
		}
		for _, data := range []*logspb.LogsData{&binary, &text} {
			r := data.ResourceLogs[0].ScopeLogs[0].LogRecords[0]
			if got := r.Body.GetStringValue(); got != string(want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if r.TimeUnixNano != uint64(e.Time.UnixNano()) {
				t.Errorf("time %d, want %s", r.TimeUnixNano, e.Time)
			}
		}
	}
}

// TestResources puts events of two runs into two resources, in order.
func TestResources(t *testing.T) {
	events := eventtest.Sample()[:3]
	events[2].RunID = "other"
	var items []Item
	for _, e := range events {
		items = append(items, Item{e, line(e)})
	}
	all := new(Mapper).Request(items, time.Now()).ResourceLogs
	if len(all) != 2 || len(all[0].ScopeLogs[0].LogRecords) != 2 || len(all[1].ScopeLogs[0].LogRecords) != 1 {
		t.Errorf("resources: %v", all)
	}
}

// TestSeverity maps alerts to severities, and events to ids.
func TestSeverity(t *testing.T) {
	e := eventtest.Sample()[1]
	for _, c := range []struct {
		severity string
		want     logspb.SeverityNumber
	}{{"", 9}, {"info", 10}, {"warning", 13}, {"critical", 18}} {
		if e.Alert = nil; c.severity != "" {
			e.Alert = []event.Alert{{Name: "a", Severity: c.severity}}
		}
		if got := Record(e, nil, time.Time{}).SeverityNumber; got != c.want {
			t.Errorf("%q: %d, want %d", c.severity, got, c.want)
		}
	}
	loss := &event.Event{RunID: "a", Seq: 7, Type: event.TraceLoss, Loss: &event.Loss{Reason: event.LossSink}}
	if a, b := RecordUID(loss), RecordUID(&event.Event{RunID: "a", Seq: 7}); a == b {
		t.Errorf("a loss has the id %s of the event that it stands for", a)
	}
}

func BenchmarkRequest(b *testing.B) {
	e := eventtest.Sample()[1]
	items := make([]Item, 1024)
	for i := range items {
		items[i] = Item{e, line(e)}
	}
	m := &Mapper{Version: "1"}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		out, err := proto.Marshal(m.Request(items, time.Now()))
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(out)))
		n += len(items)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
