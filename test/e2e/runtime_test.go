// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

// TestOtherContainer has root's Docker know a container, and processes in cgroups with its id. Only the one that
// root made is the container's.
func TestOtherContainer(t *testing.T) {
	anyKernel(t)
	id := strings.Repeat("0123456789abcdef", 4)
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	docker := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.44")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			fmt.Fprint(w, "OK")
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			fmt.Fprintf(w, `[{"Id":%q,"Names":["/web"],"Image":"nginx"}]`, id)
		case strings.HasSuffix(r.URL.Path, "/events"):
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	})}
	go func() { _ = docker.Serve(l) }()
	t.Cleanup(func() { docker.Close() })
	h := watchWith(t, []string{"--runtime-socket", "docker:" + socket}, backends[:1]...)

	scope := "docker-" + id + ".scope"
	for _, row := range []struct {
		name, cgroup string
		user         int // the owner of the cgroup around it
		want         string
	}{
		{"root's", "root/" + scope, 0, "web"},
		{"a user's", "user/" + scope, somebody, ""},
		{"in a container", "docker-" + strings.Repeat("f", 64) + ".scope/" + scope, 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			path, cgroup := inCgroup(t, row.cgroup)
			around := filepath.Dir(filepath.Join(cgroup2(t), path))
			if err := os.Chown(around, row.user, row.user); err != nil {
				t.Fatal(err)
			}
			w := h.run(t, "unshare", []string{"--uts", "true"}, cgroup)
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				made := only(events, event.NamespaceCreate)
				if len(made) != 1 || made[0].Container == nil || made[0].Container.ID != id || made[0].Container.Name != row.want ||
					made[0].Namespace.Owner == nil || made[0].Namespace.Owner.Container.Name != row.want {
					t.Errorf("want one in the container %q:\n%s", row.want, dump(made))
				}
			})
		})
	}
}
