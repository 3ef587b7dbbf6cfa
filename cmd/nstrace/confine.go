// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/nstrace/nstrace/internal/confine"
)

// Tests set these, see confine_attempt.go.
var (
	adjust   = func(*confine.Profile) {} // changes a profile before it is applied
	confined = func() {}                 // is called afterwards
)

// confine gives up what a process that traces does not need any more. What it starts from now on
// inherits that.
func (f *streamFlags) confine(w confine.Work) {
	w.Files = f.file != ""
	profile := confine.Tracing(w)
	adjust(profile)
	result, err := confine.Apply(profile)
	if err != nil {
		notify(fmt.Sprintf("cannot give up all privileges that are not needed: %v", err))
	}
	confined()
	if !f.verbose {
		return
	}
	fmt.Fprintf(os.Stderr, "nstrace: keeps %v\n", result.Capabilities)
	if missing := result.Missing(); missing != "" {
		fmt.Fprintf(os.Stderr, "nstrace: %s\n", missing)
	}
}
