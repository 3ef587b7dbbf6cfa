// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/runtimes"
)

// A Known is a container as a runtime knows it.
type Known struct {
	*runtimes.Info
	// UID is the owner of the runtime's socket. What the runtime of a user says counts only for
	// containers of this user.
	UID uint32
}

// Names returns all containers that runtimes know, and the errors of those that did not say. It gives up
// when ctx ends.
type Names func(ctx context.Context) (known []Known, failed []error)

// maxKnown bounds how many containers of one runtime count.
const maxKnown = 100_000

// Runtimes returns Names that asks the runtimes at sockets, or all runtimes that it finds on the host
// if there are none. See runtimes.Open for the form of sockets; runtimes.None as the only one asks
// none. It waits for their answers for at most wait. The error says which socket is wrong.
func Runtimes(ctx context.Context, sockets []string, wait time.Duration) (Names, error) {
	if len(sockets) == 1 && sockets[0] == runtimes.None {
		return nil, nil
	}
	var given []runtimes.Source
	for _, s := range sockets {
		source, err := runtimes.Open(ctx, s)
		if err != nil {
			for _, s := range given {
				_ = s.Close()
			}
			return nil, err
		}
		given = append(given, source)
	}
	return func(ctx context.Context) (all []Known, failed []error) {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		sources := given
		if len(sockets) == 0 {
			for _, c := range runtimes.WellKnown() {
				if s, err := c.Open(); err == nil {
					sources = append(sources, s)
				}
			}
		}
		var mu sync.Mutex
		var done sync.WaitGroup
		for _, s := range sources {
			done.Go(func() {
				defer s.Close()
				list, err := s.List(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = append(failed, err)
					return
				}
				for _, info := range list[:min(len(list), maxKnown)] {
					all = append(all, Known{Info: info, UID: s.Owner()})
				}
			})
		}
		done.Wait()
		return all, failed
	}, nil
}

// A group is the processes of one container.
type group struct {
	owner     attribution.CgroupOwner
	by        attribution.Controller
	processes []*inventory.Process
}

// groups returns the containers that have processes, in the order of their first process.
func (r *Resolver) groups() []*group {
	var all []*group
	type key struct {
		by        attribution.Controller
		outer, id string
	}
	by := map[key]*group{}
	controllers := map[string]attribution.Controller{} // by cgroup
	for _, p := range r.all() {
		o := attribution.ParseCgroup(p.Cgroup)
		if o.ContainerID == "" {
			continue
		}
		// A user, or root in a container, can choose the id of a container of the host.
		c, ok := controllers[p.Cgroup]
		if !ok {
			c = r.dirs.Controller(p.Cgroup)
			controllers[p.Cgroup] = c
		}
		k := key{c, o.Outer, o.ContainerID}
		g := by[k]
		if g == nil {
			g = &group{owner: o, by: c}
			by[k] = g
			all = append(all, g)
		}
		g.processes = append(g.processes, p)
	}
	return all
}

// ask returns what the runtimes know.
func (r *Resolver) ask(ctx context.Context) []Known {
	if !r.asked && r.names != nil {
		r.asked = true
		r.known, r.failed = r.names(ctx)
	}
	return r.known
}

// is reports whether a runtime's answer is about a container.
func (k *Known) is(g *group) bool {
	uid := ""
	if k.UID != 0 {
		uid = strconv.FormatUint(uint64(k.UID), 10)
	}
	return g.by.Container && g.by.UserID == uid && k.ID == g.owner.ContainerID
}

// minIDPrefix is how many characters of a container's id name it.
const minIDPrefix = 4

// idLength is the length of the ids of Docker, Podman, containerd and CRI-O. Other ids are names, of
// which only the whole counts.
const idLength = 64

// containers finds the containers with a name or an id, or, if ids is set, with an id that begins with
// a text. The containers of the host go before those of users and those in containers, and what is the
// text goes before what begins with it.
func (r *Resolver) containers(ctx context.Context, text string, ids bool) []*Target {
	all := r.groups()
	if len(all) == 0 {
		return nil
	}
	known := r.ask(ctx)
	var ranks [4][]*Target
	for _, g := range all {
		id := g.owner.ContainerID
		rank := 0
		switch {
		case id == text || named(known, g, text):
		case ids && len(id) == idLength && len(text) >= minIDPrefix && strings.HasPrefix(id, text):
			rank = 1
		default:
			continue
		}
		if g.by.UserID != "" || !g.by.Container {
			rank += 2
		}
		ranks[rank] = append(ranks[rank], &Target{What: Container, Text: text, ID: id, Processes: g.processes, r: r})
	}
	for _, found := range ranks {
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// named reports whether a runtime says that a container has a name.
func named(known []Known, g *group, name string) bool {
	for i := range known {
		if known[i].Name == name && known[i].is(g) {
			return true
		}
	}
	return false
}

// pods finds the pods with a name, NAMESPACE/POD, or POD for those of Podman.
func (r *Resolver) pods(ctx context.Context, text string) []*Target {
	all := r.groups()
	if len(all) == 0 {
		return nil
	}
	type key struct{ user, uid string }
	by := map[key]*Target{}
	var ofRoot, ofUsers []*Target // users choose the names and the UIDs of their pods
	for _, k := range r.ask(ctx) {
		if path := (&event.Pod{Name: k.PodName, Namespace: k.PodNamespace}).Path(); path == "" || path != text {
			continue
		}
		for _, g := range all {
			if !k.is(g) {
				continue
			}
			uid := k.PodUID
			if uid == "" {
				uid = g.owner.PodUID
			}
			t := by[key{g.by.UserID, uid}]
			if t == nil {
				t = &Target{What: Pod, Text: text, ID: uid, r: r}
				by[key{g.by.UserID, uid}] = t
				if g.by.UserID == "" {
					ofRoot = append(ofRoot, t)
				} else {
					ofUsers = append(ofUsers, t)
				}
			}
			t.Processes = append(t.Processes, g.processes...)
		}
	}
	found := ofRoot
	if len(found) == 0 {
		found = ofUsers
	}
	for _, t := range found {
		sortProcesses(t)
	}
	return found
}

// sortProcesses sorts the processes of a target by PID, each once.
func sortProcesses(t *Target) {
	slices.SortFunc(t.Processes, func(a, b *inventory.Process) int { return cmp.Compare(a.PID, b.PID) })
	t.Processes = slices.Compact(t.Processes)
}
