// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/output"
	"github.com/nstrace/nstrace/schema/schematest"
)

func TestJSONMatchesSchema(t *testing.T) {
	events := sample()
	if n := schematest.Lines(t, []byte(write(t, jsonSink, events...))); n != len(events) {
		t.Errorf("%d lines for %d events", n, len(events))
	}
}

func TestJSONLine(t *testing.T) {
	const want = `{"v":1,"time":"2026-11-23T12:04:31.123456789Z","seq":2,` +
		`"host":"web1","boot_id":"6f3c1a52-8a0e-4a55-9a43-0d2f6b1c7e21","type":"sysctl.write","outcome":"success","via":"write",` +
		`"sysctl":{"name":"net.ipv4.tcp_keepalive_time","path":"/proc/sys/net/ipv4/tcp_keepalive_time","old":"7200","new":"600","after":"600",` +
		`"namespace":{"type":"net","id":4026531840,"uid":"1","host":true,"user_ns":4026531837}},` +
		`"process":{"pid":4712,"tid":4712,"comm":"sysctl","exe":"/usr/sbin/sysctl","args":["sysctl","-w","net.ipv4.tcp_keepalive_time=600"],` +
		`"ppid":4711,"uid":0,"gid":0,"user":"root","login_uid":1000,"login_user":"alice","session_id":17,"tty":"pts/3",` +
		`"cgroup":"/user.slice/user-1000.slice/session-17.scope",` +
		`"ns":{"cgroup":4026531835,"ipc":4026531839,"mnt":4026531841,"net":4026531840,"pid":4026531836,"time":4026531834,"user":4026531837,"uts":4026531838},` +
		`"ancestors":[{"pid":4711,"uid":0,"comm":"sudo"},{"pid":3011,"uid":1000,"comm":"bash"},{"pid":3010,"uid":1000,"comm":"sshd"},{"pid":812,"uid":0,"comm":"sshd"},{"pid":1,"uid":0,"comm":"systemd"}],` +
		`"start_time":"2026-11-23T12:04:31.118456789Z"}}` + "\n"
	if got := write(t, jsonSink, sample()[1]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestJSONStrings(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ``},
		{"7200", `7200`},
		{`a"b\c`, `a\"b\\c`},
		{"<a> & </b>", `<a> & </b>`},
		{"4096\t131072\n", `4096\t131072\n`},
		{"\x00\x1b[31m", `\u0000\u001b[31m`},
		{"\x7f", `\u007f`},
		{"\u0085\u009b31m", `\u0085\u009b31m`},
		{"\u202efdp\u2066\u200b\ufeff", `\u202efdp\u2066\u200b\ufeff`},
		{"\u2028\u2029", `\u2028\u2029`},
		{"\U000e0041x", `\udb40\udc41x`},
		{"é 日本 😀 שלום", `é 日本 😀 שלום`},
		{"\xff\xfe", `\ufffd\ufffd`},
		{"\ufffd", `\ufffd`},
		{"caf\xc3", `caf\ufffd`},
		{"\xed\xa0\x80", `\ufffd\ufffd\ufffd`},
	} {
		ev := sample()[1]
		ev.Sysctl.New = &tt.in
		line := write(t, jsonSink, ev)
		if !strings.Contains(line, `"new":"`+tt.want+`"`) {
			t.Errorf("%q: want %s in\n%s", tt.in, tt.want, line)
		}
		schematest.Lines(t, []byte(line))
		var back event.Event
		if err := json.Unmarshal([]byte(line), &back); err != nil {
			t.Errorf("%q: %v", tt.in, err)
		} else if got, want := *back.Sysctl.New, string([]rune(tt.in)); got != want {
			t.Errorf("%q came back as %q", tt.in, got)
		}
	}
}

