// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"bufio"
	"os"
	"os/exec"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/share"
)

// TestUser has an ordinary user make a user namespace, in which nobody is, and in that another one with a
// network namespace. Both belong to that user, and the host's to root.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const nobody = 65534
	cmd := exec.Command("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"unshare", "--user", "--map-root-user", "unshare", "--user", "--net", "sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/user; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	var refs []Ref
	for lines := bufio.NewScanner(out); len(refs) < 2 && lines.Scan(); {
		if ns, ok := procfs.ParseNSLink(lines.Text()); ok {
			refs = append(refs, Ref{ns.Type, ns.ID})
		}
	}
	if len(refs) != 2 {
		t.Fatalf("the process shows %v", refs)
	}
	for _, source := range []Source{Proc, Iterators} {
		inv, err := Take(t.Context(), Options{Source: source})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refs {
			n := inv.Find(r)
			if n == nil {
				t.Fatalf("%s: no %v", source, r)
			}
			if got := inv.User(n); got != nobody {
				t.Errorf("%s: %v is of user %d, want %d", source, r, got, nobody)
			}
		}
		for typ, id := range inv.Host {
			if n := inv.Find(Ref{typ, id}); n == nil || inv.User(n) != 0 {
				t.Errorf("%s: the host's %s namespace is not of root", source, typ)
			}
		}
		if got := inv.User(&Namespace{Ref: Ref{Type: event.NSTypeNet, ID: 1}}); got != share.Unknown {
			t.Errorf("%s: an unknown namespace is of user %d", source, got)
		}
	}
}
