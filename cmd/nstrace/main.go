// SPDX-License-Identifier: Apache-2.0

// Nstrace shows who did what to a Linux host's namespaces and kernel parameters.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/tracer"
)

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // at run time
	exitUsage = 2 // a mistake on the command line
	exitHost  = 3 // this host can't
)

// version is set by the linker; `go install` leaves it to the build information.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus is the status of a traced command.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	os.Exit(realMain(os.Args[1:]))
}

// realMain is all of nstrace but the exit, so that what is deferred runs.
func realMain(args []string) int {
	// A reader that goes away (nstrace | head) is an error of write(2), which
	// ends nstrace in good order instead of killing it. Not signal.Ignore: a
	// traced command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	var usage usageError
	var status exitStatus
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		return exitOK
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s\n", oneLine(err))
	var expr *filter.Error
	if errors.As(err, &expr) && term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(os.Stderr, "  %s\n", strings.ReplaceAll(expr.Caret(), "\n", "\n  "))
	}
	switch {
	case errors.As(err, &usage), errors.Is(err, tracer.ErrOption):
		return exitUsage
	case errors.Is(err, tracer.ErrUnsupported):
		return exitHost
	}
	return exitFault
}

// oneLine returns the message of an error on one line.
func oneLine(err error) string { return flatten(err.Error()) }

// flatten puts the lines of a message on one line.
func flatten(message string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(message, "\n", "; ")), " ")
}

func newRoot() *cobra.Command {
	var f streamFlags
	root := &cobra.Command{
		Use:   "nstrace [flags]",
		Short: "Show who did what to namespaces and kernel parameters",
		Long: `nstrace streams the namespaces that processes create, enter and leave behind,
and the kernel parameters (sysctls) that they write, as it happens and with who
did it, until it is interrupted.`,
		Example: `  nstrace                                   everything, as a table
  nstrace -e sysctl --sysctl 'net.ipv4.*'   writes below net.ipv4
  nstrace --filter 'any(process.ancestors, .comm == "runc")'   what runc is behind
  nstrace -o json -O /var/log/nstrace.json  events as JSON lines, to a file
  nstrace run -- unshare --net true         one command and its descendants
  nstrace record                            keeps a history, for nstrace blame and nstrace history`,
		Args:              noArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		RunE:              func(cmd *cobra.Command, _ []string) error { return f.stream(cmd) },
	}
	f.register(root)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newRun(), newRecord(), newHistory(), newBlame(), newCheck(), newVersion(), newMan())
	return root
}

// noArgs refuses arguments; one that is no command gets the nearest that is.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usagef("%s takes no arguments, not %q", cmd.CommandPath(), args[0])
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usagef("unknown command %q%s", args[0], didYouMean(args[0], names))
}
