// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"unsafe"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/schema/schematest"
)

// TestGolden decodes the records of real runs and compares the events with those
// that were looked through when they were committed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.records")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured records: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			events := newCollect()
			in := offline(&fakeHost{}, events)
			for i, b := range records(t, file) {
				if err := in.interpret(b); err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
			}
			var got bytes.Buffer
			enc := json.NewEncoder(&got)
			for _, e := range events.events {
				if err := enc.Encode(e); err != nil {
					t.Fatal(err)
				}
			}
			schematest.Lines(t, got.Bytes())
			golden := file[:len(file)-len("records")] + "json"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			gotLines, wantLines := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
			if len(gotLines) != len(wantLines) {
				t.Errorf("%d events, want %d", len(gotLines), len(wantLines))
			}
			for i := range min(len(gotLines), len(wantLines)) {
				if !bytes.Equal(gotLines[i], wantLines[i]) {
					t.Fatalf("event %d, and maybe more:\n got %s\nwant %s", i, gotLines[i], wantLines[i])
				}
			}
		})
	}
}

// TestShort cuts each record at every length, also with a head that says that length. Each is
// refused, except names of parameters, which end with the record.
func TestShort(t *testing.T) {
	files, err := filepath.Glob("testdata/*.records")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured records: %v", err)
	}
	in := offline(&fakeHost{}, new(count))
	for _, file := range files {
		for i, b := range records(t, file) {
			if _, err := in.parse(b); err != nil {
				t.Fatalf("%s: record %d: %v", file, i, err)
			}
			name := bpf.NstraceRecordKind(in.record.head.Kind) == bpf.NstraceRecordKindREC_PARAM
			for n := range len(b) {
				if _, err := in.parse(b[:n]); !errors.Is(err, ErrRecord) {
					t.Fatalf("%s: record %d cut to %d of %d bytes: %v", file, i, n, len(b), err)
				}
				if n < int(unsafe.Sizeof(bpf.NstraceHead{})) || name && n >= int(unsafe.Sizeof(bpf.NstraceParamRecord{})) {
					continue
				}
				short := bytes.Clone(b[:n])
				binary.NativeEndian.PutUint32(short[unsafe.Offsetof(bpf.NstraceHead{}.Size):], uint32(n))
				if _, err := in.parse(short); !errors.Is(err, ErrRecord) {
					t.Fatalf("%s: record %d of %d bytes that says it has %d: %v", file, i, len(b), n, err)
				}
			}
		}
	}
}

// FuzzInterpret interprets records that no kernel made. They are refused or interpreted,
// without a panic and without a read beyond them.
func FuzzInterpret(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.records")
	for _, file := range files {
		for _, b := range records(f, file) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := offline(&fakeHost{}, newCollect()).interpret(b); err != nil && !errors.Is(err, ErrRecord) {
			t.Fatalf("%v is no ErrRecord", err)
		}
	})
}

// afterRun returns an interpreter that knows the processes of a real run, and one record of
// each type of event in it.
func afterRun(tb testing.TB) (*interpreter, map[event.Type][]byte) {
	tb.Helper()
	in := offline(&fakeHost{}, new(count))
	one := map[event.Type][]byte{}
	for _, b := range records(tb, "testdata/6.1.records") {
		if err := in.interpret(b); err != nil {
			tb.Fatal(err)
		}
		if typ := recordKinds[in.record.head.Kind].event; typ != "" && one[typ] == nil {
			one[typ] = b
		}
	}
	return in, one
}

// count is an emitter that counts the events.
type count int

func (c *count) emit(*event.Event) error { *c++; return nil }

// TestAllocations checks that a storm is no work for the garbage collector.
func TestAllocations(t *testing.T) {
	in, one := afterRun(t)
	for typ, limit := range map[event.Type]float64{event.SysctlWrite: 0, event.NamespaceEnter: 0} {
		n := testing.AllocsPerRun(100, func() {
			if err := in.interpret(one[typ]); err != nil {
				t.Fatal(err)
			}
		})
		if n > limit {
			t.Errorf("%s: %v allocations", typ, n)
		}
	}
}

