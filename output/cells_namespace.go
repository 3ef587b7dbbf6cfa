// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

var (
	namespaceCreate = kind{
		name: "create", style: created, wantsOutcome: true, happened: [2]string{"created", "created"},
		target: (*Table).namespaceTarget, change: (*Table).creation, topic: namespaceType,
	}
	namespaceEnter = kind{
		name: "enter", style: entered, wantsOutcome: true, happened: [2]string{"entered", "entered"},
		target: (*Table).namespaceTarget, change: (*Table).origin, topic: namespaceType,
	}
	namespaceDestroy = kind{
		name: "destroy", style: destroyed, happened: [2]string{"destroyed", "destroyed"},
		target: (*Table).namespaceTarget, change: (*Table).lifetime, who: (*Table).creator, topic: namespaceType,
	}
	namespacePin = kind{
		name: "pin", style: created, happened: [2]string{"pinned", "pinned"},
		target: (*Table).namespaceTarget, change: (*Table).pinPath, topic: namespaceType,
	}
	namespaceUnpin = kind{
		name: "unpin", style: destroyed, happened: [2]string{"unpinned", "unpinned"},
		target: (*Table).namespaceTarget, change: (*Table).pinPath, who: (*Table).unpinner, topic: namespaceType,
	}
	namespaceAppeared = kind{
		name: "appear", style: doubtful, happened: [2]string{"appeared", "appeared"},
		target: (*Table).namespaceTarget, who: (*Table).untraced, topic: namespaceType,
	}
	namespaceGone = kind{
		name: "gone", style: doubtful, happened: [2]string{"gone", "gone"},
		target: (*Table).namespaceTarget, who: (*Table).untraced, topic: namespaceType,
	}
)

// namespaceTarget is the namespace that was created, entered and so on.
func (t *Table) namespaceTarget(ev *event.Event) []word {
	if ev.Namespace == nil {
		return []word{newWord(unknown, doubtful)}
	}
	return append(t.namespace(ev.Namespace), ownerWords(ev, ev.Namespace)...)
}

// ownerWords is "of web-1": the container or pod that a namespace belongs to, unless its name or the process
// says so already.
func ownerWords(ev *event.Event, ns *event.Namespace) []word {
	if ns.Owner == nil || ns.Host {
		return nil
	}
	name := containerName(ns.Owner.Pod, ns.Owner.Container)
	if name == "" || name == ns.Name || ev.Process != nil && name == containerName(ev.Pod, ev.Container) {
		return nil
	}
	return []word{newWord("of", normal), joinedWord(escapeName(name, `" ()`), normal)}
}

// namespaceType is what the line of a burst lists.
func namespaceType(ev *event.Event) string {
	if ev.Namespace == nil {
		return ""
	}
	return string(ev.Namespace.Type)
}

// namespace is "net 4026532281 name", or as much of it as is known.
func (t *Table) namespace(ns *event.Namespace) []word {
	var id []string
	if ns.Type != "" {
		id = append(id, escapeName(string(ns.Type), ""))
	}
	if ns.ID != 0 {
		id = append(id, number(ns.ID))
	}
	if len(id) == 0 {
		id = append(id, unknown)
	}
	words := []word{newWord(strings.Join(id, " "), strong)}
	if ns.Name != "" {
		words = append(words, joinedWord(escapeName(ns.Name, `" ()`), normal))
	}
	if t.isHost(ns) {
		words = append(words, joinedWord("(host)", normal))
	}
	return words
}

// hostNS returns the ids of the namespaces of the host of an event.
func (t *Table) hostNS(ev *event.Event) map[event.NSType]uint32 {
	if t.opts.HostOf != nil {
		return t.opts.HostOf(ev.BootID)
	}
	return t.opts.HostNS
}

// isHost reports whether a namespace is the host's own.
func (t *Table) isHost(ns *event.Namespace) bool {
	return ns.Host || ns.ID != 0 && t.opts.HostNS[ns.Type] == ns.ID
}

// sameNamespace reports whether a and b, which may be nil, are the same namespace.
func sameNamespace(a, b *event.Namespace) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ID == b.ID && a.UID == b.UID
}

// creation is the call and the child that it made, or why the kernel refused it.
func (t *Table) creation(ev *event.Event) []word {
	var words []word
	if !t.opts.Wide && ev.Via != "" { // the wide table has a column for it
		words = append(words, newWord(escapeName(ev.Via, ""), normal))
	}
	if ev.ChildPID != 0 {
		words = append(words, newWord("child "+number(ev.ChildPID), normal))
	}
	if t.opts.Wide { // else they have lines of their own
		words = append(words, t.refusals(ev)...)
	}
	return words
}

