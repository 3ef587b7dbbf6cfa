// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/internal/config"
)

// registerConfig adds --config.
func registerConfig(fs *pflag.FlagSet, file *string) {
	fs.StringVar(file, "config", "", "read flags from this file; the command line wins (record: "+config.Path+" and conf.d beside it; \"none\": no file)")
}

// configure sets the flags that files set and the command line does not. byDefault is the file to read without
// --config, "" for none.
func (f *streamFlags) configure(cmd *cobra.Command, byDefault string) error {
	if f.config != nil { // record has done it
		return nil
	}
	f.given = valuesOf(cmd.Flags())
	c, err := loadConfig(cmd, f.configFile, byDefault)
	if err != nil {
		return usageError{err}
	}
	if err := c.Apply(cmd.Flags()); err != nil {
		return usageError{err}
	}
	f.config, f.effective, f.byDefault = c, effectiveOf(cmd.Flags()), byDefault
	if f.remake == nil {
		f.remake = remakeStream
	}
	return f.config.Locate(global.check())
}

// loadConfig reads the file, or the one that is read by default.
func loadConfig(cmd *cobra.Command, file, byDefault string) (*config.Config, error) {
	o := config.Options{Path: file}
	if file == "" {
		o.Path, o.Optional = byDefault, true
	}
	if o.Path == "" {
		o.Path = config.None
	}
	if cmd.Name() != "record" {
		o.Also = newRecord().Flags() // so that it can read the same file
	}
	return config.Load(cmd.Flags(), o)
}

// A given is a flag of the command line.
type given struct {
	name   string
	values []string
}

// valuesOf returns the flags that are set.
func valuesOf(fs *pflag.FlagSet) (all []given) {
	fs.Visit(func(f *pflag.Flag) {
		all = append(all, given{f.Name, append([]string(nil), config.Values(f)...)})
	})
	return all
}

// effectiveOf returns the values of all flags that a file can set, by their names.
func effectiveOf(fs *pflag.FlagSet) map[string][]string {
	all := map[string][]string{}
	config.Flags(fs, func(f *pflag.Flag) { all[f.Name] = append([]string(nil), config.Values(f)...) })
	return all
}

// give sets flags to the values of valuesOf.
func give(fs *pflag.FlagSet, all []given) error {
	for _, g := range all {
		f := fs.Lookup(g.name)
		if f == nil {
			continue
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			if err := fs.Set(g.name, ""); err != nil {
				return err
			}
			if err := list.Replace(g.values); err != nil {
				return err
			}
		} else if err := fs.Set(g.name, g.values[0]); err != nil {
			return err
		}
	}
	return nil
}

// checkConfig checks a configuration file for record, and prints what it comes to.
func checkConfig(file string) error {
	var f recordFlags
	cmd := f.command()
	scratch := globalFlags{}
	scratch.register(cmd.Flags())
	given := file
	if file == config.Path {
		given = "" // also if there is only conf.d
	}
	c, err := loadConfig(cmd, given, config.Path)
	if err != nil {
		return usageError{err}
	}
	if err := c.Apply(cmd.Flags()); err != nil {
		return usageError{err}
	}
	var text bytes.Buffer
	if err := c.Write(&text, cmd.Flags()); err != nil {
		return err
	}
	if err := scratch.check(); err != nil {
		return c.Locate(err)
	}
	if _, err := f.check(); err != nil {
		return c.Locate(err)
	}
	if len(f.baseline) > 0 {
		if _, err := loadBaseline(f.baseline, f.rules); err != nil {
			return c.Locate(err)
		}
	}
	if _, err := fmt.Fprintf(os.Stdout, "# What nstrace record uses with this configuration.\n%s", text.Bytes()); err != nil {
		return err
	}
	return nil
}
