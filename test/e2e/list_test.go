// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// A listed namespace is a line of nstrace list -o json, in part.
type listed struct {
	Namespace event.Namespace `json:"namespace"`
	Processes int             `json:"processes"`
	Parent    uint32          `json:"parent"`
	Unseen    bool            `json:"unseen"`
	Oldest    *struct {
		PID  uint32   `json:"pid"`
		PPID uint32   `json:"ppid"`
		User string   `json:"user"`
		Comm string   `json:"comm"`
		Args []string `json:"args"`
	} `json:"oldest"`
	Held struct {
		Mounts []struct {
			Path string `json:"path"`
		} `json:"mounts"`
		Owned []struct {
			ID uint32 `json:"id"`
		} `json:"owned"`
	} `json:"held_by"`
}

// list runs nstrace list -o json.
func list(t *testing.T, args ...string) (all []listed) {
	t.Helper()
	text := output(t, nstraceBin, append([]string{"list", "-o", "json", "--runtime-socket", "none"}, args...)...)
	for line := range strings.Lines(text) {
		var n listed
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, n)
	}
	return all
}

var listSources = []string{"bpf", "proc"}

// TestList compares nstrace list with lsns(8), by each source: types, ids, numbers of processes, oldest
// processes and owners of the namespaces of this test.
func TestList(t *testing.T) {
	h := &host{}
	const wait = "echo ready=yes; read x || exit 0"
	w := h.start(t, "unshare", []string{"--user", "--map-root-user", "--net", "--uts", "--ipc", "--mount", "--cgroup", "sh", "-c", wait})
	w.value(t, "ready")
	var lsns struct {
		Namespaces []struct {
			NS     uint32 `json:"ns"`
			Type   string `json:"type"`
			NProcs int    `json:"nprocs"`
			PID    uint32 `json:"pid"`
			PPID   uint32 `json:"ppid"`
			User   string `json:"user"`
			Owner  uint32 `json:"ons"`
		} `json:"namespaces"`
	}
	text := output(t, "lsns", "--json", "--output", "NS,TYPE,NPROCS,PID,PPID,USER,ONS", "--task", strconv.Itoa(w.pid))
	if err := json.Unmarshal([]byte(text), &lsns); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if len(lsns.Namespaces) < 7 {
		t.Fatalf("lsns: %s", text)
	}
	for _, source := range listSources {
		t.Run(source, func(t *testing.T) {
			all := list(t, "--source", source, "--pid", strconv.Itoa(w.pid))
			if len(all) != len(lsns.Namespaces) {
				t.Errorf("%d namespaces, lsns has %d", len(all), len(lsns.Namespaces))
			}
			for _, want := range lsns.Namespaces {
				i := slices.IndexFunc(all, func(n listed) bool { return n.Namespace.ID == want.NS && string(n.Namespace.Type) == want.Type })
				if i < 0 {
					t.Errorf("no %s namespace %d", want.Type, want.NS)
					continue
				}
				got := all[i]
				if got.Namespace.Host { // other tests run there
					continue
				}
				if got.Processes != want.NProcs || got.Oldest == nil || got.Oldest.PID != want.PID || got.Oldest.PPID != want.PPID || got.Oldest.User != want.User || got.Namespace.UserNS != want.Owner {
					t.Errorf("%s: got %+v %+v, lsns has %+v", want.Type, got, got.Oldest, want)
				}
				if got.Oldest != nil && !slices.Equal(got.Oldest.Args, []string{"sh", "-c", wait}) {
					t.Errorf("%s: arguments %q", want.Type, got.Oldest.Args)
				}
			}
		})
	}
	w.stdin.Close()
	w.end(t)
}

// TestListEmpty lists a namespace without a process, and names that would move the cursor.
func TestListEmpty(t *testing.T) {
	const name = "nstrace-e2e-l\x1b[2J"
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
	id := mustID(t, "/run/netns/"+name)
	for _, source := range listSources {
		all := list(t, "--source", source, "-t", "net", "--filter", fmt.Sprintf("namespace.id == %d", id))
		if len(all) != 1 || all[0].Namespace.Name != name || all[0].Processes != 0 || all[0].Oldest != nil ||
			!slices.ContainsFunc(all[0].Held.Mounts, func(m struct {
				Path string `json:"path"`
			}) bool {
				return m.Path == "/run/netns/"+name
			}) {
			t.Errorf("%s: %+v", source, all)
		}
		table := output(t, nstraceBin, "list", "--source", source, "--netns", strconv.FormatUint(uint64(id), 10), "--no-headings")
		if fields := strings.Fields(table); len(fields) != 6 || fields[0] != "net" || fields[1] != fmt.Sprint(id) || fields[2] != `nstrace-e2e-l\x1b[2J` || fields[3] != "0" {
			t.Errorf("%s: %q", source, table)
		}
	}
}

// TestListMistakes has mistakes on the command line.
func TestListMistakes(t *testing.T) {
	anyKernel(t)
	for _, row := range []struct{ args, want string }{
		{"--columns nothing", `nstrace: --columns: invalid value "nothing"`},
		{"--sort -nothing", `nstrace: --sort: invalid value "nothing"`},
		{"--source files", `nstrace: --source: invalid value "files"`},
		{"--tree=leaf", `nstrace: --tree: invalid value "leaf"`},
		{"-t what", `nstrace: --ns-type: invalid value "what"`},
		{"web", `nstrace: nstrace list: unexpected argument "web"`},
		{"--db /nonexistent/history.db", "nstrace: --db: "},
	} {
		want := 2
		if strings.HasPrefix(row.args, "--db") {
			want = 1
		}
		status, stdout, stderr := nstrace(t, append([]string{"list"}, strings.Fields(row.args)...))
		if status != want || stdout != "" || !strings.HasPrefix(stderr, row.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %s%s", row.args, status, stdout, stderr)
		}
	}
}

// TestListUnprivileged lists what a user without privileges may see, and says that there is more.
func TestListUnprivileged(t *testing.T) {
	status, stdout, stderr := nstrace(t, []string{"list", "-t", "uts", "--no-headings"}, asUser(tester))
	if status != 0 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	h := &host{}
	w := h.start(t, "sh", []string{"-c", "echo ready=yes; read x || exit 0"}, asUser(tester))
	w.value(t, "ready")
	status, stdout, stderr = nstrace(t, []string{"list", "-t", "uts", "--no-headings", "-p", strconv.Itoa(w.pid)}, asUser(tester))
	if own := mustID(t, "/proc/self/ns/uts"); status != 0 || !strings.Contains(stdout, fmt.Sprint(own)) {
		t.Errorf("status %d, it lacks %d: %s%s", status, own, stdout, stderr)
	}
	w.stdin.Close()
	w.end(t)
	if status, _, stderr := nstrace(t, []string{"list", "--source", "bpf"}, asUser(tester)); status != 3 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d, %s", status, stderr)
	}
}