// origin is the namespace that the process left for the one that it entered.
func (t *Table) origin(ev *event.Event) []word {
	ns := ev.Namespace
	if ev.Outcome == event.Failure {
		return requested(ev)
	}
	switch {
	case ns == nil || ns.From == 0:
		return nil
	case ns.From == ns.ID:
		return []word{newWord("already in it", normal)}
	case t.hostNS(ev)[ns.Type] == ns.From:
		return []word{newWord("from host", normal)}
	}
	return []word{newWord("from "+number(ns.From), normal)}
}

// requested is what a call that failed asked for.
func requested(ev *event.Event) (words []word) {
	r, ns := ev.Request, ev.Namespace
	if r == nil {
		r = &event.Request{}
	}
	other := ns != nil && ns.Type != "" && len(r.Types) > 0 && !slices.Contains(r.Types, ns.Type)
	if !other && ns != nil && ns.Type == event.NSTypeUser && ns.ID != 0 && ns.From == ns.ID && ev.Error == "EINVAL" {
		words = append(words, newWord("already in it", normal)) // userns_install() checks that first
	}
	if other {
		var types []string
		for _, typ := range r.Types {
			types = append(types, escapeName(string(typ), ""))
		}
		words = append(words, newWord("asked for "+strings.Join(types, ", "), normal))
	}
	if r.PID != 0 {
		words = append(words, newWord("of process "+number(r.PID), normal))
	}
	if r.Path != "" {
		words = append(words, newWord(escapeName(r.Path, ""), normal))
	}
	return words
}

// lifetime is how long the namespace existed.
func (t *Table) lifetime(ev *event.Event) []word {
	ns := ev.Namespace
	if ns == nil {
		return nil
	}
	var words []word
	if ns.LifetimeMS != nil {
		words = append(words, newWord("lived "+duration(time.Duration(*ns.LifetimeMS)*time.Millisecond), normal))
	}
	return append(words, detected(ns)...)
}

// pinPath is where the namespace is or was mounted.
func (t *Table) pinPath(ev *event.Event) []word {
	ns := ev.Namespace
	if ns == nil {
		return nil
	}
	var words []word
	if ns.Path != "" {
		words = append(words, newWord(escapeName(ns.Path, ""), normal))
	}
	if ns.Copy {
		words = append(words, newWord("copy", normal))
	}
	if ns.MntNS != 0 && ns.MntNS != t.hostNS(ev)[event.NSTypeMnt] {
		words = append(words, newWord("in mnt "+number(ns.MntNS), normal))
	}
	return append(words, detected(ns)...)
}

// detected marks what the kernel did not report.
func detected(ns *event.Namespace) []word {
	if ns.Detected != "scan" {
		return nil
	}
	return []word{newWord("(found by scan)", doubtful)}
}

// creator is the process that had made the namespace. No process destroys one: the kernel
// frees it after its last user is gone.
func (t *Table) creator(ev *event.Event) []word {
	if ev.Namespace == nil || ev.Namespace.Creator == nil {
		return nil
	}
	return []word{newWord("made by", faint), newWord(actor(ev.Namespace.Creator.Comm, ev.Namespace.Creator.PID), normal)}
}

// unpinner says why no process is known. The kernel unmounts a mount together with the one
// below it, and all mounts of a mount namespace that ends.
func (t *Table) unpinner(ev *event.Event) []word {
	if ev.Process != nil || ev.Namespace == nil || ev.Namespace.Detected != "" {
		return nil
	}
	return []word{newWord("no process: unmounted along with other mounts", faint)}
}

// untraced is the time in which something happened while nstrace did not trace.
func (t *Table) untraced(ev *event.Event) []word {
	b := ev.Between
	if b == nil {
		return nil
	}
	const layout = "2006-01-02 15:04:05"
	from, to := b.From.In(t.opts.Location).Format(layout), b.To.In(t.opts.Location).Format(layout)
	if from[:len(time.DateOnly)] == to[:len(time.DateOnly)] {
		to = to[len("2006-01-02 "):]
	}
	words := []word{newWord("not traced", doubtful), newWord("between "+from, normal), newWord("and "+to, normal)}
	if b.Recording {
		words[0] = newWord("no traced write", doubtful)
	}
	if b.Reset {
		words[0] = newWord("reset by reboot", faint)
		return words
	}
	if b.Boot == "different" {
		words = append(words, newWord("(rebooted since)", doubtful))
	}
	return words
}
