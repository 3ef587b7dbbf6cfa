// SPDX-License-Identifier: Apache-2.0

package output

import (
	"slices"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// chainMark stands between the processes of a chain.
const chainMark = " >"

// fitWho makes the words of the WHO cell fit into a number of lines. It leaves out ancestors
// from the middle: the farthest shows where the session began (sshd, cron, the shim of a
// container), the nearest what the process belongs to. The process and its user always
// stay, and so does one line of ancestors, even if the row becomes taller by that.
func (t *Table) fitWho(ev *event.Event, width, lines int) [][]word {
	if words := t.whoOfKind(ev); len(words) > 0 || ev.Process == nil {
		return wrap(words, width)
	}
	ancestors, self := t.ancestors(ev.Process), t.self(ev)
	all := wrap(slices.Concat(ancestors, self), width)
	lines = max(lines, 1+len(wrap(self, width)))
	if len(all) <= lines {
		return all
	}
	for drop := 1; drop <= len(ancestors); drop++ {
		var words []word
		if drop < len(ancestors) {
			words = append(words, newWord(strings.TrimSuffix(ancestors[0].text, chainMark), faint))
		}
		words = append(words, newWord(ellipsis, faint))
		words = append(words, ancestors[min(1+drop, len(ancestors)):]...)
		if wrapped := wrap(append(words, self...), width); len(wrapped) <= lines {
			return wrapped
		}
	}
	return wrap(self, width)
}

// ancestors returns the ancestors of a process, farthest first. Unless the table is wide, it
// leaves out pid 1, which every process descends from, and repetitions: sshd forks sshd, a
// shell forks a subshell.
func (t *Table) ancestors(p *event.Process) []word {
	var words []word
	for i, a := range slices.Backward(p.Ancestors) {
		if t.opts.Wide {
			words = append(words, newWord(actor(a.Comm, a.PID)+chainMark, faint))
			continue
		}
		child := p.Comm
		if i > 0 {
			child = p.Ancestors[i-1].Comm
		}
		if a.Comm == child || a.PID == 1 && len(p.Ancestors) > 1 {
			continue
		}
		words = append(words, newWord(escapeComm(a.Comm)+chainMark, faint))
	}
	return words
}

// self returns the process, its user and its container: "sysctl[4712] alice as root in web-1". A thread
// that is not the main one has its own id and the name of the program: "iou-wrk-742[742/745] of uring".
func (t *Table) self(ev *event.Event) []word {
	p := ev.Process
	id := number(p.PID)
	if p.TID != 0 && p.TID != p.PID && !t.opts.Wide { // the wide table has a column for it
		id += "/" + number(p.TID)
	}
	words := []word{newWord(escapeComm(p.Comm)+"["+id+"]", strong)}
	if p.LeaderComm != "" {
		words = append(words, newWord("of", normal), joinedWord(escapeComm(p.LeaderComm), strong))
	}
	words = append(words, user(p)...)
	if name := workload(ev); name != "" {
		words = append(words, newWord("in", normal), joinedWord(escapeName(name, `" ()`), strong))
	}
	return words
}

// shortID is how many characters of a container's id docker ps shows.
const shortID = 12

// workload returns the short name of the pod, the container or the service that the process is in.
func workload(ev *event.Event) string {
	if name := containerName(ev.Pod, ev.Container); name != "" {
		return name
	}
	return service(ev.Unit)
}

// service returns a unit that says more than the user and the ancestors of its processes do: those of
// logins and of the service managers themselves do not.
func service(unit string) string {
	last := unit[strings.LastIndexByte(unit, '/')+1:]
	switch {
	case strings.HasPrefix(last, "session-") && strings.HasSuffix(last, ".scope"), last == "init.scope",
		strings.HasPrefix(last, "user@") && strings.HasSuffix(last, ".service"):
		return ""
	}
	return unit
}

// containerName returns the short name of a pod, or of a container, which can be in the pod. Both can be nil.
func containerName(p *event.Pod, c *event.Container) string {
	switch {
	case p != nil && p.Name != "" && c != nil && c.Name != "":
		return p.Path() + "/" + c.Name
	case p != nil && p.Name != "":
		return p.Path()
	case c != nil && c.Name != "":
		return c.Name
	case c != nil:
		return short(c.ID)
	}
	return ""
}

// short returns the beginning of an id of 64 digits, as docker ps shows it. Other ids are names.
func short(id string) string {
	if len(id) == 64 {
		return id[:shortID]
	}
	return id
}

// actor is "sysctl[4712]".
func actor(comm string, pid uint32) string { return escapeComm(comm) + "[" + number(pid) + "]" }

// user returns the user of a process, after the user that logged in if that is another one.
// It returns nothing for root without another login.
func user(p *event.Process) []word {
	as := userName(p.User, &p.UID)
	login := userName(p.LoginUser, p.LoginUID)
	switch {
	case login != "" && login != as && !(p.LoginUID != nil && *p.LoginUID == p.UID):
		return []word{newWord(login+" as "+as, normal)}
	case p.UID == 0:
		return nil
	}
	return []word{newWord(as, normal)}
}

// userName returns a user's name, or uid=N if the name is unknown.
func userName(name string, uid *uint32) string {
	switch {
	case name != "":
		return escapeName(name, `" >[`)
	case uid == nil:
		return ""
	case *uid == 0:
		return "root"
	}
	return "uid=" + number(*uid)
}
