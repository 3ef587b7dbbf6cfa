// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// childArg is the first argument of this program when it runs a job.
const childArg = "child"

// A job is a task that this program does in a child process. Its result is JSON on standard output.
type job struct {
	Do string // one of jobs

	// For workload.
	Workload string
	Turns    int // in a slice
	Slices   int
	Dir      string // for files

	// For storm.
	Duration time.Duration
	Values   string
	CPU      int

	// For soak and crowd.
	Processes, Namespaces int
	Flags                 uintptr // of crowd: CLONE_NEW*; 0 for a UTS namespace

	// For tracefs.
	Args []string
}

// Filled in by init, since a workload can start a job.
var jobs map[string]func(*job) (any, error)

func init() {
	jobs = map[string]func(*job) (any, error){
		"workload": (*job).workload,
		"pong":     (*job).pong,
		"poke":     (*job).poke,
		"storm":    (*job).storm,
		"soak":     (*job).soak,
		"crowd":    (*job).crowd,
		"tracefs":  (*job).tracefs,
	}
}

func runChild(arg string) error {
	var j job
	if err := json.Unmarshal([]byte(arg), &j); err != nil {
		return fmt.Errorf("only bench itself uses this: %w", err)
	}
	do := jobs[j.Do]
	if do == nil {
		return fmt.Errorf("no job %q", j.Do)
	}
	result, err := do(&j)
	if err != nil || result == nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// command is exec.Command for a process that ends when this one does, in whatever way. ^C at the
// terminal does not end the child: this process ends it in order.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	return cmd
}

// command returns the command that runs the job.
func (j *job) command() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	return command(self, childArg, string(arg)), nil
}

// run runs the job and decodes its result, if it has one. Nothing interrupts the job, so it can
// clean up. No job takes long.
func (j *job) run(result any) error {
	cmd, err := j.command()
	if err != nil {
		return err
	}
	out, err := runCommand(cmd)
	if err != nil || result == nil {
		return err
	}
	return json.Unmarshal(out, result)
}

// runCommand is cmd.Output, with the command's standard error in the error.
func runCommand(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, withStderr(err, stderr.String())
	}
	return out, nil
}

func withStderr(err error, stderr string) error {
	if stderr = strings.TrimSpace(stderr); stderr != "" {
		return fmt.Errorf("%w: %s", err, stderr)
	}
	return err
}

// A gang is a number of jobs that start at the same time.
type gang struct {
	names  []string
	cmds   []*exec.Cmd
	stdin  []io.WriteCloser
	stdout []io.ReadCloser
	stderr []*bytes.Buffer
}

// newGang starts the jobs and waits until each of them is ready (see waitForStart). The caller must
// call end.
func newGang(all []*job) (*gang, error) {
	g := &gang{}
	for _, j := range all {
		if err := g.add(j); err != nil {
			g.end()
			return nil, err
		}
	}
	for i := range g.cmds {
		ready := make([]byte, 1)
		if _, err := io.ReadFull(g.stdout[i], ready); err != nil {
			g.end()
			return nil, withStderr(fmt.Errorf("%s is not ready: %w", g.names[i], err), g.stderr[i].String())
		}
	}
	return g, nil
}

func (g *gang) add(j *job) error {
	cmd, err := j.command()
	if err != nil {
		return err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", j.Do, err)
	}
	g.names = append(g.names, j.Do)
	g.cmds = append(g.cmds, cmd)
	g.stdin = append(g.stdin, stdin)
	g.stdout = append(g.stdout, stdout)
	g.stderr = append(g.stderr, stderr)
	return nil
}

// work starts all jobs and calls take with the result of each. It returns early if ctx ends.
func (g *gang) work(ctx context.Context, take func(json []byte) error) error {
	stop := context.AfterFunc(ctx, g.kill)
	defer stop()
	for _, in := range g.stdin {
		if _, err := in.Write([]byte{1}); err != nil {
			return fmt.Errorf("start the job: %w", err)
		}
	}
	for i, cmd := range g.cmds {
		out, err := io.ReadAll(g.stdout[i])
		if err == nil {
			err = cmd.Wait()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return withStderr(fmt.Errorf("%s: %w", g.names[i], err), g.stderr[i].String())
		}
		if err := take(out); err != nil {
			return err
		}
	}
	return nil
}

func (g *gang) kill() {
	for _, cmd := range g.cmds {
		_ = cmd.Process.Kill() // a job that has ended is fine, too
	}
}

// end ends the jobs that still run.
func (g *gang) end() {
	g.kill()
	for _, cmd := range g.cmds {
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // it was killed
		}
	}
}

// waitForStart reports that this job is ready, and waits until the gang starts it.
func waitForStart() error {
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	return nil
}

// lookPath is exec.LookPath, and also searches folders that are not in every PATH.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(dir + "/" + name); err == nil {
			return path, nil
		}
	}
	return "", err
}

// reason returns the reason of a program's failure in one line: the last line that is about an
// error, or else the last one.
func reason(err error) string {
	var last, complaint string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		last = line
		if strings.Contains(line, "ERROR") {
			complaint = line
		}
	}
	return cmp.Or(complaint, last)
}
