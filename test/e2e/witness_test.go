// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// testWitness compares the events with strace, for the calls, and with lsns, for the live
// namespaces.
func testWitness(t *testing.T, h *host) {
	t.Run("strace", func(t *testing.T) { testStrace(t, h) })
	t.Run("lsns", func(t *testing.T) { testLsns(t, h) })
}

var (
	straceLine = regexp.MustCompile(`^(\d+) +(unshare|setns|clone|clone3|fork|vfork)\((.*)\) += (-?\d+)(?: (E[A-Z]+))?`)
	unfinished = regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	resumed    = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	newFlag    = regexp.MustCompile(`CLONE_NEW[A-Z]+`)
)

var typeOfFlag = map[string]event.NSType{
	"CLONE_NEWNS": "mnt", "CLONE_NEWUTS": "uts", "CLONE_NEWIPC": "ipc", "CLONE_NEWUSER": "user",
	"CLONE_NEWPID": "pid", "CLONE_NEWNET": "net", "CLONE_NEWCGROUP": "cgroup", "CLONE_NEWTIME": "time",
}

// straceCalls returns from strace's log, for each thread, the calls with namespace flags in order,
// as "unshare net,uts: success".
func straceCalls(t *testing.T, log string) map[string][]string {
	t.Helper()
	calls, begun := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if m := unfinished.FindStringSubmatch(line); m != nil {
			begun[m[1]] = m[2] + "(" + m[3]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + begun[m[1]] + m[3]
		}
		m := straceLine.FindStringSubmatch(line)
		if m == nil {
			if strings.Contains(line, "CLONE_NEW") {
				t.Errorf("strace: %s", line)
			}
			continue
		}
		var types []event.NSType
		for _, flag := range newFlag.FindAllString(m[3], -1) {
			types = append(types, typeOfFlag[flag])
		}
		if len(types) == 0 {
			continue
		}
		slices.Sort(types)
		result := "success"
		if m[5] != "" {
			result = m[5]
		}
		calls[m[1]] = append(calls[m[1]], fmt.Sprintf("%s %s: %s", m[2], join(types), result))
	}
	return calls
}

// eventCalls groups the events by call again.
func eventCalls(events []*emitted) map[string][]string {
	calls := map[string][]string{}
	for i := 0; i < len(events); {
		e := events[i]
		types := []event.NSType{}
		for ; i < len(events) && events[i].Time.Equal(e.Time) && events[i].Process.TID == e.Process.TID; i++ {
			types = append(types, events[i].Namespace.Type)
		}
		slices.Sort(types)
		result := string(e.Outcome)
		if e.Outcome == event.Failure {
			result = e.Error
		}
		tid := fmt.Sprint(e.Process.TID)
		calls[tid] = append(calls[tid], fmt.Sprintf("%s %s: %s", e.Via, join(types), result))
	}
	return calls
}

func testStrace(t *testing.T, h *host) {
	log := filepath.Join(t.TempDir(), "strace")
	w := h.run(t, "strace", []string{"-f", "-q", "-o", log, "-e", "trace=unshare,setns,clone,clone3,fork,vfork", "-e", "signal=none",
		"sh", "-e", "-c", `
		unshare --net --uts --fork true
		unshare --user --map-root-user --pid --fork --mount unshare --time --ipc true
		! unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_net_namespaces; unshare --net --ipc true' 2>/dev/null
		! setpriv --reuid 1000 --regid 1000 --clear-groups unshare --net true 2>/dev/null
		nsenter --target $$ --net --uts --ipc true
		` + helper("nsclone") + ` clone net,uts true
		` + helper("nsclone") + ` clone3 pid,ipc,cgroup true
		` + helper("nsclone") + ` clone mnt,fs
		` + helper("nsset") + ` pidfd $$ net,uts
		` + helper("nsset") + ` fd 99 net
		` + helper("nsset") + ` file /etc/passwd uts
		` + helper("nsthread") + ` 2 net,uts </dev/null
		bwrap --unshare-all --dev-bind / / true
		busybox unshare -n true
		ip netns add nstrace-e2e-w; ip netns exec nstrace-e2e-w true; ip netns del nstrace-e2e-w
		for i in 1 2 3; do unshare --uts true & unshare --ipc true & done; wait`})
	want := straceCalls(t, readFile(t, log))
	if len(want) < 20 {
		t.Fatalf("strace saw the calls of only %d threads: %v", len(want), want)
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		events = slices.DeleteFunc(slices.Clone(events), func(e *emitted) bool { return e.Via == "execve" || e.Type == event.SysctlWrite || e.isPin() })
		got := eventCalls(events)
		for tid, calls := range want {
			if !slices.Equal(got[tid], calls) {
				t.Errorf("thread %s: events %q, strace %q", tid, got[tid], calls)
			}
		}
		for tid, calls := range got {
			if want[tid] == nil {
				t.Errorf("thread %s: events %q, but strace saw nothing", tid, calls)
			}
		}
		w.ends(t, s, events)
	})
}

func testLsns(t *testing.T, h *host) {
	r := h.open(t)
	var list struct {
		Namespaces []struct {
			NS   uint32 `json:"ns"`
			Type string `json:"type"`
		} `json:"namespaces"`
	}
	text := output(t, "lsns", "--json", "--output", "NS,TYPE", "--task", fmt.Sprint(r.inside))
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("lsns: %v\n%s", err, text)
	}
	r.stop(t)
	r.each(t, func(t *testing.T, s *stream, events []*emitted) {
		made := ids(only(events, event.NamespaceCreate))
		if len(made) != len(event.NSTypes()) || len(list.Namespaces) != len(made) {
			t.Errorf("the events made %v, lsns has %v", made, list.Namespaces)
		}
		for _, ns := range list.Namespaces {
			if made[event.NSType(ns.Type)] != ns.NS {
				t.Errorf("%s: the event has %d, lsns has %d", ns.Type, made[event.NSType(ns.Type)], ns.NS)
			}
		}
		r.ends(t, s, events)
	})
}
