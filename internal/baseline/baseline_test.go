// SPDX-License-Identifier: Apache-2.0

package baseline_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/baseline"
	"github.com/nstrace/nstrace/internal/declared"
)

func parse(t *testing.T, name, text string) *baseline.Set {
	t.Helper()
	s, err := baseline.Parse(baseline.Options{}, name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		comparison baseline.Comparison
		values     []string
		value      string
		want       declared.Equality
	}{
		{baseline.Equal, []string{"0x10"}, "16", declared.Equal}, {baseline.Equal, []string{"1"}, "2", declared.Different},
		{baseline.Equal, []string{"4096 87380"}, "4096\t87380", declared.Equal}, {baseline.Equal, []string{"1,2,3"}, "1-3", declared.Unclear},
		{baseline.OneOf, []string{"1", "2"}, "2", declared.Equal}, {baseline.OneOf, []string{"1", "2"}, "0", declared.Different},
		{baseline.OneOf, []string{"1,2", "2"}, "1-2", declared.Unclear}, {baseline.OneOf, []string{"1,2", "1-2"}, "1-2", declared.Equal},
		{baseline.Not, []string{"1"}, "1", declared.Different}, {baseline.Not, []string{"1", "2"}, "3", declared.Equal}, {baseline.Not, []string{"1,2"}, "1-2", declared.Unclear},
		{baseline.AtLeast, []string{"1"}, "0", declared.Different}, {baseline.AtLeast, []string{"1"}, "1", declared.Equal}, {baseline.AtLeast, []string{"0x10"}, "15", declared.Different},
		{baseline.AtLeast, []string{"1"}, "2 3", declared.Unclear}, {baseline.AtLeast, []string{"1"}, "", declared.Unclear},
		{baseline.AtMost, []string{"0"}, "-1", declared.Equal}, {baseline.AtMost, []string{"0"}, "1", declared.Different},
		{baseline.Any, nil, "1", declared.Unclear}, {"x", []string{"1"}, "1", declared.Unclear}, {baseline.Equal, nil, "1", declared.Unclear},
	} {
		if got := baseline.Judge(c.comparison, c.values, c.value); got != c.want {
			t.Errorf("%s is %s %q: %s, want %s", c.value, c.comparison, c.values, got, c.want)
		}
	}
}

