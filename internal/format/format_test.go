// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/schema/schematest"
)

type object = map[string]any

// inputs are events of real runs, and those of eventtest with each type and outcome.
func inputs(t *testing.T) []*event.Event {
	t.Helper()
	events := schematest.Examples(t)
	events = append(events, eventtest.Sample()...)
	for _, ev := range eventtest.Sample() {
		for _, outcome := range []event.Outcome{event.Success, event.Failure, ""} {
			with := ev.Clone()
			with.Outcome, with.Error = outcome, ""
			if outcome == event.Failure {
				with.Error = "EPERM"
			}
			with.Alert = []event.Alert{{Name: "a", Severity: "info"}, {Name: "b", Severity: "critical"}}
			with.Container = &event.Container{ID: strings.Repeat("a1", 32), Name: "web", Image: "nginx:1.27", Runtime: "containerd", Source: event.FromRuntime}
			with.Pod = &event.Pod{Name: "web-0", Namespace: "shop", UID: eventtest.BootID, Source: event.FromRuntime}
			events = append(events, with)
		}
	}
	return events
}

// strange are events that lack what real ones have, and events whose strings try to break a line.
func strange() []*event.Event { return append(eventtest.Bare(), eventtest.Hostile()...) }

// encodeAs returns the object that an event is in a format.
func encodeAs(t *testing.T, name string, ev *event.Event) object {
	t.Helper()
	line, err := ByName(name)(ev)
	if err != nil {
		t.Fatal(err)
	}
	if !utf8.Valid(line) || strings.ContainsFunc(string(line), event.Invisible) {
		t.Errorf("%s: the line acts on a terminal: %q", name, line)
	}
	var o object
	if err := json.Unmarshal(line, &o); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, line)
	}
	return o
}

// lines returns the lines of a list of fields.
func lines(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(b), "\n"), func(s string) bool { return s == "" || strings.HasPrefix(s, "#") })
}

// An ecsField is a line of the list.
type ecsField struct {
	typ     string
	array   bool
	allowed map[string][]string // the values, and the types of events that go with each
}

func ecsFields(t *testing.T) map[string]ecsField {
	fields := map[string]ecsField{}
	for _, line := range lines(t, "ecs-"+ECSVersion+".txt") {
		parts := strings.Fields(line)
		f := ecsField{typ: parts[1], array: parts[2] == "array", allowed: map[string][]string{}}
		for _, v := range parts[3:] {
			value, types, _ := strings.Cut(strings.TrimSuffix(v, ")"), "(")
			f.allowed[value] = strings.Split(types, ",")
		}
		fields[parts[0]] = f
	}
	return fields
}

func TestECS(t *testing.T) {
	fields := ecsFields(t)
	for _, ev := range inputs(t) {
		o := encodeAs(t, "ecs", ev)
		rest, ok := o["nstrace"].(object)
		if !ok || rest["type"] != string(ev.Type) {
			t.Errorf("%s: no rest: %v", ev.Type, o["nstrace"])
		}
		delete(o, "nstrace")
		for _, problem := range ecsProblems(fields, "", o) {
			t.Errorf("%s: %s", ev.Type, problem)
		}
		e := o["event"].(object)
		category, typ := e["category"].([]any)[0].(string), e["type"].([]any)[0].(string)
		if !slices.Contains(fields["event.category"].allowed[category], typ) {
			t.Errorf("%s: event.type %s does not go with event.category %s", ev.Type, typ, category)
		}
		for _, name := range []string{"@timestamp", "message", "ecs"} {
			if o[name] == nil {
				t.Errorf("%s: no %s", ev.Type, name)
			}
		}
		for _, name := range []string{"kind", "action", "outcome", "module", "dataset"} {
			if e[name] == nil {
				t.Errorf("%s: no event.%s", ev.Type, name)
			}
		}
	}
}

// ecsProblems returns what is wrong with the members of an object.
func ecsProblems(fields map[string]ecsField, prefix string, o object) (problems []string) {
	for key, value := range o {
		name := prefix + key
		f, known := fields[name]
		if sub, ok := value.(object); ok && f.typ != "object" {
			problems = append(problems, ecsProblems(fields, name+".", sub)...)
			continue
		}
		if !known {
			problems = append(problems, "ECS has no field "+name)
			continue
		}
		values := []any{value}
		if list, ok := value.([]any); ok != f.array {
			problems = append(problems, fmt.Sprintf("%s: array should be %v: %v", name, f.array, value))
		} else if ok {
			values = list
		}
		for _, v := range values {
			text, isText := v.(string)
			_, allowed := f.allowed[text]
			if !ecsType(f.typ, v) || len(f.allowed) > 0 && (!isText || !allowed) {
				problems = append(problems, fmt.Sprintf("%s is of type %s with the values %v: %v", name, f.typ, f.allowed, v))
			}
		}
	}
	return problems
}

