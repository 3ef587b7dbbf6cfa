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
)

// A limit is how much the cache does for one user. Each user has an own share, so no user can use up that of
// another one or of root.
type limit struct {
	queries    int // at the same time
	pending    int // queries that run or wait for their turn
	containers int // least recently used ones are evicted
	pods       int
	bytes      int // of the names of all of them
}

var (
	rootLimit = limit{queries: 8, pending: 1024, containers: 16384, pods: 16384, bytes: 32 << 20}
	userLimit = limit{queries: 2, pending: 64, containers: 1024, pods: 128, bytes: 1 << 20}
)

const (
	// maxUsers is the maximum number of users with a share.
	maxUsers = 256
	// maxNames is the maximum size of what is cached of one container. Most take some hundred bytes.
	maxNames = 8 << 10
)

// A cache is the container cache: what runtimes returned about containers. Entries outlive their
// containers, so that the last events of a container have its name too.
type cache struct {
	sources *sources

	mu      sync.Mutex
	shares  map[string]*share // by UserID of the event.Container: a user cannot say anything about others
	tick    uint64
	wait    time.Duration // how long an event waits
	changed func()        // called without mu after a query ended
	more    func() bool   // searches for new runtimes, and reports whether it found any
	spawn   func(func())  // starts a goroutine
}

// A share is what the cache knows of the containers in the cgroups of one user.
type share struct {
	limit      limit
	slots      chan struct{}         // of queries
	pending    int                   // queries
	containers map[string]*entry     // by id
	pods       map[string]*event.Pod // by UID
	bytes      int                   // of the entries
	used       uint64
	late       bool // the last answer took longer than an event waits
}

// An entry is a container.
type entry struct {
	container *event.Container // nil while no runtime knows it
	pod       *event.Pod
	asking    bool
	retry     time.Time // earliest time of the next query
	pause     time.Duration
	used      uint64
	bytes     int          // of container and pod
	owner     *event.Owner // made from the fields above
	network   string       // name of its network namespace
}

func newCache(s *sources) *cache { return &cache{sources: s, shares: map[string]*share{}} }

// share returns the share of a user. The caller holds mu.
func (cc *cache) share(user string) *share {
	cc.tick++
	sh := cc.shares[user]
	if sh == nil {
		if len(cc.shares) >= maxUsers {
			cc.forgetUser()
		}
		sh = &share{limit: userLimit, containers: map[string]*entry{}, pods: map[string]*event.Pod{}}
		if user == "" {
			sh.limit = rootLimit
		}
		sh.slots = make(chan struct{}, sh.limit.queries)
		cc.shares[user] = sh
	}
	sh.used = cc.tick
	return sh
}

// forgetUser evicts the share that was not used for the longest time. Only root's stays.
func (cc *cache) forgetUser() {
	oldest := ""
	for user, sh := range cc.shares {
		if user != "" && (oldest == "" || sh.used < cc.shares[oldest].used) {
			oldest = user
		}
	}
	delete(cc.shares, oldest)
}

// unknown is the entry of containers of which no runtime is asked.
var unknown = &entry{}

// find returns the entry of a container, and whether a query for it is pending. It starts a
// query if the container is unknown. The caller holds mu.
func (cc *cache) find(ctx context.Context, c *event.Container, now time.Time) (e *entry, wait bool) {
	if c.Unverified {
		return unknown, false
	}
	sh := cc.share(c.UserID)
	e = sh.containers[c.ID]
	if e == nil {
		if sh.pending >= sh.limit.pending {
			return unknown, false // later events ask again
		}
		e = sh.add(c.ID)
	}
	e.used = cc.tick
	if e.container != nil {
		return e, false
	}
	if !e.asking && !now.Before(e.retry) && sh.pending < sh.limit.pending {
		e.asking = true
		sh.pending++
		cc.spawn(func() { cc.ask(ctx, sh, c) })
	}
	// No user can make the events of others wait again and again.
	return e, e.asking && (c.UserID == "" || !sh.late)
}

// add adds an entry.
func (sh *share) add(id string) *entry {
	sh.forget()
	e := &entry{pause: retryFirst}
	sh.containers[id] = e
	return e
}

