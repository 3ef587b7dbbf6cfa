// SPDX-License-Identifier: Apache-2.0

package schematest

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/schema"
)

type object = map[string]any

// events returns a minimal valid event of each type.
func events() map[string]object {
	process := func() object {
		return object{"pid": 4712, "tid": 4712, "comm": "sysctl", "ppid": 1, "uid": 0, "gid": 0}
	}
	between := func() object {
		return object{"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T12:04:31Z", "boot": "same"}
	}
	parameters := func() object {
		return object{"count": 1, "tables": []any{object{"prefix": "net.netfilter", "names": []any{"nf_conntrack_max"}}}}
	}
	all := map[string]object{
		"namespace.create":   {"outcome": "success", "via": "unshare", "namespace": object{"type": "net", "id": 4026532281}, "process": process()},
		"namespace.enter":    {"outcome": "success", "via": "setns", "namespace": object{"type": "net", "id": 4026532281, "from": 4026531840}, "process": process()},
		"namespace.destroy":  {"namespace": object{"type": "net", "id": 4026532281, "lifetime_ms": 0, "creator": object{"pid": 1, "comm": "x"}}},
		"namespace.pin":      {"outcome": "success", "via": "mount", "namespace": object{"type": "net", "id": 4026532281, "path": "/run/netns/web"}, "process": process()},
		"namespace.unpin":    {"namespace": object{"type": "net", "id": 4026532281, "path": "/run/netns/web"}},
		"sysctl.write":       {"via": "write", "sysctl": object{"name": "vm.swappiness", "path": "/proc/sys/vm/swappiness", "old": "", "new": "1"}, "process": process()},
		"netdev.move":        {"outcome": "success", "netdev": object{"name": "eth0", "ifindex": 2, "from": object{"type": "net", "id": 4026531840}, "to": object{"type": "net", "id": 4026532281}}},
		"trace.start":        {"trace": object{"version": "1", "kernel": "6.12.0", "observations": []any{object{"name": "x", "backend": "none", "missing": []any{"all"}}}}},
		"trace.loss":         {"loss": object{"records": object{"sysctl.write": 3}, "reason": "ring_full"}},
		"trace.attach":       {"trace": object{"observations": []any{object{"name": "x", "backend": "fentry"}}}},
		"trace.gap":          {"trace": object{"from": "2026-11-23T11:00:00Z", "to": "2026-11-23T12:00:00Z", "same_boot": true, "ended": "crashed"}},
		"trace.alive":        {"trace": object{"totals": object{"seen": 3, "written": 1, "filtered": 1, "lost": 1, "duration_ms": 0}, "head": object{"id": 7, "hash": strings.Repeat("0f", 32)}}},
		"trace.stop":         {"trace": object{"totals": object{"seen": 3, "written": 1, "filtered": 1, "lost": 1, "duration_ms": 0}}},
		"sysctl.drift":       {"sysctl": object{"name": "vm.swappiness", "path": "/proc/sys/vm/swappiness", "old": "", "after": "1"}, "between": between()},
		"sysctl.appear":      {"sysctl": object{"name": "net.netfilter.*", "path": "/proc/sys/net/netfilter/*", "parameters": parameters()}, "process": process()},
		"sysctl.vanish":      {"sysctl": object{"name": "net.netfilter.*", "path": "/proc/sys/net/netfilter/*", "parameters": parameters()}},
		"namespace.appeared": {"namespace": object{"type": "net", "id": 4026532281, "uid": "1"}, "between": between()},
		"namespace.gone":     {"namespace": object{"type": "net", "id": 4026532281, "uid": "1"}, "between": between()},
	}
	for kind, ev := range all {
		maps.Copy(ev, object{"v": 1, "time": "2026-11-23T12:04:31.123456789Z", "seq": 1, "type": kind})
	}
	return all
}

// set returns a change of the value at a path. nil removes the value.
func set(path string, value any) func(object) {
	return func(ev object) {
		keys := strings.Split(path, "/")
		for _, k := range keys[:len(keys)-1] {
			if _, ok := ev[k]; !ok {
				ev[k] = object{}
			}
			ev = ev[k].(object)
		}
		if last := keys[len(keys)-1]; value == nil {
			delete(ev, last)
		} else {
			ev[last] = value
		}
	}
}

