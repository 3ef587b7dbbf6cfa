// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/runtimes"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Arg{
		"4026531840":        {Kind: KindInode, ID: 4026531840},
		"4294967295":        {Kind: KindInode, ID: 4294967295},
		"4026531776":        {Kind: KindInode, ID: FirstInode},
		"net:[4026531840]":  {Kind: KindInode, Type: event.NSTypeNet, ID: 4026531840},
		"net:4026531840":    {Kind: KindInode, Type: event.NSTypeNet, ID: 4026531840},
		"mnt:[1]":           {Kind: KindInode, Type: event.NSTypeMnt, ID: 1},
		"1":                 {Kind: KindPID, PID: 1},
		"4194304":           {Kind: KindPID, PID: 4194304},
		"/run/netns/blue":   {Kind: KindPath},
		"./blue":            {Kind: KindPath},
		"../ns/net":         {Kind: KindPath},
		"/":                 {Kind: KindPath},
		"default/web":       {Kind: KindPod},
		"nginx.service":     {Kind: KindUnit},
		"user@1000.service": {Kind: KindUnit},
		"session-1.scope":   {Kind: KindUnit},
		"machine.slice":     {Kind: KindUnit},
		"blue":              {},
		".service":          {},
		"0":                 {},
		"-1":                {},
		"+1":                {},
		"007":               {},
		"4294967296":        {}, // the beginning of a container's id
		"1e3":               {},
		"net:blue":          {},
		"net:":              {},
		"net:-1":            {},
		"foo:[4026531840]":  {},
		"web.service.d":     {},
		"\x1b[31m":          {},
		"a b":               {},
		"é":                 {},
	} {
		want.Text = text
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "a\x00", "\x00", "a/", "a/b/c", "net:[x]", "net:[]", "net:[1", "net:[-1]", "net:[0]", "net:[4294967296]", strings.Repeat("x", 5000),
	} {
		if got, err := Parse(text); !errors.Is(err, ErrSyntax) || len(err.Error()) > 600 {
			t.Errorf("%.50q: %+v, %v", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"net:[1]", "1", "a/b", "x.service", "/", "4026531840"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := Parse(text)
		switch {
		case err != nil:
			if !errors.Is(err, ErrSyntax) {
				t.Error(err)
			}
		case a.Text != text || (a.Kind == KindInode) != (a.ID != 0) || (a.Kind == KindPID) != (a.PID != 0) || a.PID >= FirstInode:
			t.Errorf("%q: %+v", text, a)
		}
	})
}

// Ids of containers.
var (
	id1 = strings.Repeat("ab12", 16)
	id2 = "ab12" + strings.Repeat("0", 60)
	id3 = strings.Repeat("c", 64)
)

const podUID = "12345678-1234-1234-1234-123456789012"

// sample is a Resolver on a host with some processes, and runtimes that know some names.
func sample() *Resolver {
	var all []*inventory.Process
	for i, cgroup := range []string{
		"/", "/system.slice/nginx.service", "/system.slice/nginx.service/worker",
		"/system.slice/docker-" + id1 + ".scope", "/system.slice/docker-" + id1 + ".scope/child",
		"/system.slice/docker-" + id2 + ".scope",
		"/kubepods.slice/kubepods-pod" + strings.ReplaceAll(podUID, "-", "_") + ".slice/cri-containerd-" + id3 + ".scope",
		// What a user and what root in a container made up.
		"/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service",
		"/user.slice/user-1001.slice/user@1001.service/app.slice/mine.service",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id1 + ".scope",
		"/system.slice/docker-" + id1 + ".scope/system.slice/docker-" + id2 + ".scope",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + strings.Repeat("d", 64) + ".scope/container",
	} {
		all = append(all, &inventory.Process{PID: uint32(1<<23 + i), Comm: "p", Cgroup: cgroup}) // no process has such a pid
	}
	return &Resolver{processes: all, scanned: true, names: func(context.Context) ([]Known, []error) {
		return []Known{
			{Info: &runtimes.Info{ID: id1, Name: "web"}}, {Info: &runtimes.Info{ID: id2, Name: "db"}},
			{Info: &runtimes.Info{ID: id3, Name: "app", PodName: "shop", PodNamespace: "default", PodUID: podUID}},
			{Info: &runtimes.Info{ID: strings.Repeat("e", 64), Name: "stopped"}},
			// The runtime of a user, which says what he likes.
			{Info: &runtimes.Info{ID: id2, Name: "web"}, UID: 1000},
			{Info: &runtimes.Info{ID: strings.Repeat("d", 64), Name: "rootless", PodName: "shop", PodNamespace: "default", PodUID: podUID}, UID: 1000},
			// Root's runtime knows no container of a user, even if the id is the same.
			{Info: &runtimes.Info{ID: strings.Repeat("d", 64), Name: "not-rootless"}},
		}, nil
	}}
}

