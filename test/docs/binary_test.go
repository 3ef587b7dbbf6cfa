// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"debug/elf"
	"testing"
)

// TestNoTemplate fails if nstrace can execute a template. That calls methods by name, and the
// linker then keeps every exported method of every type: four megabytes.
func TestNoTemplate(t *testing.T) {
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, s := range symbols {
		seen = seen || s.Name == "main.main"
		if s.Name == "text/template.(*state).evalField" {
			t.Errorf("nstrace contains %s: go build -ldflags=-dumpdep shows what calls it", s.Name)
		}
	}
	if !seen {
		t.Error("nstrace has no symbol main.main")
	}
}

// maxSize is how large the program may be without its symbols, as make build builds it.
const maxSize = 26 << 20

// TestSize adds up what strip(1) leaves. go install and make build make the same program, because no build
// tag makes it smaller.
func TestSize(t *testing.T) {
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := uint64(0)
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && s.Type != elf.SHT_NOBITS {
			size += s.FileSize
		}
	}
	if size == 0 || size > maxSize {
		t.Errorf("nstrace has %d bytes without its symbols, may have %d", size, maxSize)
	}
	t.Logf("%.1f MiB", float64(size)/(1<<20))
}
