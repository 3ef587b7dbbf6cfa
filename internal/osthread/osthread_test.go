// SPDX-License-Identifier: Apache-2.0

package osthread

import (
	"os"
	"testing"
)

func TestReserve(t *testing.T) {
	threads := func() int {
		t.Helper()
		all, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	const n = 20
	Reserve(n)
	have := threads()
	if have < n {
		t.Errorf("%d threads, want at least %d", have, n)
	}
	Reserve(n)
	if again := threads(); again > have+2 { // the runtime may start some for itself
		t.Errorf("%d threads after %d: those of the first call were not used again", again, have)
	}
}
