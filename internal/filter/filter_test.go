// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr"

	"github.com/nstrace/nstrace/event"
)

var update = flag.Bool("update", false, "update the table of fields in the documentation")

// captured returns events of real runs.
func captured(tb testing.TB) []*event.Event {
	tb.Helper()
	files, err := filepath.Glob("../../tracer/testdata/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no captured events: %v", err)
	}
	var events []*event.Event
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			e := new(event.Event)
			if err := json.Unmarshal(line, e); err != nil {
				tb.Fatal(err)
			}
			events = append(events, e)
		}
	}
	return events
}

func compile(tb testing.TB, expr string) *Program {
	tb.Helper()
	p, err := Compile(expr)
	if err != nil {
		tb.Fatalf("%s: %v", expr, err)
	}
	return p
}

// zero returns v as its JSON with the zero value for each absent field. This is the language's view
// of an event, in a form that another implementation can evaluate.
func zero(v reflect.Value) any {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return zero(reflect.Zero(v.Type().Elem()))
		}
		return zero(v.Elem())
	}
	switch {
	case v.Type() == timeType:
		return v.Interface()
	case v.Kind() == reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if name != "-" {
				m[name] = zero(v.Field(i))
			}
		}
		return m
	case v.Kind() == reflect.Slice:
		list := []any{}
		for i := range v.Len() {
			list = append(list, zero(v.Index(i)))
		}
		return list
	case v.Kind() == reflect.Map:
		m := map[string]any{}
		for key, value := range v.Seq2() {
			m[key.String()] = zero(value)
		}
		return m
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.CanInt():
		return int(v.Int())
	}
	return int(v.Uint())
}

// expressions use only the part of expr-lang that this package has, so that expr-lang can evaluate
// them. expr-lang has no default for a key that a map lacks.
var expressions = []string{
	`true`,
	`!true`,
	`type == "sysctl.write"`,
	`type != "sysctl.write" and outcome == "failure"`,
	`type == "namespace.create" || type == "namespace.destroy"`,
	`not (type == "namespace.create" or type == "namespace.destroy")`,
	`!namespace.host`,
	`namespace.host == true`,
	`true != namespace.host`,
	`type in ["namespace.create", "namespace.enter",]`,
	`type not in ["namespace.create", "namespace.enter"]`,
	`error in [process.comm, "EPERM"]`,
	`type in []`,
	`process.pid in [1, 0x10, 1_000]`,
	`process.comm == "unshare"`,
	`process.comm == ""`,
	`process.comm < "sysctl"`,
	`"sh" <= process.comm`,
	`process.comm contains "sys"`,
	`process.comm not contains 'sys'`,
	`process.exe startsWith "/usr/bin"`,
	"process.exe endsWith `unshare`",
	`process.exe matches "^/usr/s?bin/[a-m]"`,
	`not(process.exe matches "(?i)UNSHARE$")`,
	`process.exe endsWith process.comm`,
	`process.pid > 0`,
	`process.pid >= process.tid && process.ppid < process.pid`,
	`100 < process.pid < 300 <= 300`,
	`process.pid > -1`,
	`process.uid == 0 and process.login_uid == 0`,
	`child_pid != 0`,
	`count == 0`,
	`count > 1`,
	`namespace.type in ["net", "uts"]`,
	`"net" in process.ns and namespace.id != process.ns.net`,
	`"user" in process.ns and process.ns["user"] == namespace.user_ns`,
	`"net" in process.ns`,
	`namespace.lifetime_ms >= 5`,
	`namespace.creator.comm == "unshare"`,
	`process.pid != 0 and namespace.from == process.ns.net`,
	`sysctl.name == "net.ipv4.tcp_keepalive_time"`,
	`sysctl.old != sysctl.after`,
	`sysctl.new == "" && sysctl.name != ""`,
	`sysctl.namespace.type == "net" and !sysctl.namespace.host`,
	`sysctl.truncated`,
	`"--net" in process.args`,
	`process.comm in process.args`,
	`"sh" not in process.args`,
	`any(process.args, # startsWith "--")`,
	`any(process.ancestors, .comm == "bash")`,
	`all(process.ancestors, .pid < process.pid)`,
	`none(process.ancestors, {.comm contains "s" && .pid != 1})`,
	`any(process.ancestors, #.pid == process.ppid)`,
	`len(process.args) > 2`,
	`len(process.comm) == 7`,
	`len(process.ancestors) == 0`,
	`len(process.ns) == 8`,
	`host == "guest" and v == 1`,
	`time >= namespace.created`,
	`trace.kernel != "" || loss.reason == "ring_full"`,
	`true == false or process.comm == "sh" == true`,
	`/* what */ process.comm == "sh" // and no more`,
}

