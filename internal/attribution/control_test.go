// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dirs makes directories with owners, in the place of a hierarchy of cgroups.
func dirs(t *testing.T, owners map[string]int) *os.File {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("changes owners, which only root can")
	}
	root := t.TempDir()
	for path := range owners {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, uid := range owners {
		if err := os.Chown(filepath.Join(root, path), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestController has the cgroups of containers and pods, and others whose owners chose names that look the same.
func TestController(t *testing.T) {
	const pod = "pod12345678-1234-1234-1234-123456789012"
	v2 := dirs(t, map[string]int{
		"system.slice": 0, "kubepods/burstable": 0,
		"system.slice/ci.service": 1001, "system.slice/ci.service/below": 0,
		"delegated.slice": 1002, "delegated.slice/user-0.slice/user@0.service": 1002,
		"user.slice/user-0.slice/user@0.service":       0,
		"user.slice/user-1000.slice/session-3.scope":   0,
		"user.slice/user-1000.slice/user@1000.service": 1000,
	})
	v1 := dirs(t, map[string]int{"docker": 0, "user/alice": 1003})
	all := &CgroupDirs{roots: func() []*os.File { return []*os.File{v2, v1} }}
	docker, libpod := "docker-"+idA+".scope", "libpod-"+idA+".scope"
	root, nobody := Controller{Container: true, Pod: true}, Controller{}
	of := func(uid string) Controller { return Controller{UserID: uid, Container: true, Pod: true} }
	for path, want := range map[string]Controller{
		// The cgroup itself can be gone. Those around it say who could make it.
		"/system.slice/" + docker:                           root,
		"/docker/" + idA:                                    root,
		"/kubepods/burstable/" + pod + "/" + idA:            root,
		"/user.slice/user-0.slice/user@0.service/" + libpod: root,
		// sudo podman run --cgroups=split
		"/user.slice/user-1000.slice/session-3.scope/libpod-payload-" + idA: root,
		// A user's own.
		"/user.slice/user-1000.slice/user@1000.service/user.slice/" + libpod:                  of("1000"),
		"/user.slice/user-1004.slice/user@1004.service/user.slice/" + libpod:                  of("1004"), // gone
		"/user.slice/user-1000.slice/user@1000.service/kubepods/burstable/" + pod + "/" + idA: of("1000"),
		// Looks like root's, but is in a cgroup that a user owns.
		"/system.slice/ci.service/" + docker:                             of("1001"),
		"/system.slice/ci.service/below/gone/" + docker:                  of("1001"),
		"/system.slice/ci.service/docker/" + idA:                         of("1001"),
		"/delegated.slice/" + docker:                                     of("1002"),
		"/delegated.slice/user-0.slice/user@0.service/" + libpod:         of("1002"),
		"/delegated.slice/user-1000.slice/user@1000.service/x/" + libpod: of("1002"),
		"/user/alice/0/docker/" + idA:                                    of("1003"),
		// Nothing tells.
		"/system.slice/gone.service/" + docker: nobody,
		"/../" + docker:                        nobody,
		// In a container.
		"/system.slice/" + docker + "/docker/" + idB:                                 {Pod: true},
		"/kubepods/burstable/" + pod + "/" + idA + "/docker/" + idB:                  {Pod: true},
		"/docker/" + idA + "/kubepods/burstable/" + pod:                              {Container: true},
		"/docker/" + idA + "/kubepods/burstable/" + pod + "/" + idB:                  {},
		"/user.slice/user-1000.slice/user@1000.service/" + libpod + "/docker/" + idB: {UserID: "1000", Pod: true},
	} {
		if got := all.Controller(path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// TestControllerWithin has this process in a container, as in a node of kind.
func TestControllerWithin(t *testing.T) {
	node := "/docker/" + idA
	other := "/docker/" + strings.Repeat("f", 64)
	within := (&CgroupDirs{roots: func() []*os.File { return nil }}).Within(node + "/kubelet")
	within.roots = func() []*os.File {
		return []*os.File{dirs(t, map[string]int{"docker/" + idA + "/docker": 0, "docker/" + idA + "/user": 1000, other: 0})}
	}
	for path, want := range map[string]Controller{
		node:                                    {Container: true, Pod: true},
		node + "/docker/" + idB:                 {Container: true, Pod: true},
		node + "/user/docker-" + idB + ".scope": {UserID: "1000", Container: true, Pod: true},
		node + "/docker/" + idB + "/docker-" + strings.Repeat("e", 64) + ".scope": {Pod: true},
		other + "/docker/" + idB: {Pod: true},
	} {
		if got := within.Controller(path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
}

// TestWorkloadOfUser checks that the workload says whose it is.
func TestWorkloadOfUser(t *testing.T) {
	w := Workloads{}
	const user = "/user.slice/user-1000.slice/user@1000.service/"
	users, roots := w.Of(user+"libpod-"+idA+".scope"), w.Of("/system.slice/docker-"+idA+".scope")
	if users.Container.UserID != "1000" || users.Container.Unverified || roots.Container.UserID != "" || roots.Container.Unverified {
		t.Errorf("%+v, %+v", users.Container, roots.Container)
	}
	if o := OwnerOf([]*Workload{users, roots}); o != nil {
		t.Errorf("the namespace of both belongs to %+v", o)
	}
	if c := w.Of("/docker/" + idB + "/docker/" + idA).Container; !c.Unverified {
		t.Errorf("a container in a container: %+v", c)
	}
}

// TestWorkloadUnit has the units of cgroups below a user's service manager, which the user names.
func TestWorkloadUnit(t *testing.T) {
	w := Workloads{}
	const user = "/user.slice/user-1000.slice/user@1000.service"
	for path, want := range map[string]string{
		"/system.slice/nginx.service":      "nginx.service",
		user:                               "user@1000.service",
		user + "/app.slice":                "user@1000.service",
		user + "/init.scope":               "user@1000.service/init.scope",
		user + "/app.slice/foobar.service": "user@1000.service/app.slice/foobar.service",
		user + "/app.slice/app-a.slice/foo@1.service/x/y":    "user@1000.service/app.slice/app-a.slice/foo@1.service",
		user + "/not a unit/foobar.service":                  "user@1000.service",
		"/system.slice/docker-" + idA + ".scope/app.slice/x": "docker-" + idA + ".scope",
	} {
		if got := w.Of(path).Unit; got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	one, other := w.Of(user+"/app.slice/a.service"), w.Of(user+"/app.slice/b.service")
	if o := OwnerOf([]*Workload{one, other}); o == nil || o.Unit != "user@1000.service" {
		t.Errorf("the namespace of two units of a user belongs to %+v", o)
	}
	if o := OwnerOf([]*Workload{one, w.Of("/system.slice/nginx.service")}); o != nil {
		t.Errorf("the namespace of units of two managers belongs to %+v", o)
	}
}
