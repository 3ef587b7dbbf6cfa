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
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/osexec"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Users resolves user ids as the host does: with /etc/passwd, and for an id that is not there with
// getent(1), which queries the other sources of nsswitch.conf(5), for example LDAP. Only one goroutine
// may use it. The zero value is ready for use.
//
// In a container or a chroot the file is not that of the host. Then Users reads the one that process 1
// of the host sees. If that cannot be found, no user has a name.
type Users struct {
	// Lookup asks another process about everything but the own passwdFile, if it is set.
	Lookup UserLookup

	file   string // passwdFile, or that of the host; "": not known yet
	cached map[uint32]cachedUser
	passwd time.Time // modification time of the file that the cache is based on

	querying uint32        // the user id that getent runs for
	answer   <-chan string // its answer, nil if it does not run
	inFile   <-chan string // the late answer about a file, nil if there is none
	credit   time.Duration // time that may be spent waiting
	filled   time.Time     // when credit was last refilled
}

// A UserLookup asks for the names of users. A channel gets one name, "" if there is no such user, or is
// closed without one if the answer is not known.
type UserLookup interface {
	// InFile asks for a name in a file in the format of passwd(5). The file can be closed afterwards.
	InFile(file *os.File, uid uint32) <-chan string
	// Elsewhere asks for the name that getent(1) has.
	Elsewhere(uid uint32) <-chan string
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
	// filePatience is the part of that which is kept for answers about the file. So users whom only a
	// slow server knows do not cost those in the file their names.
	filePatience = 20 * time.Millisecond
	getentLimit  = 10 * time.Second
)

const passwdFile, groupFile = "/etc/passwd", "/etc/group"

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

// openPasswd opens a file with users or groups. Only that of this process may be a link.
func openPasswd(path string) (*os.File, error) {
	flags := unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	if path != passwdFile && path != groupFile {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// nameIn returns the name of a user in a file, "" if it is not there.
func nameIn(path string, uid uint32) string {
	f, err := openPasswd(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return NameInFile(f, uid)
}

// NameInPasswd returns the name of a user in this process's /etc/passwd, "" if it is not there.
func NameInPasswd(uid uint32) string { return nameIn(passwdFile, uid) }

// NameInGroup returns the name of a group in this process's /etc/group, "" if it is not there.
func NameInGroup(gid uint32) string {
	f, err := openPasswd(groupFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	return nameOf(f, gid, 4) // see group(5)
}

// NameInFile returns the name of a user in a file in the format of passwd(5), "" if it is not there.
func NameInFile(file io.Reader, uid uint32) string { return nameOf(file, uid, 7) }

// nameOf returns the first field of the line whose third field is id, of lines with that many fields.
func nameOf(file io.Reader, id uint32, fields int) string {
	text := strconv.FormatUint(uint64(id), 10)
	sc := bufio.NewScanner(io.LimitReader(file, maxPasswdFile))
	sc.Buffer(nil, maxPasswdFile+1) // a group with many members is one long line
	for sc.Scan() {
		if entry := strings.Split(sc.Text(), ":"); len(entry) == fields && entry[2] == text {
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
		case name, ok := <-u.answer:
			u.receive(name, ok)
		default:
		}
	}
	if k, ok := u.cached[uid]; ok && time.Now().Before(k.until) {
		return k.name
	}
	if name, known := u.nameInFile(uid); !known || name != "" || u.file != passwdFile {
		if known {
			u.remember(uid, name)
		}
		return name
	}
	if u.answer != nil {
		return "" // one getent at a time
	}
	u.querying, u.answer = uid, u.elsewhere(uid)
	name, ok, done := u.wait(u.answer, filePatience)
	if !done {
		return ""
	}
	return u.receive(name, ok)
}

// nameInFile returns the name of a user in the file, "" if it is not there, and whether that is known.
func (u *Users) nameInFile(uid uint32) (name string, known bool) {
	if u.file == passwdFile { // root wrote it: no need to ask another process
		if found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			return found.Username, true
		}
		return "", true
	}
	if u.Lookup == nil {
		return nameIn(u.file, uid), true
	}
	if u.inFile != nil {
		select {
		case <-u.inFile:
			u.inFile = nil
		default:
			return "", false // nobody answers now
		}
	}
	f, err := openPasswd(u.file)
	if err != nil {
		return "", true
	}
	defer f.Close()
	answer := u.Lookup.InFile(f, uid)
	name, ok, done := u.wait(answer, 0)
	if !done {
		u.inFile = answer
	}
	return name, ok
}

// elsewhere asks getent for a user.
func (u *Users) elsewhere(uid uint32) <-chan string {
	if u.Lookup != nil {
		return u.Lookup.Elsewhere(uid)
	}
	answer := make(chan string, 1)
	go func() { answer <- Getent(uid) }()
	return answer
}

// wait waits for an answer as long as Name may, without the last part of that, and reports whether it
// came: ok says that it is a name, done that there will be no other one.
func (u *Users) wait(answer <-chan string, keep time.Duration) (name string, ok, done bool) {
	begin := time.Now()
	defer func() { u.credit -= time.Since(begin) }()
	select {
	case name, ok = <-answer:
		return name, ok, true
	case <-time.After(u.patience(begin) - keep):
		return "", false, false
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

// receive caches the answer of getent, if ok says that it is one.
func (u *Users) receive(name string, ok bool) string {
	u.answer = nil
	if !ok {
		return ""
	}
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

// Getent returns the name that getent(1) has for a user, "" for none. It waits for the answer of a server,
// for at most some seconds.
func Getent(uid uint32) string {
	entry, _ := getent(strconv.FormatUint(uint64(uid), 10)) // an error means that there is no name
	return entry[0]
}

// maxEntry limits the output of getent. A server can send an entry of any length.
const maxEntry = 64 << 10

// getentProgram returns the path of getent. A test replaces it.
var getentProgram = sync.OnceValues(func() (string, error) { return osexec.Program("getent") })

// getent returns the fields of a user's entry, see passwd(5), by name or id. It gives getent no environment:
// the C library looks for other servers and files by some of the variables.
func getent(key string) (entry [7]string, err error) {
	program, err := getentProgram()
	if err != nil {
		return entry, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), getentLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "passwd", key)
	cmd.Env = []string{}
	// It ends with this process. The kernel means the thread that starts it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := osexec.Output(cmd, maxEntry)
	if err != nil {
		return entry, err
	}
	if copy(entry[:], strings.Split(strings.TrimSuffix(out, "\n"), ":")) < len(entry) {
		return [7]string{}, errors.New("getent: not an entry of passwd(5)")
	}
	return entry, nil
}
