// SPDX-License-Identifier: Apache-2.0

//go:build ignore

// Command refresh writes the lists of fields that the tests of package format use, from clones of
// https://github.com/elastic/ecs and https://github.com/ocsf/ocsf-schema:
//
//	go run internal/format/testdata/refresh.go ECS_CLONE OCSF_CLONE
//
// Both are under the Apache License 2.0. The lists have names, types and values only, no descriptions.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The versions. Change them together with those of package format.
const (
	ecsVersion  = "9.4.0"
	ocsfVersion = "1.8.0"
)

const header = `# %s %s, Apache License 2.0, Copyright %s
# Made by refresh.go. %s
`

// Classes and objects of OCSF that package format uses.
var (
	ocsfClasses = []string{
		"events/base_event.json", "events/system/kernel_activity.json", "events/system/event_log_activity.json",
		"events/discovery/device_config_state_change.json", "events/discovery/kernel_object_query.json",
	}
	ocsfObjects = []string{"actor", "container", "device", "kernel", "key_value_object", "metadata", "os", "process", "process_entity", "product", "session", "user"}
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: refresh ECS_CLONE OCSF_CLONE")
	}
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Dir(file)
	write(filepath.Join(dir, "ecs-"+ecsVersion+".txt"), ecs(os.Args[1]))
	write(filepath.Join(dir, "ocsf-"+ocsfVersion+".txt"), ocsf(os.Args[2]))
}

func write(name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		log.Fatal(err)
	}
}

// show returns a file of a tag.
func show(clone, tag, name string) []byte {
	out, err := exec.Command("git", "-C", clone, "show", tag+":"+name).Output()
	if err != nil {
		log.Fatalf("%s in %s of %s: %v", name, tag, clone, err)
	}
	return out
}

