// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package confine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// everyThread returns why a call cannot be made on all threads. With cgo, psx finds them by /proc and the
// process's own id, and would wait for ever where /proc is that of another PID namespace.
func everyThread() error {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("a build with cgo cannot drop capabilities where /proc is not that of its own PID namespace: %w", errors.ErrUnsupported)
	}
	return nil
}
