// SPDX-License-Identifier: Apache-2.0

package osmemory

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// mapped returns where the file of the test is mapped with a mode, and how much of that is resident.
func mapped(t *testing.T, mode string) (at []byte, resident int) {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer smaps.Close()
	in := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		var start, end uintptr
		var m string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &m); n == 3 {
			in = m == mode && strings.HasSuffix(lines.Text(), " "+exe)
			if in {
				at = unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&start))), end-start)
			}
		}
		if in {
			var kib int
			if n, _ := fmt.Sscanf(lines.Text(), "Rss: %d", &kib); n == 1 {
				return at, kib << 10
			}
		}
	}
	t.Fatalf("%s is not mapped with %s", exe, mode)
	return nil, 0
}

var sum byte // keeps the compiler from leaving out reads

// TestGiveBack checks that GiveBack returns the pages of code and of constants that nothing uses any more.
func TestGiveBack(t *testing.T) {
	for _, mode := range []string{"r-xp", "r--p"} {
		at, _ := mapped(t, mode)
		for i := 0; i < len(at); i += os.Getpagesize() {
			sum += at[i]
		}
		_, before := mapped(t, mode)
		GiveBack()
		// What the process uses is mapped again, with what is near.
		if _, after := mapped(t, mode); before < len(at)*9/10 || after > before*9/10 {
			t.Errorf("%s: of %d bytes %d are resident, then %d", mode, len(at), before, after)
		}
	}
}
