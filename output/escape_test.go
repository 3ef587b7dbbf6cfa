// SPDX-License-Identifier: Apache-2.0

package output

import (
	"os/exec"
	"strings"
	"testing"
)

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"sysctl", "sysctl"},
		{`back\slash`, `back\\slash`},
		{"\x00\x01\x1f\x7f", `\x00\x01\x1f\x7f`},
		{"a\tb\nc\rd", `a\tb\nc\rd`},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"\x1b]0;title\x07", `\x1b]0;title\x07`},
		{"\u0080\u009b1m\u009f", `\u0080\u009b1m\u009f`},
		{"\u00a0\u2003\u3000", `\u00a0\u2003\u3000`},
		{"\u00ad\u200b\u200d\u200e\u2060\ufeff", `\u00ad\u200b\u200d\u200e\u2060\ufeff`},
		{"\u202a\u202b\u202c\u202d\u202e", `\u202a\u202b\u202c\u202d\u202e`},
		{"\u2066\u2067\u2068\u2069\u061c", `\u2066\u2067\u2068\u2069\u061c`},
		{"\u2028\u2029", `\u2028\u2029`},
		{"\ufff9\ufe0f\u180b\u034f", `\ufff9\ufe0f\u180b\u034f`},
		{"\u115f\u3164\uffa0\u2800", `\u115f\u3164\uffa0\u2800`},
		{"\U000e0001\U000e0100\U0001d173", `\U000e0001\U000e0100\U0001d173`},
		{"\ue000\U000f0000\U0010ffff", `\ue000\U000f0000\U0010ffff`},
		{"\xff", `\xff`},
		{"caf\xc3", `caf\xc3`},
		{"\xc3\xa9\xa9", `é\xa9`},
		{"\xed\xa0\x80", `\xed\xa0\x80`},
		{"\xc0\x80", `\xc0\x80`},
		{"\ufffd", "\ufffd"},
		{"é日本語😀", "é日本語😀"},
		{"e\u0301", "e\u0301"},
		{"\u0301e", `\u0301e`},
		{"\n\u0301", `\n\u0301`},
		{"o\u0302\u0301\u0303\u0304\u0305", `o` + "\u0302\u0301\u0303\u0304" + `\u0305`},
		{"x\u20dd", `x\u20dd`},
		{"שלום", `\u05e9\u05dc\u05d5\u05dd`},
		{"سلام", `\u0633\u0644\u0627\u0645`},
	} {
		if got := escape(tt.in); got != tt.want {
			t.Errorf("escape(%+q) = %+q, want %+q", tt.in, got, tt.want)
		}
	}
}

// TestShellWord has a shell read words back.
func TestShellWord(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is not installed")
	}
	for _, s := range []string{
		"web", "/tmp/a.b_c:d@e%f+g,h-i", "日本/é", "", " ", "a b", "a;reboot", "$(reboot)", "`reboot`", "~", "a&b|c>d<e#f", "*?[a]{b,c}!", `"`, "'", `\`, `\'`, `a\x41`,
		"--help", "\x1b[31m\r\n\t", "\xff\xfea", "\u202e\u00a0\u115f\u3164", "\x1b0f", "=x", "a=b", "$'x'",
	} {
		word := shellWord(s)
		if escape(word) != strings.ReplaceAll(word, `\`, `\\`) {
			t.Errorf("%q is not safe to print: %q", s, word)
		}
		out, err := exec.Command(bash, "-c", "printf '<%s>' "+word).Output()
		if err != nil || string(out) != "<"+s+">" {
			t.Errorf("%q: bash reads %s as %q: %v", s, word, out, err)
		}
	}
}

func TestEscapeArgs(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"sysctl", "-w", "a=1"}, "sysctl -w a=1"},
		{[]string{"sh", "-c", `echo "x y" > z`, "", "it's", "a\nb"}, `sh -c "echo \"x y\" > z" "" "it's" a\nb`},
	} {
		if got := escapeArgs(tt.in); got != tt.want {
			t.Errorf("escapeArgs(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestWrap(t *testing.T) {
	words := func(s string) []word {
		var ws []word
		for _, f := range strings.Split(s, "|") {
			if rest, tight := strings.CutPrefix(f, "+"); tight {
				ws = append(ws, joinedWord(rest, normal))
			} else {
				ws = append(ws, newWord(f, normal))
			}
		}
		return ws
	}
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"a|b|c", 5, "a b c"},
		{"a|b|c", 4, "a b/c"},
		{"4096|+131072|→ 4096|+87380", 27, "4096 131072 → 4096 87380"},
		{"4096|+131072|→ 4096|+87380", 20, "4096 131072/→ 4096 87380"},
		{"4096|+131072|→ 4096|+87380", 10, "4096/131072/→ 4096/87380"},
		{"net.ipv4.tcp_keepalive_time", 22, "net.ipv4./tcp_keepalive_time"},
		{"net.ipv4.tcp_keepalive_time", 27, "net.ipv4.tcp_keepalive_time"},
		{"runc:[1:CHILD][90311]", 16, "runc:[1:CHILD]/[90311]"},
		{"kernel_very_long_name", 12, "kernel_very_/long_name"},
		{"x|abcdefghij", 4, "x/abcd/efgh/ij"},
		{"日本語日本語", 5, "日本/語日/本語"},
		{"日本", 1, "日/本"},
		{"ae\u0301ae\u0301", 2, "ae\u0301/ae\u0301"},
		{"→ 4096", 4, "→/4096"},
	} {
		var got []string
		for _, line := range wrap(words(tt.in), tt.width) {
			var texts []string
			for _, w := range line {
				texts = append(texts, w.text)
			}
			got = append(got, strings.Join(texts, " "))
		}
		if s := strings.Join(got, "/"); s != tt.want {
			t.Errorf("wrap(%q, %d) = %q, want %q", tt.in, tt.width, s, tt.want)
		}
	}
	if got := wrap(nil, 10); len(got) != 0 {
		t.Errorf("nothing takes %d lines", len(got))
	}
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"},
	} {
		if got := shorten(tt.in, tt.width); got != tt.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}
