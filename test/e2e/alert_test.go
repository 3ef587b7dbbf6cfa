// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestAlert makes real programs meet each built-in rule, and checks the alerts of every backend.
func TestAlert(t *testing.T) {
	anyKernel(t)
	h := watchWith(t, []string{"--alert", "default"}, backends...)
	t.Run("escape", func(t *testing.T) { testEscape(t, h) })
	for _, p := range []struct{ rule, param, value string }{
		{"core-pattern", "kernel.core_pattern", "core.%p.of-nstrace"},
		{"modprobe", "kernel.modprobe", "/bin/false"},
		{"ptrace-scope", "kernel.yama.ptrace_scope", "1"},
		{"ip-forward", "net.ipv4.ip_forward", "1"},
		{"unprivileged-userns-allowed", "kernel.unprivileged_userns_clone", "0"},
		{"unprivileged-userns-allowed", "user.max_user_namespaces", "12345"},
	} {
		t.Run(p.param, func(t *testing.T) { testAlertedWrite(t, h, p.rule, p.param, p.value) })
	}
	t.Run("user namespace", func(t *testing.T) { testUserNamespace(t, h) })
	h.close(t)
}

// alerts returns the alerts of events, each as "rule severity" and the event's brief.
func alerts(events []*emitted) []string {
	var all []string
	for _, e := range events {
		for _, a := range e.Alert {
			all = append(all, a.Name+" "+a.Severity+" "+e.brief())
		}
	}
	return all
}

// testEscape has a container that sees the host's processes. It enters the host's network with
// nsenter, and its own network, which must cause no alert.
func testEscape(t *testing.T, h *host) {
	id := strings.Repeat("0123456789abcdef", 4)
	bundle := newBundle(t, func(config map[string]any) {
		process, linux := config["process"].(map[string]any), config["linux"].(map[string]any)
		all := []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE"}
		process["capabilities"] = map[string]any{"bounding": all, "effective": all, "permitted": all}
		delete(process, "apparmorProfile")
		process["args"] = []string{"/bin/busybox", "sh", "-ec", fmt.Sprintf(
			`/bin/busybox nsenter -t $$ -n /bin/busybox true; /bin/busybox nsenter -t %d -n /bin/busybox readlink /proc/self/ns/net`, os.Getpid())}
		linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(ns any) bool { return ns.(map[string]any)["type"] == "pid" })
		linux["cgroupsPath"] = "/docker/" + id
	})
	w := h.run(t, "runc", []string{"--root", t.TempDir(), "run", "--bundle", bundle, "nstrace-escape"})
	// The container's program was in the host's network.
	if got, want := strings.TrimSpace(w.stdout.String()), fmt.Sprintf("net:[%d]", h.ns["net"]); got != want {
		t.Fatalf("the program was in %s, the host is in %s", got, want)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		var met []*emitted
		for _, e := range events {
			if len(e.Alert) > 0 {
				met = append(met, e)
			}
		}
		if len(met) != 1 || met[0].Type != event.NamespaceEnter || met[0].Namespace.ID != h.ns["net"] || met[0].Container.ID != id {
			t.Fatalf("events with an alert:\n%s", dump(met))
		}
		a := met[0].Alert[0]
		want := fmt.Sprintf("%s[%d] in container %s entered the host's net namespace", met[0].Process.Comm, met[0].Process.PID, id)
		if a.Name != "container-escape" || a.Severity != "critical" || a.Message != want {
			t.Errorf("%+v, want the message %q", a, want)
		}
		if len(events) < 6 {
			t.Errorf("only %d events: those without an alert are missing", len(events))
		}
	})
}

// testAlertedWrite sets a parameter to its current value, to another one, and back.
func testAlertedWrite(t *testing.T, h *host, rule, name, value string) {
	file := "/proc/sys/" + sysctlPath(name)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Skipf("this kernel has no %s", name)
	}
	old := strings.TrimSuffix(string(text), "\n")
	switch {
	case old != value:
	case value == "1":
		value = "0"
		if name == "kernel.yama.ptrace_scope" {
			value = "2"
		}
	default:
		t.Fatalf("%s is %s already", name, value)
	}
	if err := os.WriteFile(file, text, 0); err != nil {
		t.Skipf("%s cannot be written here: %v", name, err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, text, 0); err != nil {
			t.Error(err)
		}
	})
	w := h.sh(t, fmt.Sprintf(`sysctl -qw '%[1]s=%[2]s'; sysctl -qw '%[1]s=%[3]s'; cat %[4]s; sysctl -qw '%[1]s=%[2]s'`, name, old, value, file))
	if got := strings.TrimSuffix(w.stdout.String(), "\n"); got != value {
		t.Fatalf("%s was %q after %q was written", name, got, value)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		severity := "warning"
		if rule == "core-pattern" || rule == "modprobe" {
			severity = "critical"
		}
		meets := rule + " " + severity + " "
		want := []string{
			meets + write{name: name, old: old, new: value}.on(s),
			meets + write{name: name, old: value, new: old}.on(s),
		}
		if got := alerts(events); !slices.Equal(got, want) {
			t.Errorf("got alerts\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		if n := len(only(written(events), event.SysctlWrite)); n != 3 {
			t.Errorf("%d writes, want 3", n)
		}
		for _, e := range events {
			for _, a := range e.Alert {
				if !strings.HasPrefix(a.Message, "sysctl set ") || !strings.Contains(a.Message, "to "+*e.Sysctl.New+" (was "+*e.Sysctl.Old+")") {
					t.Errorf("the message is %q", a.Message)
				}
			}
		}
	})
}

