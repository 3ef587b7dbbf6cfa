// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/nstrace/nstrace/internal/confine"
)

// confine gives up what a process that traces does not need any more. Its children from now on inherit
// that.
func (f *streamFlags) confine(w confine.Work) {
	w.Files = f.file != ""
	result, err := confine.Apply(confine.Tracing(w))
	if err != nil {
		notify(fmt.Sprintf("cannot give up all privileges that are not needed: %v", err))
	}
	if !f.verbose {
		return
	}
	fmt.Fprintf(os.Stderr, "nstrace: keeps %v\n", result.Capabilities)
	if missing := result.Missing(); missing != "" {
		fmt.Fprintf(os.Stderr, "nstrace: %s\n", missing)
	}
}