// A field that is added to the event reaches the stream, and every time in it
// is written the way times are.
func TestJSONHasEveryField(t *testing.T) {
	var ev, before event.Event
	for _, e := range []*event.Event{&ev, &before} {
		fill(t, reflect.ValueOf(e).Elem())
	}
	line := write(t, jsonSink, &ev)

	var got, want map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &want); err != nil {
		t.Fatal(err)
	}
	format := regexp.MustCompile(`^2026-11-22T23:\d\d:\d\d\.500000000Z$`)
	times := 0
	var compare func(path string, got, want any)
	compare = func(path string, got, want any) {
		switch want := want.(type) {
		case map[string]any:
			got, _ := got.(map[string]any)
			if len(got) != len(want) {
				t.Errorf("%s: %d fields, want %d", path, len(got), len(want))
			}
			for k := range want {
				compare(path+"/"+k, got[k], want[k])
			}
		case []any:
			got, _ := got.([]any)
			if len(got) != len(want) {
				t.Fatalf("%s: %d elements, want %d", path, len(got), len(want))
			}
			for i := range want {
				compare(fmt.Sprintf("%s/%d", path, i), got[i], want[i])
			}
		default:
			if s, ok := want.(string); ok && strings.HasPrefix(s, "2026-") {
				times++
				text, _ := got.(string)
				w, _ := time.Parse(time.RFC3339Nano, s)
				g, err := time.Parse(time.RFC3339Nano, text)
				if err != nil || !g.Equal(w) || !format.MatchString(text) {
					t.Errorf("%s: %v, want %v as RFC 3339 in UTC with nine digits", path, got, want)
				}
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", path, got, want)
			}
		}
	}
	compare("", got, want)
	if times < 5 {
		t.Errorf("only %d times seen", times)
	}

	var back event.Event
	if err := json.Unmarshal([]byte(line), &back); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(ev, before) {
		t.Error("the event was changed")
	}
	checkReference(t, &ev)
}

func TestJSONMinimal(t *testing.T) {
	got := write(t, jsonSink, &event.Event{V: 1, Seq: 1, Time: time.Unix(0, 0), Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 7}})
	want := `{"v":1,"time":"1970-01-01T00:00:00.000000000Z","seq":1,"type":"namespace.destroy","namespace":{"type":"net","id":7}}` + "\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if !utf8.ValidString(got) {
		t.Error("not UTF-8")
	}
}

// The encoder leaves out what encoding/json leaves out and writes the rest as it
// does, whatever is in the fields.
func TestJSONIsThatOfTheLibrary(t *testing.T) {
	events := append(append(sample(), hostile()...), bare()...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		events = append(events, randomEvent(t, rng))
	}
	checkReference(t, events...)
	checkSafe(t, write(t, jsonSink, events...))
}

// Each byte by itself, at each place of the words that strings are looked at in.
func TestJSONBytes(t *testing.T) {
	var events []*event.Event
	for n := range 20 {
		for i := range n {
			for c := range 256 {
				s := []byte(strings.Repeat("x", n))
				s[i] = byte(c)
				events = append(events, &event.Event{Via: string(s)})
			}
		}
	}
	checkReference(t, events...)
}

// However many processes there are, and however many events of each: a line has
// its own.
func TestJSONProcesses(t *testing.T) {
	var processes []*event.Process
	for i := range uint32(1000) {
		p := viaSSH(4000+i, "sysctl")
		switch i % 4 {
		case 1: // what another one became by execve(2)
			p = viaSSH(processes[i-1].TID, "bash")
		case 2: // a thread of another
			p.PID = processes[i-1].PID
		case 3: // more than is kept
			p.Args = append(p.Args, strings.Repeat("\xff", 2000))
		}
		processes = append(processes, p)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var events []*event.Event
	for range 2000 {
		few, all := processes[rng.IntN(20)], processes[rng.IntN(len(processes))]
		events = append(events, &event.Event{Process: few}, &event.Event{Process: all})
	}
	checkReference(t, events...)
}

// Lines that are longer than all the room there is.
func TestJSONLongLines(t *testing.T) {
	var events []*event.Event
	for i := range 20 {
		value := strings.Repeat("x", i*10000)
		events = append(events, sample()[1], &event.Event{Sysctl: &event.Sysctl{New: &value}})
	}
	checkReference(t, events...)
}

// What comes in storms: writes by a process that was seen before, and
// namespaces that it makes.
func TestJSONDoesNotAllocate(t *testing.T) {
	for _, ev := range storms() {
		sink := output.NewJSON(io.Discard)
		n := testing.AllocsPerRun(1000, func() {
			ev.Seq++
			ev.Time = ev.Time.Add(time.Millisecond)
			if err := sink.Write(ev); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations an event", ev.Type, n)
		}
	}
}
