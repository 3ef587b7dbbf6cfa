// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// An oracle makes namespaces and sets parameters at random, and knows what nstrace blame must say about them,
// because it did it all itself.
type oracle struct {
	*testing.T
	rand     *rand.Rand
	db       string
	recorder *stream
	log      []string
	hosts    *life
	named    map[string]*life // by the name that it has now
	dead     []*life
	restarts int
	boots    int // before this one
}

// A life is a network namespace from its creation to its end.
type life struct {
	ID     uint32
	Writes map[string]*lastSet // by parameter
	values map[string]string   // what the parameters have now, also by other ways
}

// lastSet is the last write that set a parameter while nstrace recorded.
type lastSet struct {
	PID     int
	Value   string
	Writes  int    // that set it, in all
	Boot    int    // in which boot
	Initial string // before the first of these in that boot
	at      int    // how often the recorder had been restarted by then
}

// past is what an oracle writes for the next boot.
type past struct {
	Boots int
	Host  map[string]*lastSet
	Dead  []*life
}

// oracleParameters are each in a network namespace. All take numbers from 1 to 200, and refuse 0x.
var oracleParameters = []string{"net.ipv4.ip_default_ttl", "net.ipv4.tcp_syn_retries", "net.core.somaxconn", "net.ipv4.tcp_keepalive_probes"}

// oracleHost is a parameter of the host that no other test sets.
const oracleHost = "vm.stat_interval"

func (o *oracle) note(format string, args ...any) {
	o.log = append(o.log, fmt.Sprintf("%d: ", len(o.log))+fmt.Sprintf(format, args...))
}

func (o *oracle) fail(format string, args ...any) {
	o.Helper()
	o.Fatalf("%s\nafter\n%s", fmt.Sprintf(format, args...), strings.Join(o.log[max(0, len(o.log)-25):], "\n"))
}

func (o *oracle) start() {
	o.Helper()
	o.recorder = startStream(o.T, "record", "--db", o.db, "-e", "namespace,sysctl")
	o.recorder.awaitStart(o)
	o.recorder.awaitSnapshot(o.T, o.db)
}