// TestOracle compares the results with those of expr-lang for the same events.
func TestOracle(t *testing.T) {
	events := captured(t)
	all := append(events, new(event.Event))
	decides := 0
	for _, text := range expressions {
		oracle, err := expr.Compile(text, expr.Env(zero(reflect.ValueOf(fullEvent()))), expr.AsBool())
		if err != nil {
			t.Fatalf("expr-lang: %s: %v", text, err)
		}
		p := compile(t, text)
		matched := 0
		for _, e := range all {
			want, err := expr.Run(oracle, zero(reflect.ValueOf(e)))
			if err != nil {
				t.Fatalf("expr-lang: %s: %v", text, err)
			}
			got := p.Match(e)
			if got != want {
				line, _ := json.Marshal(e)
				t.Errorf("%s is %v, and %v in expr-lang, for\n%s", text, got, want, line)
			}
			if got {
				matched++
			}
		}
		if matched > 0 && matched < len(all) {
			decides++
		}
	}
	if decides < len(expressions)*2/3 {
		t.Errorf("%d of %d expressions are the same for all events", len(expressions)-decides, len(expressions))
	}
}

func ptr[T any](v T) *T { return &v }

// TestOwn has expressions that differ from expr-lang or are not in it.
func TestOwn(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	write := &event.Event{
		Type: event.SysctlWrite, Time: at, Outcome: event.Success, Seq: 1 << 63,
		Sysctl:  &event.Sysctl{Name: "net.ipv4.conf.eth0/100.forwarding", Old: ptr("0"), New: ptr("")},
		Process: &event.Process{PID: 7, Comm: "a\x00ÿ", Args: []string{"a", "b"}, LoginUID: ptr[uint32](0), Ancestors: []event.Actor{{PID: 6, Comm: "sshd"}}},
	}
	end := &event.Event{
		Type: event.NamespaceDestroy, Time: at,
		Namespace: &event.Namespace{Type: "net", Created: at.Add(-time.Hour), LifetimeMS: ptr[int64](3600000), Creator: &event.Actor{PID: 9, Comm: "ip"}},
	}
	for _, row := range []struct {
		expr       string
		write, end bool
	}{
		{`process == nil`, false, true},
		{`nil != process`, true, false},
		{`process.login_uid == nil`, false, true},
		{`process.login_uid == 0`, true, true},
		{`process.session_id != nil`, false, false},
		{`process.pid != nil`, true, false},
		{`process.user != nil`, false, false},
		{`process.args != nil`, true, false},
		{`process.ancestors[0] != nil`, true, false},
		{`process.ancestors[1] != nil`, false, false},
		{`process.ns.net != nil`, false, false},
		{`sysctl.new == nil`, false, true},
		{`sysctl.new == ""`, true, true},
		{`sysctl.after == nil`, true, true},
		{`namespace.host == nil`, true, true},
		{`namespace.creator == nil`, true, false},
		{`namespace.created == nil`, true, false},
		{`process.ancestors[0].comm == "sshd"`, true, false},
		{`process.ancestors[-1].pid == 6`, true, false},
		{`process.ancestors[-2].pid == 6`, false, false},
		{`process.args[1] == "b"`, true, false},
		{`process.args[2] == ""`, true, true},
		{`process["comm"] == "a\x00\xff"`, true, false},
		{`none(process.args, # == "c") and all(process.args, # < "c")`, true, true},
		{`any(process.args, # == "b")`, true, false},
		{`glob("net.ipv4.conf.*.forwarding", sysctl.name)`, true, false},
		{`glob("*", sysctl.name)`, true, true},
		{`glob("net", sysctl.name)`, false, false},
		{`time > "2026-11-23T12:00:00Z"`, true, true},
		{`"2026-11-23T13:00:00.000000005+01:00" == time`, true, true},
		{`time > "2026-11-23T12:00:00.000000005Z"`, false, false},
		{`namespace.created < "2026-11-23T11:30:00Z" and namespace.created != nil`, false, true},
		{`namespace.created in ["2026-11-23T11:00:00.000000005Z"]`, false, true},
		{`namespace.created < time`, true, true},
		{`namespace.created < "0001-01-01T00:00:01Z"`, true, false},
		{`seq > 9223372036854775806`, true, false},
	} {
		p := compile(t, row.expr)
		if got := p.Match(write); got != row.write {
			t.Errorf("%s: %v for a write", row.expr, got)
		}
		if got := p.Match(end); got != row.end {
			t.Errorf("%s: %v for an end", row.expr, got)
		}
	}
}

