// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// An arch is an architecture of guests.
type arch struct {
	name     string              // of Debian and of Go
	programs map[string][]string // what the host needs for it, as hostPrograms
	qemu     string
	machine  []string // QEMU's arguments for the machine, with its serial ports
	console  string   // the kernel's name of the first serial port; wire.Port is the second
	triplet  string   // the name of the folder of libraries
	compiler string   // of the C programs of tests
}

var (
	amd64 = &arch{
		name: "amd64", qemu: "qemu-system-x86_64",
		machine: []string{"-machine", "pc", "-cpu", "qemu64,+rdrand", "-serial", "chardev:console", "-serial", "chardev:frames"},
		console: "ttyS0", triplet: "x86_64-linux-gnu", compiler: "gcc",
	}
	arm64 = &arch{
		name: "arm64", qemu: "qemu-system-aarch64",
		programs: map[string][]string{"qemu-system-arm": {"qemu-system-aarch64"}, "gcc-aarch64-linux-gnu": {"aarch64-linux-gnu-gcc"}},
		// QEMU takes most of its time for the architecture's own way to sign pointers. The machine
		// has one serial port, so the second one is a card.
		machine: []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on", "-serial", "chardev:console", "-device", "pci-serial,chardev=frames"},
		console: "ttyAMA0", triplet: "aarch64-linux-gnu", compiler: "aarch64-linux-gnu-gcc",
	}
	arches = []*arch{amd64, arm64}
)

// splitSeries splits "arm64-6.12". Without an architecture it is amd64.
func splitSeries(s string) (*arch, string) {
	for _, a := range arches {
		if series, ok := strings.CutPrefix(s, a.name+"-"); ok {
			return a, series
		}
	}
	return amd64, s
}

// prefix is what the names of its series and folders begin with.
func (a *arch) prefix() string {
	if a == amd64 {
		return ""
	}
	return a.name + "-"
}

// check returns an error of one line if this host cannot run its guests.
func (a *arch) check() error {
	if err := CheckHost(); err != nil {
		return err
	}
	return needPrograms(a.programs)
}

// programs returns a folder with the programs of guests of another architecture, and everything
// that these need. It downloads them if necessary.
func (k *Kernels) programs(ctx context.Context, arch *arch) (string, error) {
	a, err := k.open(ctx, arch, userland)
	if err != nil {
		return "", err
	}
	defer a.close()
	names, err := a.closure(ctx, slices.Sorted(maps.Keys(guestPrograms)))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(a.cache, "programs-"+arch.name)
	list := filepath.Join(dir, "packages")
	want := strings.Join(names, "\n")
	if got, err := os.ReadFile(list); err == nil && string(got) == want {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := a.download(ctx, names, dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(list, []byte(want), 0o644)
}

// install matches the lines of apt-get --simulate about packages that it would install.
var install = regexp.MustCompile(`(?m)^Inst (\S+) `)

// closure returns these packages and all that they depend on.
func (a *apt) closure(ctx context.Context, packages []string) ([]string, error) {
	args := append([]string{"-q", "-y", "--simulate", "--no-install-recommends", "install"}, packages...)
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range install.FindAllSubmatch(out, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return names, nil
}

// look returns the path of a program of the guest's system.
func (r *Root) look(name string) (string, error) {
	if r.system == "" {
		return lookProgram(name)
	}
	for _, dir := range []string{"usr/sbin", "sbin", "usr/bin", "bin"} {
		path := filepath.Join(r.system, dir, name)
		if _, err := r.resolve(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", filepath.Join(r.system, "*", name), fs.ErrNotExist)
}

// resolve follows the symbolic links at a path of the host. A link in the guest's system does not
// leave it.
func (r *Root) resolve(path string) (string, error) {
	if r.system == "" || !strings.HasPrefix(path, r.system+"/") {
		return filepath.EvalSymlinks(path)
	}
	for range 8 {
		target, err := os.Readlink(path)
		if err != nil {
			_, err = os.Lstat(path)
			return path, err
		}
		if filepath.IsAbs(target) {
			path = filepath.Join(r.system, target)
		} else {
			path = filepath.Join(filepath.Dir(path), target)
		}
		if !strings.HasPrefix(path, r.system+"/") {
			return "", &fs.PathError{Op: "resolve", Path: path, Err: fs.ErrNotExist}
		}
	}
	return "", &fs.PathError{Op: "resolve", Path: path, Err: errors.New("too many links")}
}
