// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Users resolves user ids as the host does: with /etc/passwd, and for an id that is not there with
// getent(1), which queries the other sources of nsswitch.conf(5), for example LDAP. Only one goroutine
// may use it. The zero value is ready for use.
//
// In a container or a chroot the file is not that of the host. Then Users reads the one that process 1
// of the host sees. If that cannot be found, no user has a name.
type Users struct {
	file   string // passwdFile, or that of the host; "": not known yet
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

// hostPasswdFile is the file as process 1 sees it, if /proc is that of the host.
const hostPasswdFile = "/proc/1/root" + passwdFile

// noPasswdFile stands for a file of the host that cannot be found.
const noPasswdFile = "/dev/null"

// hostPasswd returns which file has the users of the host.
func hostPasswd() string {
	if procfs.ShowsAll() {
		own, err1 := os.Stat(passwdFile)
		host, err2 := os.Lstat(hostPasswdFile)
		switch {
		case err1 == nil && err2 == nil && os.SameFile(own, host):
			return passwdFile
		case err2 == nil && host.Mode().IsRegular():
			return hostPasswdFile
		case errors.Is(err1, os.ErrNotExist) && errors.Is(err2, os.ErrNotExist):
			return passwdFile
		}
	}
	// The kernel may not show even root what process 1 sees.
	own, err := procfs.NamespaceOf("self", event.NSTypeMnt)
	var root unix.Statx_t // in a chroot, / is hardly ever a mount point
	if unix.Statx(unix.AT_FDCWD, "/", 0, 0, &root) != nil || root.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return noPasswdFile
	}
	if err == nil && procfs.HostNamespaces()[event.NSTypeMnt] == own {
		return passwdFile
	}
	return noPasswdFile
}

// maxPasswdFile bounds what is read of the file of the host.
const maxPasswdFile = 1 << 20

// nameIn returns the name of a user in a file, "" if it is not there.
func nameIn(file string, uid uint32) string {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	id := strconv.FormatUint(uint64(uid), 10)
	sc := bufio.NewScanner(io.LimitReader(f, maxPasswdFile))
	for sc.Scan() {
		if entry := strings.Split(sc.Text(), ":"); len(entry) == 7 && entry[2] == id {
			return entry[0]
		}
	}
	return ""
}

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
	if u.file != passwdFile {
		return u.remember(uid, nameIn(u.file, uid))
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
	if u.file == "" {
		u.file = hostPasswd()
	}
	var changed time.Time
	if st, err := os.Stat(u.file); err == nil {
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
