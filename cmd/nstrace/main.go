// SPDX-License-Identifier: Apache-2.0

// Nstrace shows who did what to a Linux host's namespaces and kernel parameters.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nstrace/nstrace/internal/filter"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/resolver"
	"github.com/nstrace/nstrace/tracer"
)

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // an error at run time
	exitUsage = 2 // an invalid command line
	exitHost  = 3 // nstrace cannot run on this host
)

// version is set by the linker. Without it, as after go install, the build information has
// the version.
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

// usageError is an invalid command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus is the exit status of a traced command, which nstrace exits with.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	os.Exit(realMain(os.Args[1:]))
}

// realMain runs nstrace and returns its exit status, so that deferred calls run before the exit.
func realMain(args []string) int {
	// If the reader closes the pipe (nstrace | head), write(2) fails, and nstrace ends normally
	// instead of being killed. signal.Ignore would not work: a traced command inherits ignored
	// signals.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if resolver.Wanted(os.Args) {
		return lookUp()
	}
	root := newRoot(commandsFor(args)...)
	root.SetArgs(joinOptional(root, args))
	out := &keptError{to: os.Stdout}
	root.SetOut(out)
	err := root.Execute()
	if err == nil { // cobra ignores errors when it prints help
		err = out.err
	}
	var usage usageError
	var status exitStatus
	own := exitOK // the status if nothing else is wrong
	if errors.As(err, &status) {
		own = int(status)
	}
	// A closed pipe is not an error, and the status of a command needs no message. Errors that are
	// joined with them can need one.
	if err = without(err, func(err error) bool { return errors.Is(err, syscall.EPIPE) || errors.As(err, &status) }); err == nil {
		return own
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s\n", oneLine(err))
	var expr *filter.Error
	if errors.As(err, &expr) && term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(os.Stderr, "  %s\n", strings.ReplaceAll(expr.Caret(), "\n", "\n  "))
	}
	switch {
	case errors.As(err, &usage), errors.Is(err, tracer.ErrOption):
		return exitUsage
	case errors.Is(err, tracer.ErrUnsupported), errors.Is(err, inventory.ErrSource):
		return exitHost
	}
	if own != exitOK {
		return own
	}
	return exitFault
}

// A keptError keeps the first error of its writer.
type keptError struct {
	to  io.Writer
	err error
}

func (o *keptError) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// lookUp is the process that a live command starts, see package resolver.
func lookUp() int {
	err := resolver.Main()
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(os.Stderr, "nstrace: %s: %s\n", resolver.Name, oneLine(err))
	if errors.Is(err, resolver.ErrByHand) {
		return exitUsage
	}
	return exitFault
}

// without returns err without the joined errors for which drop returns true.
func without(err error, drop func(error) bool) error {
	if err == nil {
		return nil
	}
	if joined, ok := any(err).(interface{ Unwrap() []error }); ok {
		parts := joined.Unwrap()
		if err.Error() == errors.Join(parts...).Error() { // and not fmt.Errorf with several %w
			kept := make([]error, len(parts))
			for i := range parts {
				kept[i] = without(parts[i], drop)
			}
			return errors.Join(kept...)
		}
	}
	if drop(err) {
		return nil
	}
	return err
}

// oneLine returns the message of an error on one line, see flatten.
func oneLine(err error) string { return flatten(err.Error()) }

// flatten puts the lines of a message on one line. It escapes what is not printable: parts of a
// message can come from a database or a file of somebody else, and must not control the terminal.
func flatten(message string) string {
	var line strings.Builder
	for _, r := range strings.Join(strings.Fields(strings.ReplaceAll(message, "\n", "; ")), " ") {
		if unicode.IsPrint(r) {
			line.WriteRune(r)
		} else {
			line.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return line.String()
}

// commands makes the commands, by their names.
var commands = map[string]func() *cobra.Command{
	"run": newRun, "list": newList, "show": newShow, "diff": newDiff, "explain": newExplain, "graph": newGraph, "top": newTop, "record": newRecord,
	"history": newHistory, "blame": newBlame, "check": newCheck, "version": newVersion, "man": newMan,
}

// commandsFor returns the commands that arguments need: one if they begin with its name, and otherwise all, for
// the help and for suggestions. Each takes time and memory, mostly for its flags.
func commandsFor(args []string) (needed []*cobra.Command) {
	if len(args) > 0 && args[0] != "man" && commands[args[0]] != nil {
		return []*cobra.Command{commands[args[0]]()}
	}
	for _, make := range commands {
		needed = append(needed, make()) // cobra sorts them
	}
	return needed
}

func newRoot(sub ...*cobra.Command) *cobra.Command {
	var f streamFlags
	var version bool
	root := &cobra.Command{
		Use:   "nstrace [flags]",
		Short: "Show who did what to namespaces and kernel parameters",
		Long: `Stream events about namespaces (created, entered, pinned, destroyed) and about writes
to kernel parameters (sysctls) as they happen, each with the process behind it. nstrace
runs until it is interrupted.

` + tableHelp(),
		Example: `  nstrace                                   show all events as a table
  nstrace -e sysctl --sysctl 'net.ipv4.*'   show writes to parameters below net.ipv4
  nstrace --filter 'any(process.ancestors, .comm == "runc")'   show what runc's descendants do
  nstrace -o json -O /var/log/nstrace.json  write events to a file as JSON lines
  nstrace run -- unshare --net true         trace one command and its descendants
  nstrace record                            record a history for nstrace blame and nstrace history`,
		Args: func(cmd *cobra.Command, args []string) error {
			if version { // prints it whatever follows, as Command.Version does
				return nil
			}
			return noArgs(cmd, args)
		},
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return printVersion(cmd)
			}
			return f.stream(cmd)
		},
	}
	f.register(root)
	f.registerHealth(root, "1m with --sink, otherwise 0")
	registerGlobal(root)
	// Not Command.Version with SetVersionTemplate: TestNoTemplate in test/docs says why.
	root.Flags().BoolVar(&version, "version", false, "print the version")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.AddCommand(sub...)
	addCompletion(root)
	return root
}

// noArgs refuses arguments, and suggests the command that an unknown one resembles.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usagef("%s: unexpected argument %q: want none", cmd.CommandPath(), args[0])
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usagef("unknown command %q%s", args[0], didYouMean(args[0], names))
}

// newHelp is cobra's command help, except that an unknown command is a mistake.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Print help about a command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			of, _, err := cmd.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range of.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				var names []string
				for _, c := range of.Commands() {
					names = append(names, c.Name())
				}
				unknown := args[len(args)-max(1, len(rest))]
				return usagef("help: unknown command %q%s: see nstrace --help", unknown, didYouMean(unknown, names))
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}
