// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nstrace/nstrace/event"
)

const (
	// askTimeout is how long a runtime may take for an answer.
	askTimeout = 5 * time.Second
	// A container is in its cgroup before some runtimes say that they have it. So one
	// that none knows is asked for again, soon while an event waits and then less and
	// less often, for as long as it does something.
	retryFirst, retryLast = 20 * time.Millisecond, time.Minute
	// atOnce is how many questions are asked at the same time.
	atOnce = 8
	// maxContainers is how many are remembered, of which those that did nothing for
	// longest are forgotten. Each takes some hundred bytes.
	maxContainers = 16384
)

// A book has what runtimes said of containers. It outlives them, so that the last
// events of a container have its name too.
type book struct {
	sources *sources
	slots   chan struct{}

	mu         sync.Mutex
	containers map[string]*entry // by id
	pods       map[string]*event.Pod
	tick       uint64
	wait       time.Duration // how long an event waits
	learned    func()        // called without mu, when an entry was filled
	more       func() bool   // looks for more runtimes to ask, and says whether there are
	spawn      func(func())  // runs it beside
}

// An entry is a container.
type entry struct {
	container *event.Container // nil while no runtime has told
	pod       *event.Pod
	user      string // of attribution.Container.UserID
	asking    bool
	retry     time.Time // not to be asked for before
	pause     time.Duration
	used      uint64
	owner     *event.Owner // made of the above
	network   string       // what its network namespace is called
}

func newBook(s *sources) *book {
	return &book{
		sources: s, slots: make(chan struct{}, atOnce),
		containers: map[string]*entry{}, pods: map[string]*event.Pod{},
	}
}

// find returns what is known of a container, and whether that may be more in a moment.
// It asks for what is not known. mu has to be held.
func (b *book) find(ctx context.Context, c *event.Container, now time.Time) (e *entry, wait bool) {
	b.tick++
	e = b.containers[c.ID]
	if e == nil {
		e = &entry{pause: retryFirst}
		b.forget()
		b.containers[c.ID] = e
	}
	e.used, e.user = b.tick, c.UserID
	if e.container != nil {
		return e, false
	}
	if !e.asking && !now.Before(e.retry) {
		e.asking = true
		b.spawn(func() { b.ask(ctx, c) })
	}
	return e, e.asking
}

// forget makes room, if there is none.
func (b *book) forget() {
	if len(b.containers) < maxContainers {
		return
	}
	all := make([]string, 0, len(b.containers))
	for id, e := range b.containers {
		if !e.asking {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(b.containers[x].used, b.containers[y].used) })
	for _, id := range all[:len(all)/4] {
		delete(b.containers, id)
	}
	used := map[string]bool{}
	for _, e := range b.containers {
		if e.pod != nil {
			used[e.pod.UID] = true
		}
	}
	for uid := range b.pods {
		if !used[uid] {
			delete(b.pods, uid)
		}
	}
}

// ask asks the runtimes for a container until one knows it, but not for longer than
// an event may wait.
func (b *book) ask(ctx context.Context, c *event.Container) {
	info := b.inspect(ctx, c)
	for end := time.Now().Add(b.wait); info == nil && ctx.Err() == nil && (b.more() || b.sources.has(c)) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
		info = b.inspect(ctx, c)
	}
	if info != nil {
		b.take(info)
	}
	b.mu.Lock()
	if e := b.containers[c.ID]; e != nil {
		e.asking = false
		e.retry = time.Now().Add(e.pause)
		e.pause = min(2*e.pause, retryLast)
	}
	b.mu.Unlock()
	b.learned()
}

func (b *book) inspect(ctx context.Context, c *event.Container) *Info {
	b.slots <- struct{}{}
	defer func() { <-b.slots }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, s := range b.sources.of(c) {
		if info, err := s.Inspect(ctx, c.ID); err == nil && info.ID == c.ID {
			return info
		}
	}
	return nil
}

// update enters what a user's runtime said, if it is of a container of that user.
func (b *book) update(info *Info, uid uint32) {
	b.mu.Lock()
	e := b.containers[info.ID]
	his := e != nil && e.container != nil && e.user == strconv.FormatUint(uint64(uid), 10)
	b.mu.Unlock()
	if his {
		b.take(info)
	}
}

// take enters what a runtime said.
func (b *book) take(info *Info) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.containers[info.ID]
	if e == nil {
		b.tick++
		e = &entry{used: b.tick, pause: retryFirst}
		b.forget()
		b.containers[info.ID] = e
	}
	c := &event.Container{
		ID: info.ID, Name: info.Name, Image: info.Image, Runtime: info.Runtime, Source: event.FromRuntime,
	}
	e.owner, e.container, e.pod, e.network = nil, c, nil, info.Name
	if info.PodName != "" {
		e.network = info.PodNamespace + "/" + info.PodName
	}
	if info.PodUID != "" || info.PodName != "" {
		e.pod = &event.Pod{
			Name: info.PodName, Namespace: info.PodNamespace, UID: info.PodUID, Source: event.FromRuntime,
		}
		if info.PodUID != "" {
			b.pods[info.PodUID] = e.pod
		}
	}
}

// ownerOf is an owner with what is known of it.
func (e *entry) ownerOf(o *event.Owner) *event.Owner {
	if e.container == nil {
		return o
	}
	if e.owner == nil || e.owner.Unit != o.Unit || e.owner.Source != o.Source {
		e.owner = &event.Owner{Container: e.container, Pod: e.podOr(o.Pod), Unit: o.Unit, Source: o.Source}
	}
	return e.owner
}

// podOr is the pod that the runtime told, or else what the cgroup told. Where both
// tell and differ, it is neither.
func (e *entry) podOr(p *event.Pod) *event.Pod {
	switch {
	case e.pod == nil:
		return p
	case p != nil && e.pod.UID != "" && p.UID != e.pod.UID:
		return nil
	}
	return e.pod
}