func ecsType(typ string, v any) bool {
	switch v := v.(type) {
	case string:
		if typ == "date" {
			_, err := time.Parse(time.RFC3339Nano, v)
			return err == nil
		}
		return typ == "keyword" || typ == "wildcard" || typ == "match_only_text"
	case float64:
		return typ == "long" && v == math.Trunc(v)
	case object: // labels: "no nested objects"
		for _, value := range v {
			if _, ok := value.(string); !ok {
				return false
			}
		}
		return typ == "object"
	}
	return false
}

func TestECSProblems(t *testing.T) {
	fields := ecsFields(t)
	for _, text := range []string{
		`{"event":{"surprise":1}}`, `{"event":{"kind":"thing"}}`, `{"event":{"category":"process"}}`, `{"event":{"category":["nothing"]}}`, `{"process":{"pid":"1"}}`,
		`{"process":{"pid":1.5}}`, `{"process":{"name":1}}`, `{"event":{"start":"today"}}`, `{"process":{"args":"a"}}`, `{"container":"a"}`,
		`{"labels":{"a":{"b":"c"}}}`,
	} {
		var o object
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		if len(ecsProblems(fields, "", o)) == 0 {
			t.Errorf("taken as valid: %s", text)
		}
	}
}

// An ocsfSchema is a class or an object of the list.
type ocsfSchema struct {
	uid, category float64
	atLeastOne    []string
	attributes    map[string]ocsfAttribute
}

type ocsfAttribute struct {
	typ, requirement string
	array            bool
	values           map[string]string
}

func ocsfSchemas(t *testing.T) (classes map[float64]*ocsfSchema, objects map[string]*ocsfSchema) {
	classes, objects = map[float64]*ocsfSchema{}, map[string]*ocsfSchema{}
	var current *ocsfSchema
	for _, line := range lines(t, "ocsf-"+OCSFVersion+".txt") {
		parts := strings.Fields(line)
		switch parts[0] {
		case "class":
			current = &ocsfSchema{attributes: map[string]ocsfAttribute{}}
			current.uid, _ = strconv.ParseFloat(parts[2], 64)
			current.category, _ = strconv.ParseFloat(parts[3], 64)
			classes[current.uid] = current
		case "object":
			current = &ocsfSchema{attributes: map[string]ocsfAttribute{}}
			objects[parts[1]] = current
		case "at_least_one":
			current.atLeastOne = parts[1:]
		default:
			a := ocsfAttribute{typ: parts[1], array: parts[2] == "array", requirement: parts[3], values: map[string]string{}}
			for _, v := range parts[4:] {
				id, caption, _ := strings.Cut(v, "=")
				a.values[id] = strings.ReplaceAll(caption, "_", " ")
			}
			current.attributes[parts[0]] = a
		}
	}
	return classes, objects
}

func TestOCSF(t *testing.T) {
	classes, objects := ocsfSchemas(t)
	for _, ev := range inputs(t) {
		o := encodeAs(t, "ocsf", ev)
		rest, ok := o["unmapped"].(object)
		if !ok || rest["type"] != string(ev.Type) {
			t.Errorf("%s: no rest: %v", ev.Type, o["unmapped"])
		}
		class := classes[o["class_uid"].(float64)]
		if class == nil {
			t.Errorf("%s: there is no class %v", ev.Type, o["class_uid"])
			continue
		}
		activity := o["activity_id"].(float64)
		if o["category_uid"] != class.category || o["type_uid"] != class.uid*100+activity {
			t.Errorf("%s: category_uid %v and type_uid %v do not go with class_uid %v", ev.Type, o["category_uid"], o["type_uid"], class.uid)
		}
		if caption := class.attributes["activity_id"].values[fmt.Sprint(activity)]; activity != ocsfOther && o["activity_name"] != caption {
			t.Errorf("%s: activity_name is %v, and the caption is %s", ev.Type, o["activity_name"], caption)
		}
		profiles := []string{}
		for _, p := range o["metadata"].(object)["profiles"].([]any) {
			profiles = append(profiles, p.(string))
		}
		for _, problem := range ocsfProblems(objects, class, profiles, "", o) {
			t.Errorf("%s: %s", ev.Type, problem)
		}
	}
}

