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
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/tracer"
)

// linger is how long nstrace run waits, after its command ended, for the kernel to free
// the command's namespaces.
const linger = 500 * time.Millisecond

// The exit statuses of env(1) and sh(1) for a command that did not start.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

func newRun() *cobra.Command {
	var f streamFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Run a command and trace it and its descendants",
		Long: `Run CMD and trace only CMD and its descendants, from CMD's first instruction. Events
go to stderr, or to the file of --output-file.

The exit status is that of CMD, 128 + N if signal N ended CMD, 127 if CMD was not found,
and 126 if CMD could not be executed.`,
		Example: `  nstrace run -- unshare --net sysctl -w net.ipv4.tcp_keepalive_time=600
  nstrace run -o json -O events.json -- runc run web`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.register(cmd)
	cmd.Flags().SetInterspersed(false) // flags after CMD are CMD's
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 || strings.Contains(typed, "/") {
			return nil, cobra.ShellCompDirectiveDefault // files
		}
		return offer(programs, "", typed)
	}
	return cmd
}

func (f *streamFlags) run(cmd *cobra.Command, args []string) (err error) {
	if done, err := f.help(); done {
		return err
	}
	if len(args) == 0 {
		return usagef("run: no command: want nstrace run [flags] -- CMD [ARG...]")
	}
	if err := f.configure(cmd, ""); err != nil {
		return err
	}
	defer func() { err = f.config.Locate(err) }()
	o, err := f.options()
	if err != nil {
		return err
	}
	// Checked before attaching, which takes seconds.
	if _, err := exec.LookPath(args[0]); err != nil {
		return cannotStart(args[0], err)
	}
	o.Follow, o.Linger, o.TakesSignals = true, linger, true
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

	// The terminal sends ^C to the command as well, and the command decides whether to end.
	// SIGTERM and SIGHUP reach nstrace alone and are passed on.
	signals := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) { // as nohup does; the command inherits it
			signal.Notify(signals, sig)
		}
	}
	defer signal.Stop(signals)

	child, err := startTracked(r.tracer, args)
	if err != nil {
		return err
	}
	// Not before: the command has all that the caller has.
	f.dropPrivileges(confine.Work{Child: true})
	f.seal()
	go func() {
		for sig := range signals {
			if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
				_ = child.Process.Signal(sig) // the command may have ended
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

// startTracked starts a command that the tracer follows from its first instruction. The
// command starts under ptrace, stops at its exec, and continues once the BPF programs follow
// it.
func startTracked(t *tracer.Tracer, args []string) (*exec.Cmd, error) {
	child := exec.Command(args[0], args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}

	// Only the thread that started the command can use ptrace(2) on it.
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
		return nil, fmt.Errorf("%s ended before its exec", args[0])
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

// cannotStart reports why a command did not start, and returns the exit status for that.
func cannotStart(name string, err error) error {
	fmt.Fprintf(os.Stderr, "nstrace: run: %q: %s\n", name, oneLine(cause(err)))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitStatus(exitNotFound)
	}
	return exitStatus(exitNotExecutable)
}

// cause returns the error of the system call, without the names of Go's functions.
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

// statusOf returns the exit status of nstrace for a command that ended with err.
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
