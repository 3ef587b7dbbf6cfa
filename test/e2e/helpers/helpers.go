// SPDX-License-Identifier: Apache-2.0

// Package helpers compiles the small C programs of the end-to-end tests, which
// do what no program of a distribution does. They are static, so that they run
// in a guest that has neither a compiler nor a C library.
package helpers

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// freestanding are those that have no C library at all.
var freestanding = []string{"nsfirst"}

// Build compiles each source/*.c into a program of the same name below out.
func Build(ctx context.Context, source, out string) error {
	files, err := filepath.Glob(filepath.Join(source, "*.c"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no C program in %s", source)
	}
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, file := range files {
		wg.Go(func() { errs[i] = compile(ctx, file, out) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func compile(ctx context.Context, file, out string) error {
	name := strings.TrimSuffix(filepath.Base(file), ".c")
	args := []string{"-static", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", filepath.Join(out, name), file}
	if slices.Contains(freestanding, name) {
		args = append([]string{"-nostdlib", "-ffreestanding", "-fno-stack-protector"}, args...)
	}
	if text, err := exec.CommandContext(ctx, "gcc", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s (it takes gcc and libc6-dev): %w\n%s", name, err, text)
	}
	return nil
}