// ocsfProblems returns what is wrong with the attributes of a class or an object.
func ocsfProblems(objects map[string]*ocsfSchema, s *ocsfSchema, profiles []string, prefix string, o object) (problems []string) {
	for name, a := range s.attributes {
		if a.requirement == "required" && o[name] == nil {
			problems = append(problems, "no "+prefix+name)
		}
	}
	if has := func(name string) bool { return o[name] != nil }; len(s.atLeastOne) > 0 && !slices.ContainsFunc(s.atLeastOne, has) {
		problems = append(problems, fmt.Sprintf("%s has none of %v", prefix, s.atLeastOne))
	}
	for key, value := range o {
		name := prefix + key
		a, known := s.attributes[key]
		profile, fromProfile := strings.CutPrefix(a.requirement, "profile:")
		switch {
		case !known:
			problems = append(problems, "OCSF has no attribute "+name)
			continue
		case a.requirement == "deprecated":
			problems = append(problems, name+" is deprecated")
		case fromProfile && !slices.Contains(profiles, profile):
			problems = append(problems, name+" needs the profile "+profile)
		}
		values := []any{value}
		if list, ok := value.([]any); ok != a.array {
			problems = append(problems, fmt.Sprintf("%s: array should be %v: %v", name, a.array, value))
		} else if ok {
			values = list
		}
		for _, v := range values {
			if sub, ok := v.(object); ok && objects[a.typ] != nil {
				problems = append(problems, ocsfProblems(objects, objects[a.typ], profiles, name+".", sub)...)
				continue
			}
			_, allowed := a.values[fmt.Sprint(v)]
			known := len(a.values) == 0 || allowed || key == "category_uid" || key == "class_uid"
			if !ocsfType(a.typ, v) || !known {
				problems = append(problems, fmt.Sprintf("%s is of type %s with the values %v: %v", name, a.typ, a.values, v))
			}
		}
	}
	return problems
}

func ocsfType(typ string, v any) bool {
	switch v := v.(type) {
	case string:
		return typ == "string_t"
	case float64:
		return (typ == "integer_t" || typ == "long_t") && v == math.Trunc(v)
	case bool:
		return typ == "boolean_t"
	case object:
		return typ == "object" // unmapped
	}
	return false
}

func TestOCSFProblems(t *testing.T) {
	classes, objects := ocsfSchemas(t)
	for _, change := range []func(object){
		func(o object) { o["surprise"] = 1 }, func(o object) { delete(o, "kernel") }, func(o object) { o["activity_id"] = 12. }, func(o object) { o["time"] = "now" },
		func(o object) { o["actor"] = object{} }, func(o object) { o["metadata"].(object)["profiles"] = "host" }, func(o object) { o["kernel"].(object)["name"] = 1. },
		func(o object) { o["actor"].(object)["process"].(object)["tid"] = 1. }, func(o object) { o["is_alert"] = true },
	} {
		o := encodeAs(t, "ocsf", eventtest.Sample()[1])
		if problems := ocsfProblems(objects, classes[1003], []string{"host", "linux/linux_users"}, "", o); len(problems) > 0 {
			t.Fatal(problems)
		}
		change(o)
		if len(ocsfProblems(objects, classes[1003], []string{"host", "linux/linux_users"}, "", o)) == 0 {
			t.Errorf("taken as valid: %v", o)
		}
	}
}

// TestNothingIsLost checks that each value of an event's JSON is in each format.
func TestNothingIsLost(t *testing.T) {
	for _, ev := range append(inputs(t), strange()...) {
		var own object
		var enc event.Encoder
		if err := json.Unmarshal(enc.Append(nil, ev), &own); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ecs", "ocsf"} {
			have := map[string]bool{}
			o := encodeAs(t, name, ev)
			values(o, have)
			have[strings.ToLower(fmt.Sprint(o["status"]))] = true // OCSF has the captions of outcomes
			want := map[string]bool{}
			values(own, want)
			for v := range want {
				if !have[v] {
					t.Errorf("%s of %s lacks %s", name, ev.Type, v)
				}
			}
		}
	}
}

// values adds the text of each value below v.
func values(v any, to map[string]bool) {
	switch v := v.(type) {
	case object:
		for _, m := range v {
			values(m, to)
		}
	case []any:
		for _, m := range v {
			values(m, to)
		}
	case float64:
		to[strconv.FormatFloat(v, 'f', -1, 64)] = true
	default:
		to[fmt.Sprint(v)] = true
	}
}

func BenchmarkFormat(b *testing.B) {
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			ev, encode := eventtest.Sample()[1], ByName(name)
			for b.Loop() {
				if _, err := encode(ev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
