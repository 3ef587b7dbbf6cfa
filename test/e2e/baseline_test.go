// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestDiffBaseline compares the parameters of a namespace with files of each format.
func TestDiffBaseline(t *testing.T) {
	anyKernel(t)
	dir := openDir(t, 0o755)
	for name, text := range map[string]string{
		"own.yaml": `baseline:
- {name: net.ipv4.conf.*.rp_filter, comparison: one of, value: [1, 2], severity: critical, reason: a, source: b}
- {name: net.ipv4.conf.all.rp_filter, comparison: any}
- {name: net.ipv4.conf.default.rp_filter, comparison: any}
- {name: net.ipv4.ip_default_ttl, comparison: at least, value: 65}
- {name: net.ipv4.nstrace_none, value: 1, severity: info}
`,
		"checker.json": `[["net.ipv4.ip_default_ttl", "sysctl", "65", "kspp", "self_protection", "OK"]]`,
		"a.conf":       "# x\nnet/ipv4/ip_default_ttl=65\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const script = `
cd "$1"; nstrace=$2
run() { status=0; "$nstrace" diff "$@" || status=$?; echo "status $status"; }
sysctl -q -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lo.rp_filter=0 net.ipv4.ip_default_ttl=64
run --baseline own.yaml
run --baseline checker.json -o json
run --baseline a.conf
sysctl -q -w net.ipv4.ip_default_ttl=65 net.ipv4.conf.lo.rp_filter=2
run --baseline own.yaml -o json
run --baseline checker.json --baseline a.conf
sysctl -a 2>/dev/null | grep '^net\.ipv4\.' >all
run --baseline all
sysctl -q -w net.ipv4.ip_default_ttl=66
run --baseline all
`
	out := output(t, "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script+" 2>&1", "sh", dir, nstraceBin)
	at := regexp.QuoteMeta(dir)
	want := regexp.MustCompile(`^PARAMETER +EXPECTED +IS +SEVERITY +WHERE +LAST WRITE
net\.ipv4\.conf\.lo\.rp_filter +one of 1, 2 +0 +critical +` + at + `/own\.yaml:2 *
net\.ipv4\.ip_default_ttl +at least 65 +64 +warning +` + at + `/own\.yaml:5 *
net\.ipv4\.nstrace_none +1 +\(no such parameter\) +info +` + at + `/own\.yaml:6 *
status 1
\{"parameter":"net\.ipv4\.ip_default_ttl","state":"different","expected":\{"name":"net\.ipv4\.ip_default_ttl","comparison":"equal","values":\["65"\],"reason":"self_protection","severity":"warning","source":"kernel-hardening-checker \(kspp\)","file":"` + at + `/checker\.json","line":1\},"value":"64"\}
status 1
PARAMETER .*
net\.ipv4\.ip_default_ttl +65 +64 +` + at + `/a\.conf:2 *
status 1
\{"parameter":"net\.ipv4\.nstrace_none","state":"missing",.*
status 0
status 0
status 0
PARAMETER .*
net\.ipv4\.ip_default_ttl +65 +66 +warning +` + at + `/all:\d+ *
status 1$`)
	if !want.MatchString(out) {
		t.Errorf("%s", out)
	}
	help := output(t, nstraceBin, "diff", "--baseline", "help")
	if err := os.WriteFile(filepath.Join(dir, "help.yaml"), []byte(help), 0o644); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := nstrace(t, []string{"diff", "--baseline", "default", "-o", "json"})
	again, other, _ := nstrace(t, []string{"diff", "--baseline", filepath.Join(dir, "help.yaml"), "-o", "json"})
	if status == 2 || again != status || !strings.Contains(stderr, " checked parameters by the baseline default: ") || strings.Count(other, "\n") != strings.Count(stdout, "\n") {
		t.Errorf("status %d and %d: %s%s", status, again, stdout, stderr)
	}
}

// TestBaselineTrouble has mistakes, which nstrace reports in one line before it does anything.
func TestBaselineTrouble(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("baseline:\n- name: a\n  valu: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "history.db")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"diff", "--baseline", bad}, bad + `:3:3: unknown key "valu" in an expectation (did you mean "value"?): want name, `},
		{[]string{"record", "--db", db, "--baseline", bad}, bad + `:3:3: unknown key "valu"`},
		{[]string{"diff", "--baseline", bad + ".none"}, bad + ".none: no such file"}, {[]string{"diff", "--baseline", dir}, dir + ": not a regular file"},
		{[]string{"diff", "--baseline", ""}, "--baseline: empty value"}, {[]string{"diff", "--baseline", "default", "x"}, "want no namespace"},
		{[]string{"diff", "--baseline", "default", "--fresh"}, "cannot be used with"}, {[]string{"diff", "--baseline", "default", "--declared"}, "cannot be used together"},
		{[]string{"record", "--db", db, "--baseline", "default", "--declared"}, "cannot be used together"}, {[]string{"record", "--db", db, "--rules", "x"}, "--rules: invalid value"},
		{[]string{"history", "deviations", "x"}, "want"}, {[]string{"history", "deviations", "-o", "wide"}, "--output: invalid value"}, {[]string{"history", "deviations", "--since", "x"}, "--since"},
	} {
		if status, stdout, stderr := nstrace(t, c.args); status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: status %d: %s%s, want %s", c.args, status, stdout, stderr, c.want)
		}
	}
	if _, err := os.Stat(db); err == nil {
		t.Error("a mistake leaves a database behind")
	}
}

// A deviationLine is what nstrace history deviations -o json says.
type deviationLine struct {
	Parameter, State string
	Expected         event.Expected
	Value            *string
	From, To         *string
	Set, Back        *event.Event
}

func deviations(t *testing.T, args ...string) (all []deviationLine) {
	t.Helper()
	for line := range strings.Lines(output(t, nstraceBin, append([]string{"history", "deviations", "-o", "json"}, args...)...)) {
		var d deviationLine
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, d)
	}
	return all
}

// deviated is a parameter without effect here: it is about laptops.
const deviated = "vm.laptop_mode"

// keepDeviated restores the parameter at the end of a test.
func keepDeviated(t *testing.T) {
	t.Helper()
	was := strings.TrimSpace(readFile(t, event.SysctlPath(deviated)))
	t.Cleanup(func() { output(t, "sysctl", "-q", "-w", deviated+"="+was) })
}

// TestRecordBaseline has real writes move a parameter away from what a baseline expects, and back. The deviations are
// in the history.
func TestRecordBaseline(t *testing.T) {
	keepDeviated(t)
	dir := openDir(t, 0o755)
	file, db := filepath.Join(dir, "own.yaml"), filepath.Join(dir, "history.db")
	if err := os.WriteFile(file, []byte("baseline:\n- {name: 'vm.laptop*', comparison: one of, value: [3, 4], severity: critical}\n- {name: net.ipv4.ip_default_ttl, value: 64}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "sysctl", "-q", "-w", deviated+"=3")
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			db := db + string(backend)
			s := startStream(t, "record", "--db", db, "--baseline", file, "--runtime-socket", "none", "--backend", string(backend), "--alert", alertOnAway(t, dir))
			s.awaitStart(t)
			for _, value := range []string{"4", "7", "8", "3", "9"} {
				output(t, "sysctl", "-q", "-w", deviated+"="+value)
			}
			output(t, "unshare", "--net", "sysctl", "-q", "-w", "net.ipv4.ip_default_ttl=65")
			s.await(t, "the writes", func(all []*emitted) bool {
				return len(writesOf(all, deviated)) == 5 && len(writesOf(all, "net.ipv4.ip_default_ttl")) == 1
			})
			var states []string
			for _, e := range writesOf(s.since(0), deviated) {
				state := "-"
				if x := e.Sysctl.Expected; x != nil {
					state = x.State
					if x.File != file || x.Line != 2 || x.Severity != "critical" || x.Comparison != "one of" || strings.Join(x.Values, " ") != "3 4" {
						t.Errorf("%s", e.line)
					}
				}
				if (state == event.ExpectedAway) != (len(e.Alert) == 1) {
					t.Errorf("the alerts of %s", e.line)
				}
				states = append(states, state)
			}
			if got := strings.Join(states, " "); got != "- away - back away" {
				t.Errorf("marks %s", got)
			}
			if e := writesOf(s.since(0), "net.ipv4.ip_default_ttl")[0]; e.Sysctl.Expected != nil {
				t.Errorf("a write in another namespace is marked: %s", e.line)
			}

			all := deviations(t, "--db", db)
			if len(all) != 2 || all[0].State != "ended" || *all[0].Value != "7" || all[0].Set.Process.Comm != "sysctl" || *all[0].Back.Sysctl.After != "3" || all[0].From == nil || all[0].To == nil ||
				all[1].State != "open" || *all[1].Value != "9" || all[1].Back != nil || all[1].To != nil || all[0].Parameter != deviated || all[0].Expected.File != file {
				t.Errorf("%+v", all)
			}
			text := output(t, nstraceBin, "history", "deviations", "--db", db)
			if !regexp.MustCompile(`^PARAMETER +EXPECTED +WRONG +FROM +TO +SET BY +BACK BY
vm\.laptop_mode +one of 3, 4 +7, then 8 +\S+ \S+ +\S+ \S+ +sysctl\[\d+\] +sysctl\[\d+\]
vm\.laptop_mode +one of 3, 4 +9 +\S+ \S+ +still wrong +sysctl\[\d+\] *$`).MatchString(text) {
				t.Error(text)
			}
			for args, want := range map[string]int{"-n 1": 1, "--sysctl vm.swappiness": 0, "--sysctl vm.*": 2, "-c sysctl": 2, "-c nobody": 0, "--until 2020-01-01": 0, "--since -1h": 2} {
				if all := deviations(t, append(strings.SplitN(args, " ", 2), "--db", db)...); len(all) != want {
					t.Errorf("%s: %+v", args, all)
				}
			}

			s.interrupt(t)
			s.checkEnd(t, false)
			// Without a recorder, the parameter gets its value back. The next recorder finds that.
			output(t, "sysctl", "-q", "-w", deviated+"=3")
			if all := deviations(t, "--db", db); len(all) != 2 || all[1].State != "unknown" || all[1].Back != nil {
				t.Errorf("without a recorder: %+v", all)
			}
			s = startStream(t, "record", "--db", db, "--baseline", file, "--runtime-socket", "none", "--backend", string(backend))
			s.await(t, "the drift", func(all []*emitted) bool { return len(writesOf(all, deviated)) == 1 })
			if e := writesOf(s.since(0), deviated)[0]; e.Type != event.SysctlDrift || e.Sysctl.Expected == nil || e.Sysctl.Expected.State != event.ExpectedBack {
				t.Errorf("%s", e.line)
			}
			if all := deviations(t, "--db", db); len(all) != 2 || all[1].State != "ended" || all[1].Back.Process != nil || all[1].Back.Type != event.SysctlDrift {
				t.Errorf("after a drift: %+v", all)
			}
			s.interrupt(t)
		})
	}
}

// alertOnAway makes a rule that reports what moves a parameter away.
func alertOnAway(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(file, []byte("rules:\n- name: away\n  when: sysctl.expected.state == \"away\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// writesOf returns the events about a parameter.
func writesOf(all []*emitted, name string) (found []*emitted) {
	for _, e := range all {
		if e.Sysctl != nil && e.Sysctl.Name == name {
			found = append(found, e)
		}
	}
	return found
}

// TestRecordDeclared changes the files of sysctl.d while nstrace records.
func TestRecordDeclared(t *testing.T) {
	anyKernel(t)
	keepDeviated(t)
	output(t, "sysctl", "-q", "-w", deviated+"=3")
	root := declaredFiles(t, map[string]string{"etc/sysctl.d/60-a.conf": "# x\nvm.laptop_mode = 3\n"})
	db := filepath.Join(t.TempDir(), "history.db")
	const script = withFiles + `exec "$nstrace" -o json record --db "$db" --declared --runtime-socket none`
	args := []string{"--mount", "sh", "-c", script, "sh", root, nstraceBin, db}
	s := startCommand(t, exec.Command("unshare", args...), args)
	s.awaitStart(t)
	write := func(value, want string) (marked bool) {
		t.Helper()
		from := s.len()
		output(t, "sysctl", "-q", "-w", deviated+"="+value)
		s.awaitFrom(t, from, "the write of "+value, func(all []*emitted) bool { return len(writesOf(all, deviated)) == 1 })
		x := writesOf(s.since(from), deviated)[0].Sysctl.Expected
		return x != nil && x.State == want && x.File == "/etc/sysctl.d/60-a.conf" && x.Line == 2 && x.Severity == ""
	}
	if !write("4", event.ExpectedAway) || !write("3", event.ExpectedBack) {
		t.Error(dump(s.since(0)))
	}
	// Now another value is declared. nstrace takes a moment to read it.
	if err := os.WriteFile(filepath.Join(root, "etc/sysctl.d/60-a.conf"), []byte("# x\nvm.laptop_mode = 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		if right := write("5", event.ExpectedBack); right && write("3", event.ExpectedAway) {
			break
		}
		write("3", "")
		if tries == 200 {
			t.Fatalf("nstrace does not read the changed file:\n%s", dump(s.since(0)))
		}
	}
	s.interrupt(t)
}

// TestNewDevice writes a parameter of a device, which then goes away. Another device gets its name, and the parameter has
// the same wrong value, which nobody wrote.
func TestNewDevice(t *testing.T) {
	anyKernel(t)
	const device, param = "nstnewdev0", "net.ipv4.conf.nstnewdev0.rp_filter"
	dir := t.TempDir()
	db, file := filepath.Join(dir, "history.db"), filepath.Join(dir, "b.yaml")
	if err := os.WriteFile(file, []byte("baseline: [{name: "+param+", value: 1}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	add := func() { output(t, "ip", "link", "add", device, "type", "veth", "peer", "name", "nstnewdev1") }
	add()
	t.Cleanup(func() { output(t, "ip", "link", "del", device) })
	s := startStream(t, "record", "--db", db, "--baseline", file, "--runtime-socket", "none")
	s.awaitStart(t)
	for _, value := range []string{"1", "0"} {
		output(t, "sysctl", "-q", "-w", param+"="+value)
	}
	deviations := func() string { return output(t, nstraceBin, "history", "deviations", "--db", db) }
	if got := deviations(); !strings.Contains(got, "still wrong") {
		t.Errorf("with the device:\n%s", got)
	}
	output(t, "ip", "link", "del", device)
	add()
	output(t, "sysctl", "-q", "-w", "net.ipv4.conf."+device+".accept_local=0") // not about the parameter
	if got := strings.TrimSpace(readFile(t, event.SysctlPath(param))); got != "0" {
		t.Skipf("a new device has rp_filter %s here", got)
	}
	if got := deviations(); strings.Contains(got, "still wrong") {
		t.Errorf("with another device:\n%s", got)
	}
	_, stdout, _ := nstrace(t, []string{"diff", "--baseline", file, "--db", db})
	explained := output(t, nstraceBin, "explain", param, "--db", db)
	if !strings.Contains(stdout, param) || strings.Contains(stdout, "sysctl[") || strings.Contains(explained, "sysctl[") {
		t.Errorf("the writer of the other device is accused:\n%s%s", stdout, explained)
	}
	s.interrupt(t)
}