func BenchmarkInterpret(b *testing.B) {
	in, one := afterRun(b)
	for _, typ := range []event.Type{event.SysctlWrite, event.NamespaceEnter, event.NamespaceCreate} {
		b.Run(string(typ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := in.interpret(one[typ]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestCaller has programs like sudo that are older than the tracer. Only the ancestors tell who called them,
// and not always.
func TestCaller(t *testing.T) {
	actor := func(uid uint32, comm string) event.Actor { return event.Actor{UID: uid, Comm: comm} }
	uid := func(uid uint32) *uint32 { return &uid }
	for _, tt := range []struct {
		name      string
		wire      uint32
		uid       uint32
		ancestors []event.Actor
		want      *uint32
	}{
		{"no sudo", 0, 0, []event.Actor{actor(0, "bash"), actor(1000, "sshd")}, nil},
		{"sudo in a shell", 0, 0, []event.Actor{actor(0, "sudo"), actor(1000, "bash")}, uid(1000)},
		{"sudo with a monitor", 0, 0, []event.Actor{actor(0, "sh"), actor(0, "sudo"), actor(0, "sudo"), actor(1000, "bash")}, uid(1000)},
		{"sudo below su, without a fork", 0, 0, []event.Actor{actor(0, "sudo"), actor(0, "su"), actor(0, "bash")}, nil},
		{"sudo of a service manager", 0, 0, []event.Actor{actor(0, "sudo"), actor(0, "systemd")}, nil},
		{"a program named sudo", 0, 1000, []event.Actor{actor(1000, "sudo"), actor(1000, "bash")}, nil},
		{"runuser", 0, 1000, []event.Actor{actor(0, "runuser"), actor(0, "bash")}, uid(0)},
		{"a program named runuser", 0, 1000, []event.Actor{actor(1000, "runuser"), actor(0, "bash")}, nil},
		{"seen by the kernel", 1001, 0, []event.Actor{actor(0, "sudo"), actor(1, "bash")}, uid(1000)},
		{"root, seen by the kernel", 1, 1000, nil, uid(0)},
	} {
		p := &processRecords{who: bpf.NstraceWhoRecord{Caller: tt.wire}}
		got := p.caller(&event.Process{UID: tt.uid, Ancestors: tt.ancestors})
		if (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestRequest has what a failed setns(2) asked for, of records with and without it.
func TestRequest(t *testing.T) {
	for _, row := range []struct {
		name   string
		wanted []uint8
		pid    uint32
		path   string
		flags  bpf.NstraceRecordFlag
		ret    int32
		want   *event.Request
	}{
		{"all", []uint8{1<<bpf.NstraceNsKindNS_NET | 1<<bpf.NstraceNsKindNS_USER}, 7, "web\x00netns\x00run\x00", 0, -1, &event.Request{Types: []event.NSType{"user", "net"}, PID: 7, Path: "/run/netns/web"}},
		{"a long path", []uint8{0}, 0, "web\x00", bpf.NstraceRecordFlagF_PATH_CUT, -1, &event.Request{Path: ".../web"}},
		{"nothing", []uint8{0}, 0, "", 0, -1, nil},
		{"no change", nil, 0, "", 0, -1, nil},
		{"a call that succeeded", []uint8{1 << bpf.NstraceNsKindNS_NET}, 0, "", 0, 0, nil},
	} {
		c := &enterRecords{path: []byte(row.path)}
		c.wire.Child = row.pid
		for _, w := range row.wanted {
			c.changes = append(c.changes, bpf.NstraceNsChange{Wanted: w})
		}
		r := &record{}
		r.head.Ret, r.head.Flags = row.ret, uint16(row.flags|bpf.NstraceRecordFlagF_RET_KNOWN)
		if got := c.request(r); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}
