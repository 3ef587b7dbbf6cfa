// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/tracer"
)

// linger is how long `nstrace run` waits, after its command has ended, for the
// kernel to free the namespaces that it made.
const linger = 500 * time.Millisecond

// Exit statuses of env(1), sh(1) and their kin for a command that did not start.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

func newRun() *cobra.Command {
	var f streamFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Run a command and show what it and its descendants do",
		Long: `Run CMD and trace it and its descendants only, from CMD's first instruction.
Events go to stderr, or to --output-file. nstrace's exit status is CMD's; it is
128 + N where signal N ended CMD, 127 where CMD was not found, and 126 where it
could not be executed.`,
		Example: `  nstrace run -- unshare --net sysctl -w net.ipv4.tcp_keepalive_time=600
  nstrace run -o json -O events.json -- runc run web`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.register(cmd)
	cmd.Flags().SetInterspersed(false) // flags after CMD are CMD's
	return cmd
}

func (f *streamFlags) run(cmd *cobra.Command, args []string) (err error) {
	if done, err := f.help(); done {
		return err
	}
	if len(args) == 0 {
		return usagef("run takes a command: nstrace run [flags] -- CMD [ARG...]")
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	// Before attaching, which would be for nothing.
	if _, err := exec.LookPath(args[0]); err != nil {
		return cannotStart(args[0], err)
	}
	o.Follow, o.Linger = true, linger
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	r, err := f.start(o, os.Stderr, cancel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.finish()) }()

	if f.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}

	// The terminal sends ^C to the command as well, and it decides; a signal to
	// nstrace alone is passed on.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	child, err := startTracked(r.tracer, args)
	if err != nil {
		return err
	}
	go func() {
		for sig := range signals {
			if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
				_ = child.Process.Signal(sig) // it may have ended just now
			}
		}
	}()
	waited := make(chan error, 1)
	go func() {
		waited <- child.Wait()
		cancel()
	}()
	runErr := r.tracer.Run(ctx, r.stage)
	childErr := <-waited
	if runErr != nil && !errors.Is(runErr, syscall.EPIPE) {
		return runErr
	}
	switch totals := r.steps.Totals(); {
	case f.verbose || (totals != nil && totals.Lost > 0):
		f.summary(r)
	case len(r.steps.Alerts()) > 0:
		f.alertSummary(r)
	}
	return statusOf(childErr)
}

// startTracked starts a command and makes it known to the tracer before it runs
// its first instruction: it is started traced, stops at its exec, and is let go
// once the kernel side follows it.
func startTracked(t *tracer.Tracer, args []string) (*exec.Cmd, error) {
	child := exec.Command(args[0], args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}

	// ptrace(2) answers only to the thread that is the tracer.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := child.Start(); err != nil {
		return nil, cannotStart(args[0], err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(child.Process.Pid, &status, 0, nil); err != nil {
		return nil, fmt.Errorf("wait for %s to be executed: %w", args[0], err)
	}
	if !status.Stopped() {
		return nil, fmt.Errorf("%s ended before it was executed", args[0])
	}
	err := t.Track(child.Process.Pid)
	if err == nil {
		err = syscall.PtraceDetach(child.Process.Pid)
	}
	if err != nil {
		_ = child.Process.Kill()
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return child, nil
}

// cannotStart says why a command did not start, with the exit status for that.
func cannotStart(name string, err error) error {
	fmt.Fprintf(os.Stderr, "nstrace: run: %q: %s\n", name, oneLine(cause(err)))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitStatus(exitNotFound)
	}
	return exitStatus(exitNotExecutable)
}

// cause is what the system said, without the names of Go's functions.
func cause(err error) error {
	var path *fs.PathError
	var lookup *exec.Error
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &lookup):
		return lookup.Err
	}
	return err
}

// statusOf turns how the command ended into nstrace's own exit status.
func statusOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitStatus(128 + int(ws.Signal()))
	}
	return exitStatus(exit.ExitCode())
}