// run runs a command in a network namespace, "" for the host's, and returns its pid.
func (o *oracle) run(name string, args ...string) (pid int, err error) {
	if name != "" {
		args = append([]string{"nsenter", "--net=/run/netns/" + name}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%q: %w: %s", args, err, out)
	}
	return cmd.ProcessState.Pid(), err
}

// set sets a random parameter of a random live namespace. recorded says that nstrace sees it.
func (o *oracle) set(recorded bool) {
	o.Helper()
	name, l, parameter := o.pick()
	value := strconv.Itoa(1 + o.rand.IntN(120))
	pid, err := o.run(name, o.writer(parameter, value)...)
	if err != nil {
		o.fail("%v", err)
	}
	o.note("set %s %s %s: pid %d, recorded %v", name, parameter, value, pid, recorded)
	before := l.values[parameter]
	l.values[parameter] = value
	if !recorded {
		return
	}
	w := l.Writes[parameter]
	if w == nil {
		w = &lastSet{Boot: -1}
		l.Writes[parameter] = w
	}
	if w.Boot == o.boots {
		before = w.Initial
	}
	*w = lastSet{PID: pid, Value: value, Writes: w.Writes + 1, Boot: o.boots, Initial: before, at: o.restarts}
}

// refused lets a write fail, which changes nothing.
func (o *oracle) refused() {
	o.Helper()
	name, _, parameter := o.pick()
	pid, err := o.run(name, "sh", "-c", `exec 2>/dev/null; printf 0xz >"$1"; exit 0`, "sh", event.SysctlPath(parameter))
	if err != nil {
		o.fail("%v", err)
	}
	o.note("refused %s %s: pid %d", name, parameter, pid)
}

func (o *oracle) pick() (name string, l *life, parameter string) {
	names := append(slices.Sorted(maps.Keys(o.named)), "")
	name = names[o.rand.IntN(len(names))]
	if name == "" {
		return "", o.hosts, oracleHost
	}
	return name, o.named[name], oracleParameters[o.rand.IntN(len(oracleParameters))]
}

// writer returns a command that sets a parameter as its own process.
func (o *oracle) writer(parameter, value string) []string {
	if o.rand.IntN(2) == 0 {
		return []string{"sysctl", "-qw", parameter + "=" + value}
	}
	return []string{"sh", "-c", `echo "$1" >"$2"`, "sh", value, event.SysctlPath(parameter)}
}

// step does one thing at random.
func (o *oracle) step() {
	o.Helper()
	free := slices.DeleteFunc([]string{"oracle-a", "oracle-b", "oracle-c"}, func(name string) bool { return o.named[name] != nil })
	switch n := o.rand.IntN(100); {
	case n < 15 && len(free) > 0: // numbers and names come again
		name := free[o.rand.IntN(len(free))]
		output(o, "ip", "netns", "add", name)
		id, err := nsID("/run/netns/" + name)
		if err != nil {
			o.fail("%v", err)
		}
		o.named[name] = &life{ID: id, Writes: map[string]*lastSet{}, values: map[string]string{}}
		o.note("add %s: %d", name, id)
	case n < 25 && len(free) < 3:
		name := slices.Sorted(maps.Keys(o.named))[o.rand.IntN(len(o.named))]
		output(o, "ip", "netns", "delete", name)
		o.note("delete %s", name)
		o.dead = append(o.dead, o.named[name])
		delete(o.named, name)
	case n < 32 && len(free) > 0 && len(free) < 3: // another name for the same life
		name, to := slices.Sorted(maps.Keys(o.named))[o.rand.IntN(len(o.named))], free[o.rand.IntN(len(free))]
		if err := os.WriteFile("/run/netns/"+to, nil, 0o600); err != nil {
			o.fail("%v", err)
		}
		output(o, "mount", "--bind", "/run/netns/"+name, "/run/netns/"+to)
		output(o, "ip", "netns", "delete", name)
		o.note("rename %s %s", name, to)
		o.named[to] = o.named[name]
		delete(o.named, name)
	case n < 42:
		o.refused()
	case n < 48: // what changes while nobody records
		if n%2 == 0 {
			o.check() // the recorder then has all on the disk
			o.recorder.cmd.Process.Signal(syscall.SIGKILL)
			o.recorder.awaitEnd(o)
			o.note("kill")
		} else {
			o.recorder.interrupt(o)
			o.note("stop")
		}
		for range o.rand.IntN(3) {
			o.set(false)
		}
		o.restarts++
		o.start()
		o.note("start")
	default:
		o.set(true)
	}
}

// check compares nstrace blame with what happened.
func (o *oracle) check() {
	o.Helper()
	got := map[string]string{}
	for _, b := range blame(o.T, o.db, "--all-netns") {
		ns := b.Event.Sysctl.Namespace
		if ns == nil && b.Parameter != oracleHost || ns != nil && !slices.Contains(oracleParameters, b.Parameter) {
			continue
		}
		key := b.Parameter
		if ns != nil {
			key = fmt.Sprintf("%d %s", ns.ID, b.Parameter)
		}
		if b.State == "gone" {
			o.checkDead(ns, b)
			continue
		}
		value := "?"
		if b.Value != nil {
			value = *b.Value
		}
		text := fmt.Sprintf("%s %s, %d writes, by pid %d", b.State, value, b.Writes, b.Event.Process.PID)
		if got[key] != "" {
			o.fail("two rows for %s: %s; %s", key, got[key], text)
		}
		got[key] = text
	}
	want := map[string]string{}
	for name, l := range o.named {
		for parameter, w := range l.Writes {
			want[fmt.Sprintf("%d %s", l.ID, parameter)] = o.expected(name, l, parameter, w)
		}
	}
	for parameter, w := range o.hosts.Writes {
		want[parameter] = o.expected("", o.hosts, parameter, w)
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			o.fail("%s:\n got %q\nwant %q", key, got[key], want[key])
		}
		delete(got, key)
	}
	for key, text := range got {
		o.fail("%s: %q, which nobody wrote", key, text)
	}
}