// TestEveryField uses each path of the event's types. It is absent in an empty event, and has its
// value in a full one.
func TestEveryField(t *testing.T) {
	listed := strings.Join(Fields(), "\n") + "\n"
	uses := 0
	var walk func(path, list string, typ reflect.Type)
	walk = func(path, list string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		wrap := func(use string) string {
			if list == "" {
				return use
			}
			return fmt.Sprintf("any(%s, %s)", list, use)
		}
		var full, empty string
		switch {
		case typ == timeType:
			full, empty = path+` > "2000-01-01T00:00:00Z"`, path+` < "2000-01-01T00:00:00Z"`
		case typ.Kind() == reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name == "-" { // of the program alone
					continue
				}
				if name == "" {
					t.Errorf("%s.%s has no name in JSON", typ, f.Name)
				}
				if strings.HasSuffix(path, "#") || path == "" {
					walk(path[:max(0, len(path)-1)]+strings.Repeat(".", min(1, len(path)))+name, list, f.Type)
				} else {
					walk(path+"."+name, list, f.Type)
				}
			}
			return
		case typ.Kind() == reflect.Slice:
			if list == "" {
				walk("#", path, typ.Elem())
			}
			full, empty = "len("+path+") == 1", "len("+path+") == 0"
		case typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.String:
			full, empty = path+`["net"] == "x"`, path+`["net"] == ""`
		case typ.Kind() == reflect.Map:
			full, empty = path+`["net"] == 1`, path+`["net"] == 0`
		case typ.Kind() == reflect.String:
			full, empty = path+` == "x"`, path+` == ""`
		case typ.Kind() == reflect.Bool:
			full, empty = path, "!"+path
		default:
			full, empty = path+" == 1", path+" == 0"
		}
		uses++
		if e := fullEvent(); !compile(t, wrap(full)).Match(e) || (list == "" && compile(t, empty).Match(e)) {
			t.Errorf("%s: %s does not hold for a full event", typ, wrap(full))
		}
		if e := new(event.Event); compile(t, wrap(full)).Match(e) || (list == "" && !compile(t, empty).Match(e)) {
			t.Errorf("%s: %s holds for an empty event", typ, wrap(full))
		}
		if list == "" && !strings.Contains(listed, path+" ") {
			t.Errorf("%s is not among the fields", path)
		}
	}
	walk("", "", eventType)
	if uses < 60 {
		t.Errorf("only %d fields", uses)
	}
}

