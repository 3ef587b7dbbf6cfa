// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestPreemption has versions of real kernels, and what their sched/preempt says.
func TestPreemption(t *testing.T) {
	for _, row := range []struct{ version, file, want string }{
		{"#1 SMP Debian 5.10.262-1 (2026-10-02)", "", ""},
		{"#1 SMP PREEMPT_RT Debian 6.12.118-1 (2026-11-20)", "", "PREEMPT_RT"},
		{"#52~22.04.1-Ubuntu SMP PREEMPT Tue Nov 10 2026", "", "PREEMPT"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-11-20)", "none (voluntary) full\n", ""},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-11-20)", "(none) voluntary full\n", ""},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-11-20)", "none voluntary (full)\n", "PREEMPT_DYNAMIC, in the mode full"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)", "full (lazy)\n", "PREEMPT_DYNAMIC, in the mode lazy"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)", "", "PREEMPT_DYNAMIC, in a mode that cannot be read"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)", "something else\n", "PREEMPT_DYNAMIC, in a mode that cannot be read"},
	} {
		p := &preemption{model: preemptModel(row.version)}
		if row.file != "" {
			name := filepath.Join(t.TempDir(), "preempt")
			if err := os.WriteFile(name, []byte(row.file), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			if p.file, err = os.Open(name); err != nil {
				t.Fatal(err)
			}
		}
		if got := p.reason(); got != row.want {
			t.Errorf("%s, %q: %q, want %q", row.version, row.file, got, row.want)
		}
		p.close()
	}
}

// TestOrder checks that what loses nothing comes first.
func TestOrder(t *testing.T) {
	for preempts, first := range map[string]Backend{"": Fentry, "PREEMPT_RT": Kprobe} {
		k := &kernel{preempts: preempts}
		for _, o := range observations {
			var order []Backend
			for _, w := range k.inOrder(o.ways) {
				if !w.forced {
					order = append(order, w.backend)
				}
			}
			want := []Backend{Fentry, Kprobe, Tracepoint}
			if first == Kprobe {
				want = []Backend{Kprobe, Fentry, Tracepoint}
			}
			if len(order) < len(want) {
				want = want[:len(order)]
			}
			if !slices.Equal(order, want) {
				t.Errorf("%s, preempts %q: %v, want %v", o.name, preempts, order, want)
			}
		}
	}
}