// ecs returns a line for each field: name, type, "array" or "-", and its values with the types of events that each
// value of event.category can have.
func ecs(clone string) string {
	var fields map[string]struct {
		Type      string
		Normalize []string
		Allowed   []struct {
			Name  string
			Types []string `yaml:"expected_event_types"`
		} `yaml:"allowed_values"`
	}
	if err := yaml.Unmarshal(show(clone, "v"+ecsVersion, "generated/ecs/ecs_flat.yml"), &fields); err != nil {
		log.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, header, "Elastic Common Schema", ecsVersion, "Elasticsearch B.V.", "field, type, array or not, allowed values, with the event types of a category in parentheses")
	used := []string{"@timestamp", "agent", "container", "ecs", "error", "event", "file", "host", "labels", "log", "message", "orchestrator", "process", "related", "rule", "tags", "user"}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		set, _, _ := strings.Cut(name, ".")
		if !slices.Contains(used, set) || strings.Contains(name, ".entity.") {
			continue
		}
		f := fields[name]
		fmt.Fprintf(&b, "%s %s %s", name, f.Type, array(slices.Contains(f.Normalize, "array")))
		for _, v := range f.Allowed {
			b.WriteString(" " + v.Name)
			if len(v.Types) > 0 {
				b.WriteString("(" + strings.Join(v.Types, ",") + ")")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func array(is bool) string {
	if is {
		return "array"
	}
	return "-"
}

// A schema is a class, an object, a profile or the dictionary.
type schema struct {
	UID         int
	Name        string
	Category    string
	Extends     string
	Attributes  map[string]json.RawMessage
	Constraints map[string][]string
	Types       struct{ Attributes map[string]attribute }
}

type attribute struct {
	Type        string
	IsArray     bool `json:"is_array"`
	Requirement string
	Deprecated  *struct{} `json:"@deprecated"`
	Enum        map[string]struct{ Caption string }
}

type reader struct {
	clone string
	dict  schema
	files []string
}

func (r *reader) read(name string) (s schema) {
	if err := json.Unmarshal(show(r.clone, "v"+ocsfVersion, name), &s); err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return s
}

// find returns the file of a class or object.
func (r *reader) find(name string) string {
	i := slices.IndexFunc(r.files, func(f string) bool {
		return path.Base(f) == name+".json" && (strings.HasPrefix(f, "events/") || strings.HasPrefix(f, "objects/"))
	})
	if i < 0 {
		log.Fatalf("no file of %s", name)
	}
	return r.files[i]
}

// all returns the attributes of a file, with those that it inherits and includes.
func (r *reader) all(name string) (schema, map[string]attribute) {
	s := r.read(name)
	attrs := map[string]attribute{}
	if s.Extends != "" {
		parent, inherited := r.all(r.find(s.Extends))
		attrs = inherited
		if s.Category == "" {
			s.Category = parent.Category
		}
		if s.Constraints == nil {
			s.Constraints = parent.Constraints
		}
	}
	if include, ok := s.Attributes["$include"]; ok {
		var names []string
		if err := json.Unmarshal(include, &names); err != nil {
			log.Fatal(err)
		}
		for _, n := range names {
			r.merge(attrs, r.read(n).Attributes, strings.TrimSuffix(path.Base(n), ".json"))
		}
	}
	r.merge(attrs, s.Attributes, "")
	return s, attrs
}

// merge adds attributes. Those of a profile have its name in place of the requirement.
func (r *reader) merge(attrs map[string]attribute, more map[string]json.RawMessage, profile string) {
	for name, raw := range more {
		if name == "$include" {
			continue
		}
		a, known := attrs[name]
		if !known {
			if err := json.Unmarshal(r.dict.Attributes[name], &a); err != nil {
				log.Fatalf("the dictionary has no good %s: %v", name, err)
			}
			a.Enum = maps.Clone(a.Enum)
		}
		enum := a.Enum
		a.Enum = nil
		if err := json.Unmarshal(raw, &a); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		for k, v := range a.Enum {
			if enum == nil {
				enum = map[string]struct{ Caption string }{}
			}
			enum[k] = v
		}
		a.Enum = enum
		if profile != "" {
			a.Requirement = "profile:" + profile
		}
		attrs[name] = a
	}
}

// ocsf returns the classes and objects, each with a line for each attribute: name, type, "array" or "-", requirement
// and values.
func ocsf(clone string) string {
	r := &reader{clone: clone}
	out, err := exec.Command("git", "-C", clone, "ls-tree", "-r", "--name-only", "v"+ocsfVersion).Output()
	if err != nil {
		log.Fatal(err)
	}
	r.files = strings.Fields(string(out))
	r.dict = r.read("dictionary.json")
	var categories struct {
		Attributes map[string]struct{ UID int }
	}
	if err := json.Unmarshal(show(clone, "v"+ocsfVersion, "categories.json"), &categories); err != nil {
		log.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, header, "Open Cybersecurity Schema Framework", ocsfVersion, "OCSF a Series of LF Projects, LLC", "attribute, type, array or not, requirement, values")
	for _, name := range ocsfClasses {
		s, attrs := r.all(name)
		category := categories.Attributes[s.Category].UID
		uid := s.UID
		if category > 0 {
			uid += 1000 * category
		}
		fmt.Fprintf(&b, "\nclass %s %d %d\n", strings.TrimSuffix(path.Base(name), ".json"), uid, category)
		r.write(&b, s, attrs)
	}
	for _, name := range ocsfObjects {
		s, attrs := r.all("objects/" + name + ".json")
		if name == "process" { // the extension for Linux
			r.merge(attrs, r.read("extensions/linux/profiles/linux_users.json").Attributes, "linux/linux_users")
		}
		fmt.Fprintf(&b, "\nobject %s\n", name)
		r.write(&b, s, attrs)
	}
	return b.String()
}

func (r *reader) write(b *strings.Builder, s schema, attrs map[string]attribute) {
	if any := s.Constraints["at_least_one"]; len(any) > 0 {
		fmt.Fprintf(b, "at_least_one %s\n", strings.Join(any, " "))
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		a := attrs[name]
		typ := a.Type
		for r.dict.Types.Attributes[typ].Type != "" {
			typ = r.dict.Types.Attributes[typ].Type
		}
		requirement := a.Requirement
		if a.Deprecated != nil {
			requirement = "deprecated"
		} else if requirement == "" {
			requirement = "optional"
		}
		fmt.Fprintf(b, "  %s %s %s %s", name, typ, array(a.IsArray), requirement)
		values := slices.SortedFunc(maps.Keys(a.Enum), func(a, b string) int {
			x, err1 := strconv.Atoi(a)
			y, err2 := strconv.Atoi(b)
			if err1 != nil || err2 != nil {
				return strings.Compare(a, b)
			}
			return x - y
		})
		for _, v := range values {
			fmt.Fprintf(b, " %s=%s", v, strings.ReplaceAll(a.Enum[v].Caption, " ", "_"))
		}
		b.WriteString("\n")
	}
}
