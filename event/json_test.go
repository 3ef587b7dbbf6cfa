// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/schema/schematest"
)

// encode returns the JSON lines of events, encoded by one Encoder.
func encode(events ...*event.Event) string {
	var enc event.Encoder
	var b []byte
	for _, ev := range events {
		b = append(enc.Append(b, ev), '\n')
	}
	return string(b)
}

// decode returns the event of a line.
func decode(t *testing.T, line string) *event.Event {
	t.Helper()
	ev := &event.Event{}
	if err := json.Unmarshal([]byte(line), ev); err != nil {
		t.Fatalf("%v\n%s", err, line)
	}
	return ev
}

func TestEncoderMatchesSchema(t *testing.T) {
	events := eventtest.Sample()
	if n := schematest.Lines(t, []byte(encode(events...))); n != len(events) {
		t.Errorf("%d lines for %d events", n, len(events))
	}
}

func TestEncoderLine(t *testing.T) {
	const want = `{"v":1,"time":"2026-11-23T12:04:31.123456789Z","run_id":"5b1d0c6e9f2a47d8b3c4e5f60718293a","seq":2,` +
		`"host":"web1","boot_id":"6f3c1a52-8a0e-4a55-9a43-0d2f6b1c7e21","type":"sysctl.write","outcome":"success","via":"write",` +
		`"sysctl":{"name":"net.ipv4.tcp_keepalive_time","path":"/proc/sys/net/ipv4/tcp_keepalive_time","old":"7200","new":"600","after":"600",` +
		`"namespace":{"type":"net","id":4026531840,"uid":"1","host":true,"user_ns":4026531837}},` +
		`"process":{"pid":4712,"tid":4712,"comm":"sysctl","exe":"/usr/sbin/sysctl","args":["sysctl","-w","net.ipv4.tcp_keepalive_time=600"],` +
		`"ppid":4711,"uid":0,"gid":0,"user":"root","login_uid":1000,"login_user":"alice","session_id":17,"tty":"pts/3",` +
		`"cgroup":"/user.slice/user-1000.slice/session-17.scope",` +
		`"ns":{"cgroup":4026531835,"ipc":4026531839,"mnt":4026531841,"net":4026531840,"pid":4026531836,"time":4026531834,"user":4026531837,"uts":4026531838},` +
		`"ancestors":[{"pid":4711,"uid":0,"comm":"sudo"},{"pid":3011,"uid":1000,"comm":"bash"},{"pid":3010,"uid":1000,"comm":"sshd"},{"pid":812,"uid":0,"comm":"sshd"},{"pid":1,"uid":0,"comm":"systemd"}],` +
		`"start_time":"2026-11-23T12:04:31.118456789Z"}}` + "\n"
	if got := encode(eventtest.Sample()[1]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEncoderStrings(t *testing.T) {
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
		ev := eventtest.Sample()[1]
		ev.Sysctl.New = &tt.in
		line := encode(ev)
		if !strings.Contains(line, `"new":"`+tt.want+`"`) {
			t.Errorf("%q: want %s in\n%s", tt.in, tt.want, line)
		}
		schematest.Lines(t, []byte(line))
		if got, want := *decode(t, line).Sysctl.New, string([]rune(tt.in)); got != want {
			t.Errorf("%q came back as %q", tt.in, got)
		}
	}
}

// TestEncoderHasEveryField checks that the line has every field, including those that are
// added later, and that every time has the same format.
func TestEncoderHasEveryField(t *testing.T) {
	var ev, before event.Event
	for _, e := range []*event.Event{&ev, &before} {
		fill(t, reflect.ValueOf(e).Elem())
	}
	line := encode(&ev)

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

	if !reflect.DeepEqual(ev, before) {
		t.Error("the event was changed")
	}
	checkReference(t, &ev)
}

func TestEncoderMinimal(t *testing.T) {
	got := encode(&event.Event{V: 1, Seq: 1, Time: time.Unix(0, 0), Type: event.NamespaceDestroy, Namespace: &event.Namespace{Type: "net", ID: 7}})
	want := `{"v":1,"time":"1970-01-01T00:00:00.000000000Z","seq":1,"type":"namespace.destroy","namespace":{"type":"net","id":7}}` + "\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	if !utf8.ValidString(got) {
		t.Error("not UTF-8")
	}
}

