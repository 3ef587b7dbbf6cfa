// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
)

// scarce reports whether an error says that the host, or this process, lacks a descriptor or memory at
// the moment.
func scarce(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// fatal returns err if a run cannot go on after it: it goes on if something is scarce.
func fatal(err error) error {
	if scarce(err) {
		return nil
	}
	return err
}

// reportEvery is how often at most a run reports that something is scarce.
const reportEvery = time.Minute

// tasks returns all tasks that are in namespaces other than the host's. It reports an error that is not
// fatal.
func (in *interpreter) tasks() ([]bpf.NstraceTaskNs, error) {
	tasks, err := in.lookups.tasks()
	if err != nil && scarce(err) && in.note != nil && time.Since(in.noted) > reportEvery {
		in.noted = time.Now()
		in.note("%v: ends and owners of namespaces can be missing until that works again", explain(err))
	}
	return tasks, err
}

// minFiles is fewer than the descriptors that each way to attach needs.
const minFiles = 128

// checkFiles returns an error if the limit on open files is too low. Without that, the first trial that
// fails looks like something that the kernel lacks.
func checkFiles() error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur < minFiles {
		return fmt.Errorf("the limit on open files (ulimit -n) is %d: want 1024", limit.Cur)
	}
	return nil
}

// explain adds the limit to an error that says that it was reached.
func explain(err error) error {
	var limit unix.Rlimit
	if !errors.Is(err, unix.EMFILE) || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return err
	}
	return fmt.Errorf("%w (the limit, ulimit -n, is %d: want 1024)", err, limit.Cur)
}
