// SPDX-License-Identifier: Apache-2.0

package output

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

func diffValue(text string) DiffValue { return DiffValue{Text: &text} }

// diffSample has a row of each kind.
func diffSample() []*Diff {
	ns := [2]*event.Namespace{{Type: event.NSTypeNet, ID: 4026532281, Name: "a"}, {Type: event.NSTypeNet, ID: 4026531833}}
	row := func(d Diff) *Diff { d.Type, d.Namespaces = event.NSTypeNet, ns; return &d }
	return []*Diff{
		row(Diff{Parameter: "net.ipv4.tcp_keepalive_time", State: Different, Values: [2]DiffValue{diffValue("600"), diffValue("7200")}, New: &DiffNew{Value: "7200", From: FromDefault}}),
		row(Diff{Parameter: "net.ipv4.ping_group_range", State: Different, Values: [2]DiffValue{diffValue("1\t0"), diffValue("")}}),
		row(Diff{Parameter: "net.ipv4.conf.all.rp_filter", State: Different, Values: [2]DiffValue{diffValue("\x1b[2J"), diffValue("2")}, New: &DiffNew{Value: "0", Switch: "net.core.x", SwitchValue: "1"}}),
		row(Diff{Parameter: "net.core.a", State: OnlyIn, In: 1, Values: [2]DiffValue{{}, diffValue("1")}}),
		row(Diff{Parameter: "net.core.b", State: OnlyIn, In: 1, Values: [2]DiffValue{{}, diffValue("2")}}),
		row(Diff{Parameter: "net.core.c", State: OnlyIn, In: 1, Values: [2]DiffValue{{}, diffValue("3")}}),
		row(Diff{Parameter: "net.nf_conntrack_max", State: OnlyIn, Values: [2]DiffValue{diffValue("5"), {}}}),
		row(Diff{Device: "x\x1b\xffy", State: OnlyIn, Parameters: 130}),
		row(Diff{Parameter: "net.ipv4.x", State: NotRead, Values: [2]DiffValue{{Error: "permission denied"}, diffValue("1")}}),
		row(Diff{Parameter: "net.ipv4.y", State: Changing, Values: [2]DiffValue{diffValue("1"), diffValue("2")}}),
	}
}

func TestDiffTable(t *testing.T) {
	var b strings.Builder
	d := NewDiffTable(&b, [2]string{"a\x1b[31m", "host"}, TableOptions{HostNS: map[event.NSType]uint32{event.NSTypeNet: 4026531833}})
	for _, row := range diffSample() {
		if err := d.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	const want = `PARAMETER                             a\x1b[31m          host               A NEW NAMESPACE GETS
net namespaces                        4026532281         4026531833 (host)
net.ipv4.tcp_keepalive_time           600                7200               7200 kernel default
net.ipv4.ping_group_range             1 0                ""
net.ipv4.conf.all.rp_filter           \x1b[2J            2                  0 governed by
                                                                            net.core.x=1
net.core.*                            absent             only here (3)
net.nf_conntrack_max                  5                  absent
device x\x1b\xffy                     only here (130)    absent
net.ipv4.x                            unreadable:        1
                                      permission denied
net.ipv4.y                            1 (changing)       2 (changing)
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestDiffJSON(t *testing.T) {
	var b strings.Builder
	d := NewDiffJSON(&b)
	rows := diffSample()
	for _, row := range rows {
		if err := d.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(rows) {
		t.Fatalf("%d lines of %d rows", len(lines), len(rows))
	}
	for i, line := range lines {
		if !json.Valid([]byte(line)) || strings.ContainsAny(line, "\x1b\t") {
			t.Errorf("%q", line)
		}
		if i == 0 {
			const want = `{"type":"net","parameter":"net.ipv4.tcp_keepalive_time","state":"different",` +
				`"a":{"namespace":{"type":"net","id":4026532281,"name":"a"},"value":"600"},` +
				`"b":{"namespace":{"type":"net","id":4026531833},"value":"7200"},"new":{"value":"7200","from":"default"}}`
			if line != want {
				t.Errorf("got %s, want %s", line, want)
			}
		}
	}
}
