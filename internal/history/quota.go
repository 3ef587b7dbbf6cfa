// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
)

// A database of limited size drops its oldest events when new ones come. So a user who causes events
// all the time could drop those of everybody else. The quota limits what one account can add to a
// database that is full: an eighth of the size at once, and another eighth in each day. What an account
// added before counts, too.

const (
	// quotaOf is the part of the database's limit that an account can add.
	quotaOf = 8
	// quotaTime is the time in which a budget that was spent is whole again.
	quotaTime = 24 * time.Hour
	// quotaLossEvery is how often the quota reports a loss.
	quotaLossEvery = time.Minute
)

// A quota has the budget of each account.
type quota struct {
	size    int64 // of a budget in bytes; 0: no limit
	budgets cache[string, *budget]
	loss    *event.Loss
	taken   time.Time // when the last loss was taken
	report  func(message string)
}

type budget struct {
	left     int64
	at       time.Time // when left was right
	reported time.Time
}

// add counts an event. It reports whether the database may take it: whether its account has bytes left
// for it, or the database is not full.
func (q *quota) add(e *event.Event, bytes int, full bool, now time.Time) bool {
	if q.size == 0 {
		return true
	}
	who := account(e)
	if who == "" {
		return true
	}
	b := share(&q.budgets, who, func(string) *budget { return &budget{left: q.size, at: now} })
	back := int64(float64(q.size) * now.Sub(b.at).Seconds() / quotaTime.Seconds())
	if back > 0 { // otherwise wait until it is a byte
		b.left = min(q.size, b.left+back)
		b.at = b.at.Add(time.Duration(float64(back) / float64(q.size) * float64(quotaTime))) // the rest counts later
	}
	if b.left >= int64(bytes) || !full {
		b.left = max(0, b.left-int64(bytes))
		return true
	}
	if b.reported.IsZero() || now.Sub(b.reported) >= quotaTime {
		b.reported = now
		q.report(fmt.Sprintf("history: %s used up its share of the database: the database lacks most of its events from now on, the stream has them", who))
	}
	if q.loss == nil {
		q.loss = &event.Loss{Records: map[event.Type]uint64{}, Reason: event.LossQuota, From: e.Time}
	}
	q.loss.Records[e.Type] += max(1, e.Count)
	q.loss.To = e.Time
	return false
}

// take returns what was lost since the last call, nil if nothing was or the last loss is recent. At
// the end of the run, it does not matter how recent that is.
func (q *quota) take(end bool, now time.Time) *event.Loss {
	if q.loss == nil || !end && now.Sub(q.taken) < quotaLossEvery {
		return nil
	}
	loss := q.loss
	q.loss, q.taken = nil, now
	return loss
}

// account returns who pays for an event: a user who logged in, a control group, or a container; "" for
// the host's root, who can write the database anyway, for events of nstrace itself, and if nobody is
// known. A user cannot change these. Only root moves processes out of the control group that belongs to
// their user. In /user.slice, the kernel keeps the login's user id through other user ids, such as those
// in a user namespace. Elsewhere it can be unset, and then any process may set it to any id.
func account(e *event.Event) string {
	p := e.Process
	switch {
	case e.Type.Family() == "trace":
		return ""
	case p == nil && e.Namespace != nil:
		return ownerAccount(e.Namespace)
	case p == nil && e.Sysctl != nil && e.Sysctl.Namespace != nil:
		return ownerAccount(e.Sysctl.Namespace)
	case p == nil:
		return ""
	case p.UID == 0 && e.Container == nil:
		return ""
	case p.LoginUID != nil && strings.HasPrefix(p.Cgroup, "/user.slice/"):
		return fmt.Sprintf("user %d", *p.LoginUID)
	}
	if group := ownGroup(p.Cgroup); group != "" {
		return group
	}
	return fmt.Sprintf("user %d", p.UID)
}

// ownerAccount returns who pays for an event without a process, such as the end of a namespace.
func ownerAccount(ns *event.Namespace) string {
	if o := ns.Owner; o != nil {
		switch {
		case o.Container != nil:
			return workloadAccount("container", o.Container.ID, o.Container.UserID, o.Container.Unverified)
		case o.Pod != nil:
			return workloadAccount("pod", o.Pod.UID, o.Pod.UserID, o.Pod.Unverified)
		case ns.Creator == nil && o.Unit != "":
			return "unit " + attribution.HostUnit(o.Unit)
		}
	}
	if ns.Creator != nil && ns.Creator.UID != 0 {
		return fmt.Sprintf("user %d", ns.Creator.UID)
	}
	return ""
}

// workloadAccount returns the account of a container or pod. Those whose ids somebody can choose share
// one account.
func workloadAccount(kind, id, userID string, unverified bool) string {
	switch {
	case userID != "":
		return "user " + userID
	case unverified:
		return "unverified " + kind + "s"
	}
	return kind + " " + id
}

// ownGroup returns the part of a control group's path that only root makes.
func ownGroup(path string) string {
	names := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	n := 1
	switch top := names[0]; {
	case top == "":
		return ""
	case strings.HasPrefix(top, "kubepods"): // the class of service, if it is not Guaranteed, then the pod
		n = 2
		prefix := strings.TrimSuffix(top, ".slice") + "-"
		if len(names) > 1 && !strings.HasPrefix(strings.TrimPrefix(names[1], prefix), "pod") {
			n = 3
		}
	case strings.HasSuffix(top, ".slice"), top == "docker":
		n = 2
	}
	return "/" + strings.Join(names[:min(n, len(names))], "/")
}