// TestDocs checks the table of fields in the documentation. -update writes it.
func TestDocs(t *testing.T) {
	const file, start, end = "../../docs/filter.md", "<!-- fields: go test ./internal/filter -update -->\n", "<!-- end of fields -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(b), start)
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s has no table of fields", file)
	}
	table := "\n| field | type |\n| --- | --- |\n"
	for _, f := range Fields() {
		name, typ, _ := strings.Cut(f, " ")
		table += fmt.Sprintf("| `%s` | %s |\n", name, strings.TrimSpace(typ))
	}
	want := before + start + table + "\n" + end + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Errorf("the event has other fields than %s: go test ./internal/filter -update", file)
	}
}

// fullEvent returns an event with a value in every field.
func fullEvent() *event.Event {
	e := new(event.Event)
	fill(reflect.ValueOf(e).Elem())
	return e
}

func fill(v reflect.Value) {
	switch {
	case v.Type() == timeType:
		v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.String:
		v.Set(reflect.ValueOf(map[string]string{"net": "x"}))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("net").Convert(v.Type().Key()), reflect.ValueOf(1).Convert(v.Type().Elem()))
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(1)
	default:
		v.SetUint(1)
	}
}

// TestMistakes has the message and the position of each kind of mistake.
func TestMistakes(t *testing.T) {
	for _, row := range []struct {
		expr   string
		column int
		want   string
	}{
		{`procss.comm == "x"`, 1, `unknown field "procss" at column 1: fields are alert, between, boot_id,`},
		{`procss.comm == "x"`, 1, `; did you mean "process"?`},
		{`type == "ä" and process.com == "x"`, 25, `unknown field "com" of process at column 25: fields of process are ancestors, args,`},
		{`any(process.ancestors, .com == "x")`, 25, `fields of the element are comm, pid, uid; did you mean "comm"?`},
		{`process.ns.nett == 1`, 12, `unknown key "nett" of process.ns at column 12: keys of process.ns are cgroup, ipc,`},
		{`process.pid == "1"`, 16, `process.pid is a number and cannot be compared with a string at column 16: write 1`},
		{`7 == process.comm`, 1, `process.comm is a string and cannot be compared with a number at column 1: write "7"`},
		{`process.pid == process.comm`, 16, `process.pid is a number and cannot be compared with a string`},
		{`process.comm`, 1, `process.comm is a string, not a boolean at column 1: compare it with a value`},
		{`process.comm == "a" && process`, 24, `process is an object, not a boolean at column 24`},
		{`process == "a"`, 12, `process is an object and cannot be compared with a string`},
		{`process == process`, 1, `process is an object, which == cannot compare`},
		{`nil < process`, 1, `< cannot compare nil`},
		{`nil == 1`, 1, `1 is not a field`},
		{`process.args == "a"`, 17, `write "a" in process.args`},
		{`process.args contains "-w"`, 1, `write "-w" in process.args`},
		{`process.pid contains "1"`, 1, `process.pid is a number, and contains needs strings`},
		{`process.ancestors.comm == "x"`, 19, `write any(process.ancestors, .comm ...)`},
		{`1 in process.args`, 1, `process.args is a list of strings and cannot contain a number`},
		{`1 in process.comm`, 6, `process.comm is a string at column 6: in needs a list, for example [1, 2]`},
		{`process.pid in ["a"]`, 17, `cannot be compared`},
		{`process.ns[1] == 1`, 12, `process.ns is a map and has no elements`},
		{`process.args["a"] == "a"`, 14, `want a number in the brackets`},
		{`process.comm.x == 1`, 14, `process.comm is a string and has no field "x"`},
		{`any(process.comm, # == "x")`, 5, `process.comm is a string, and any needs a list`},
		{`any(process.args, any(process.args, # == "x"))`, 19, `any cannot be used inside`},
		{`any(process.args, #)`, 19, `# is a string, not a boolean`},
		{`len(process.pid) == 1`, 5, `has no length`},
		{`glob(sysctl.name, "x")`, 6, `the first argument of glob must be a pattern in quotes, not sysctl.name`},
		{`glob("[", sysctl.name)`, 6, `invalid pattern "["`},
		{`glob("*", process.pid)`, 11, `process.pid is a number, and glob needs a string`},
		{`gob("*", sysctl.name)`, 1, `unknown function "gob" at column 1: functions are all, any, glob, len, none; did you mean "glob"?`},
		{`repeat("x", 1000000000) == ""`, 1, `unknown function`},
		{`process.comm matches "("`, 22, "invalid pattern: missing closing ): `(` at column 22"},
		{`process.comm matches "(x{1000}){1000}"`, 22, `invalid pattern`},
		{`process.comm matches "(x{100}){10}y{1000}z{1000}(aa){1000}"`, 22, `too large`},
		{`process.comm matches process.exe`, 22, `in quotes`},
		{`time > "yesterday"`, 8, `want for example "2006-01-02T15:04:05Z"`},
		{`time > 5`, 8, `time is a time and cannot be compared with a number`},
		{`not process.comm == "x"`, 1, `not applies only to process.comm at column 1: write not (...)`},
		{`process.comm not == "x"`, 18, `unexpected "=="`},
		{`-process.pid == 1`, 2, `not a number`},
		{`process.pid == 1.5`, 16, `want a whole number`},
		{`process.pid == 99999999999999999999`, 16, `want a whole number`},
		{`process.comm = "x"`, 14, `unexpected "=" at column 14: use == to compare`},
		{`process.pid + 1 == 2`, 13, `unexpected "+"`},
		{`process?.comm == "x"`, 8, `use a dot`},
		{`["x"] == process.args`, 1, `a list can only follow in`},
		{`.comm == "x"`, 1, `unexpected "."`},
		{`process. == "x"`, 10, `unexpected "=="`},
		{`(type == "x"`, 13, `unexpected end of the expression at column 13`},
		{`type == "x" &&`, 15, `unexpected end of the expression at column 15`},
		{`type == "x" "y"`, 13, `unexpected "\"y\""`},
		{`type == "x`, 11, `literal not terminated`},
		{`sysctl.new @ 3`, 12, `unrecognized character`},
		{"type == \"x\"\n\tand procss == nil", 18, `unknown field "procss" at column 18`},
		{``, 1, `empty expression`},
		{`  `, 1, `empty expression`},
		{strings.Repeat("(", MaxLength+1), 1, `at most 4096 bytes`},
	} {
		p, err := Compile(row.expr)
		var e *Error
		if p != nil || !errors.As(err, &e) {
			t.Errorf("%s: %v", row.expr, err)
			continue
		}
		if got := e.Error(); e.Column != row.column || !strings.Contains(got, row.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: column %d: %s, want column %d: %s", row.expr, e.Column, got, row.column, row.want)
		}
		if utf8.RuneCountInString(row.expr[:e.Offset]) != e.Column-1 {
			t.Errorf("%s: offset %d is not column %d", row.expr, e.Offset, e.Column)
		}
	}
}

