// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// nstrace runs nstrace to its end and returns its exit status and its output.
func nstrace(t *testing.T, args []string, opts ...option) (status int, stdout, stderr string) {
	t.Helper()
	return command(t, append([]string{nstraceBin}, args...), opts...)
}

func command(t *testing.T, args []string, opts ...option) (status int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = sysProcAttr()
	for _, o := range opts {
		o(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%q did not end within %v\n%s%s", args, patience, out.String(), errs.String())
	}
	return exitStatus(cmd.ProcessState), out.String(), errs.String()
}

// TestRefusals has command lines that fail with one line that says why.
func TestRefusals(t *testing.T) {
	anyKernel(t)
	// root without any capability.
	powerless := []string{"setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--", nstraceBin}
	for _, tt := range []struct {
		name   string
		args   []string
		prefix []string // instead of nstrace alone
		opts   []option
		status int
		want   []string // in the line
	}{
		{name: "no privilege", opts: []option{asUser(tester)}, status: 3, want: []string{"root"}},
		{name: "no privilege to check", args: []string{"check"}, opts: []option{asUser(tester)}, status: 3, want: []string{"root"}},
		{name: "no privilege to record", args: []string{"record", "--db", "/nonexistent/x.db"}, opts: []option{asUser(tester)}, status: 3, want: []string{"root"}},
		{name: "help", args: []string{"help", "histroy"}, status: 2, want: []string{"histroy", `"history"`}},
		{name: "folder of the output", args: []string{"-O", "/nonexistent/x"}, status: 2, want: []string{"--output-file", "/nonexistent"}},
		{name: "folder of the database", args: []string{"record", "--db", "/nonexistent/x.db"}, status: 2, want: []string{"--db", "/nonexistent"}},
		{name: "no privilege to run", args: []string{"run", "--", "true"}, opts: []option{asUser(tester)}, status: 3, want: []string{"root"}},
		{name: "no capability", prefix: powerless, status: 3, want: []string{"CAP_"}},
		{name: "no BTF", prefix: []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /sys/kernel/btf && exec "$0" "$@"`, nstraceBin}, status: 3, want: []string{"BTF"}},
		{name: "flag", args: []string{"--no-such-flag"}, status: 2, want: []string{"--no-such-flag"}},
		{name: "event", args: []string{"-e", "namespace.creat"}, status: 2, want: []string{"--event", "namespace.creat", `"namespace.create"`}},
		{name: "event far off", args: []string{"-e", "weather"}, status: 2, want: []string{"weather", "sysctl.write"}},
		{name: "type", args: []string{"-t", "nett"}, status: 2, want: []string{"--ns-type", `"net"`}},
		{name: "backend", args: []string{"--backend", "kprobes"}, status: 2, want: []string{"--backend", `"kprobe"`}},
		{name: "output", args: []string{"-o", "jsno"}, status: 2, want: []string{"--output", `"json"`}},
		{name: "output of check", args: []string{"check", "-o", "yaml"}, status: 2, want: []string{"--output", "yaml"}},
		{name: "pid", args: []string{"-p", "0"}, status: 2, want: []string{"--pid", "0"}},
		{name: "user", args: []string{"-u", "no-such-user"}, status: 2, want: []string{"--user", "no-such-user"}},
		{name: "comm", args: []string{"-c", "a-name-that-is-too-long"}, status: 2, want: []string{"15"}},
		{name: "glob", args: []string{"--sysctl", "[a"}, status: 2, want: []string{"[a"}},
		{name: "duration", args: []string{"--duration", "-1s"}, status: 2, want: []string{"--duration"}},
		{name: "no duration", args: []string{"--duration", "soon"}, status: 2, want: []string{"duration"}},
		{name: "count", args: []string{"-n", "-1"}, status: 2, want: []string{"count"}},
		{name: "ring too small", args: []string{"--ring-size", "4KiB"}, status: 2, want: []string{"--ring-size", "4KiB"}},
		{name: "ring of no power of two", args: []string{"--ring-size", "100000"}, status: 2, want: []string{"--ring-size", "power of two"}},
		{name: "ring of no size", args: []string{"--ring-size", "big"}, status: 2, want: []string{"--ring-size", "big"}},
		{name: "command", args: []string{"chekc"}, status: 2, want: []string{"chekc", `"check"`}},
		{name: "no command", args: []string{"run"}, status: 2, want: []string{"run"}},
		{name: "argument", args: []string{"check", "this"}, status: 2, want: []string{"this"}},
		{name: "file", args: []string{"-O", "/nonexistent/folder/file"}, status: 2, want: []string{"/nonexistent/folder/file"}},
		{name: "sink of no kind", args: []string{"--sink", "fil:/x"}, status: 2, want: []string{"--sink", `"fil"`, `"file"`}},
		{name: "sink that is nowhere", args: []string{"--sink", "file"}, status: 2, want: []string{"--sink", "file:PATH"}},
		{name: "option of a sink", args: []string{"--sink", "file:/x,sise=1MiB"}, status: 2, want: []string{"--sink", `"sise"`, `"size"`}},
		{name: "option of a sink without a value", args: []string{"--sink", "file:/x,age"}, status: 2, want: []string{"--sink", "age=VALUE"}},
		{name: "option of a sink with a value", args: []string{"--sink", "file:/x,compress=gzip"}, status: 2, want: []string{"--sink", "compress"}},
		{name: "option of a sink twice", args: []string{"--sink", "file:/x,age=1h,age=2h"}, status: 2, want: []string{"--sink", "twice"}},
		{name: "size of a sink", args: []string{"--sink", "file:/x,size=1"}, status: 2, want: []string{"--sink", "1MiB"}},
		{name: "age of a sink", args: []string{"--sink", "file:/x,age=-1h"}, status: 2, want: []string{"--sink", "24h"}},
		{name: "files that a sink keeps", args: []string{"--sink", "file:/x,size=1MiB,keep=-1"}, status: 2, want: []string{"--sink", "-1"}},
		{name: "files that a sink does not rotate", args: []string{"--sink", "file:/x,keep=3"}, status: 2, want: []string{"--sink", "size or age"}},
		{name: "mode of a sink", args: []string{"--sink", "file:/x,mode=0777"}, status: 2, want: []string{"--sink", "0777", "0640"}},
		{name: "format of a sink", args: []string{"--sink", "file:/x,format=xml"}, status: 2, want: []string{"--sink", "xml", "json"}},
		{name: "filter of a sink", args: []string{"--sink", "file:/x,filter=type == 'a', b"}, status: 2, want: []string{"--sink", "filter", "column"}},
		{name: "place of the journal", args: []string{"--sink", "journald:/x"}, status: 2, want: []string{"--sink", "journald"}},
		{name: "option of the journal", args: []string{"--sink", "journald,size=1MiB"}, status: 2, want: []string{"--sink", `"size"`}},
		{name: "place of the syslog", args: []string{"--sink", "syslog:host"}, status: 2, want: []string{"--sink", "tcp:HOST:PORT"}},
		{name: "port of the syslog", args: []string{"--sink", "syslog:tcp:host:0"}, status: 2, want: []string{"--sink", `"0"`}},
		{name: "URL of a sink", args: []string{"--sink", "http:logs.example.com"}, status: 2, want: []string{"--sink", "https://"}},
		{name: "password in the URL of a sink", args: []string{"--sink", "http:https://a:b@logs.example.com/"}, status: 2, want: []string{"--sink", "headers"}},
		{name: "headers of a sink", args: []string{"--sink", "http:https://logs.example.com/,headers=/nonexistent/x"}, status: 2, want: []string{"--sink", "/nonexistent/x"}},
		{name: "folder of a socket", args: []string{"--sink", "unix:/nonexistent/x"}, status: 2, want: []string{"--sink", "/nonexistent"}},
		{name: "long path of a socket", args: []string{"--sink", "unix:/run/" + strings.Repeat("x", 110)}, status: 2, want: []string{"--sink", "107 bytes"}},
		{name: "two sinks of a file", args: []string{"--sink", "file:/x", "--sink", "file:/x,age=1h"}, status: 2, want: []string{"--sink", "/x"}},
		{name: "folder of a sink", args: []string{"--sink", "file:/nonexistent/x"}, status: 2, want: []string{"--sink", "/nonexistent"}},
		{name: "folder of a recorder's sink", args: []string{"record", "--db", "/tmp/x.db", "--sink", "file:/nonexistent/x"}, status: 2, want: []string{"--sink", "/nonexistent"}},
		{name: "folder", args: []string{"-O", "/"}, status: 2, want: []string{"--output-file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{nstraceBin}, tt.args...)
			if tt.prefix != nil {
				args = append(tt.prefix, tt.args...)
			}
			status, stdout, stderr := command(t, args, tt.opts...)
			if status != tt.status || stdout != "" {
				t.Errorf("status %d, want %d; standard output %q", status, tt.status, stdout)
			}
			if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "nstrace: ") || !strings.HasSuffix(stderr, "\n") {
				t.Errorf("standard error is not one line: %q", stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("want %q in: %s", want, stderr)
				}
			}
		})
	}
	// A backend that the kernel lacks is not a mistake on the command line.
	for _, b := range []tracer.Backend{tracer.Fentry, tracer.Kprobe} {
		if has(string(b)) {
			continue
		}
		t.Run("no "+string(b), func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := nstrace(t, []string{"--backend", string(b)})
			if status != 3 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, string(b)) {
				t.Errorf("status %d, %q, %q", status, stdout, stderr)
			}
		})
	}
}

// TestClosedPipe closes the reading end of the pipe, as head does.
func TestClosedPipe(t *testing.T) {
	anyKernel(t)
	for _, format := range []string{"json", "table"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, nstraceBin, "-o", format)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
			out.Close()
			if err := cmd.Wait(); err != nil || stderr.String() != "" {
				t.Errorf("%v, standard error %q", err, stderr.String())
			}
		})
	}
}

// TestUnmounted runs nstrace where neither cgroup2 nor tracefs is mounted.
func TestUnmounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	status, stdout, stderr := command(t, []string{"unshare", "--mount", "sh", "-e", "-c", `
		for type in cgroup2 tracefs debugfs; do
			while at=$(grep -m 1 " - $type " /proc/self/mountinfo | cut -d ' ' -f 5); [ -n "$at" ]; do umount -l "$at"; done
		done
		exec "$@"`, "sh", nstraceBin, "run", "-o", "json", "-O", file, "--",
		"unshare", "--net", "sh", "-c", "echo 610 >/proc/sys/net/ipv4/tcp_keepalive_time"})
	if status != 0 || stdout != "" || stderr != "" {
		t.Fatalf("status %d, %q, %q", status, stdout, stderr)
	}
	events := readEvents(t, file)
	for _, typ := range []event.Type{event.NamespaceCreate, event.SysctlWrite, event.NamespaceDestroy} {
		if got := only(events, typ); len(got) != 1 {
			t.Errorf("%d of %s", len(got), typ)
		}
	}
	for _, o := range events[0].Trace.Observations {
		checkObservation(t, o, autoBackend())
	}
	if t.Failed() {
		t.Logf("%s", dump(events))
	}
}
