// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
)

// TestCoupled writes other values to each numeric parameter of a network namespace of its own and compares what all
// files of the same directory have before and after. nstrace knows of each parameter that changes along.
func TestCoupled(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads each file many times")
	}
	err := inNamespaces(unix.CLONE_NEWNET|unix.CLONE_NEWIPC, func() error {
		dirs := map[string][]string{}
		err := filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, "flush") {
				dirs[filepath.Dir(path)] = append(dirs[filepath.Dir(path)], path)
			}
			return nil
		})
		for _, files := range dirs {
			for _, path := range files {
				checkCoupled(t, path, files)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkCoupled(t *testing.T, path string, files []string) {
	before := contents(files)
	n, err := strconv.Atoi(before[path])
	if err != nil {
		return
	}
	for _, text := range []string{strconv.Itoa(n + 1), strconv.Itoa(n * 2), "0", "1"} {
		if os.WriteFile(path, []byte(text), 0) != nil {
			continue
		}
		for other, v := range contents(files) {
			if other == path || v == before[other] || drift.Coupled(parameterName(path), parameterName(other)) {
				continue
			}
			t.Errorf("%q written to %s changes %s from %q to %q", text, path, other, before[other], v)
		}
		_ = os.WriteFile(path, []byte(before[path]), 0)
		before = contents(files)
	}
}

// contents returns what files have.
func contents(files []string) map[string]string {
	all := make(map[string]string, len(files))
	for _, path := range files {
		if b, err := os.ReadFile(path); err == nil {
			all[path] = strings.TrimSuffix(string(b), "\n")
		}
	}
	return all
}

func parameterName(path string) string {
	name, _ := event.SysctlName(path)
	return name
}
