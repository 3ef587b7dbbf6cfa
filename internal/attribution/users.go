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

// Users resolves user ids as the host does: by /etc/passwd, and where that does not have
// one by getent(1), which asks whatever else nsswitch.conf(5) names, such as a
// directory. It is for one goroutine; its zero value is ready.
type Users struct {
	known  map[uint32]knownUser
	passwd time.Time // when that was changed last, as far as known goes

	asked  uint32      // whom getent runs for
	answer chan string // what it says, nil where it does not run
	credit time.Duration
	filled time.Time // when that was; long ago at first, which fills it
}

type knownUser struct {
	name  string // "" for nobody's
	until time.Time
}

const (
	// A directory is asked again about whom it knew, and whom it did not.
	nameKept   = 10 * time.Minute
	nobodyKept = time.Minute
	maxUsers   = 4096

	// userPatience is the longest wait for one name. All waiting together is at most
	// one part in userShare of the time, with userPatience saved up: who takes on one user
	// id after the other does not hold up those who watch.
	userPatience = 200 * time.Millisecond
	userShare    = 10
	getentLimit  = 10 * time.Second
)

const passwdFile = "/etc/passwd"

// Name returns the name of a user, "" where nobody has the id, or none tells in time: it
// waits for at most 200 ms, a tenth of the time at most, and what comes
// later is there for the next time.
func (u *Users) Name(uid uint32) string {
	u.refresh()
	if u.answer != nil {
		select {
		case name := <-u.answer:
			u.hear(name)
		default:
		}
	}
	if k, ok := u.known[uid]; ok && time.Now().Before(k.until) {
		return k.name
	}
	if found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.learn(uid, found.Username)
	}
	if u.answer != nil {
		return "" // one at a time
	}
	answer := make(chan string, 1)
	u.asked, u.answer = uid, answer
	go func() {
		entry, _ := getent(strconv.FormatUint(uint64(uid), 10)) // whatever is wrong, there is no name
		answer <- entry[0]
	}()
	begin := time.Now()
	defer func() { u.credit -= time.Since(begin) }()
	select {
	case name := <-answer:
		return u.hear(name)
	case <-time.After(u.patience(begin)):
		return ""
	}
}

// refresh forgets everybody when the file has changed, and an answer of before.
func (u *Users) refresh() {
	var changed time.Time
	if st, err := os.Stat(passwdFile); err == nil {
		changed = st.ModTime()
	}
	if u.known == nil || !changed.Equal(u.passwd) || len(u.known) >= maxUsers {
		u.known, u.passwd, u.answer = map[uint32]knownUser{}, changed, nil
	}
}

func (u *Users) learn(uid uint32, name string) string {
	keep := nameKept
	if name == "" {
		keep = nobodyKept
	}
	u.known[uid] = knownUser{name, time.Now().Add(keep)}
	return name
}

// hear takes getent's answer.
func (u *Users) hear(name string) string {
	u.answer = nil
	return u.learn(u.asked, name)
}

// patience is how long may be waited now.
func (u *Users) patience(now time.Time) time.Duration {
	u.credit = min(userPatience, u.credit+now.Sub(u.filled)/userShare)
	u.filled = now
	return u.credit
}

// LookupUID returns the id of the user with a name, as the host has it.
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
