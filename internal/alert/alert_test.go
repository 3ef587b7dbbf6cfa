// SPDX-License-Identifier: Apache-2.0

package alert_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/alert"
)

func ptr[T any](v T) *T { return &v }

func parse(t *testing.T, text string) *alert.Rules {
	t.Helper()
	r, err := alert.Parse("rules.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func write(name, old, written string) *event.Event {
	return &event.Event{
		Type: event.SysctlWrite, Time: time.Unix(1, 0), Outcome: event.Success,
		Sysctl:  &event.Sysctl{Name: name, Old: &old, New: &written},
		Process: &event.Process{PID: 7, Comm: "sh", Args: []string{"sh", "-c", "{}"}},
	}
}

func TestMark(t *testing.T) {
	r := parse(t, `
rules:
- {name: any, when: "true", severity: info}
- name: swappiness
  when: sysctl.name == "vm.swappiness"
  message: "{{{process.comm}} {process.args[2]} {sysctl.after|sysctl.new} {process.user|process.tty} {unit|'nobody''s'} {sysctl.old}"
- name: loss
  when: type == "trace.loss"
  severity: critical
`)
	if got, want := r.Names(), []string{"any", "swappiness", "loss"}; !slices.Equal(got, want) {
		t.Errorf("the rules are %q, want %q", got, want)
	}
	info := event.Alert{Name: "any", Severity: "info"}
	for _, tt := range []struct {
		event *event.Event
		want  []event.Alert
	}{
		{write("vm.swappiness", "60", "1"), []event.Alert{info, {Name: "swappiness", Severity: "warning", Message: "{sh} {} 1 ? nobody''s 60"}}},
		{write("vm.laptop_mode", "0", "1"), []event.Alert{info}},
		{&event.Event{Type: event.TraceLoss}, []event.Alert{info, {Name: "loss", Severity: "critical"}}},
		{&event.Event{Type: event.TraceStart}, nil},
		{&event.Event{Type: event.TraceStop, Alert: []event.Alert{info}}, nil},
	} {
		if r.Mark(tt.event); !slices.Equal(tt.event.Alert, tt.want) {
			t.Errorf("%s: %q, want %q", tt.event.Type, tt.event.Alert, tt.want)
		}
	}
}

// TestMessageIsKept checks that the message of an alert does not change when the event's memory is
// reused, and that it has a maximum length.
func TestMessageIsKept(t *testing.T) {
	r := parse(t, "rules: [{name: a, when: 'true', message: 'to {sysctl.new}'}]")
	text := []byte(strings.Repeat("é", 2000))
	e := write("vm.swappiness", "", string(text))
	r.Mark(e)
	kept := e.Clone()
	r.Mark(write("vm.swappiness", "", "other"))
	got := kept.Alert[0].Message
	if len(got) > 1100 || !strings.HasPrefix(got, "to éé") || !strings.HasSuffix(got, "é…") {
		t.Errorf("the message is %d bytes, %q", len(got), got)
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "rules.yaml: the file is empty: want rules:"},
		{"comment", "# x\n", "rules.yaml: the file is empty: want rules:"},
		{"syntax", "rules:\n- name: [\n", "rules.yaml:2: did not find expected node content"},
		{"list", "- name: x\n", "rules.yaml:1:1: the file is not a mapping: want rules"},
		{"two documents", "rules: [{name: a, when: 'true'}]\n---\n{}\n", "rules.yaml: more than one YAML document"},
		{"no rules", "rules: []\n", "rules.yaml:1:1: no rules: want rules: and a list below it"},
		{"other key", "rule: []\n", `rules.yaml:1:1: unknown key "rule" in the file (did you mean "rules"?): want rules`},
		{"key", "rules:\n- name: a\n  wen: 'true'\n", `rules.yaml:3:3: unknown key "wen" in a rule (did you mean "when"?): want name, when, severity, message`},
		{"no name", "rules:\n- when: 'true'\n", "rules.yaml:2:3: a rule has no name"},
		{"no when", "rules:\n- name: a\n", "rules.yaml:2:3: a rule has no when"},
		{"twice a key", "rules:\n- name: a\n  name: b\n", `rules.yaml:3:3: duplicate key "name"`},
		{"twice", "rules:\n- &r {name: a, when: 'true'}\n- *r\n", `rules.yaml:3:3: duplicate rule "a"`},
		{"null", "rules:\n- name: a\n  when:\n", "rules.yaml:3:8: when: want a string"},
		{"list for text", "rules:\n- name: a\n  when: []\n", "rules.yaml:3:9: when: want a string"},
		{"control", "rules:\n- name: \"a\\e\"\n  when: 'true'\n", `rules.yaml:2:9: invalid name "a\x1b"`},
		{"severity", "rules:\n- name: a\n  when: 'true'\n  severity: criticl\n", `rules.yaml:4:13: rule "a": invalid severity "criticl" (did you mean "critical"?): want one of info, warning, critical`},

		{"plain", "rules:\n- name: a\n  when: type == 1\n", `rules.yaml:3:17: rule "a": type is a string and cannot be compared with a number: write "1"`},
		{"single quotes", "rules:\n- name: a\n  when: 'type == \"it''s\" and typ == \"\"'\n", `rules.yaml:3:30: rule "a": unknown field "typ": `},
		{"double quotes", "rules:\n- name: a\n  when: \"type == \\\"é\\\" and typ == 1\"\n", `rules.yaml:3:28: rule "a": unknown field "typ": `},
		{"escaped", "rules:\n- name: a\n  when: \"type == \\\"\\u00e9\\\" and typ == 1\"\n", `rules.yaml:3:9: rule "a": unknown field "typ": `},
		{"folded", "rules:\n- name: a\n  when: >\n    type == \"x\"\n    and\n      typ == \"\"\n", `rules.yaml:6:7: rule "a": unknown field "typ": `},
		{"literal", "rules:\n- name: é\n  when: |2\n      type == \"x\"\n\n    and typ\n", `rules.yaml:6:9: rule "é": unknown field "typ": `},
		{"plain over lines", "rules:\n- name: a\n  when: type == \"x\"\n    and typ\n", `rules.yaml:4:9: rule "a": unknown field "typ": `},
		{"in a flow", "rules: [{name: a, when: typ}]", `rules.yaml:1:25: rule "a": unknown field "typ": `},
		{"end", "rules: [{name: a, when: 'type =='}]", `rules.yaml:1:33: rule "a": `},
		{"empty expression", "rules: [{name: a, when: ''}]", `rules.yaml:1:26: rule "a": empty expression`},

		{"message", "rules:\n- name: a\n  when: 'true'\n  message: 'by {process.com}'\n", `rules.yaml:4:25: rule "a": unknown field "com" of process: `},
		{"message's second", "rules:\n- name: a\n  when: 'true'\n  message: 'by {unit|process.com}'\n", `rules.yaml:4:30: rule "a": unknown field "com" of process: `},
		{"list in a message", "rules:\n- name: a\n  when: 'true'\n  message: 'by {process.args}'\n", `rules.yaml:4:17: rule "a": process.args is a list, which cannot be written as text`},
		{"constant in a message", "rules:\n- name: a\n  when: 'true'\n  message: 'by {1}'\n", `rules.yaml:4:17: rule "a": 1 is not a field`},
		{"open brace", "rules:\n- name: a\n  when: 'true'\n  message: 'by {process.comm'\n", `rules.yaml:4:16: rule "a": missing }: write {{ for a brace`},
	} {
		r, err := alert.Parse("./rules.yaml", []byte(tt.text))
		var mistake *alert.Error
		if r != nil || !errors.As(err, &mistake) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant %s", tt.name, err, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "own.yaml")
	if err := os.WriteFile(own, []byte("rules: [{name: own, when: 'true'}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := alert.Load(alert.DefaultName, own)
	if err != nil {
		t.Fatal(err)
	}
	if names := r.Names(); len(names) < 6 || names[len(names)-1] != "own" {
		t.Errorf("the rules are %q", names)
	}
	var mistake *alert.Error
	if _, err := alert.Load(own, own); !errors.As(err, &mistake) {
		t.Errorf("the same twice: %v", err)
	}
	if _, err := alert.Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := alert.Load(dir); err == nil {
		t.Error("Load accepts a folder")
	}
}

// TestDefaultIsQuiet checks that no rule reports events that change nothing or are harmless. The
// end-to-end tests have the events that meet rules.
func TestDefaultIsQuiet(t *testing.T) {
	r, err := alert.Load(alert.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	failed := write("kernel.core_pattern", "core", "|/x")
	failed.Outcome, failed.Error = event.Failure, "EACCES"
	container := write("net.ipv4.ip_forward", "0", "1")
	container.Sysctl.Namespace = &event.Namespace{Type: "net", ID: 7}
	inner := write("user.max_user_namespaces", "100", "1")
	inner.Sysctl.Namespace = &event.Namespace{Type: "user", ID: 7}
	for _, e := range []*event.Event{
		failed, container, inner,
		write("kernel.core_pattern", "core", "core"),
		{Type: event.NamespaceEnter, Outcome: event.Success, Namespace: &event.Namespace{Type: "net", ID: 7}, Container: &event.Container{ID: "a"}},
		{Type: event.NamespaceEnter, Outcome: event.Success, Namespace: &event.Namespace{Type: "net", Host: true}},
		{Type: event.NamespaceCreate, Outcome: event.Success, Namespace: &event.Namespace{Type: "user"}, Process: &event.Process{}},
		{Type: event.NamespaceCreate, Outcome: event.Failure, Namespace: &event.Namespace{Type: "user"}, Process: &event.Process{UID: 1000}},
	} {
		if r.Mark(e); e.Alert != nil {
			t.Errorf("%+v: %q", e, e.Alert)
		}
	}
	drift := &event.Event{Type: event.SysctlDrift, Sysctl: &event.Sysctl{Name: "kernel.core_pattern", Old: ptr(""), After: ptr("|/x")}}
	if r.Mark(drift); len(drift.Alert) != 1 || drift.Alert[0].Message != "somebody set kernel.core_pattern to |/x (was ): the kernel runs a program after | as root" {
		t.Errorf("drift: %q", drift.Alert)
	}
}

// TestAllocations checks that an event that meets no rule needs no memory.
func TestAllocations(t *testing.T) {
	r, err := alert.Load(alert.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	e := write("net.ipv4.tcp_keepalive_time", "7200", "600")
	if n := testing.AllocsPerRun(100, func() { r.Mark(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzParse checks that each mistake has a position in the file.
func FuzzParse(f *testing.F) {
	f.Add([]byte(alert.Default))
	f.Add([]byte("rules:\n- name: a\n  when: 'typ == \"it''s\"'\n  message: >-\n    {a|b}\n"))
	f.Add([]byte("rules: [{name: &a x, when: *a}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := alert.Parse("f", text)
		if (r == nil) != (err != nil) {
			t.Fatalf("%v, %v", r, err)
		}
		var mistake *alert.Error
		breaks := 0 // as YAML counts them
		for _, r := range string(text) {
			if strings.ContainsRune("\r\n\u0085\u2028\u2029", r) {
				breaks++
			}
		}
		if err != nil && (!errors.As(err, &mistake) || mistake.Line > breaks+2) {
			t.Errorf("%v of a text with %d lines", err, breaks+1)
		}
	})
}