// testUserNamespace has an ordinary user and root make a user namespace.
func testUserNamespace(t *testing.T, h *host) {
	w := h.run(t, "unshare", []string{"--user", "true"}, asUser(tester))
	root := h.run(t, "unshare", []string{"--user", "true"})
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if got, want := alerts(events), []string{"unprivileged-userns info create user unshare: success"}; !slices.Equal(got, want) {
			t.Errorf("got alerts %q, want %q", got, want)
		}
		w.ends(t, s, events)
	})
	root.each(t, func(t *testing.T, s *stream, events []*emitted) {
		if got := alerts(events); len(got) > 0 {
			t.Errorf("root got alerts %q", got)
		}
		root.ends(t, s, events)
	})
}

// ownRules are rules of two severities.
const ownRules = `rules:
- name: keepalive
  when: sysctl.name == "net.ipv4.tcp_keepalive_time"
  severity: critical
  message: "{process.comm} wrote {sysctl.new}"
- {name: made, when: type == "namespace.create"}
`

// TestAlertFilter selects only the events that met a rule of its own file.
func TestAlertFilter(t *testing.T) {
	anyKernel(t)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(ownRules), 0o600); err != nil {
		t.Fatal(err)
	}
	events := filepath.Join(t.TempDir(), "events.json")
	run := []string{"run", "--alert", file, "--filter", `any(alert, .severity == "critical")`}
	command := []string{"--", "unshare", "--net", "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=631", "net.ipv4.tcp_keepalive_probes=7"}
	status, _, stderr := complete(t, append(append(slices.Clone(run), "-o", "json", "-O", events), command...))
	if want := "nstrace: 1 alert: keepalive 1\n"; status != 0 || stderr != want {
		t.Errorf("status %d, standard error %q, want %q", status, stderr, want)
	}
	all := readEvents(t, events)
	if len(all) != 3 || len(all[1].Alert) != 1 || all[1].Alert[0] != (event.Alert{Name: "keepalive", Severity: "critical", Message: "sysctl wrote 631"}) {
		t.Fatalf("nstrace wrote\n%s", dump(all))
	}
	if sum := all[2].Trace.Totals; sum.Alerts != 1 || sum.Written != 1 || sum.Filtered < 2 {
		t.Errorf("totals %+v", *sum)
	}
	// In the formats for people, in a pipe.
	for _, format := range []string{"table", "wide"} {
		status, _, stderr = complete(t, append([]string{"run", "--alert", file, "-o", format}, command...))
		lines := strings.Split(stderr, "\n")
		marked := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "!! critical keepalive: sysctl wrote 631") })
		row := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "  sysctl   net.ipv4.tcp_keepalive_time") })
		if status != 0 || row < 0 || marked != row || strings.Count(stderr, "!! ") != 1 || strings.Count(stderr, "! warning made") != 1 ||
			!strings.HasSuffix(stderr, "nstrace: 2 alerts: keepalive 1, made 1\n") {
			t.Errorf("%s: status %d\n%s", format, status, stderr)
		}
	}
}

// TestAlertMistake has rules with mistakes, which nstrace reports before it attaches. It also
// prints the built-in rules.
func TestAlertMistake(t *testing.T) {
	anyKernel(t)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte("rules:\n- name: a\n  when: >\n    type == \"x\"\n    and procss.uid == 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ arg, want string }{
		{file, "nstrace: --alert: " + file + `:5:9: rule "a": unknown field "procss": `},
		{file + ".none", "nstrace: --alert: stat " + file + ".none: no such file or directory\n"},
	} {
		for _, args := range [][]string{{"--alert", tt.arg}, {"run", "--alert", tt.arg, "--", "true"}} {
			status, stdout, stderr := complete(t, args)
			if status != 2 || stdout != "" || !strings.HasPrefix(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%q: status %d: %s, want %s", args, status, stderr, tt.want)
			}
		}
	}
	help := output(t, nstraceBin, "--alert", "help")
	if again := output(t, nstraceBin, "record", "--db", file+".db", "--alert", "help"); again != help {
		t.Errorf("nstrace record prints the help %s", again)
	}
	if !strings.Contains(help, "\n  - name: container-escape\n") {
		t.Errorf("help is %s", help)
	}
	if err := os.WriteFile(file, []byte(help), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := complete(t, []string{"run", "--alert", file, "--", "true"}); status != 0 || strings.Contains(stderr, "nstrace:") {
		t.Errorf("nstrace rejects the rules that help prints: status %d: %s", status, stderr)
	}
}
