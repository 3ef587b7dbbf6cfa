// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// searchEvery is the minimum time between two searches for new runtimes. Only an event of an
// unknown container starts a search.
const searchEvery = 5 * time.Second

// A lost connection is tried again, less and less often: a host without Kubernetes can have a
// containerd that never speaks CRI.
const reconnectFirst, reconnectLast = time.Second, 10 * time.Minute

// sources are the runtimes that can be queried.
type sources struct {
	by    Opener
	given bool // on the command line: do not search for others

	mu    sync.Mutex
	found map[string]bool // by Candidate.String
	order []Source
	last  time.Time // of the last search
}

// None as the only spec queries no runtime.
const None = "none"

func openSources(specs []string, by Opener) (*sources, error) {
	s := &sources{by: by, given: len(specs) > 0, found: map[string]bool{}}
	if len(specs) == 1 && specs[0] == None {
		return s, nil
	}
	for _, spec := range specs {
		src, err := openSpec(context.Background(), spec, by)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.order = append(s.order, src)
	}
	s.search()
	return s, nil
}

// search searches the host for runtimes, at most once in searchEvery, and returns the new ones.
func (s *sources) search() (found []Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given || time.Since(s.last) < searchEvery {
		return nil
	}
	s.last = time.Now()
	for _, c := range WellKnown() {
		if s.found[c.String()] {
			continue
		}
		s.found[c.String()] = true
		if src, err := s.by.Open(c); err == nil {
			found = append(found, src)
		}
	}
	s.order = append(s.order, found...)
	return found
}

// all returns the runtimes.
func (s *sources) all() []Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// of returns the runtimes to query about a container, first the one that the name of its cgroup
// suggests. At a user's socket any program of this user can listen, so it is queried only about
// containers of the same user. Those of root know no container in the cgroup of a user.
func (s *sources) of(c *event.Container) []Source {
	all := slices.DeleteFunc(s.all(), func(src Source) bool { return c.UserID != userID(src.Owner()) })
	slices.SortStableFunc(all, func(a, b Source) int { return first(a, c.Runtime) - first(b, c.Runtime) })
	return all
}

// has reports whether there is a runtime to query about a container.
func (s *sources) has(c *event.Container) bool { return len(s.of(c)) > 0 }

func first(s Source, runtime string) int {
	if runtime != "" && strings.HasPrefix(s.String(), runtime) {
		return 0
	}
	return 1
}

func (s *sources) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.order {
		err = errors.Join(err, src.Close())
	}
	return err
}

// follow keeps the cache up to date with the runtimes. It closes listed once each of the present
// runtimes has listed its containers or failed to.
func (s *Stage) follow(listed chan<- struct{}) {
	var first sync.WaitGroup
	for _, src := range s.cache.sources.all() {
		first.Add(1)
		s.done.Go(func() { s.followOne(src, first.Done) })
	}
	first.Wait()
	close(listed)
}

// more searches for new runtimes, and reports whether it found any.
func (s *Stage) more() bool {
	found := s.cache.sources.search()
	for _, src := range found {
		s.done.Go(func() { s.followOne(src, func() {}) })
	}
	return len(found) > 0
}

// followOne keeps the cache up to date with one runtime until the Stage is closed. It calls
// listed once the runtime has listed its containers or failed to.
func (s *Stage) followOne(src Source, listed func()) {
	once := sync.OnceFunc(listed)
	defer once()
	pause := reconnectFirst
	for {
		err := src.Watch(s.ctx, func(info *Info) {
			if info == nil {
				s.list(src)
				once()
				pause = reconnectFirst
				return
			}
			s.cache.take(info, userID(src.Owner()))
			s.wake()
		})
		if errors.Is(err, errors.ErrUnsupported) {
			// Events query what they need. This list is for names that change.
			s.list(src)
			pause = max(pause, time.Minute)
		}
		once()
		if !s.sleep(pause) {
			return
		}
		pause = min(2*pause, reconnectLast)
	}
}

func (s *Stage) list(src Source) {
	ctx, cancel := context.WithTimeout(s.ctx, askTimeout)
	defer cancel()
	all, err := src.List(ctx)
	if err != nil {
		return // it is tried again, and events query what they need
	}
	for _, info := range all {
		s.cache.take(info, userID(src.Owner()))
	}
	s.wake()
}

func (s *Stage) sleep(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
