// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/internal/declared"
)

// An explained is what nstrace explain -o json says.
type explained struct {
	Parameter string
	Value     *string
	Fresh     *struct{ Value, From string }
	Program   string
	Rulings   []declared.Ruling
	State     string
	History   bool
	Writes    []struct{ ID int64 }
	Verdict   string
	NotRead   []string `json:"not_read"`
}

// declaredFiles makes a tree of files of sysctl.d. The other folders that the programs read are empty.
func declaredFiles(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = openDir(t, 0o755)
	for _, dir := range []string{"etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// withFiles begins a script in which these files are those of the host, and which has no history.
const withFiles = `set -e
root=$1; nstrace=$2; db=$3
mount --make-rprivate /
for dir in etc run usr/local/lib usr/lib/sysctl.d; do mount --bind "$root/$dir" "/$dir"; done
mount -t tmpfs none /var/lib
`

// Explain says which file declares a parameter, and who overwrote it.
func TestExplain(t *testing.T) {
	anyKernel(t)
	root := declaredFiles(t, map[string]string{
		"etc/sysctl.d/60-a.conf": "# the value\nnet.ipv4.ip_default_ttl = 70\n", "usr/lib/sysctl.d/50-b.conf": "net.ipv4.ip_default_ttl = 60\n",
	})
	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	const script = withFiles + `
explain() { "$nstrace" explain net/ipv4/ip_default_ttl --netns $$ --runtime-socket none -o json "$@"; }
explain
sysctl -q --system
explain --db "$db"
echo 99 >/proc/sys/net/ipv4/ip_default_ttl
explain --db "$db"
explain --db "$db" -o table
`
	out := strings.SplitN(output(t, "unshare", "--mount", "--net", "sh", "-c", script, "sh", root, nstraceBin, db), "\n", 4)
	const who, at = `\[\d+\]`, ` at [-0-9: ]+`
	for i, want := range []struct {
		value, state, verdict string
		writes                int
	}{
		{"64", "different", `^declared 70 in /etc/sysctl.d/60-a.conf:2; without a history, nstrace cannot know who set it; is 64, differs$`, 0},
		{"70", "equal", `^declared 70 in /etc/sysctl.d/60-a.conf:2; applied by sysctl` + who + at + `; is as declared$`, 2},
		{"99", "different", `^declared 70 in /etc/sysctl.d/60-a.conf:2; applied by sysctl` + who + at + `; set to 99 by sh` + who + at + `; is 99, still differs$`, 3},
	} {
		var x explained
		if err := json.Unmarshal([]byte(out[i]), &x); err != nil {
			t.Fatalf("%v: %s", err, out[i])
		}
		if x.Parameter != "net.ipv4.ip_default_ttl" || x.Value == nil || *x.Value != want.value || x.State != want.state || len(x.Writes) != want.writes ||
			x.History != (i > 0) || x.Fresh == nil || x.Fresh.Value != "64" || !regexp.MustCompile(want.verdict).MatchString(x.Verdict) {
			t.Errorf("%d: %s", i, out[i])
		}
		for _, r := range x.Rulings {
			if w := r.Winner(); w == nil || w.Where() != "/etc/sysctl.d/60-a.conf:2" || len(r.Declarations) != 2 || r.Declarations[1].Reason == "" {
				t.Errorf("%d: %+v", i, r)
			}
		}
	}
	for _, want := range []string{
		"net.ipv4.ip_default_ttl = 99\n", "a new network namespace has 64", "\n* 70  /etc/sysctl.d/60-a.conf:2\n", "\n  60  /usr/lib/sysctl.d/50-b.conf:1  (set again later in /etc/sysctl.d/60-a.conf:2)\n", "64 → 60  sysctl[",
		"70 → 99  sh[", "\nVerdict: declared 70 in ",
	} {
		if !strings.Contains(out[3], want) {
			t.Errorf("the page lacks %q:\n%s", want, out[3])
		}
	}
}

// Diff finds what differs from the files.
func TestDiffDeclared(t *testing.T) {
	anyKernel(t)
	root := declaredFiles(t, map[string]string{
		"etc/sysctl.d/60-a.conf": "net.ipv4.ip_default_ttl = 70\nnet.ipv4.tcp_syn_retries = 0x6\nnet.ipv4.nstrace_none = 1\nnet.ipv6.conf.l*.hop_limit=9",
	})
	const script = withFiles + `
run() { status=0; "$nstrace" diff --declared "$@" || status=$?; echo "status $status"; }
run
sysctl -q --system
run -o json
mkfifo /etc/sysctl.d/pipe.conf
run -o json
`
	out := output(t, "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script+" 2>&1", "sh", root, nstraceBin, "")
	want := regexp.MustCompile(`^PARAMETER .*
net\.ipv4\.ip_default_ttl +70 +64 +/etc/sysctl\.d/60-a\.conf:1 *
net\.ipv4\.nstrace_none +1 +\(no such parameter\) +/etc/sysctl\.d/60-a\.conf:3 *
net\.ipv6\.conf\.lo\.hop_limit +9 +64 +/etc/sysctl\.d/60-a\.conf:4 *
status 1
\{"parameter":"net\.ipv4\.nstrace_none","state":"missing",.*
status 0
\{"parameter":"net\.ipv4\.nstrace_none","state":"missing",.*
status 2$`)
	if !want.MatchString(out) {
		t.Errorf("%s", out)
	}
}

func TestExplainTrouble(t *testing.T) {
	anyKernel(t)
	for _, args := range [][]string{
		{"explain"}, {"explain", ""}, {"explain", "a", "b"}, {"explain", "kernel.ostype", "-o", "wide"}, {"explain", "kernel.ostype", "--netns", "1"},
		{"explain", "net.ipv4.ip_forward", "--netns", "nstrace-none"}, {"explain", "net.ipv4.ip_forward", "--rules", "x"}, {"diff", "--declared", "x"},
		{"diff", "--declared", "--fresh"}, {"diff", "--declared", "--rules", ""}, {"diff", "--declared", "--db", "/nonexistent/db"},
	} {
		if status, stdout, stderr := nstrace(t, args); status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d: %s%s", args, status, stdout, stderr)
		}
	}
	if status, stdout, stderr := nstrace(t, []string{"explain", "kernel.ostype", "--db", "/nonexistent/db"}); status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
}