// forget evicts a quarter of the entries if there are too many, or if their names are too long.
func (sh *share) forget() {
	if len(sh.containers) < sh.limit.containers && sh.bytes < sh.limit.bytes {
		return
	}
	all := make([]string, 0, len(sh.containers))
	for id, e := range sh.containers {
		if !e.asking {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(sh.containers[x].used, sh.containers[y].used) })
	for _, id := range all[:(len(all)+3)/4] {
		sh.bytes -= sh.containers[id].bytes
		delete(sh.containers, id)
	}
	used := map[string]bool{}
	for _, e := range sh.containers {
		if e.pod != nil {
			used[e.pod.UID] = true
		}
	}
	for uid := range sh.pods {
		if !used[uid] {
			delete(sh.pods, uid)
		}
	}
}

// ask queries the runtimes for a container until one knows it, for at most the time that an event
// waits.
func (cc *cache) ask(ctx context.Context, sh *share, c *event.Container) {
	begun := time.Now()
	info := cc.inspect(ctx, sh, c)
	late := time.Since(begun) > cc.wait
	for end := time.Now().Add(cc.wait); info == nil && ctx.Err() == nil && (cc.more() || cc.sources.has(c)) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
		info = cc.inspect(ctx, sh, c)
	}
	if info != nil {
		cc.take(info, c.UserID)
	}
	cc.mu.Lock()
	sh.pending--
	sh.late = late
	if e := sh.containers[c.ID]; e != nil {
		e.asking = false
		e.retry = time.Now().Add(e.pause)
		e.pause = min(2*e.pause, retryLast)
	}
	cc.mu.Unlock()
	cc.changed()
}

// inspect returns what a runtime says about a container.
func (cc *cache) inspect(ctx context.Context, sh *share, c *event.Container) *Info {
	sh.slots <- struct{}{}
	defer func() { <-sh.slots }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, s := range cc.sources.of(c) {
		if info, err := s.Inspect(ctx, c.ID); err == nil && info.ID == c.ID {
			return info
		}
	}
	return nil
}

// userID returns the UserID of workloads that a runtime knows whose socket has an owner.
func userID(uid uint32) string {
	if uid == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// takePod stores the pod of a container of a user, and returns it, nil for none. The caller holds mu.
func (sh *share) takePod(info *Info, user string) *event.Pod {
	if info.PodUID == "" && info.PodName == "" {
		return nil
	}
	p := &event.Pod{Name: info.PodName, Namespace: info.PodNamespace, UID: info.PodUID, Source: event.FromRuntime, UserID: user}
	if p.UID != "" {
		if len(sh.pods) >= sh.limit.pods {
			clear(sh.pods) // later answers fill it again
		}
		sh.pods[p.UID] = p
	}
	return p
}

// podOf returns what a runtime said about a pod that is known from its cgroup, or else the pod itself. The
// caller holds mu.
func (cc *cache) podOf(p *event.Pod) *event.Pod {
	if p == nil || p.Unverified || p.Source == event.FromRuntime {
		return p
	}
	if sh := cc.shares[p.UserID]; sh != nil && sh.pods[p.UID] != nil {
		return sh.pods[p.UID]
	}
	return p
}

// take stores the answer of a runtime of a user. It is about containers of this user only.
func (cc *cache) take(info *Info, user string) {
	size := info.size()
	if size > maxNames {
		return
	}
	cc.mu.Lock()
	defer cc.mu.Unlock()
	sh := cc.share(user)
	e := sh.containers[info.ID]
	if e == nil {
		e = sh.add(info.ID)
		e.used = cc.tick
	}
	sh.bytes += size - e.bytes
	e.bytes = size
	e.owner, e.network = nil, info.Name
	e.container = &event.Container{
		ID: info.ID, Name: info.Name, Image: info.Image, Runtime: info.Runtime, Source: event.FromRuntime, UserID: user,
	}
	if e.pod = sh.takePod(info, user); e.pod != nil && e.pod.Name != "" {
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
	case p != nil && !p.Unverified && e.pod.UID != "" && p.UID != e.pod.UID:
		return nil
	}
	return e.pod
}
