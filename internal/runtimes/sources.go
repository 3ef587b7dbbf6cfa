// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

// lookAgain is how long at least the host is not searched again for runtimes that were
// not there. Nobody looks while nothing happens.
const lookAgain = 5 * time.Second

// One that was lost is tried again, soon and then less and less often: a host without
// Kubernetes can have a containerd that speaks no CRI for ever.
const reconnectFirst, reconnectLast = time.Second, 10 * time.Minute

// sources are the runtimes that can be asked.
type sources struct {
	given bool // on the command line: no others are looked for

	mu    sync.Mutex
	found map[string]bool // by what Candidate.String gives
	order []Source
	last  time.Time // of search
}

// None, as the only runtime, asks nobody.
const None = "none"

func openSources(specs []string) (*sources, error) {
	s := &sources{given: len(specs) > 0, found: map[string]bool{}}
	if len(specs) == 1 && specs[0] == None {
		return s, nil
	}
	for _, spec := range specs {
		src, err := Open(context.Background(), spec)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.order = append(s.order, src)
	}
	s.search()
	return s, nil
}

// search looks for runtimes on the host, unless it did a moment ago, and returns
// those that are new.
func (s *sources) search() (found []Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given || time.Since(s.last) < lookAgain {
		return nil
	}
	s.last = time.Now()
	for _, c := range WellKnown() {
		if s.found[c.String()] {
			continue
		}
		s.found[c.String()] = true
		if src, err := c.Open(); err == nil {
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

// of returns those that can be asked about a container, the one that its cgroup's name
// tells first. At a user's socket any program of his can listen: it is asked about his
// own containers only.
func (s *sources) of(c *event.Container) []Source {
	all := slices.DeleteFunc(s.all(), func(src Source) bool {
		uid := src.Owner()
		return uid != 0 && c.UserID != strconv.FormatUint(uint64(uid), 10)
	})
	slices.SortStableFunc(all, func(a, b Source) int { return first(a, c.Runtime) - first(b, c.Runtime) })
	return all
}

// has says whether there is one that can be asked about a container.
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

// follow keeps the book as the runtimes tell it. It closes listed once those that
// are there have been asked for all that they have.
func (s *Stage) follow(listed chan<- struct{}) {
	var first sync.WaitGroup
	for _, src := range s.book.sources.all() {
		first.Add(1)
		s.done.Go(func() { s.followOne(src, first.Done) })
	}
	first.Wait()
	close(listed)
}

// more looks for runtimes that were not there before, and says whether there are any.
func (s *Stage) more() bool {
	found := s.book.sources.search()
	for _, src := range found {
		s.done.Go(func() { s.followOne(src, func() {}) })
	}
	return len(found) > 0
}

// followOne keeps the book as one runtime tells it, until the end. It calls listed once
// it knows what there is, or that it can't.
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
			s.take(src, info)
			s.wake()
		})
		if errors.Is(err, errors.ErrUnsupported) {
			// An event asks for what it needs. This is for names that change.
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
		return // it is tried again, and an event asks for what it needs
	}
	for _, info := range all {
		s.take(src, info)
	}
	s.wake()
}

// take enters what a runtime said without being asked. A user's is believed only when
// it is asked about a container that is known to be his.
func (s *Stage) take(src Source, info *Info) {
	if src.Owner() == 0 {
		s.book.take(info)
		return
	}
	s.book.update(info, src.Owner())
}

func (s *Stage) sleep(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
