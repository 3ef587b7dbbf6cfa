// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

//go:embed audit.rules
var auditRules []byte

// auditKey marks the rules of audit.rules. restUser marks the rule for the other subjects, which
// cannot have a key: it names a user that does not exist. A rule with either mark is left over from
// a run that was killed.
const (
	auditKey = "key=nstrace-bench"
	restUser = "uid!=2000000001"
)

// auditConf is Debian's auditd.conf, except that all files are in a temporary folder, and that
// auditd ignores a full disk.
const auditConf = `local_events = yes
write_logs = yes
log_file = %[1]s/audit.log
log_format = ENRICHED
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 8
num_logs = 5
max_log_file_action = ROTATE
priority_boost = 4
space_left = 75
space_left_action = IGNORE
admin_space_left = 50
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
plugin_dir = %[1]s/plugins
end_of_event_timeout = 2
`

// audit is the subject auditd. It also sets up the kernel's audit for auditd and for the other
// subjects.
type audit struct {
	daemon, ctl, dir string
	before           map[string]int // auditctl -s
	rules            []string       // auditctl -l
	lost             uint64
}

// neverRule is a rule that some distributions have by default, as auditctl lists it. It excludes
// new processes from auditing.
const neverRule = "-a never,task"

// openAudit takes over the kernel's audit, or returns the reason why it does not. Call restore at
// the end.
func openAudit(scratch string) (_ *audit, why string, err error) {
	a := &audit{dir: filepath.Join(scratch, "audit")}
	if a.daemon, err = lookPath("auditd"); err != nil {
		return nil, "not installed", nil
	}
	if a.ctl, err = lookPath("auditctl"); err != nil {
		return nil, "not installed: there is no auditctl", nil
	}
	if a.before, err = a.status(); err != nil {
		return nil, "the kernel's audit can't be used: " + reason(err), nil
	}
	switch {
	case a.before["pid"] != 0:
		return nil, "this host is audited: another daemon has the kernel's audit", nil
	case a.before["enabled"] == 2:
		return nil, "this host's audit rules are locked", nil
	}
	out, err := a.run("-l")
	if err != nil {
		return nil, "the kernel's audit can't be used: " + reason(err), nil
	}
	for line := range strings.Lines(out) {
		switch line = strings.TrimSpace(line); {
		case line == neverRule:
			a.rules = append(a.rules, line)
		case line == "No rules" || line == "" || strings.Contains(line, auditKey) || strings.Contains(line, restUser):
		default:
			return nil, "this host has audit rules of its own", nil
		}
	}
	if err := os.MkdirAll(filepath.Join(a.dir, "plugins"), 0o700); err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(a.dir, "auditd.conf"), fmt.Appendf(nil, auditConf, a.dir), 0o640); err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(a.dir, "audit.rules"), auditRules, 0o640); err != nil {
		return nil, "", err
	}
	if err := a.rest(); err != nil {
		return nil, "", errors.Join(err, a.restore())
	}
	return a, "", nil
}

func (a *audit) run(args ...string) (string, error) {
	out, err := runCommand(command(a.ctl, args...))
	if err != nil {
		return "", fmt.Errorf("auditctl %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// status returns the numbers that auditctl -s prints.
func (a *audit) status() (map[string]int, error) {
	out, err := a.run("-s")
	if err != nil {
		return nil, err
	}
	status := map[string]int{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(value); err == nil {
			status[name] = n
		}
	}
	if _, ok := status["enabled"]; !ok {
		return nil, fmt.Errorf("auditctl -s: %q", out)
	}
	return status, nil
}

// rest sets the kernel's audit to what it is while other subjects are measured.
func (a *audit) rest() error {
	var errs []error
	for _, args := range [][]string{
		{"-e", strconv.Itoa(a.before["enabled"])}, {"-D"}, {"-a", "never,task", "-F", restUser},
	} {
		_, err := a.run(args...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restore leaves the kernel's audit as it was found.
func (a *audit) restore() error {
	var errs []error
	do := func(args ...string) {
		_, err := a.run(args...)
		errs = append(errs, err)
	}
	do("-D")
	for _, rule := range a.rules {
		do(strings.Fields(rule)...)
	}
	do("-e", strconv.Itoa(a.before["enabled"]))
	do("-f", strconv.Itoa(a.before["failure"]))
	do("-b", strconv.Itoa(a.before["backlog_limit"]))
	if wait, ok := a.before["backlog_wait_time"]; ok {
		do("--backlog_wait_time", strconv.Itoa(wait))
	}
	return errors.Join(errs...)
}

func (a *audit) name() string   { return "auditd" }
func (a *audit) optional() bool { return true }
func (a *audit) losses() (losses, bool) {
	return losses{Subject: a.name(), Lost: a.lost, Unit: "records"}, true
}

// auditing is a running auditd.
type auditing struct {
	*tool
	audit *audit
	lost  int // before it was started
}

func (a *audit) start(ctx context.Context) (running, error) {
	status, err := a.status()
	if err != nil {
		return nil, err
	}
	t, err := startTool(command(a.daemon, "-n", "-c", a.dir), syscall.SIGTERM)
	if err != nil {
		return nil, err
	}
	r := &auditing{t, a, status["lost"]}
	// For a while auditd ignores all signals, so nobody can end it. That is why this waits for it
	// even if the run is to end.
	err = t.await(context.WithoutCancel(ctx), "auditing", func() (bool, error) {
		if handles, err := t.handles(syscall.SIGTERM); !handles {
			return false, err
		}
		s, err := a.status()
		return err == nil && s["pid"] == t.cmd.Process.Pid, err
	})
	if err == nil {
		_, err = a.run("-D")
	}
	if err == nil {
		_, err = a.run("-R", filepath.Join(a.dir, "audit.rules"))
	}
	if err != nil {
		return nil, errors.Join(err, abandon(t), a.rest())
	}
	return r, nil
}

func (r *auditing) idle(ctx context.Context) error {
	if err := r.await(ctx, "done with the backlog", func() (bool, error) {
		s, err := r.audit.status()
		return s["backlog"] == 0, err
	}); err != nil {
		return err
	}
	return r.tool.idle(ctx)
}

func (r *auditing) stop() error {
	s, err := r.audit.status()
	if err == nil {
		r.audit.lost += uint64(s["lost"] - r.lost)
	}
	// In this order: without a reader, the kernel prints the records on its console.
	return errors.Join(err, r.audit.rest(), r.tool.stop())
}
