// SPDX-License-Identifier: Apache-2.0

package kerneltypes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/nstrace/nstrace/bpf"
)

// object returns the object of the inventory, and the names that it needs.
func object(t testing.TB) (spec *ebpf.CollectionSpec, types, funcs []string) {
	t.Helper()
	spec, err := bpf.LoadInventory()
	if err != nil {
		t.Fatal(err)
	}
	if types, funcs, err = needs(spec); err != nil {
		t.Fatal(err)
	}
	return spec, types, funcs
}

func kernelRaw(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile(File)
	if err != nil {
		t.Skip(err)
	}
	return raw
}

// TestRelocations checks that programs become the same instructions with some of the types as with
// all of them, and that functions have the ids that cilium/ebpf finds.
func TestRelocations(t *testing.T) {
	spec, types, funcs := object(t)
	some, err := parse(kernelRaw(t), types, funcs)
	if err != nil {
		t.Fatal(err)
	}
	all, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		code := func(types *btf.Spec) []byte {
			insns := slices.Clone(p.Instructions)
			if err := relocate(insns, p.ByteOrder, types); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return marshal(t, insns, p.ByteOrder)
		}
		a, b := code(some.spec), code(all)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: other instructions", name)
		}
		if bytes.Equal(a, marshal(t, p.Instructions, p.ByteOrder)) {
			t.Errorf("%s: nothing was adapted", name)
		}
	}
	for _, name := range funcs {
		var f *btf.Func
		if err := all.TypeByName(name, &f); err != nil {
			t.Fatal(err)
		}
		want, err := all.TypeID(f)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := some.FuncID(name); err != nil || id != want {
			t.Errorf("%s: %d %v, want %d", name, id, err, want)
		}
	}
	if _, err := some.FuncID("no_such_function"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown function: %v", err)
	}
}

// marshal returns instructions without the references to maps, which do not exist.
func marshal(t *testing.T, insns asm.Instructions, order binary.ByteOrder) []byte {
	t.Helper()
	insns = slices.Clone(insns)
	for i := range insns {
		if insns[i].IsLoadFromMap() {
			insns[i] = asm.LoadImm(insns[i].Dst, 0, asm.DWord).WithSymbol(insns[i].Symbol())
		}
	}
	var b bytes.Buffer
	if err := insns.Marshal(&b, order); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLayout checks the members of a type that the kernel's own description has, and one that it contains.
func TestLayout(t *testing.T) {
	some, err := parse(kernelRaw(t), []string{"task_struct", "no_such_type"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var a, b *btf.Struct
	if err := errors.Join(some.spec.TypeByName("task_struct", &a), all.TypeByName("task_struct", &b)); err != nil {
		t.Fatal(err)
	}
	if a.Size != b.Size || len(a.Members) != len(b.Members) {
		t.Fatalf("%d bytes and %d members, want %d and %d", a.Size, len(a.Members), b.Size, len(b.Members))
	}
	contains := false
	for i, m := range a.Members {
		want := b.Members[i]
		size, _ := btf.Sizeof(m.Type)
		wantSize, _ := btf.Sizeof(want.Type)
		if m.Name != want.Name || m.Offset != want.Offset || size != wantSize {
			t.Errorf("%s at %d of %d bytes, want %s at %d of %d bytes", m.Name, m.Offset, size, want.Name, want.Offset, wantSize)
		}
		if s, ok := m.Type.(*btf.Struct); ok && len(s.Members) > 0 {
			contains = true
		}
	}
	if !contains {
		t.Error("no member is a struct with members")
	}
}

// TestLoad loads the programs of the inventory.
func TestLoad(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs")
	}
	spec, _, _ := object(t)
	o, err := Prepare(spec)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		coll, err := o.Load(func(*ebpf.CollectionSpec) error { return nil }, bpf.InventoryProgListTasks, bpf.InventoryProgListFiles)
		if err != nil {
			t.Fatal(err)
		}
		if len(coll.Programs) != 2 {
			t.Errorf("%d programs, want 2", len(coll.Programs))
		}
		coll.Close()
	}
	if _, err := o.Load(func(*ebpf.CollectionSpec) error { return nil }, "no_such_program"); err == nil {
		t.Error("a program that does not exist is loaded")
	}
}

// TestCut checks that what is cut short is refused and does not end the program.
func TestCut(t *testing.T) {
	_, types, funcs := object(t)
	raw := kernelRaw(t)
	for n := 0; n < 4096; n++ {
		if _, err := parse(raw[:n], types, funcs); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
	for n := 4096; n < len(raw); n += 1<<20 + 1 {
		if _, err := parse(raw[:n], types, funcs); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
}

// FuzzParse looks for types that make parse panic or never end.
func FuzzParse(f *testing.F) {
	some := func(types ...string) []byte {
		p, err := newParser(kernelRaw(f))
		if err != nil {
			f.Fatal(err)
		}
		roots, err := p.find(types, nil, map[string]btf.TypeID{})
		if err != nil {
			f.Fatal(err)
		}
		s := newSubset(p)
		for _, id := range roots {
			if _, err := s.add(id); err != nil {
				f.Fatal(err)
			}
		}
		return s.encode()
	}
	f.Add(some("list_head"))
	f.Add(some("nsproxy", "ns_common", "pid"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		_, _ = parse(raw, []string{"list_head", "nsproxy", "ns_common", "pid"}, []string{"bpf_iter_task"})
	})
}

func BenchmarkRead(b *testing.B) {
	_, types, funcs := object(b)
	for b.Loop() {
		if _, err := Read(types, funcs); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPrepareAndLoad(b *testing.B) {
	for b.Loop() {
		spec, err := bpf.LoadInventory()
		if err != nil {
			b.Fatal(err)
		}
		o, err := Prepare(spec)
		if err != nil {
			b.Fatal(err)
		}
		coll, err := o.Load(func(*ebpf.CollectionSpec) error { return nil }, bpf.InventoryProgListTasks, bpf.InventoryProgListFiles)
		if err != nil {
			b.Fatal(err)
		}
		coll.Close()
	}
}

func BenchmarkNewCollection(b *testing.B) {
	for b.Loop() {
		spec, err := bpf.LoadInventory()
		if err != nil {
			b.Fatal(err)
		}
		coll, err := ebpf.NewCollection(spec)
		if err != nil {
			b.Fatal(err)
		}
		coll.Close()
	}
}

func BenchmarkSpec(b *testing.B) {
	for b.Loop() {
		if _, err := bpf.LoadInventory(); err != nil {
			b.Fatal(err)
		}
	}
}
