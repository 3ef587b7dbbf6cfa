// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/nstrace/nstrace/internal/declared"
	"github.com/nstrace/nstrace/internal/explain"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/resolve"
)

// readDeclaredTime is how long the files of sysctl.d may take.
const readDeclaredTime = 5 * time.Second

type explainFlags struct {
	db     string
	format string
	netns  string
	rules  string
	boot   string

	runtimes    []string
	runtimeWait time.Duration
}

func newExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain NAME [flags]",
		Short: "Show why a parameter has its value: what files declare, and who set it",
		Long: `Show the value of a parameter, what a new network namespace has, each line of sysctl.d that
declares it with the reason why it does not count, and who wrote it since the boot. The last
line says it in one sentence.

systemd-sysctl and sysctl --system of procps apply the files of sysctl.d by different rules.
nstrace shows both, and compares the value with what systemd-sysctl sets if that is installed.

nstrace record keeps a history of who wrote the parameter. Without one, explain says that it
cannot know. It explains a parameter of the host's network namespace unless --netns is given.`,
		Example: `  nstrace explain net.ipv4.ip_forward
  nstrace explain net.ipv4.conf.eth0/100.rp_filter
  nstrace explain vm.swappiness --boot=-1      who wrote it in the boot before this one
  nstrace explain net.ipv4.ip_forward --netns web -o json`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.explain(cmd, args) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&f.format, "output", "o", "table", "output format: table or json")
	fs.StringVar(&f.netns, "netns", "", "the parameter of this network namespace (inode number, pid, path, or a name from ip netns or of a container)")
	registerRules(cmd, &f.rules)
	registerBoot(fs, &f.boot, "the writes of this boot, instead of the running one")
	registerDB(fs, &f.db)
	registerRuntimes(fs, &f.runtimes)
	registerRuntimeWait(fs, &f.runtimeWait)
	completeArgs(cmd, 1, parameterParts)
	completeBy(cmd, "netns", netnsNames)
	complete(cmd, "output", []string{"table", "json"})
	return cmd
}

// ruleNames are the values of --rules.
var ruleNames = []string{"auto", "systemd", "procps"}

// registerRules adds --rules.
func registerRules(cmd *cobra.Command, rules *string) {
	cmd.Flags().StringVar(rules, "rules", "auto", "whose rules say which line of sysctl.d counts: auto (systemd if systemd-sysctl is installed), systemd or procps")
	complete(cmd, "rules", ruleNames)
}

// program returns the program that --rules means.
func program(rules string) declared.Program {
	switch rules {
	case "systemd":
		return declared.Systemd
	case "procps":
		return declared.Procps
	}
	return declared.Usual(declared.Options{})
}

// readDeclared reads the files of sysctl.d.
func readDeclared(ctx context.Context) (*declared.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, readDeclaredTime)
	defer cancel()
	return declared.Read(ctx, declared.Options{})
}

// historyIfAny opens the database, and returns nil if there is none or this user may not read it. If --db names the
// database, that is an error.
func historyIfAny(ctx context.Context, cmd *cobra.Command, path string) (*history.DB, error) {
	db, err := openHistory(ctx, path)
	switch {
	case err == nil || cmd.Flags().Changed("db"):
		return db, err
	case errors.Is(err, os.ErrPermission):
		notify(fmt.Sprintf("%s: %v", path, os.ErrPermission))
		return nil, nil
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	}
	return nil, err
}

// readAhead begins to read what is declared, to open the database and to ask its recorder for the newest events,
// all at the same time. It sets o.Sync, wait sets o.Config and o.DB, and finish closes the database.
func readAhead(ctx context.Context, cmd *cobra.Command, path string, o *explain.Options, read func(context.Context) (*declared.Config, error)) (wait, finish func() error) {
	asked := make(chan error, 1)
	go func() { asked <- history.Sync(ctx, path) }()
	first := true
	o.Sync = func(ctx context.Context) error {
		if !first {
			return history.Sync(ctx, path)
		}
		first = false
		select {
		case err := <-asked:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var config *declared.Config
	var db *history.DB
	var configErr, dbErr error
	var reading sync.WaitGroup
	reading.Go(func() { config, configErr = read(ctx) })
	reading.Go(func() { db, dbErr = historyIfAny(ctx, cmd, path) })
	wait = func() error {
		reading.Wait()
		o.Config = config
		if db != nil {
			o.DB = db
		}
		return cmp.Or(configErr, dbErr)
	}
	finish = func() error {
		reading.Wait()
		if db == nil {
			return nil
		}
		warnLeftOut(path, db)
		return db.Close()
	}
	return wait, finish
}

func (f *explainFlags) explain(cmd *cobra.Command, args []string) (err error) {
	if len(args) != 1 || args[0] == "" {
		return usagef("explain: want the name of one parameter")
	}
	if err := errors.Join(oneOf("--output", f.format, []string{"table", "json"}), oneOf("--rules", f.rules, ruleNames), checkBoot(f.boot), checkRuntimeWait(f.runtimeWait)); err != nil {
		return err
	}
	name := sysctlArg(args[0])
	ctx, cancel := interruptible(cmd.Context())
	defer cancel()
	names, err := resolve.Runtimes(ctx, f.runtimes, f.runtimeWait)
	if err != nil {
		return usagef("--runtime-socket: %w", err)
	}
	o := explain.Options{Parameter: name, Program: program(f.rules), Location: location(), Resolver: resolve.New(nil, names)}
	if f.netns != "" && !explain.IsNet(name) {
		return usagef("--netns: %s does not belong to network namespaces", flatten(name))
	}
	wait, finish := readAhead(ctx, cmd, f.db, &o, readDeclared)
	defer func() { err = errors.Join(err, finish()) }()
	if f.netns != "" {
		if o.Target, err = o.Resolver.Find(ctx, f.netns); err != nil {
			return argumentMistake("--netns", err)
		}
	}
	if err := wait(); err != nil {
		return interrupted(err)
	}
	if f.boot != "" {
		if err := f.findBoot(ctx, &o); err != nil {
			return interrupted(err)
		}
	}
	x, err := explain.Find(ctx, o)
	if err != nil {
		return interrupted(argumentMistake("explain", err))
	}
	if f.format == "json" {
		err = x.WriteJSON(os.Stdout)
	} else {
		err = x.WriteText(os.Stdout, o.Location)
	}
	if x.Gone && err == nil {
		suggestParameters([]string{name}, false)
	}
	return err
}

// findBoot sets the boot that --boot means.
func (f *explainFlags) findBoot(ctx context.Context, o *explain.Options) (err error) {
	db, ok := o.DB.(*history.DB)
	if !ok {
		return errors.New("--boot: there is no history")
	}
	askRecorder(ctx, f.db)
	if o.BootID, err = findBoot(db, f.boot); err == nil && f.netns != "" && o.BootID != procfs.BootID() {
		return usagef("--netns: network namespaces end with their boot: nstrace blame --netns NAME --boot=%s finds those of another one by their recorded name", f.boot)
	}
	return err
}