func TestCaret(t *testing.T) {
	for text, want := range map[string]string{
		`procss == nil`:                "procss == nil\n^",
		`type == "ä" && procss == nil`: "type == \"ä\" && procss == nil\n               ^",
		`(type == "x"`:                 "(type == \"x\"\n            ^",
		"type == \"\x1b\" or\n\tprocss == nil\nor true": " procss == nil\n ^",
		``: "\n^",
	} {
		_, err := Compile(text)
		var e *Error
		if !errors.As(err, &e) || e.Caret() != want {
			t.Errorf("%v\n%s\nwant\n%s", err, e.Caret(), want)
		}
	}
}

// usual are typical expressions. Match must not allocate for them.
var usual = []struct{ name, expr string }{
	{"equal", `process.comm == "runc"`},
	{"both", `type == "sysctl.write" && process.uid != 0 && sysctl.old != sysctl.new`},
	{"in", `process.comm in ["runc", "crun", "sysctl", "ip"]`},
	{"glob", `glob("net.ipv4.*", sysctl.name)`},
	{"any", `any(process.ancestors, .comm == "sshd")`},
	{"ns", `process.ns.net != 4026531840`},
	{"time", `time > "2026-11-23T12:00:00Z"`},
	{"args", `"-w" in process.args`},
	{"nil", `process.login_uid != nil`},
	{"matches", `sysctl.name matches "^net\\.(ipv4|ipv6)\\."`},
}

