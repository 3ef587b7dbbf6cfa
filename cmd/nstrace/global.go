// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/output"
)

// global are the flags of every command.
var global globalFlags

type globalFlags struct {
	color string
	quiet bool
	utc   bool
}

var colors = []string{"auto", "always", "never"}

// registerGlobal adds the flags of every command to the root.
func registerGlobal(root *cobra.Command) {
	global.register(root.PersistentFlags())
	complete(root, "color", colors)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := noEmptyValue(cmd); err != nil {
			return err
		}
		return global.check()
	}
}

func (g *globalFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&g.color, "color", "auto", "colors: auto (on a terminal, unless NO_COLOR is set), always or never")
	optionalValue(fs, "color", "always", colors)
	fs.BoolVarP(&g.quiet, "quiet", "q", false, "print no notes and no summary to stderr, only errors")
	fs.BoolVar(&g.utc, "utc", false, "show times in UTC")
}

func (g *globalFlags) check() error { return oneOf("--color", g.color, colors) }

// noEmptyValue refuses flags with an empty value, as of an unset variable of a script: without the flag, the
// command would show something else.
func noEmptyValue(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		empty := f.Value.String() == ""
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values := list.GetSlice()
			empty = len(values) == 0 || slices.Contains(values, "")
		}
		if empty && err == nil {
			err = usagef("--%s: empty value: want %s", f.Name, f.Usage)
		}
	})
	return err
}

// colorWanted reports whether output to file should have colours.
func colorWanted(file *os.File) bool {
	switch global.color {
	case "always":
		return true
	case "never":
		return false
	}
	return output.ColorWanted(file)
}

// location returns the time zone of the times that a command shows.
func location() *time.Location {
	if global.utc {
		return time.UTC
	}
	return time.Local
}

// valuesAnnotation marks the flags of optionalValue, and has their values. patternAnnotation marks those of
// optionalPattern.
const (
	valuesAnnotation  = "nstrace_values"
	patternAnnotation = "nstrace_pattern"
)

// optionalValue gives a flag the value that it has if it is given without one. all are its values.
func optionalValue(fs *pflag.FlagSet, name, without string, all []string) {
	f := fs.Lookup(name)
	f.NoOptDefVal = without
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[valuesAnnotation] = all
}

// optionalPattern is optionalValue for a flag whose values match pattern.
func optionalPattern(fs *pflag.FlagSet, name, without string, pattern *regexp.Regexp) {
	f := fs.Lookup(name)
	f.NoOptDefVal = without
	f.Annotations = map[string][]string{patternAnnotation: {pattern.String()}}
}

// joinOptional returns the arguments with an equals sign between a flag whose value is optional and a value of
// it that follows: pflag knows only --group=open, and people also write --group open. It leaves alone what
// belongs to a traced command.
func joinOptional(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	var out []string
	named := false // run was there
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--" || named && !strings.HasPrefix(a, "-"):
			return append(out, args[i:]...)
		case !strings.HasPrefix(a, "-") || a == "-":
			named = named || cmd.Name() == "run" && a == "run"
			out = append(out, a)
			continue
		}
		f := takesNext(cmd, a)
		switch {
		case f == nil || i+1 == len(args):
		case f.NoOptDefVal == "":
			out = append(out, a)
			i++
			a = args[i]
		case isOptional(cmd, f, args[i+1]):
			i++
			a += "=" + args[i]
		}
		out = append(out, a)
	}
	return out
}

// takesNext returns the flag that an argument ends with, if the flag has no value yet and can have one.
func takesNext(cmd *cobra.Command, arg string) *pflag.Flag {
	fs := cmd.Flags()
	fs.AddFlagSet(cmd.InheritedFlags())
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		if strings.Contains(name, "=") {
			return nil
		}
		return fs.Lookup(name)
	}
	for i, c := range arg[1:] {
		f := fs.ShorthandLookup(string(c))
		if f == nil || f.NoOptDefVal == "" && i+2 < len(arg) { // the rest is its value
			return nil
		}
		if i+2 == len(arg) {
			return f
		}
	}
	return nil
}

// isOptional reports whether next is a value of a flag whose value is optional.
func isOptional(cmd *cobra.Command, f *pflag.Flag, next string) bool {
	if pattern := f.Annotations[patternAnnotation]; len(pattern) > 0 {
		return regexp.MustCompile(pattern[0]).MatchString(next)
	}
	values, ok := f.Annotations[valuesAnnotation]
	if !ok {
		return false
	}
	if values == nil { // any file
		return !strings.HasPrefix(next, "-") && !slices.ContainsFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == next })
	}
	return slices.Contains(values, next)
}