func TestWorkloads(t *testing.T) {
	for text, want := range map[string]struct {
		what What
		pids []int // from the first one on
	}{
		"nginx.service":         {Unit, []int{1, 2}},
		"system.slice":          {Unit, []int{1, 2, 3, 4, 5, 11}},
		"user@1000.service":     {Unit, []int{7, 8, 10, 12}},
		"web":                   {Container, []int{3, 4}},
		"db":                    {Container, []int{5}},
		id1:                     {Container, []int{3, 4}},
		id1[:5]:                 {Container, []int{3, 4}},
		id2[:6]:                 {Container, []int{5}},
		"app":                   {Container, []int{6}},
		"default/shop":          {Pod, []int{6}},
		"rootless":              {Container, []int{12}},
		strings.Repeat("d", 64): {Container, []int{12}},
	} {
		got, err := sample().Find(t.Context(), text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var pids []int
		for _, p := range got.Processes {
			pids = append(pids, int(p.PID)-1<<23)
		}
		if got.What != want.what || !equal(pids, want.pids) {
			t.Errorf("%s: %s %v, want %s %v", text, got.What, pids, want.what, want.pids)
		}
	}
	for text, want := range map[string]error{
		"ab12": ErrAmbiguous, "mine.service": ErrAmbiguous,
		"ab1": ErrUnknown, "not-rootless": ErrUnknown, "stopped": ErrUnknown, "default/web": ErrUnknown, "shop": ErrUnknown, "app.slice": ErrUnknown, "none.service": ErrUnknown,
		"docker-" + id1 + ".service": ErrUnknown, "0": ErrUnknown,
	} {
		got, err := sample().Find(t.Context(), text)
		if !errors.Is(err, want) {
			t.Errorf("%s: %+v %v, want %v", text, got, err, want)
		}
		if errors.Is(want, ErrAmbiguous) && strings.Count(err.Error(), ";") != 1 {
			t.Errorf("%s: it does not list two candidates: %v", text, err)
		}
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// The runtimes are not asked if no process is in a container.
func TestAskNobody(t *testing.T) {
	r := &Resolver{scanned: true, names: func(context.Context) ([]Known, []error) { t.Error("asked"); return nil, nil }}
	if _, err := r.Find(t.Context(), "web"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// TestNoAnswer looks for a name while a runtime that never answers may know it.
func TestNoAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	spec := runtimes.CRI + ":" + socket
	names, err := Runtimes(t.Context(), []string{spec}, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	one := &inventory.Process{PID: 1 << 23, Comm: "p", Cgroup: "/system.slice/docker-" + strings.Repeat("a", 64) + ".scope"}
	r := &Resolver{processes: []*inventory.Process{one}, scanned: true, names: names}
	_, err = r.Find(t.Context(), "web")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), ", as far as nstrace can tell; "+spec+": ") {
		t.Error(err)
	}
}

// TestOwn finds the test's own namespaces, with and without an inventory.
func TestOwn(t *testing.T) {
	inv, err := inventory.Take(t.Context(), inventory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := procfs.NamespaceOf("self", event.NSTypeUTS)
	if err != nil {
		t.Fatal(err)
	}
	id := strconv.FormatUint(uint64(own), 10)
	for name, r := range map[string]*Resolver{"/proc": New(nil, nil), "inventory": New(inv, nil)} {
		t.Run(name, func(t *testing.T) {
			for _, text := range []string{id, "uts:[" + id + "]", "uts:" + id, "/proc/self/ns/uts", strconv.Itoa(os.Getpid())} {
				got, err := r.Find(t.Context(), text)
				if err != nil {
					t.Error(err)
					continue
				}
				n, err := got.In(event.NSTypeUTS)
				if err != nil || n.ID != own {
					t.Errorf("%s: %+v, %v", text, n, err)
					continue
				}
				f, err := r.Open(n)
				if err != nil {
					t.Errorf("%s: %v", text, err)
					continue
				}
				f.Close()
				if got.What == Namespace {
					if _, err := got.In(event.NSTypeNet); !errors.Is(err, ErrNoNamespace) {
						t.Errorf("%s has a network namespace: %v", text, err)
					}
				}
			}
			for _, text := range []string{"net:[" + id + "]", "4294967290", "4194304", "/proc/self/status", "/nonexistent", filepath.Join(t.TempDir(), "x"), "no-such-name"} {
				if got, err := r.Find(t.Context(), text); !errors.Is(err, ErrUnknown) {
					t.Errorf("%s: %+v, %v", text, got, err)
				}
			}
		})
	}
}

// TestLinkToNamespace opens the namespace that a link leads to, such as /var/run/netns/NAME.
func TestLinkToNamespace(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc/self/ns/uts", link); err != nil {
		t.Fatal(err)
	}
	r := New(nil, nil)
	got, err := r.Find(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Open(got.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