// aWrite is a sysctl.write of a real run.
func aWrite(tb testing.TB) *event.Event {
	for _, e := range captured(tb) {
		if e.Type == event.SysctlWrite && e.Process != nil && len(e.Process.Ancestors) > 2 {
			return e
		}
	}
	tb.Fatal("no write")
	return nil
}

func TestAllocations(t *testing.T) {
	e := aWrite(t)
	for _, u := range usual {
		p := compile(t, u.expr)
		if n := testing.AllocsPerRun(100, func() { p.Match(e) }); n > 0 {
			t.Errorf("%s: %v allocations", u.expr, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	e := aWrite(b)
	for _, u := range usual {
		b.Run(u.name, func(b *testing.B) {
			p := compile(b, u.expr)
			b.ReportAllocs()
			for b.Loop() {
				p.Match(e)
			}
		})
	}
}

// FuzzCompile compiles any text. It must either be rejected with a position inside the text, or
// work for any event.
func FuzzCompile(f *testing.F) {
	for _, text := range expressions {
		f.Add(text)
	}
	for _, u := range usual {
		f.Add(u.expr)
	}
	for _, text := range []string{"not", "#", "any(process.args,", `"\`, "a\xff", "-", "[", "type == '\\u{110000}'", "1 < 2 < 3", "?.", "b'x'"} {
		f.Add(text)
	}
	events := []*event.Event{new(event.Event), fullEvent()}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile(text)
		var e *Error
		switch {
		case err == nil && p != nil:
			for _, e := range events {
				p.Match(e)
			}
		case p != nil || !errors.As(err, &e):
			t.Fatalf("%v, %v", p, err)
		default:
			if e.Offset < 0 || e.Offset > len(text) || strings.ContainsAny(e.Error(), "\n\x1b") || strings.Count(e.Caret(), "\n") != 1 {
				t.Fatalf("offset %d: %q\n%q", e.Offset, e, e.Caret())
			}
		}
	})
}

// TestWarnings has comparisons that can never hold, and some that can.
func TestWarnings(t *testing.T) {
	for expr, want := range map[string][]string{
		`type == "sysctl"`:                                 {`type is never "sysctl": want sysctl.write, sysctl.drift, sysctl.appear, sysctl.vanish`},
		`"sysctl" != type && true`:                         {`type is never "sysctl": want sysctl.write, sysctl.drift, sysctl.appear, sysctl.vanish`},
		`type in ["sysctl.write", "netdev"]`:               {`type is never "netdev": want netdev.move`},
		`outcome == "failed"`:                              {`outcome is never "failed": want success, failure`},
		`namespace.type == "network" || outcome == "fail"`: {`namespace.type is never "network": want mnt, net, ipc, user, pid, uts, cgroup, time`, `outcome is never "fail": want success, failure`},
		`type == "sysctl.write"`:                           nil,
		`type == "trace.gap"`:                              nil,
		`outcome == ""`:                                    nil, // unknown
		`process.comm == "sysctl"`:                         nil,
		`type startsWith "sysctl"`:                         nil,
	} {
		p, err := Compile(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if got := p.Warnings(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
