// SPDX-License-Identifier: Apache-2.0

// Nsvm runs one command in a virtual machine with a kernel of your choice, for development:
//
//	go run ./test/vm/cmd/nsvm -kernel 6.1 -copy ./nstrace:/usr/bin/nstrace -- nstrace check
//
// It prints what the command prints and exits with its status. The command runs as root. The
// machine has the host's programs that package vm lists, and ends with the command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nstrace/nstrace/test/vm"
	"github.com/nstrace/nstrace/test/vm/wire"
)

func main() {
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nsvm:", err)
	}
	os.Exit(status)
}

// list is a flag that can be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// Exit statuses of nsvm itself, as in env(1) and timeout(1): commands rarely use them.
const (
	exitUsage  = 125
	exitFailed = 125
)

func run() (int, error) {
	var copies, env list
	series := flag.String("kernel", vm.Newest, "kernel `series`, such as 6.1, or newest; for another architecture arm64-6.12")
	verbose := flag.Bool("v", false, "print the guest's console, and what takes time, on standard error")
	memory := flag.Int("memory", 2048, "the guest's memory in `MiB`")
	limit := flag.Duration("timeout", 10*time.Minute, "the longest a boot and the command may take")
	cpus := flag.Int("cpus", 2, "how many CPUs the guest has")
	counted := flag.Bool("counted", false, "one CPU, and let its clock count instructions")
	systemd := flag.Bool("systemd", false, "boot systemd, and run the command once that is up")
	dir := flag.String("dir", "/root", "working directory of the command")
	flag.Var(&copies, "copy", "add a file or folder of the host, with the libraries it needs, as `host:guest`; may be repeated")
	flag.Var(&env, "env", "set `NAME=value` for the command; may be repeated")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: nsvm [flags] -- COMMAND [ARGUMENT...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		return exitUsage, nil
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logf := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "nsvm: "+format+"\n", args...)
	}
	kernels := vm.Kernels{Log: logf}
	kernel, err := kernels.Get(ctx, *series)
	if err != nil {
		return exitFailed, err
	}
	root, err := vm.NewGuestRoot(ctx, ".", kernel)
	if err != nil {
		return exitFailed, err
	}
	for _, c := range copies {
		from, to, ok := strings.Cut(c, ":")
		if !ok || from == "" || !strings.HasPrefix(to, "/") {
			return exitUsage, fmt.Errorf("-copy %s: want host:guest, with an absolute path in the guest", c)
		}
		root.AddTree(from, to)
	}
	if *systemd {
		root.AddSystemd()
	}
	if *cpus < 1 {
		return exitUsage, fmt.Errorf("-cpus %d: a guest takes at least 1", *cpus)
	}
	if *counted {
		*cpus = 1
	}
	guest := vm.Guest{
		Kernel: kernel,
		Root:   root,
		Job:    wire.Job{Args: flag.Args(), Env: append(vm.DefaultEnv, env...), Dir: *dir, Systemd: *systemd},

		Counted: *counted,
		CPUs:    *cpus,
		Memory:  *memory,
		Limit:   *limit,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Log:     logf,
	}
	if *verbose {
		guest.Console = os.Stderr
	}
	result, err := guest.Start(ctx)
	if err != nil {
		var ge *vm.GuestError
		if errors.As(err, &ge) && !ge.Init && !*verbose {
			os.Stderr.Write(ge.Console)
		}
		return exitFailed, err
	}
	if *verbose {
		logf("kernel %s: up after %.1f s, done after another %.1f s", kernel.Release, result.Boot.Seconds(), result.Run.Seconds())
	}
	return result.Code, nil
}
