// SPDX-License-Identifier: Apache-2.0

package lockdown

import (
	"os"
	"strings"
	"testing"
)

// TestCheck compares the answer with the mode that the kernel shows. A kernel that shows none is not
// locked down, or has no lockdown.
func TestCheck(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to load a BPF program")
	}
	mode, _ := os.ReadFile(file)
	if err := Check(); (err != nil) != strings.Contains(string(mode), "[confidentiality]") {
		t.Errorf("%v; the mode is %q", err, mode)
	}
}
