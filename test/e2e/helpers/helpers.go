// SPDX-License-Identifier: Apache-2.0

// Package helpers compiles the small C programs of the end-to-end tests. They make calls that no
// program of a distribution makes. They are static, so they run in a guest that has neither a
// compiler nor a C library.
package helpers

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// freestanding are the programs that use no C library at all.
var freestanding = []string{"nscompat", "nsfirst"}

// compat are 32-bit programs of x86.
var compat = []string{"nscompat"}

// Build compiles each source/*.c into a program of the same name in out, with this compiler.
// It leaves out the 32-bit programs of x86 on other architectures.
func Build(ctx context.Context, compiler, source, out string) error {
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
		wg.Go(func() { errs[i] = compile(ctx, compiler, file, out) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func compile(ctx context.Context, compiler, file, out string) error {
	name := strings.TrimSuffix(filepath.Base(file), ".c")
	args := []string{"-static", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", filepath.Join(out, name), file}
	if slices.Contains(freestanding, name) {
		args = append([]string{"-nostdlib", "-ffreestanding", "-fno-stack-protector"}, args...)
	}
	if slices.Contains(compat, name) {
		if compiler != "gcc" || runtime.GOARCH != "amd64" {
			return nil
		}
		args = append([]string{"-m32"}, args...)
	}
	if text, err := exec.CommandContext(ctx, compiler, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s (it takes gcc and libc6-dev): %w\n%s", name, err, text)
	}
	return nil
}