func fails(ev object) { set("outcome", "failure")(ev); set("error", "EPERM")(ev) }

func TestSchema(t *testing.T) {
	both := func(changes ...func(object)) func(object) {
		return func(ev object) {
			for _, c := range changes {
				c(ev)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		kind   string // "" is every type
		change func(object)
		ok     bool
	}{
		{"as it is", "", func(object) {}, true},
		{"host and boot", "", both(set("host", "web1"), set("boot_id", "6f3c1a52-8a0e-4a55-9a43-0d2f6b1c7e21")), true},
		{"whole second", "", set("time", "2026-11-23T12:04:31Z"), true},
		{"run", "", set("run_id", "5b1d0c6e9f2a47d8b3c4e5f60718293a"), true},
		{"short run", "", set("run_id", "5b1d"), false},
		{"run in capitals", "", set("run_id", "5B1D0C6E9F2A47D8B3C4E5F60718293A"), false},
		{"largest seq", "", set("seq", json.Number("18446744073709551615")), true},

		{"no version", "", set("v", nil), false},
		{"version 2", "", set("v", 2), false},
		{"no time", "", set("time", nil), false},
		{"local time", "", set("time", "2026-11-23T12:04:31.123456789+01:00"), false},
		{"no such day", "", set("time", "2026-02-30T12:04:31Z"), false},
		{"seq from 0", "", set("seq", 0), false},
		{"no type", "", set("type", nil), false},
		{"unknown type", "", set("type", "mount.create"), false},
		{"unknown field", "", set("colour", "red"), false},
		{"zero time", "", set("last_time", "0001-01-01T00:00:00.000000000Z"), false},
		{"empty host", "", set("host", ""), false},
		{"null", "", set("host", json.RawMessage("null")), false},
		{"unknown outcome", "", set("outcome", "maybe"), false},
		{"failure without errno", "", set("outcome", "failure"), false},
		{"errno without failure", "", set("error", "EPERM"), false},
		{"failure with success", "", both(fails, set("outcome", "success")), false},
		{"both a namespace and a parameter", "", both(set("namespace", object{"type": "net", "id": 1}), set("sysctl", object{"name": "a", "path": "/proc/sys/a"})), false},

		{"failed", "namespace.create", both(fails, set("namespace/id", nil)), true},
		{"failed with an id", "namespace.create", fails, false},
		{"failed with a child", "namespace.create", both(fails, set("namespace/id", nil), set("child_pid", 7)), false},
		{"failed without type", "namespace.create", both(fails, set("namespace", object{})), false},
		{"errno as a number", "namespace.create", both(fails, set("namespace/id", nil), set("error", "1")), false},
		{"outcome unknown", "namespace.create", set("outcome", nil), true},
		{"no namespace", "namespace.create", set("namespace", nil), false},
		{"no id", "namespace.create", set("namespace/id", nil), false},
		{"id 0", "namespace.create", set("namespace/id", 0), false},
		{"id of 33 bits", "namespace.create", set("namespace/id", 1<<32), false},
		{"unknown kind", "namespace.create", set("namespace/type", "network"), false},
		{"uid", "namespace.create", set("namespace/uid", "18446744073709551615"), true},
		{"uid as a number", "namespace.create", set("namespace/uid", 4097), false},
		{"not the host's", "namespace.create", set("namespace/host", false), false},
		{"no process", "namespace.create", set("process", nil), false},
		{"no call", "namespace.create", set("via", nil), false},
		{"lifetime", "namespace.create", set("namespace/lifetime_ms", 1), false},
		{"owner", "namespace.create", set("namespace/owner", object{"container": object{"id": "9f3c"}, "pod": object{"name": "web"}, "unit": "x.service"}), true},
		{"container", "namespace.create", both(set("container", object{"id": "9f3c", "name": "web"}), set("pod", object{"uid": "1"}), set("unit", "x.service")), true},
		{"child", "namespace.create", set("child_pid", 7), true},
		{"process unknown field", "namespace.create", set("process/cwd", "/"), false},
		{"process without thread", "namespace.create", set("process/tid", nil), false},
		{"no login as -1", "namespace.create", set("process/login_uid", uint32(1<<32-1)), false},
		{"namespaces", "namespace.create", set("process/ns", object{"net": 4026531840, "mnt": 1}), true},
		{"namespaces of no kind", "namespace.create", set("process/ns", object{"pid_for_children": 1}), false},
		{"ancestors", "namespace.create", set("process/ancestors", []any{object{"pid": 1, "comm": ""}}), true},
		{"ancestor without comm", "namespace.create", set("process/ancestors", []any{object{"pid": 1}}), false},
		{"folded", "sysctl.write", both(set("count", 2), set("last_time", "2026-11-23T12:04:32Z")), true},
		{"folded without end", "sysctl.write", set("count", 2), false},
		{"folded one", "sysctl.write", both(set("count", 1), set("last_time", "2026-11-23T12:04:32Z")), false},

		{"failed", "namespace.enter", fails, true},
		{"failed on a bad descriptor", "namespace.enter", both(fails, set("namespace", object{})), true},
		{"failed on nothing", "namespace.enter", both(fails, set("namespace", nil)), true},
		{"no id", "namespace.enter", set("namespace/id", nil), false},
		{"no namespace", "namespace.enter", set("namespace", nil), false},
		{"no process", "namespace.enter", set("process", nil), false},
		{"child", "namespace.enter", set("child_pid", 7), false},

		{"found by scan", "namespace.destroy", both(set("outcome", "success"), set("namespace/detected", "scan"), set("namespace/created", "2026-11-23T12:04:31Z")), true},
		{"process", "namespace.destroy", both(set("process", object{"pid": 1, "tid": 1, "comm": "x", "ppid": 0, "uid": 0, "gid": 0}), set("via", "exit")), false},
		{"failed", "namespace.destroy", fails, false},
		{"from", "namespace.destroy", set("namespace/from", 1), false},
		{"no id", "namespace.destroy", set("namespace/id", nil), false},
		{"negative lifetime", "namespace.destroy", set("namespace/lifetime_ms", -1), false},

		{"failed", "namespace.pin", fails, true},
		{"failed nowhere", "namespace.pin", both(fails, set("namespace/path", nil)), true},
		{"by scan", "namespace.pin", both(set("process", nil), set("outcome", nil), set("via", nil), set("namespace/detected", "scan")), true},
		{"without a process", "namespace.pin", both(set("process", nil), set("outcome", nil), set("via", nil)), false},
		{"no id", "namespace.pin", set("namespace/id", nil), false},
		{"lifetime", "namespace.unpin", set("namespace/lifetime_ms", 1), false},
		{"by scan", "namespace.unpin", set("namespace/detected", "scan"), true},
		{"failed without a process", "namespace.unpin", fails, false},
		{"path", "namespace.destroy", set("namespace/path", "/x"), false},

		{"failed", "sysctl.write", fails, true},
		{"in a namespace", "sysctl.write", set("sysctl/namespace", object{"type": "net", "id": 4026532281, "name": "web"}), true},
		{"in some namespace", "sysctl.write", set("sysctl/namespace", object{"type": "net"}), false},
		{"came from", "sysctl.write", set("sysctl/namespace", object{"type": "net", "id": 2, "from": 1}), false},
		{"no name", "sysctl.write", set("sysctl/name", nil), false},
		{"no path", "sysctl.write", set("sysctl/path", nil), false},
		{"relative path", "sysctl.write", set("sysctl/path", "vm/swappiness"), false},
		{"value as a number", "sysctl.write", set("sysctl/new", 1), false},
		{"no process", "sysctl.write", set("process", nil), false},
		{"a namespace of its own", "sysctl.write", set("namespace", object{"type": "net", "id": 1}), false},

		{"of another kind", "netdev.move", set("netdev/to/type", "mnt"), false},
		{"no device", "netdev.move", set("netdev", nil), false},
		{"failed", "netdev.move", fails, true},
		{"renamed", "netdev.move", both(set("netdev/new_name", "eth1"), set("netdev/new_ifindex", 7)), true},
		{"created", "netdev.move", set("netdev/created", true), true},
		{"not created", "netdev.move", set("netdev/created", false), false},
		{"no index", "netdev.move", set("netdev/ifindex", 0), false},

		{"after a boot", "sysctl.drift", set("between/boot", "different"), true},
		{"found by a scan", "sysctl.appear", both(set("between", object{"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T12:04:31Z", "boot": "same"}), set("process", nil)), true},
		{"found by a scan with a process", "sysctl.appear", set("between", object{"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T12:04:31Z", "boot": "same"}), false},
		{"of a device", "sysctl.vanish", set("netdev", object{"name": "eth0", "kind": "vlan", "ifindex": 7, "new_name": "lan0"}), true},
		{"in two namespaces", "sysctl.vanish", set("sysctl/parameters/namespaces", 2), true},
		{"no parameters", "sysctl.vanish", set("sysctl/parameters", nil), false},
		{"a value", "sysctl.vanish", set("sysctl/old", "1"), false},
		{"parameters", "sysctl.write", set("sysctl/parameters", object{"count": 1, "tables": []any{}}), false},
		{"in a namespace", "sysctl.drift", set("sysctl/namespace", object{"type": "net", "id": 2, "uid": "net:7"}), true},
		{"without times", "sysctl.drift", set("between", nil), false},
		{"no end", "sysctl.drift", set("between/to", nil), false},
		{"no boot", "namespace.gone", set("between/boot", nil), false},
		{"unknown before", "sysctl.drift", set("sysctl/old", nil), false},
		{"as written", "sysctl.drift", set("sysctl/new", "1"), false},
		{"process", "sysctl.drift", set("process", object{"pid": 1, "tid": 1, "comm": "x", "ppid": 0, "uid": 0, "gid": 0}), false},
		{"outcome", "namespace.appeared", set("outcome", "success"), false},
		{"lifetime", "namespace.gone", set("namespace/lifetime_ms", 1), false},
		{"no id", "namespace.gone", set("namespace/id", nil), false},
		{"not traced", "namespace.create", set("between", object{"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T12:04:31Z", "boot": "same"}), false},

		{"alert", "sysctl.write", set("alert", []any{object{"name": "a", "severity": "critical", "message": "b"}, object{"name": "c", "severity": "info"}}), true},
		{"alert", "trace.loss", set("alert", []any{object{"name": "a", "severity": "warning"}}), true},
		{"alert", "trace.stop", set("alert", []any{object{"name": "a", "severity": "warning"}}), false},
		{"no alert", "sysctl.write", set("alert", []any{}), false},
		{"alert without severity", "sysctl.write", set("alert", []any{object{"name": "a"}}), false},
		{"alert of no severity", "sysctl.write", set("alert", []any{object{"name": "a", "severity": "high"}}), false},
		{"alerts", "trace.stop", set("trace/totals/alerts", 2), true},

		{"no reason", "trace.loss", set("loss/reason", nil), false},
		{"nothing", "trace.loss", set("loss/records", object{}), false},
		{"zero", "trace.loss", set("loss/records", object{"sysctl.write": 0}), false},
		{"of no type", "trace.loss", set("loss/records", object{"sysctl": 1}), false},
		{"when", "trace.loss", both(set("loss/from", "2026-11-23T12:04:31Z"), set("loss/to", "2026-11-23T12:04:32Z")), true},
		{"no number", "trace.loss", set("loss/records", nil), false},
		{"no number known", "trace.loss", unknownLoss("ftrace_off"), true},
		{"no number known", "trace.loss", unknownLoss("probes_off"), true},
		{"a number that is unknown", "trace.loss", both(unknownLoss("ftrace_off"), set("loss/records", object{"sysctl.write": 1})), false},
		{"no end", "trace.loss", both(unknownLoss("ftrace_off"), set("loss/to", nil)), false},
		{"without notes", "trace.loss", both(unknownLoss("ftrace_off"), set("trace/notes", nil)), false},
		{"observations of a loss", "trace.loss", both(unknownLoss("ftrace_off"), set("trace/observations", []any{object{"name": "x", "backend": "tracepoint"}})), true},
		{"totals of a loss", "trace.loss", both(unknownLoss("ftrace_off"), set("trace/totals", object{"seen": 0, "written": 0, "filtered": 0, "lost": 0, "duration_ms": 0})), false},
		{"notes of a loss of known number", "trace.loss", set("trace/notes", []any{"x"}), false},
		{"notes", "trace.start", set("trace/notes", []any{"x"}), true},
		{"notes", "trace.stop", set("trace/notes", []any{"x"}), true},
		{"no notes", "trace.stop", set("trace/notes", []any{}), false},
		{"notes", "trace.gap", set("trace/notes", []any{"x"}), false},
		{"process", "trace.loss", set("process", object{"pid": 1, "tid": 1, "comm": "x", "ppid": 0, "uid": 0, "gid": 0}), false},
		{"no trace", "trace.start", set("trace", nil), false},
		{"unknown way", "trace.start", set("trace/observations", []any{object{"name": "x", "backend": "magic"}}), false},
		{"no end", "trace.gap", set("trace/to", nil), false},
		{"an end of another kind", "trace.gap", set("trace/ended", "exploded"), false},
		{"a gap in the middle", "trace.stop", set("trace/same_boot", true), false},
		{"no totals", "trace.stop", set("trace/totals", nil), false},
		{"no totals", "trace.alive", set("trace/totals", nil), false},
		{"no history", "trace.alive", set("trace/head", nil), true},
		{"a hash that is too short", "trace.alive", set("trace/head/hash", "0f"), false},
		{"a head at the end", "trace.stop", set("trace/head", object{"id": 7, "hash": strings.Repeat("0f", 32)}), false},
		{"totals at the start", "trace.start", set("trace/totals", object{"seen": 0, "written": 0, "filtered": 0, "lost": 0, "duration_ms": 0}), false},
	} {
		for kind := range events() {
			if tt.kind != "" && tt.kind != kind {
				continue
			}
			ev := events()[kind]
			tt.change(ev)
			line, err := json.Marshal(ev)
			if err != nil {
				t.Fatal(err)
			}
			if err := Validate(line); (err == nil) != tt.ok {
				t.Errorf("%s, %s: valid should be %v, got %v\n%s", kind, tt.name, tt.ok, err, line)
			}
		}
	}
}

func TestValidateLine(t *testing.T) {
	good, err := json.Marshal(events()["trace.loss"])
	if err != nil {
		t.Fatal(err)
	}
	if err := Validate(append(good, '\n')); err != nil {
		t.Errorf("with a newline: %v", err)
	}
	for name, line := range map[string]string{
		"empty":         "",
		"two on a line": string(good) + string(good),
		"two lines":     string(good) + "\n" + string(good),
		"not UTF-8":     strings.Replace(string(good), "ring", "ring\xff", 1),
		"array":         "[]",
		"not JSON":      "trace.loss",
	} {
		if Validate([]byte(line)) == nil {
			t.Errorf("%s: taken as valid: %q", name, line)
		}
	}
}

// TestEveryFieldIsDescribed checks the descriptions, because the schema is the reference of
// the fields.
func TestEveryFieldIsDescribed(t *testing.T) {
	var doc any
	if err := json.Unmarshal(schema.EventV1, &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, node any)
	walk = func(path string, node any) {
		obj, ok := node.(object)
		if !ok {
			return
		}
		props, _ := obj["properties"].(object)
		for name, p := range props {
			field, ok := p.(object)
			if !ok {
				continue
			}
			at := path + "/" + name
			if text, _ := field["description"].(string); !strings.HasSuffix(text, ".") {
				t.Errorf("%s has no description", at)
			}
			// The properties beside a reference only restrict it.
			if _, ref := field["$ref"]; !ref {
				walk(at, field)
				walk(at, field["items"])
			}
		}
	}
	walk("", doc)
	for name, def := range doc.(object)["$defs"].(object) {
		walk("$defs/"+name, def)
	}
}

// unknownLoss returns a change of a trace.loss to one of an unknown number of events.
func unknownLoss(reason string) func(object) {
	return func(ev object) {
		ev["loss"] = object{"reason": reason, "from": "2026-11-23T12:04:31Z", "to": "2026-11-23T12:04:33Z"}
		ev["trace"] = object{"notes": []any{"x"}}
	}
}
