// SPDX-License-Identifier: Apache-2.0

package output

import (
	"strconv"

	"github.com/nstrace/nstrace/event"
)

// refusals says why the kernel refused to create a namespace.
func (t *Table) refusals(ev *event.Event) []word {
	var words []word
	for i := range ev.Refusal {
		if i > 0 {
			words[len(words)-1].text += ";"
		}
		words = append(words, t.refusal(&ev.Refusal[i])...)
	}
	return words
}

func (t *Table) refusal(r *event.Refusal) []word {
	switch r.Reason {
	case event.RefusedByLimit:
		return t.reachedLimit(r)
	case event.RefusedByNesting:
		words := []word{newWord(escapeName(string(r.Type), ""), strong), joinedWord("namespaces", strong)}
		if r.Value == nil {
			return append(words, newWord("are nested too deep", strong))
		}
		return append(words, newWord("can be nested", strong), joinedWord(strconv.FormatInt(*r.Value, 10)+" deep only", strong))
	case event.RefusedByCapability:
		return []word{newWord("no "+escapeName(r.Capability, ""), strong)}
	case event.RefusedByChroot:
		return []word{newWord("in a chroot", strong)}
	case event.RefusedByUID, event.RefusedByGID:
		what := "uid"
		if r.Reason == event.RefusedByGID {
			what = "gid"
		}
		if r.UID != nil {
			what += " " + number(*r.UID)
		}
		return []word{newWord(what, strong), joinedWord("not mapped", strong), newWord("in the user namespace", normal)}
	case event.RefusedBySysctl:
		words := append(t.limitValue(r), t.setBy(r.SetBy)...)
		if r.Later {
			words = append(words, newWord("(read later)", doubtful))
		}
		return words
	}
	return []word{newWord(escapeName(string(r.Reason), ""), normal)}
}

// reachedLimit is the limit, whose namespaces count against it, and the user namespace that has
// it unless that is the process's own.
func (t *Table) reachedLimit(r *event.Refusal) []word {
	words := t.limitValue(r)
	if r.UID != nil && r.Count != nil {
		words = append(words, newWord("("+userName(r.User, r.UID)+" has "+strconv.FormatInt(*r.Count, 10)+")", normal))
	}
	if r.Level != nil && *r.Level > 0 {
		words = append(words, newWord(t.whoseLimit(r.UserNS), normal), joinedWord(number(*r.Level)+plural(uint64(*r.Level), " level", " levels")+" up", normal))
	}
	return append(words, t.setBy(r.SetBy)...)
}

// initialUserNS is PROC_USER_INIT_INO, the number of the first user namespace of any host.
const initialUserNS = 0xEFFFFFFD

// whoseLimit names a user namespace.
func (t *Table) whoseLimit(id uint32) string {
	switch {
	case id == 0:
		return "in a user namespace"
	case id == initialUserNS || t.opts.HostNS[event.NSTypeUser] == id:
		return "in the host's user namespace,"
	}
	return "in user namespace " + number(id) + ","
}

// limitValue is "user.max_net_namespaces = 0".
func (t *Table) limitValue(r *event.Refusal) []word {
	words := []word{newWord(escapeName(r.Sysctl, ""), strong)}
	if r.Value != nil {
		words = append(words, joinedWord("= "+strconv.FormatInt(*r.Value, 10), strong))
	}
	return words
}

// setBy is the process that set a limit.
func (t *Table) setBy(w *event.Writer) []word {
	if w == nil {
		return nil
	}
	as := userName(w.User, &w.UID)
	if login := escapeName(w.LoginUser, `" >[`); w.LoginUser != "" && login != as {
		as = login + " as " + as
	}
	words := []word{newWord("set by", normal), newWord(actor(w.Comm, w.PID), normal), newWord(as, normal)}
	if w.Container != "" {
		words = append(words, newWord("in "+escapeName(w.Container, `" ()`), normal))
	}
	return append(words, newWord("at "+w.Time.In(t.opts.Location).Format("2006-01-02 15:04:05"), normal))
}
