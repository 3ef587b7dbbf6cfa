// SPDX-License-Identifier: Apache-2.0

// Package packages tests what make packages makes.
package packages

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// build makes the packages of a version in a folder of their own.
func build(t *testing.T, version string) string {
	t.Helper()
	if os.Getenv("NSTRACE_TEST_ALL") == "" {
		t.Skip("takes minutes: set NSTRACE_TEST_ALL=1")
	}
	dir := t.TempDir()
	output(t, "../../packaging/build", dir, version, "amd64")
	output(t, "../../packaging/sbom", dir, version, "amd64")
	return dir
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, text)
	}
	return string(text)
}

// TestReproducible builds twice and compares.
func TestReproducible(t *testing.T) {
	one, two := build(t, "v1.2.3"), build(t, "v1.2.3")
	files, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 4 {
		t.Fatalf("%d files, want a tar.gz, a deb, an rpm and an SBOM", len(files))
	}
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(one, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two builds of %s differ", f.Name())
		}
	}
}

// TestDeb installs, upgrades, removes and purges the package of Debian in a folder, where no systemd runs.
func TestDeb(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/systemd/system", "var/lib/nstrace"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"var/lib/dpkg/status", "var/lib/nstrace/events.db"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := func(args ...string) {
		t.Helper()
		output(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-depends", "--log=/dev/null"}, args...)...)
	}
	// The state after each step: is there the program, is the unit enabled, is there the history.
	is := func(when string, want ...bool) {
		t.Helper()
		for i, file := range []string{"usr/bin/nstrace", "etc/systemd/system/sysinit.target.wants/nstrace.service", "var/lib/nstrace/events.db"} {
			if _, err := os.Lstat(filepath.Join(root, file)); (err == nil) != want[i] {
				t.Errorf("%s: %s: %v", when, file, err)
			}
		}
	}
	deb := func(version string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(build(t, version), "*.deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%q, %v", found, err)
		}
		return found[0]
	}
	dpkg("--install", deb("v1.2.3"))
	is("installed", true, true, true)
	if got := output(t, filepath.Join(root, "usr/bin/nstrace"), "version"); !strings.Contains(got, "v1.2.3") {
		t.Errorf("the version: %s", got)
	}
	dpkg("--install", deb("v1.3.0-rc.1"))
	is("upgraded", true, true, true)
	dpkg("--remove", "nstrace")
	is("removed", false, true, true)
	dpkg("--purge", "nstrace")
	is("purged", false, false, false)
}