// expected returns what blame must say about a parameter of a live namespace.
func (o *oracle) expected(name string, l *life, parameter string, w *lastSet) string {
	o.Helper()
	state, value := "recorded", l.values[parameter]
	switch {
	case w.Boot != o.boots && (value == w.Value || value != w.Initial):
		state = "rebooted"
	case w.Boot != o.boots:
		state = "reset"
	case value != w.Value:
		state = "drifted"
	}
	if now := o.read(name, parameter); now != value {
		o.fail("%s %s is %s: somebody else set it", name, parameter, now)
	}
	// Without ids of namespaces, only a recorder that watched all the time knows which one has a number.
	if name != "" && !kernelFrom(5, 14) && w.at != o.restarts {
		state, value = "unreadable", "?"
	}
	return fmt.Sprintf("%s %s, %d writes, by pid %d", state, value, w.Writes, w.PID)
}

func (o *oracle) read(name, parameter string) string {
	o.Helper()
	args := []string{"cat", event.SysctlPath(parameter)}
	if name != "" {
		args = append([]string{"nsenter", "--net=/run/netns/" + name}, args...)
	}
	return strings.TrimSpace(output(o, args[0], args[1:]...))
}

// checkDead checks a row about a namespace that ended.
func (o *oracle) checkDead(ns *event.Namespace, b blameLine) {
	o.Helper()
	if ns == nil {
		o.fail("%s of the host is gone", b.Parameter)
	}
	if !slices.ContainsFunc(o.dead, func(l *life) bool {
		w := l.Writes[b.Parameter]
		return l.ID == ns.ID && w != nil && uint64(w.Writes) == b.Writes && uint32(w.PID) == b.Event.Process.PID && *b.Event.Sysctl.New == w.Value
	}) {
		o.fail("%s is gone in %d after %d writes, the last by pid %d: there was no such namespace", b.Parameter, ns.ID, b.Writes, b.Event.Process.PID)
	}
}

// load reads what the oracle of the boot before wrote, if there was one.
func (o *oracle) load(file string) {
	o.Helper()
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var p past
	if err := errors.Join(err, json.Unmarshal(b, &p)); err != nil {
		o.Fatal(err)
	}
	o.boots, o.hosts.Writes, o.dead = p.Boots+1, p.Host, p.Dead
	o.note("boot %d", o.boots)
}

func (o *oracle) save(file string) {
	b, err := json.Marshal(past{o.boots, o.hosts.Writes, slices.AppendSeq(o.dead, maps.Values(o.named))})
	if err := errors.Join(err, os.WriteFile(file, b, 0o600)); err != nil {
		o.Error(err)
	}
}

// TestOracle makes, renames and ends namespaces, sets parameters, lets writes fail, and stops and kills the
// recorder, all at random, and compares what nstrace blame says after each step with what happened.
// NSTRACE_SEED repeats a run. If NSTRACE_ORACLE_DIR is set, the history stays there, and the oracle of the next boot
// goes on with it.
func TestOracle(t *testing.T) {
	anyKernel(t)
	seed, err := strconv.ParseUint(os.Getenv("NSTRACE_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("NSTRACE_SEED=%d", seed)
	steps := 30
	if os.Getenv("NSTRACE_TEST_ALL") == "1" {
		steps = 150
	}
	o := &oracle{
		T: t, rand: rand.New(rand.NewPCG(seed, 0)), named: map[string]*life{},
		hosts: &life{Writes: map[string]*lastSet{}, values: map[string]string{}},
	}
	dir := os.Getenv("NSTRACE_ORACLE_DIR")
	if dir == "" {
		dir = t.TempDir()
	} else {
		o.load(filepath.Join(dir, "past.json"))
		defer o.save(filepath.Join(dir, "past.json"))
	}
	o.db = filepath.Join(dir, "history.db")
	before := o.read("", oracleHost)
	o.hosts.values[oracleHost] = before
	t.Cleanup(func() {
		if err := os.WriteFile(event.SysctlPath(oracleHost), []byte(before), 0); err != nil {
			t.Error(err)
		}
		for name := range o.named {
			if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	if o.boots > 0 {
		o.check()
	}
	o.start()
	o.check()
	for range steps {
		o.step()
		o.check()
	}
	o.recorder.interrupt(t)
}