// TestEncoderEqualsLibrary checks that Encoder writes what encoding/json writes and leaves
// out what it leaves out, whatever the fields contain.
func TestEncoderEqualsLibrary(t *testing.T) {
	events := append(append(eventtest.Sample(), eventtest.Hostile()...), eventtest.Bare()...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		events = append(events, randomEvent(t, rng, anyPieces))
	}
	checkReference(t, events...)
	if out := encode(events...); strings.ContainsFunc(strings.ReplaceAll(out, "\n", ""), event.Invisible) {
		t.Errorf("invisible characters: %q", out)
	}
}

// TestEncoderBytes encodes each byte at each position, because the encoder reads strings
// eight bytes at a time.
func TestEncoderBytes(t *testing.T) {
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

// TestEncoderProcesses checks that the cache of processes never mixes them up.
func TestEncoderProcesses(t *testing.T) {
	var processes []*event.Process
	for i := range uint32(1000) {
		p := eventtest.ViaSSH(4000+i, "sysctl")
		switch i % 4 {
		case 1: // a process that called execve(2)
			p = eventtest.ViaSSH(processes[i-1].TID, "bash")
		case 2: // another thread
			p.PID = processes[i-1].PID
		case 3: // too long for the cache
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

// TestEncoderCause checks what is known of the write that made the kernel change another
// parameter.
func TestEncoderCause(t *testing.T) {
	for _, tt := range []struct {
		cause event.Cause
		want  string
	}{
		{event.Cause{Seq: 3, Name: "net.ipv4.ip_forward"}, `"cause":{"seq":3,"name":"net.ipv4.ip_forward"}`},
		{event.Cause{Name: "net.ipv4.ip_forward"}, `"cause":{"name":"net.ipv4.ip_forward"}`},
		{event.Cause{}, `"cause":{}`},
	} {
		ev := eventtest.Sample()[1]
		ev.Via, ev.Sysctl.Cause = "cascade", &tt.cause
		line := encode(ev)
		if err := schematest.Validate([]byte(line)); err != nil || !strings.Contains(line, tt.want) {
			t.Errorf("want %s, %v: %s", tt.want, err, line)
		}
	}
}

func TestEncoderDoesNotAllocate(t *testing.T) {
	for _, ev := range eventtest.Storm() {
		var enc event.Encoder
		b := enc.Append(nil, ev) // the room that the loop uses, and the cached process
		n := testing.AllocsPerRun(1000, func() {
			ev.Seq++
			ev.Time = ev.Time.Add(time.Millisecond)
			b = enc.Append(b[:0], ev)
		})
		if n != 0 {
			t.Errorf("%s: %v allocations an event", ev.Type, n)
		}
	}
}

// TestRoundTrip checks that the decoded event equals the encoded one.
func TestRoundTrip(t *testing.T) {
	for _, ev := range eventtest.Sample() {
		if ev.Process != nil {
			ev.Process.Comm = strings.ToValidUTF8(ev.Process.Comm, "\ufffd")
		}
		got := decode(t, encode(ev))
		got.RestoreBytes()
		if !reflect.DeepEqual(got, ev) {
			t.Errorf("got  %s\nwant %s", encode(got), encode(ev))
		}
	}
}

// TestRoundTripKeepsLine checks that a line that is decoded and encoded again stays as it
// is: the hashes of a history depend on that.
func TestRoundTripKeepsLine(t *testing.T) {
	events := append(append(eventtest.Sample(), eventtest.Hostile()...), eventtest.Bare()...)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		// Two keys of a map that are not UTF-8 can become one.
		events = append(events, randomEvent(t, rng, validPieces))
	}
	filled := &event.Event{}
	fill(t, reflect.ValueOf(filled).Elem())
	for _, ev := range append(events, filled) {
		line := encode(ev)
		if again := encode(decode(t, line)); again != line {
			t.Errorf("got  %swant %s", again, line)
		}
	}
}

// TestSampleHasEveryType checks that the tests above have an event of each type, so that a
// new type is added to the sample.
func TestSampleHasEveryType(t *testing.T) {
	missing := map[event.Type]bool{}
	for _, typ := range event.TraceTypes() {
		missing[typ] = true
	}
	for _, family := range event.Families() {
		for _, typ := range family.Types {
			missing[typ] = true
		}
	}
	for _, ev := range eventtest.Sample() {
		delete(missing, ev.Type)
	}
	if len(missing) > 0 {
		t.Errorf("the sample has no event of the types %v", slices.Sorted(maps.Keys(missing)))
	}
}

// FuzzEncoder checks that each event is one valid line, whatever bytes a command name, an
// argument or a value has, and that the line has the same strings.
func FuzzEncoder(f *testing.F) {
	for _, ev := range eventtest.Hostile() {
		if s := ev.Sysctl; ev.Type == event.SysctlWrite && s.New != nil {
			f.Add(ev.Process.Comm, *s.Old, *s.New, s.Namespace.Name)
		}
	}
	f.Add("sysctl", "4096\t131072\t6291456", "|/usr/lib/systemd/systemd-coredump %P %u", "cni-2b3f6c1e")
	f.Fuzz(func(t *testing.T, comm, old, written, name string) {
		// The longest string of an event is a path.
		if max(len(comm), len(old), len(written), len(name)) > 4096 {
			t.Skip()
		}
		ev := eventtest.Hostile()[0]
		p := ev.Process
		p.Comm, p.User, p.Args[1], p.Ancestors[1].Comm = comm, old, name, name
		ev.V, ev.Seq, ev.Via, ev.Sysctl = 1, 1, "write", &event.Sysctl{
			Name: "net." + name, Path: "/proc/sys/net/" + strings.TrimLeft(name, "/"), Old: &old, New: &written, After: &comm,
			Namespace: &event.Namespace{Type: "net", ID: 4026532281, Name: name, UID: "1"},
		}
		p.LoginUser, p.Cgroup, p.Exe = "alice", "/", "/bin/sh"
		line := encode(ev)
		if err := schematest.Validate([]byte(line)); err != nil {
			t.Errorf("%v\n%s", err, line)
		}
		if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), event.Invisible) {
			t.Errorf("invisible characters: %q", line)
		}
		checkReference(t, ev)
		back := decode(t, line)
		// Each invalid byte becomes U+FFFD, as in a conversion to runes.
		for _, pair := range [][2]string{{comm, back.Process.Comm}, {name, back.Process.Args[1]}, {old, *back.Sysctl.Old}, {written, *back.Sysctl.New}, {name, back.Process.Ancestors[1].Comm}} {
			if want := string([]rune(pair[0])); pair[1] != want {
				t.Errorf("%q, want %q", pair[1], want)
			}
		}
	})
}

func BenchmarkEncoder(b *testing.B) {
	// The process cache never has one of these two.
	uncached := []*event.Event{eventtest.Sample()[1], eventtest.Sample()[1]}
	for name, events := range map[string][]*event.Event{
		"write": eventtest.Storm()[:1], "create": eventtest.Storm()[1:], "hostile": eventtest.Hostile(), "uncached": uncached,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var enc event.Encoder
			var line []byte
			for i := 0; b.Loop(); i++ {
				ev := events[i%len(events)]
				ev.Seq = uint64(i)
				ev.Time = eventtest.Start.Add(time.Duration(i) * time.Microsecond)
				line = enc.Append(line[:0], ev)
			}
		})
	}
}
