// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/nstrace/nstrace/bpf"
)

// TestRelocations checks that the loader adapts accesses only to types of the kernel. It finds no kernel type for one
// of nstrace's own, and the verifier then refuses the program without saying which access it means. BPF_CORE_READ()
// makes such an access of a pointer that it has to load from a struct first: load it into a variable.
func TestRelocations(t *testing.T) {
	kernel := map[string]bool{}
	for file, declared := range map[string]string{
		"../vmlinux.h": `(?m)^(?:typedef )?(?:struct|union|enum) (\w+) \{`,
		"inventory.c":  `(?m)^struct (\w+) \{[^}]*\} __attribute__\(\(preserve_access_index\)\)`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(declared).FindAllSubmatch(text, -1) {
			kernel[string(m[1])] = true
		}
	}
	named := regexp.MustCompile(`"(\w+)"`)
	for object, load := range map[string]func() (*ebpf.CollectionSpec, error){"nstrace": bpf.LoadNstrace, "inventory": bpf.LoadInventory} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		reported := map[string]bool{}
		for _, p := range spec.Programs {
			function, line := "", ""
			for i := range p.Instructions {
				ins := &p.Instructions[i]
				if f := btf.FuncMetadata(ins); f != nil {
					function = f.Name
				}
				if s := ins.Source(); s != nil {
					line = s.String()
				}
				relocation := btf.CORERelocationMetadata(ins)
				if relocation == nil {
					continue
				}
				found++
				name := named.FindStringSubmatch(relocation.String())
				where := fmt.Sprintf("%s: %s(): %s: %v", object, function, line, relocation)
				if (name == nil || !kernel[name[1]]) && !reported[where] {
					reported[where] = true
					t.Errorf("%s: the type is not one of the kernel", where)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no relocations", object)
		}
	}
}
