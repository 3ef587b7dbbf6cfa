// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"testing"

	"github.com/nstrace/nstrace/event"
)

func ints(size int, vs ...int64) []byte {
	var b []byte
	for _, v := range vs {
		switch size {
		case 1:
			b = append(b, byte(v))
		case 2:
			b = binary.NativeEndian.AppendUint16(b, uint16(v))
		case 4:
			b = binary.NativeEndian.AppendUint32(b, uint32(v))
		case 8:
			b = binary.NativeEndian.AppendUint64(b, uint64(v))
		}
	}
	return b
}

// TestReadAfter has a row for each layout that kernel/sysctl.c's handlers keep,
// and for each reason not to believe one.
func TestReadAfter(t *testing.T) {
	const unknown = "(unknown)"
	for _, tt := range []struct {
		name     string
		rawOld   []byte
		old      string
		rawAfter []byte
		written  string
		outcome  event.Outcome
		want     string
	}{
		{"int", ints(4, 60), "60", ints(4, 10), "10", event.Success, "10"},
		{"negative int", ints(4, -1), "-1", ints(4, -2), "-2", event.Success, "-2"},
		{"three ints", ints(4, 4096, 131072, 6291456), "4096\t131072\t6291456", ints(4, 1, 2, 3), "1 2 3", event.Success, "1\t2\t3"},
		{"unsigned long", ints(8, 1<<40), "1099511627776", ints(8, 5), "5", event.Success, "5"},
		{"byte", ints(1, 3), "3", ints(1, 2), "2", event.Success, "2"},
		{"packed ports", ints(2, 32768, 60999), "32768\t60999", ints(2, 1024, 2048), "1024 2048", event.Success, "1024\t2048"},
		{"seconds kept in jiffies", ints(4, 7200*250), "7200", ints(4, 600*250), "600", event.Success, "600"},
		{"milliseconds kept in jiffies", ints(4, 250), "1000", ints(4, 500), "2000", event.Success, "2000"},
		{"string", []byte("core\x00\x00\x00\x00"), "core", []byte("|/bin/x\x00"), "|/bin/x", event.Success, "|/bin/x"},
		{"first string", make([]byte, 8), "", []byte("web\x00\x00\x00\x00\x00"), "web", event.Success, "web"},
		{"clamped", ints(4, 600), "600", ints(4, 32767), "100000", event.Success, "32767"},
		{"refused", ints(4, 60), "60", ints(4, 60), "1000", event.Failure, "60"},

		{"pointer to a bitmap", ints(8, 0x7fff00), "", ints(8, 0x7fff00), "8080", event.Success, unknown},
		{"value lives elsewhere", ints(4, 0), "0", ints(4, 0), "1", event.Success, unknown},
		{"zero of unknown unit, other than written", ints(4, 0), "0", ints(4, 5000), "7", event.Success, unknown},
		{"zero of unknown unit, as written", ints(4, 0), "0", ints(4, 5000), "20", event.Success, "20"},
		{"leading zero is no number", []byte("007\x00"), "007", []byte("008\x00"), "008", event.Success, "008"},
		{"one of unknown unit", ints(4, 0), "0", ints(4, 1), "1", event.Success, unknown}, // 1 or, of milliseconds, 4
		{"none of unknown unit", ints(4, 0), "0", ints(4, 0), "0", event.Success, "0"},
		{"more than one of unknown unit", ints(4, 0), "0", ints(4, 2), "2", event.Success, "2"},
		{"milliseconds, rounded up", ints(4, 0), "0", ints(4, 2), "5", event.Success, "8"},
		{"hundredths of a second", ints(4, 250), "100", ints(4, 125), "50", event.Success, "50"},
		{"a negative number of unknown unit", ints(4, 0), "0", ints(4, -1), "-1", event.Success, unknown}, // -1 or, of hundredths, -0
		{"a negative number of hundredths", ints(4, 250), "100", ints(4, -1), "-1", event.Success, "-0"},
		{"long milliseconds", ints(8, 1250), "5000", ints(8, 25), "100", event.Success, "100"},
		{"bytes of the memory are missing", ints(4, 1, 2)[:4], "1\t2", ints(4, 3), "3", event.Success, unknown},
		{"largest unsigned long", ints(8, -1), "18446744073709551615", ints(8, 0), "0", event.Success, "0"},
		{"no layout fits", ints(8, 77), "cubic", ints(8, 78), "reno", event.Success, unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := unknown
			v := newValueReader(250)
			if text, ok := v.after("", tt.rawOld, tt.old, len(tt.rawOld), tt.rawAfter, &tt.written, tt.outcome); ok {
				got = string(text)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSysctlName(t *testing.T) {
	// As sysctl(8): a dot in a device's name becomes a slash.
	name, file := sysctlName([]string{"forwarding", "eth0.100", "conf", "ipv4", "net"})
	if name != "net.ipv4.conf.eth0/100.forwarding" || file != "/proc/sys/net/ipv4/conf/eth0.100/forwarding" {
		t.Errorf("%s, %s", name, file)
	}
	for glob, want := range map[string]bool{
		"net.ipv4.conf.*.forwarding": true, "net.*": true, "net.ipv4.conf.eth0/100.forwarding": true,
		"net.ipv6.*": false, "*forwarding": true, "forwarding": false,
	} {
		if got := event.MatchSysctl(glob, name); got != want {
			t.Errorf("%s: %v", glob, got)
		}
	}
}
