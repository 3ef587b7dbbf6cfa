// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A sysctlCache reads parameters that are the same in all namespaces.
type sysctlCache map[string]cachedSysctl

type cachedSysctl struct {
	value string
	at    uint64 // when it was read, CLOCK_BOOTTIME
}

// value returns the value of a parameter, "" if the kernel does not have it. It reads the
// parameter again unless it did so after the time at, as netnsNames.find does.
func (c sysctlCache) value(name string, at uint64) string {
	v, ok := c[name]
	if !ok || at >= v.at {
		v = cachedSysctl{value: readSysctl(name), at: bootNow()}
		c[name] = v
	}
	return v.value
}

// readSysctl returns "" for what it cannot read. No parameter that it is called for has more than
// some digits.
func readSysctl(name string) string {
	f, err := os.Open(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}
