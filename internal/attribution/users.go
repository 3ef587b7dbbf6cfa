// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// Users resolves user ids as the host does: with /etc/passwd, and for an id that is not there with
// getent(1), which queries the other sources of nsswitch.conf(5), for example LDAP. Only one goroutine
// may use it. The zero value is ready for use.
type Users struct {
	cached map[uint32]cachedUser
	passwd time.Time // modification time of the file that the cache is based on

	querying uint32        // the user id that getent runs for
	answer   chan string   // its answer, nil if it does not run
	credit   time.Duration // time that may be spent waiting
	filled   time.Time     // when credit was last refilled
}

type cachedUser struct {
	name  string // "" if no user has the id
	until time.Time
}

const (
	// How long a name is cached, and how long the absence of one.
	nameKept   = 10 * time.Minute
	nobodyKept = time.Minute
	maxUsers   = 4096

	// userPatience is the longest wait for one name. All waits together take at most 1/userShare
	// of the time. A process that changes its user id again and again can thus not delay events
	// for long.
	userPatience = 200 * time.Millisecond
	userShare    = 10
	getentLimit  = 10 * time.Second
)

const passwdFile = "/etc/passwd"

// Name returns the name of a user, "" if no user has the id or the answer does not come in time. It
// waits for at most 200 ms, and for at most a tenth of the time. A late answer is used by the next
// call.
func (u *Users) Name(uid uint32) string {
	u.refresh()
	if u.answer != nil {
		select {
		case name := <-u.answer:
			u.receive(name)
		default:
		}
	}
	if k, ok := u.cached[uid]; ok && time.Now().Before(k.until) {
		return k.name
	}
	if found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.remember(uid, found.Username)
	}
	if u.answer != nil {
		return "" // one getent at a time
	}
	answer := make(chan string, 1)
	u.querying, u.answer = uid, answer
	go func() {
		entry, _ := getent(strconv.FormatUint(uint64(uid), 10)) // an error means that there is no name
		answer <- entry[0]
	}()
	begin := time.Now()
	defer func() { u.credit -= time.Since(begin) }()
	select {
	case name := <-answer:
		return u.receive(name)
	case <-time.After(u.patience(begin)):
		return ""
	}
}

// refresh empties the cache, and drops a pending answer, if the file changed.
func (u *Users) refresh() {
	var changed time.Time
	if st, err := os.Stat(passwdFile); err == nil {
		changed = st.ModTime()
	}
	if u.cached == nil || !changed.Equal(u.passwd) || len(u.cached) >= maxUsers {
		u.cached, u.passwd, u.answer = map[uint32]cachedUser{}, changed, nil
	}
}

// remember caches a name.
func (u *Users) remember(uid uint32, name string) string {
	keep := nameKept
	if name == "" {
		keep = nobodyKept
	}
	u.cached[uid] = cachedUser{name, time.Now().Add(keep)}
	return name
}

// receive caches the answer of getent.
func (u *Users) receive(name string) string {
	u.answer = nil
	return u.remember(u.querying, name)
}

// patience returns how long Name may wait now.
func (u *Users) patience(now time.Time) time.Duration {
	u.credit = min(userPatience, u.credit+now.Sub(u.filled)/userShare)
	u.filled = now
	return u.credit
}

// LookupUID returns the id of the user with a name on this host.
func LookupUID(name string) (uint32, error) {
	id := ""
	if found, err := user.Lookup(name); err == nil {
		id = found.Uid
	} else if entry, other := getent(name); other == nil && entry[0] == name {
		id = entry[2]
	} else {
		return 0, err
	}
	uid, err := strconv.ParseUint(id, 10, 32)
	return uint32(uid), err
}

// getent returns the fields of a user's entry, see passwd(5), by name or id.
func getent(key string) (entry [7]string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), getentLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "getent", "passwd", key)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return entry, err
	}
	if copy(entry[:], strings.Split(strings.TrimSuffix(string(out), "\n"), ":")) < len(entry) {
		return [7]string{}, errors.New("getent: not an entry of passwd(5)")
	}
	return entry, nil
}
