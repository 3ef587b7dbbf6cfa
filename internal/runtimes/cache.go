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
	pods       map[podKey]*event.Pod
	tick       uint64
	wait       time.Duration // how long an event waits
	changed    func()        // called without mu after a query ended
	more       func() bool   // searches for new runtimes, and reports whether it found any
	spawn      func(func())  // starts a goroutine
}

// A podKey is a pod below the service manager of a user, "" for that of the host. Users choose the UIDs
// that their runtimes report.
type podKey struct{ user, uid string }

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
		containers: map[string]*entry{}, pods: map[podKey]*event.Pod{},
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
	used := map[podKey]bool{}
	for _, e := range cc.containers {
		if e.pod != nil {
			used[podKey{e.pod.UserID, e.pod.UID}] = true
		}
	}
	for key := range cc.pods {
		if !used[key] {
			delete(cc.pods, key)
		}
	}
}

// ask queries the runtimes for a container until one knows it, for at most the time that an event
// waits.
func (cc *cache) ask(ctx context.Context, c *event.Container) {
	info, uid := cc.inspect(ctx, c)
	for end := time.Now().Add(cc.wait); info == nil && ctx.Err() == nil && (cc.more() || cc.sources.has(c)) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
		info, uid = cc.inspect(ctx, c)
	}
	if info != nil {
		cc.take(info, uid)
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

// inspect returns what a runtime says about a container, and the owner of that runtime's socket.
func (cc *cache) inspect(ctx context.Context, c *event.Container) (*Info, uint32) {
	cc.slots <- struct{}{}
	defer func() { <-cc.slots }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, s := range cc.sources.of(c) {
		if info, err := s.Inspect(ctx, c.ID); err == nil && info.ID == c.ID {
			return info, s.Owner()
		}
	}
	return nil, 0
}

// update stores an answer of a user's runtime, as far as it is about a container or a pod of that user.
func (cc *cache) update(info *Info, uid uint32) {
	cc.mu.Lock()
	e := cc.containers[info.ID]
	owned := e != nil && e.container != nil && e.user == userID(uid)
	cc.takePod(info, uid)
	cc.mu.Unlock()
	if owned {
		cc.take(info, uid)
	}
}

// userID returns the UserID of workloads that a runtime knows whose socket has an owner.
func userID(uid uint32) string {
	if uid == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// takePod stores the pod of a container, and returns it, nil for none. The caller holds mu.
func (cc *cache) takePod(info *Info, uid uint32) *event.Pod {
	if info.PodUID == "" && info.PodName == "" {
		return nil
	}
	p := &event.Pod{Name: info.PodName, Namespace: info.PodNamespace, UID: info.PodUID, Source: event.FromRuntime, UserID: userID(uid)}
	if p.UID != "" {
		if len(cc.pods) >= maxContainers {
			clear(cc.pods) // later answers fill it again
		}
		cc.pods[podKey{p.UserID, p.UID}] = p
	}
	return p
}

// podOf returns what a runtime said about a pod that is known from its cgroup, or else the pod itself. The
// caller holds mu.
func (cc *cache) podOf(p *event.Pod) *event.Pod {
	if p != nil && p.Source != event.FromRuntime {
		if known := cc.pods[podKey{p.UserID, p.UID}]; known != nil {
			return known
		}
	}
	return p
}

// take stores the answer of a runtime whose socket has an owner.
func (cc *cache) take(info *Info, uid uint32) {
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
	e.owner, e.container, e.network = nil, c, info.Name
	if e.pod = cc.takePod(info, uid); e.pod != nil && e.pod.Name != "" {
		e.network = e.pod.Path()
	}
}

// ownerOf returns an owner with the fields of the entry of its container. The caller holds mu.
func (cc *cache) ownerOf(e *entry, o *event.Owner) *event.Owner {
	if e.container == nil {
		return o
	}
	pod := cc.podOf(e.podOr(o.Pod))
	if e.owner == nil || e.owner.Unit != o.Unit || e.owner.Source != o.Source || e.owner.Pod != pod {
		e.owner = &event.Owner{Container: e.container, Pod: pod, Unit: o.Unit, Source: o.Source}
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
