// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// newBundle makes a bundle for runc with busybox in it. change edits its configuration.
func newBundle(t *testing.T, change func(config map[string]any)) string {
	t.Helper()
	bundle := t.TempDir()
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	output(t, "cp", "/usr/bin/busybox", bin)
	output(t, "runc", "spec", "--bundle", bundle)
	file := filepath.Join(bundle, "config.json")
	var config map[string]any
	if err := json.Unmarshal([]byte(readFile(t, file)), &config); err != nil {
		t.Fatal(err)
	}
	config["process"].(map[string]any)["terminal"] = false
	change(config)
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return bundle
}

// testContainer runs a container. The runtime sets its parameters before the container's own
// program starts.
func testContainer(t *testing.T, h *host) {
	values := map[string]string{
		"net.ipv4.tcp_keepalive_time": "607",
		"kernel.shmmax":               "87654321",
		"kernel.domainname":           "in.a.container",
	}
	var types []event.NSType
	bundle := newBundle(t, func(config map[string]any) {
		linux := config["linux"].(map[string]any)
		// The container's program also writes, so the test can check the order.
		config["process"].(map[string]any)["args"] = []string{"/bin/busybox", "sh", "-c",
			`for n in mnt net ipc user pid uts cgroup; do echo $n=$(/bin/busybox readlink /proc/self/ns/$n); done; echo now-in-the-container >/proc/sys/kernel/hostname || echo refused=yes`}
		linux["sysctl"] = values
		for _, ns := range linux["namespaces"].([]any) {
			name := ns.(map[string]any)["type"].(string)
			types = append(types, event.NSType(map[string]string{"network": "net", "mount": "mnt"}[name]))
			if last := len(types) - 1; types[last] == "" {
				types[last] = event.NSType(name)
			}
		}
	})
	if len(types) < 5 {
		t.Fatalf("runc spec has %v", types)
	}

	w := h.run(t, "runc", []string{"--root", t.TempDir(), "run", "--bundle", bundle, "nstrace-e2e"})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		made := map[event.NSType]*emitted{}
		for _, e := range only(events, event.NamespaceCreate) {
			if e.Outcome == event.Success {
				made[e.Namespace.Type] = e
			}
		}
		for _, typ := range types {
			inside := w.printed(string(typ))
			if len(inside) != 1 || made[typ] == nil || made[typ].Namespace.ID != parseID(t, inside[0]) {
				t.Errorf("the container saw %q, nstrace saw %+v", inside, made[typ])
			}
		}
		if t.Failed() {
			return
		}
		var wrote []*emitted
		for _, e := range only(events, event.SysctlWrite) {
			// runc itself also writes to parameters that are not in a namespace.
			if _, ours := values[e.Sysctl.Name]; ours {
				wrote = append(wrote, e)
			}
		}
		if len(wrote) != len(values) {
			t.Fatalf("%d writes, want %d", len(wrote), len(values))
		}
		for _, e := range wrote {
			v := e.Sysctl
			typ := map[byte]event.NSType{'n': "net", 's': "ipc", 'd': "uts"}[strings.TrimPrefix(v.Name, "kernel.")[0]]
			if v.New == nil || *v.New != values[v.Name] || v.Namespace == nil || v.Namespace.ID != made[typ].Namespace.ID {
				t.Errorf("%s", e.line)
			}
			if s.backend != tracer.Tracepoint && (e.Outcome != event.Success || v.After == nil || *v.After != values[v.Name]) {
				t.Errorf("%s", e.line)
			}
			if !strings.HasPrefix(e.Process.Comm, "runc") || !slices.Contains(strings.Split(e.Process.Cgroup, "/"), "nstrace-e2e") {
				t.Errorf("by %s in cgroup %s", e.Process.Comm, e.Process.Cgroup)
			}
		}
		w.ends(t, s, events)
	})
}
