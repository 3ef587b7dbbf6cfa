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