// TestOf says which row counts.
func TestOf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	first := write("first.yaml", `
baseline:
- {name: net.ipv4.conf.lo.rp_filter, value: 0, reason: r, source: s, severity: critical}
- {name: net.ipv4.conf.*.rp_filter, value: 1}
- {name: net/ipv4/conf/eth0.1/rp_filter, comparison: any}
- {name: vm.swappiness, value: 1}
- {name: vm.swappiness, value: 2}
- {name: net.ipv4.tcp_*, comparison: at most, value: 5}
- {name: kernel.a, value: 1}
`)
	second := write("second.conf", "kernel.a = 2\nnet.ipv4.tcp_x*=7\n-kernel.b\n")
	s, err := baseline.Load(baseline.Options{}, first, second)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"net.ipv4.conf.lo.rp_filter": first + ":3 0", "net.ipv4.conf.eth0.rp_filter": first + ":4 1", "net.ipv4.conf.eth0/2.rp_filter": first + ":4 1",
		"net.ipv4.conf.eth0/1.rp_filter": "", "vm.swappiness": first + ":7 2", "net.ipv4.tcp_a": first + ":8 5", "net.ipv4.tcp_xa": second + ":2 7",
		"kernel.a": second + ":1 2", "kernel.b": "", "kernel.c": "", "": "",
	} {
		got := ""
		if x := s.Of(name); x != nil {
			got = x.Where() + " " + x.Values[0]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got, want := s.Names(), []string{"kernel.a", "net.ipv4.conf.eth0/1.rp_filter", "net.ipv4.conf.lo.rp_filter", "vm.swappiness"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if x := s.Of("net.ipv4.conf.lo.rp_filter"); x.Reason != "r" || x.Source != "s" || x.Severity != "critical" || x.Comparison != baseline.Equal {
		t.Errorf("%+v", x)
	}
}

// TestDefault checks that each row has a source, and that hosts of containers are not blamed for what they need.
func TestDefault(t *testing.T) {
	s, err := baseline.Load(baseline.Options{}, baseline.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Names()); n < 30 {
		t.Errorf("%d rows", n)
	}
	for _, name := range s.Names() {
		if x := s.Of(name); x.Source == "" || x.Reason == "" || x.File != "default" || x.Line == 0 {
			t.Errorf("%+v", x)
		}
	}
	for _, name := range []string{
		"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.eth0.rp_filter",
		"user.max_user_namespaces", "kernel.unprivileged_userns_clone", "net.bridge.bridge-nf-call-iptables", "net.ipv4.conf.docker0.route_localnet", "kernel.modules_disabled",
	} {
		if x := s.Of(name); x != nil {
			t.Errorf("%+v", x)
		}
	}
}

// TestMistakes has mistakes in each format. An error is one line that says where the mistake is.
func TestMistakes(t *testing.T) {
	const row = "baseline:\n- name: a\n  "
	for _, c := range []struct{ name, text, want string }{
		{"x", "", "x: the file is empty: want baseline:"},
		{"x", "# x\n", "x: the file is empty: want baseline:"},
		{"x", "hello", "x:1:1: the file is not a mapping: want baseline"},
		{"x", "baseline: []", "x:1:1: no expectations: want baseline:"},
		{"x", "base: 1", `x:1:1: unknown key "base" in the file (did you mean "baseline"?): want baseline`},
		{"x", "baseline:\n- name: [", "x:2: did not find"},
		{"x", "baseline:\n- value: 1", "x:2:3: an expectation has no name"},
		{"x", row + "valu: 1", `x:3:3: unknown key "valu" in an expectation (did you mean "value"?): want name, comparison, value, reason, severity, source`},
		{"x", row + "value:", "x:3:9: value: want a text or a number"},
		{"x", row + "value: {}", "x:3:10: value: want a text or a number"},
		{"x", row + "reason: b", "x:2:3: the expectation of a has no value"},
		{"x", row + "value: [1, 2]", "x:3:10: value: want one value for comparison equal: a list is for one of and not"},
		{"x", row + "value: []\n  comparison: not", "x:3:10: value: 0 values: want 1 to"},
		{"x", row + "value: 1\n  comparison: atleast", `x:4:15: invalid comparison "atleast" (did you mean "at least"?): want one of equal, one of, not,`},
		{"x", row + "value: a\n  comparison: at least", `x:3:10: value: "a" is not a number, which comparison at least wants`},
		{"x", row + "value: a\n  comparison: any", `x:3:10: comparison any takes no value`},
		{"x", row + "value: 1\n  severity: bad", `x:4:13: invalid severity "bad": want one of info, warning, critical`},
		{"x", "baseline: [{name: 'a b', value: 1}]", `x:1:19: invalid name "a b": want that of a parameter`},
		{"x", "baseline: [{name: 'a[', value: 1}]", `x:1:19: invalid glob "a[": want for example`},
		{"x", "baseline: [{name: " + strings.Repeat("a", 5000) + ", value: 1}]", `x:1:19: name: the text is too long: want at most 4096 bytes`},

		{"x", "[", "x:1:2: the list does not end: want the output of kernel-hardening-checker -m json"},
		{"x", "[]", "x:1:1: no parameter in it: want the output of kernel-hardening-checker -m json -a or -s FILE"},
		{"x", "[\n 1]", "x:2:2: an entry is a number or has one for a text: want"},
		{"x", "[\n {\"option_name\": 1}]", "x:2:2: an entry is a number or has one for a text: want"},
		{"x", "[{}]", "x:1:2: an entry without option_name or type: want"},
		{"x", "[\n[\"a\", \"sysctl\" \"1\"]]", "x:2:1: invalid character '\"' after array element: want"},
		{"x", `[["a b", "sysctl", "1"]]`, `x:1:2: invalid name "a b": want that of a parameter`},
		{"x", `[["a.*", "sysctl", "1"]]`, `x:1:2: invalid name "a.*": want that of a parameter`},
		{"x", `[["a", "sysctl", "1"]] x`, "x:1:24: something follows the list: want"},
		{"x", `[["a", "kconfig", "1"]]`, "x:1:1: no parameter in it"},

		{"x", "a = 1\nb\n", "x:2: no =: want lines as sysctl -a prints them, such as"},
		{"x", "a = 1\nb c = 2\n", `x:2: invalid name "b c": want lines`},
		{"x", "a = 1\nb* = 2\n", `x:2: invalid name "b*": want lines`},
		{"x", "a = " + strings.Repeat("1", 70_000), "x:1: the value is too long: want at most 65536 bytes"},
		{"x", "kernel.ns_last_pid = 7", "x: no parameter in it: want lines"},

		{"x.conf", "", "x.conf: no parameter in it: want lines such as"},
		{"x.conf", "a\n-b\n", "x.conf: no parameter in it: want lines such as"},
		{"x.conf", "a = 1\n\x00", "x.conf:2: a NUL byte: want a text"},
		{"x.conf", strings.Repeat("\n", 60_000), "x.conf: more than 50000 lines"},
		{"x.conf", strings.Repeat("a", 2<<20), "x.conf: the file is too long: want at most 1MiB"},
	} {
		s, err := baseline.Parse(baseline.Options{}, c.name, []byte(c.text))
		var mistake *baseline.Error
		if s != nil || !errors.As(err, &mistake) || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80q: %v\nwant %s", c.text, err, c.want)
		}
	}
}

// TestImport reads what other programs print.
func TestImport(t *testing.T) {
	for _, c := range []struct {
		title, name, text string
		want              map[string]string
		report            string
	}{
		{
			"kernel-hardening-checker", "x.json", `[
{"option_name": "CONFIG_BUG", "type": "kconfig", "desired_val": "y", "decision": "defconfig", "reason": "self_protection"},
{"option_name": "net.core.bpf_jit_harden", "type": "sysctl", "desired_val": "2", "decision": "kspp", "reason": "self_protection", "check_result": "FAIL: \"0\"", "check_result_bool": false},
{"option_name": "kernel.x", "type": "sysctl", "desired_val": "is not set", "decision": "kspp", "reason": "r"}
]`,
			map[string]string{"net.core.bpf_jit_harden": "x.json:3 equal 2 self_protection kernel-hardening-checker (kspp)", "kernel.x": ""},
			"x.json: left out 1 parameters for which kernel-hardening-checker wants no certain value",
		},
		{
			"its older versions", "x", `[["CONFIG_BUG", "kconfig", "y", "defconfig", "self_protection", "OK"], ["kernel.kptr_restrict", "sysctl", "2", "kspp", "cut_attack_surface", "OK"]]`,
			map[string]string{"kernel.kptr_restrict": "x:1 equal 2 cut_attack_surface kernel-hardening-checker (kspp)"}, "",
		},
		{
			"sysctl -a", "x", "abi.vsyscall32 = 1\nnstrace.cdrom = a\nnstrace.cdrom = \nnstrace.cdrom = b\nkernel.ns_last_pid = 7\nkernel.ostype = Linux\nnet.ipv4.conf.eth0/100.rp_filter = 2\nnstrace.equal = a=b\n",
			map[string]string{
				"abi.vsyscall32": "x:1 equal 1  ", "nstrace.cdrom": "x:2 equal a\n\nb  ", "kernel.ns_last_pid": "", "kernel.ostype": "", "net.ipv4.conf.eth0/100.rp_filter": "x:7 equal 2  ", "nstrace.equal": "x:8 equal a=b  ",
			}, "x: left out 2 parameters that nobody sets: they change by themselves or cannot be written",
		},
		{
			"a file of sysctl.d", "/etc/sysctl.conf", "# x\n-net/ipv4/conf/eth0.100/rp_filter=2\nnet.ipv6.conf.*.disable_ipv6 = 1\n",
			map[string]string{"net.ipv4.conf.eth0/100.rp_filter": "/etc/sysctl.conf:2 equal 2  ", "net.ipv6.conf.lo.disable_ipv6": "/etc/sysctl.conf:3 equal 1  ", "kernel.x": ""}, "",
		},
	} {
		report := ""
		s, err := baseline.Parse(baseline.Options{Report: func(message string) { report += message }}, c.name, []byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.title, err)
			continue
		}
		for name, want := range c.want {
			got := ""
			if x := s.Of(name); x != nil {
				got = x.Where() + " " + string(x.Comparison) + " " + x.Values[0] + " " + x.Reason + " " + x.Source
			}
			if got != want {
				t.Errorf("%s: %s: %q, want %q", c.title, name, got, want)
			}
		}
		if report != c.report {
			t.Errorf("%s: %q, want %q", c.title, report, c.report)
		}
	}
}

