// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

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
			tr := offline()
			var events collect
			for i, b := range records(t, file) {
				if err := tr.handle(&events, b); err != nil {
					t.Fatalf("record %d: %v", i, err)
				}
			}
			var got bytes.Buffer
			enc := json.NewEncoder(&got)
			for _, e := range events {
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

// TestShort cuts each record at every length: all are refused, none is misread.
func TestShort(t *testing.T) {
	files, err := filepath.Glob("testdata/*.records")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured records: %v", err)
	}
	for _, file := range files {
		for i, b := range records(t, file) {
			for n := range len(b) {
				var r record
				if err := r.parse(b[:n]); !errors.Is(err, ErrRecord) {
					t.Fatalf("%s: record %d cut to %d of %d bytes: %v", file, i, n, len(b), err)
				}
			}
		}
	}
}

// FuzzHandle gives records that no kernel made: they are refused or decoded,
// without a panic and without reading beyond them.
func FuzzHandle(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.records")
	for _, file := range files {
		for _, b := range records(f, file) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tr := offline()
		var events collect
		if err := tr.handle(&events, b); err != nil && !errors.Is(err, ErrRecord) {
			t.Fatalf("%v is no ErrRecord", err)
		}
	})
}

// known returns an offline Tracer that knows the processes of a real run, and one
// record of each kind of event among them.
func known(tb testing.TB) (*Tracer, map[event.Type][]byte) {
	tb.Helper()
	tr := offline()
	one := map[event.Type][]byte{}
	for _, b := range records(tb, "testdata/6.1.records") {
		if err := tr.handle(new(count), b); err != nil {
			tb.Fatal(err)
		}
		if typ, ok := kindTypes[bpf.NstraceRecordKind(tr.rec.head.Kind)]; ok && one[typ] == nil {
			one[typ] = b
		}
	}
	return tr, one
}

// count is a Handler that looks at nothing.
type count int

func (c *count) Event(*event.Event) error { *c++; return nil }
func (c *count) Idle() error              { return nil }

// TestAllocations holds that a storm is no work for the garbage collector.
func TestAllocations(t *testing.T) {
	tr, one := known(t)
	h := new(count)
	for typ, limit := range map[event.Type]float64{event.SysctlWrite: 0, event.NamespaceEnter: 0} {
		n := testing.AllocsPerRun(100, func() {
			if err := tr.handle(h, one[typ]); err != nil {
				t.Fatal(err)
			}
		})
		if n > limit {
			t.Errorf("%s: %v allocations", typ, n)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	tr, one := known(b)
	for _, typ := range []event.Type{event.SysctlWrite, event.NamespaceEnter, event.NamespaceCreate} {
		b.Run(string(typ), func(b *testing.B) {
			b.ReportAllocs()
			h := new(count)
			for b.Loop() {
				if err := tr.handle(h, one[typ]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
