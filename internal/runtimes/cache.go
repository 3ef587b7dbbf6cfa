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
	// askTimeout limits one query of a runtime.
	askTimeout = 5 * time.Second
	// Some runtimes list a container only after its first process runs. A container that no
	// runtime knows is therefore queried again as long as it causes events, first often and
	// then less and less often.
	retryFirst, retryLast = 20 * time.Millisecond, time.Minute
	// maxQueries is the number of concurrent queries.
	maxQueries = 8
	// maxContainers is the maximum number of cached containers. The least recently used
	// ones are evicted. Each takes some hundred bytes.
	maxContainers = 16384
)

// A cache is the container cache: what runtimes returned about containers. Entries outlive their
// containers, so that the last events of a container have its name too.
type cache struct {
	sources *sources
	slots   chan struct{}

	mu         sync.Mutex
	containers map[string]*entry // by id
	pods       map[string]*event.Pod
	tick       uint64
	wait       time.Duration // how long an event waits
	changed    func()        // called without mu after a query ended
	more       func() bool   // searches for new runtimes, and reports whether it found any
	spawn      func(func())  // starts a goroutine
}

// An entry is a container.
type entry struct {
	container *event.Container // nil while no runtime knows it
	pod       *event.Pod
	user      string // the UserID of the event.Container
	asking    bool
	retry     time.Time // earliest time of the next query
	pause     time.Duration
	used      uint64
	owner     *event.Owner // made from the fields above
	network   string       // name of its network namespace
}

func newCache(s *sources) *cache {
	return &cache{
		sources: s, slots: make(chan struct{}, maxQueries),
		containers: map[string]*entry{}, pods: map[string]*event.Pod{},
	}
}

// find returns the entry of a container, and whether a query for it is pending. It starts a
// query if the container is unknown. The caller holds mu.
func (cc *cache) find(ctx context.Context, c *event.Container, now time.Time) (e *entry, wait bool) {
	cc.tick++
	e = cc.containers[c.ID]
	if e == nil {
		e = &entry{pause: retryFirst}
		cc.forget()
		cc.containers[c.ID] = e
	}
	e.used, e.user = cc.tick, c.UserID
	if e.container != nil {
		return e, false
	}
	if !e.asking && !now.Before(e.retry) {
		e.asking = true
		cc.spawn(func() { cc.ask(ctx, c) })
	}
	return e, e.asking
}

// forget evicts a quarter of the entries if the cache is full.
func (cc *cache) forget() {
	if len(cc.containers) < maxContainers {
		return
	}
	all := make([]string, 0, len(cc.containers))
	for id, e := range cc.containers {
		if !e.asking {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(cc.containers[x].used, cc.containers[y].used) })
	for _, id := range all[:len(all)/4] {
		delete(cc.containers, id)
	}
	used := map[string]bool{}
	for _, e := range cc.containers {
		if e.pod != nil {
			used[e.pod.UID] = true
		}
	}
	for uid := range cc.pods {
		if !used[uid] {
			delete(cc.pods, uid)
		}
	}
}

// ask queries the runtimes for a container until one knows it, for at most the time that an event
// waits.
func (cc *cache) ask(ctx context.Context, c *event.Container) {
	info := cc.inspect(ctx, c)
	for end := time.Now().Add(cc.wait); info == nil && ctx.Err() == nil && (cc.more() || cc.sources.has(c)) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
		info = cc.inspect(ctx, c)
	}
	if info != nil {
		cc.take(info)
	}
	cc.mu.Lock()
	if e := cc.containers[c.ID]; e != nil {
		e.asking = false
		e.retry = time.Now().Add(e.pause)
		e.pause = min(2*e.pause, retryLast)
	}
	cc.mu.Unlock()
	cc.changed()
}

func (cc *cache) inspect(ctx context.Context, c *event.Container) *Info {
	cc.slots <- struct{}{}
	defer func() { <-cc.slots }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, s := range cc.sources.of(c) {
		if info, err := s.Inspect(ctx, c.ID); err == nil && info.ID == c.ID {
			return info
		}
	}
	return nil
}

// update stores an answer of a user's runtime if it is about a container of that user.
func (cc *cache) update(info *Info, uid uint32) {
	cc.mu.Lock()
	e := cc.containers[info.ID]
	owned := e != nil && e.container != nil && e.user == strconv.FormatUint(uint64(uid), 10)
	cc.mu.Unlock()
	if owned {
		cc.take(info)
	}
}

// take stores the answer of a runtime.
func (cc *cache) take(info *Info) {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	e := cc.containers[info.ID]
	if e == nil {
		cc.tick++
		e = &entry{used: cc.tick, pause: retryFirst}
		cc.forget()
		cc.containers[info.ID] = e
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
			cc.pods[info.PodUID] = e.pod
		}
	}
}

// ownerOf returns an owner with the fields of the entry.
func (e *entry) ownerOf(o *event.Owner) *event.Owner {
	if e.container == nil {
		return o
	}
	if e.owner == nil || e.owner.Unit != o.Unit || e.owner.Source != o.Source {
		e.owner = &event.Owner{Container: e.container, Pod: e.podOr(o.Pod), Unit: o.Unit, Source: o.Source}
	}
	return e.owner
}

// podOr returns the pod from the runtime, or else p, which is from the cgroup. If both are known
// and differ, it returns nil.
func (e *entry) podOr(p *event.Pod) *event.Pod {
	switch {
	case e.pod == nil:
		return p
	case p != nil && e.pod.UID != "" && p.UID != e.pod.UID:
		return nil
	}
	return e.pod
}