// TestFiles has what is no file that Load reads.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, long := filepath.Join(dir, "pipe"), filepath.Join(dir, "long")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.WriteFile(long, make([]byte, baseline.MaxFile+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{dir, pipe, long, filepath.Join(dir, "none"), "/dev/zero"} {
		if _, err := baseline.Load(baseline.Options{}, file); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func write(name, old, after string, ns *event.Namespace) *event.Event {
	return &event.Event{Type: event.SysctlWrite, Outcome: event.Success, Sysctl: &event.Sysctl{Name: name, Old: &old, After: &after, Namespace: ns}}
}

// TestMark has writes that change whether a parameter is as expected, and others.
func TestMark(t *testing.T) {
	m := baseline.NewMarker(parse(t, "/b.yaml", "baseline:\n- {name: kernel.a, value: 1, severity: critical}\n- {name: net.ipv4.conf.*.x, comparison: one of, value: [1, 2]}\n- {name: kernel.set, value: '1,2'}"))
	host, other := &event.Namespace{Type: event.NSTypeNet, Host: true}, &event.Namespace{Type: event.NSTypeNet, ID: 7}
	failed, cut, unknown := write("kernel.a", "1", "0", nil), write("kernel.a", "1", "0", nil), write("kernel.a", "1", "0", nil)
	failed.Outcome, cut.Sysctl.Truncated, unknown.Sysctl.After = event.Failure, true, nil
	fresh := write("kernel.a", "1", "0", nil)
	fresh.Sysctl.Old = nil
	for _, c := range []struct {
		title string
		e     *event.Event
		want  string
	}{
		{"away", write("kernel.a", "1", "0", nil), "away"}, {"back", write("kernel.a", "0", "1", nil), "back"}, {"in another notation", write("kernel.a", "0", "01", nil), "back"},
		{"wrong before and after", write("kernel.a", "0", "2", nil), ""}, {"the same", write("kernel.a", "1", "1", nil), ""}, {"another parameter", write("kernel.b", "1", "0", nil), ""},
		{"failed", failed, ""}, {"truncated", cut, ""}, {"the result is unknown", unknown, ""}, {"the value before is unknown", fresh, ""},
		{"a device of the host", write("net.ipv4.conf.eth0.x", "1", "0", host), "away"}, {"right before and after", write("net.ipv4.conf.eth0.x", "1", "2", host), ""},
		{"a device of others", write("net.ipv4.conf.eth0.x", "1", "0", other), ""}, {"an unknown namespace", write("net.ipv4.conf.eth0.x", "1", "0", nil), ""},
		{"cannot compare", write("kernel.set", "1-2", "3-4", nil), ""}, {"no parameter", &event.Event{Type: event.NamespaceCreate}, ""},
	} {
		m.Mark(c.e)
		got := ""
		if c.e.Sysctl != nil && c.e.Sysctl.Expected != nil {
			got = c.e.Sysctl.Expected.State
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.title, got, c.want)
		}
	}
	e := write("kernel.a", "1", "0", nil)
	m.Mark(e)
	if x := e.Sysctl.Expected; x == nil || x.Comparison != "equal" || !slices.Equal(x.Values, []string{"1"}) || x.Severity != "critical" || x.File != "/b.yaml" || x.Line != 2 {
		t.Errorf("%+v", x)
	}
	none := write("kernel.b", "1", "0", nil)
	if n := testing.AllocsPerRun(100, func() { m.Mark(none) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	m.Use(parse(t, "/c.yaml", "baseline: [{name: kernel.a, value: 0}]"))
	if m.Mark(e); e.Sysctl.Expected == nil || e.Sysctl.Expected.State != event.ExpectedBack || e.Sysctl.Expected.File != "/c.yaml" {
		t.Errorf("with other expectations: %+v", e.Sysctl.Expected)
	}
}

// fuzz checks that each mistake has a place in the text, and that expectations are ones that events can have.
func fuzz(f *testing.F, name string, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := baseline.Parse(baseline.Options{}, name, text)
		if (s == nil) != (err != nil) {
			t.Fatalf("%v, %v", s, err)
		}
		var mistake *baseline.Error
		if err != nil && (!errors.As(err, &mistake) || strings.Contains(err.Error(), "\n") || mistake.Line > strings.Count(string(text), "\n")+strings.Count(string(text), "\r")+2) {
			if strings.ContainsAny(string(text), "\u0085\u2028\u2029") { // YAML has more ends of lines
				return
			}
			t.Fatalf("%v", err)
		}
		if s == nil {
			return
		}
		for _, n := range s.Names() {
			if x := s.Of(n); x != nil && (len(x.Values) == 0 || x.File != name || x.Line < 1) {
				t.Errorf("%q: %+v", n, x)
			}
		}
		s.Of("net.ipv4.conf.eth0.rp_filter")
	})
}

func FuzzYAML(f *testing.F) {
	fuzz(f, "x.yaml", baseline.Default, "baseline:\n- &a {name: a.*, comparison: one of, value: [1, 0x2]}\n- *a\n- {name: a/b, comparison: any}", "baseline: [{name: a, value: ''}]")
}

func FuzzChecker(f *testing.F) {
	fuzz(f, "x", `[{"option_name": "a.b", "type": "sysctl", "desired_val": "1", "decision": "d", "reason": "r"}]`, `[["a", "sysctl", "1", "d"]]`, "[\n\n [1, {}]]", `["é",`)
}

func FuzzSysctlA(f *testing.F) { fuzz(f, "x", "a.b = 1\na.b = 2\n", "a=1\n\n#\nb", "=\n") }

func FuzzSysctlD(f *testing.F) {
	fuzz(f, "x.conf", "a.b = 1\n-a.*=2\n-c\n", "net/ipv4/conf/*/rp_filter=1\r", "[a-=1\n")
}
