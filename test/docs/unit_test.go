// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/internal/confine"
)

// TestUnitExplained checks that a comment of the unit explains each point that systemd-analyze counts.
func TestUnitExplained(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("install systemd")
	}
	unit := filepath.Join(root, "systemd/nstrace.service")
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	_, explained, ok := strings.Cut(string(text), "# What systemd-analyze security still counts")
	if !ok {
		t.Fatal("the unit has no such comment")
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--json=short", unit).Output()
	if err != nil {
		t.Fatal(err)
	}
	var points []struct {
		Set      *bool
		Name     string
		Exposure string
	}
	if err := json.Unmarshal(out, &points); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counted := 0
	for _, p := range points {
		if p.Set == nil || *p.Set || p.Exposure == "" {
			continue
		}
		counted++
		setting, value, _ := strings.Cut(p.Name, "=")
		setting += "="
		if strings.HasPrefix(value, "~@") { // a group of system calls
			setting = value
		}
		if !strings.Contains(explained, setting) {
			t.Errorf("the comment does not explain %s", p.Name)
		}
	}
	if counted == 0 {
		t.Errorf("systemd-analyze counts nothing:\n%s", out)
	}
}

// TestUnitsVerify has systemd read the units as make install installs them.
func TestUnitsVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("install systemd")
	}
	dir := t.TempDir()
	var units []string
	for _, name := range []string{"nstrace.service", "nstrace-folder.service"} {
		text, err := os.ReadFile(filepath.Join(root, "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// systemd-analyze wants the program to be there.
		unit := filepath.Join(dir, name)
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/nstrace", program)), 0o644); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	out, err := exec.Command("systemd-analyze", append([]string{"verify"}, units...)...).CombinedOutput()
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, "nstrace") {
			t.Error(l)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// TestCapabilitiesDocumented checks that docs/security.md says why nstrace keeps each capability.
func TestCapabilitiesDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, kept, _ := strings.Cut(string(text), "### After the start")
	for _, k := range confine.Describe().Keeps {
		if !strings.Contains(kept, "`"+k.Capability.String()+"`") {
			t.Errorf("docs/security.md does not say why nstrace keeps %v", k.Capability)
		}
	}
}
