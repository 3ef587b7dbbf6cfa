// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/resolver"
)

// Tests set these, see confine_attempt.go.
var (
	adjust   = func(*confine.Profile) {} // changes a profile before it is applied
	confined = func() {}                 // is called afterwards
)

// dropPrivileges drops the capabilities that tracing does not need. It comes before nstrace looks at
// anything of others: a thread that waits for them would have to drop its own. What nstrace starts from
// now on inherits it.
func (f *streamFlags) dropPrivileges(w confine.Work) {
	f.profile = f.confinement(w)
	report(f.result.Drop(f.profile))
}

// seal makes the kernel refuse the system calls that are not needed after attaching.
func (f *streamFlags) seal() {
	report(f.result.Seal(f.profile))
	confined()
	if !f.verbose {
		return
	}
	fmt.Fprintf(os.Stderr, "nstrace: keeps %v\n", f.result.Capabilities)
	if missing := f.result.Missing(); missing != "" {
		fmt.Fprintf(os.Stderr, "nstrace: %s\n", missing)
	}
}

func (f *streamFlags) confinement(w confine.Work) *confine.Profile {
	w.Files = f.file != "" || slices.ContainsFunc(f.sinks, func(s *sinkValue) bool { return s.kind == "file" })
	w.Network = slices.ContainsFunc(f.sinks, func(s *sinkValue) bool { return s.network })
	w.User = f.resolverUser()
	f.work = w
	profile := confine.Tracing(w)
	adjust(profile)
	return profile
}

// resolverUser returns the user of the resolver, 0 if it has none of its own.
func (f *streamFlags) resolverUser() uint32 {
	f.pickUser.Do(func() {
		user, err := resolver.FreeUser()
		if err != nil {
			f.result.Lacking = append(f.result.Lacking, err.Error())
		}
		f.user = user
	})
	return f.user
}

func report(err error) {
	if err != nil {
		warn(fmt.Sprintf("cannot give up all privileges that are not needed: %v", err))
	}
}
