// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// Holders is what keeps one namespace alive, as far as user space can see it. What only
// the kernel knows is missing: descriptors that are on their way through a Unix socket,
// and the mounts of a mount namespace in which no task is.
type Holders struct {
	Type event.NSType
	ID   uint32

	Tasks       []Task       // that are in it
	ForChildren []Task       // whose next child will be in it, and that are not themselves
	Mounts      []Mount      // of its file
	Descriptors []Descriptor // of its file
	// Sockets are those of a network namespace that tasks of another hold.
	Sockets []Descriptor
	// Children are the PID or user namespaces right below one.
	Children []NSRef
	// Owned are the namespaces that a user namespace owns, but for its children.
	Owned []NSRef

	Parent uint32 // of a PID or user namespace; 0 for the topmost that can be seen
	UserNS uint32 // the user namespace that owns it; of a user namespace its parent

	KernelID uint64 // its id in the kernel, 0 if not known; set where holderScan.ids asks for it
}

// NSRef names a namespace.
type NSRef struct {
	Type event.NSType
	ID   uint32
}

// Task is a process, or one thread of it that is elsewhere than the first.
type Task struct {
	PID  uint32
	TID  uint32 // that of the first thread is PID
	Comm string
}

// Mount is a place where a namespace's file is mounted, in one mount namespace.
type Mount struct {
	Path    string // as that has it
	MountNS uint32
	PID     uint32 // a process in it: /proc/PID/root leads to the path
}

// Descriptor is an open file of a process.
type Descriptor struct {
	PID  uint32
	Comm string
	FD   uint32
}

// AllHolders returns what keeps each namespace that can be found, by its number. It goes
// once through all processes, their descriptors and their mounts; what ends meanwhile,
// and what nstrace may not look at, is left out.
func AllHolders() (map[uint32]*Holders, error) {
	s := HolderScan{relatives: true}
	if err := s.Run(uint32(os.Getpid())); err != nil {
		return nil, err
	}
	return s.Held, nil
}

// heldByFiles returns the numbers of the namespaces that a mount or a descriptor of any
// process keeps alive. It follows no path through another process's mounts: a file system
// there can take any time to answer.
func HeldByFiles() map[uint32]*Holders {
	s := HolderScan{}
	_ = s.Run(uint32(os.Getpid())) // without /proc nothing is held
	for id, h := range s.Held {
		if len(h.Mounts)+len(h.Descriptors) == 0 {
			delete(s.Held, id)
		}
	}
	return s.Held
}

// A holderScan is one walk through /proc.
type HolderScan struct {
	Held      map[uint32]*Holders
	relatives bool // find tasks, parents, owners and sockets too
	IDs       bool // find the kernel's ids
	nsfs      unix.Stat_t
	mountNS   map[uint32]bool
	related   map[uint32]bool
}

// run goes through all processes, self first: a path through another one leads nowhere once
// that has ended.
func (s *HolderScan) Run(self uint32) error {
	s.Held = map[uint32]*Holders{}
	s.mountNS, s.related = map[uint32]bool{}, map[uint32]bool{}
	if err := unix.Stat("/proc/self/ns/user", &s.nsfs); err != nil {
		return fmt.Errorf("look at a namespace: %w", err)
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look at the processes: %w", err)
	}
	s.process(self)
	for _, p := range procs {
		if pid, err := strconv.ParseUint(p.Name(), 10, 32); err == nil && uint32(pid) != self {
			s.process(uint32(pid))
		}
	}
	for _, h := range s.Held {
		slices.SortFunc(h.Children, compareRefs)
		slices.SortFunc(h.Owned, compareRefs)
	}
	return nil
}

func compareRefs(a, b NSRef) int {
	if a.Type != b.Type {
		return strings.Compare(string(a.Type), string(b.Type))
	}
	return int(int64(a.ID) - int64(b.ID))
}

// of returns the entry of a namespace, made if it is new.
func (s *HolderScan) of(typ event.NSType, id uint32) *Holders {
	h := s.Held[id]
	if h == nil {
		h = &Holders{Type: typ, ID: id}
		s.Held[id] = h
	}
	return h
}

// process looks at one with all that it holds.
func (s *HolderScan) process(pid uint32) {
	dir := fmt.Sprintf("/proc/%d", pid)
	comm, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return
	}
	self := Task{PID: pid, TID: pid, Comm: string(bytes.TrimSuffix(comm, []byte("\n")))}
	first := s.task(dir, self, nil)
	// Threads that are elsewhere, as one of a program that enters namespaces.
	if threads, err := os.ReadDir(dir + "/task"); err == nil && len(threads) > 1 {
		for _, t := range threads {
			tid, err := strconv.ParseUint(t.Name(), 10, 32)
			if err == nil && uint32(tid) != pid {
				s.task(dir+"/task/"+t.Name(), Task{PID: pid, TID: uint32(tid), Comm: self.Comm}, first)
			}
		}
	}
	s.descriptors(dir, self, first)
}

// nsLinks are the names in /proc/PID/ns; what only children get comes last.
var nsLinks = []string{"mnt", "net", "ipc", "user", "pid", "uts", "cgroup", "time", "pid_for_children", "time_for_children"}

// task looks at the namespaces of one task, as far as they are not those of first. It
// returns them by nsLinks.
func (s *HolderScan) task(dir string, t Task, first map[string]uint32) map[string]uint32 {
	own := map[string]uint32{}
	for _, name := range nsLinks {
		if !s.relatives && name != "mnt" {
			continue
		}
		file := dir + "/ns/" + name
		target, err := os.Readlink(file)
		if err != nil {
			continue
		}
		ns, ok := ParseNSLink(target)
		if !ok {
			continue
		}
		own[name] = ns.ID
		if first != nil && first[name] == ns.ID {
			continue
		}
		if name == "mnt" && !s.mountNS[ns.ID] {
			s.mountNS[ns.ID] = true
			s.mounts(dir, t.PID, ns.ID)
		}
		if !s.relatives {
			continue
		}
		h := s.of(ns.Type, ns.ID)
		base, forChildren := strings.CutSuffix(name, "_for_children")
		switch {
		case !forChildren:
			h.Tasks = append(h.Tasks, t)
		case own[base] != ns.ID:
			h.ForChildren = append(h.ForChildren, t)
		}
		s.relate(file, ns)
	}
	return own
}

// mounts looks at the mounts of the mount namespace id, which the process pid is in.
func (s *HolderScan) mounts(dir string, pid, id uint32) {
	for _, ns := range PinnedIn(dir + "/mountinfo") {
		h := s.of(ns.Type, ns.ID)
		m := Mount{Path: ns.Path, MountNS: id, PID: pid}
		// Mounted twice on one place, as where what it is on was mounted on itself.
		if slices.Contains(h.Mounts, m) {
			continue
		}
		h.Mounts = append(h.Mounts, m)
		s.identify(h, dir+"/root"+ns.Path)
	}
}

// descriptors looks at the open files of the process at dir, whose first thread is in the
// namespaces first.
func (s *HolderScan) descriptors(dir string, t Task, first map[string]uint32) {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return
	}
	pidfd := -1
	defer func() {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
	}()
	for _, entry := range fds {
		fd, err := strconv.ParseUint(entry.Name(), 10, 32)
		if err != nil {
			continue
		}
		file := dir + "/fd/" + entry.Name()
		d := Descriptor{PID: t.PID, Comm: t.Comm, FD: uint32(fd)}
		if onDevice(file, s.nsfs) {
			typ, id, err := NamespaceAt(file)
			if err != nil {
				continue
			}
			h := s.of(typ, id)
			h.Descriptors = append(h.Descriptors, d)
			s.identify(h, file)
			continue
		}
		if !s.relatives {
			continue
		}
		if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "socket:[") {
			if pidfd < 0 {
				if pidfd, err = unix.PidfdOpen(int(t.PID), 0); err != nil {
					return
				}
			}
			s.socket(pidfd, d, first["net"])
		}
	}
}

// socket looks at a process's socket, which may be of another network namespace than
// the process is in: own.
func (s *HolderScan) socket(pidfd int, d Descriptor, own uint32) {
	fd, err := unix.PidfdGetfd(pidfd, int(d.FD), 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	net, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return
	}
	defer unix.Close(net)
	if id := inode(net); id != 0 && id != own {
		h := s.of("net", id)
		h.Sockets = append(h.Sockets, d)
		s.relateFD(net, NSRef{"net", id})
	}
}

// identify finds out about a namespace by a file that it can be entered by.
func (s *HolderScan) identify(h *Holders, path string) {
	switch {
	case s.relatives:
		s.relate(path, Namespace{Type: h.Type, ID: h.ID})
	case s.IDs && h.KernelID == 0:
		h.KernelID = HandleID(path)
	}
}

// inode is the number of an open file, 0 if it has none.
func inode(fd int) uint32 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return uint32(st.Ino)
}

// relate finds the parent and the owner of the namespace at a path.
func (s *HolderScan) relate(path string, ns Namespace) {
	if s.related[ns.ID] {
		return
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // another way to it may do
	}
	defer unix.Close(fd)
	if inode(fd) == ns.ID { // and not what has taken its place
		s.relateFD(fd, NSRef{ns.Type, ns.ID})
	}
}

// relateFD does the same for an open one, and for all above it.
func (s *HolderScan) relateFD(fd int, ref NSRef) {
	if s.related[ref.ID] {
		return
	}
	s.related[ref.ID] = true
	h := s.of(ref.Type, ref.ID)
	if ref.Type == "pid" || ref.Type == "user" {
		h.Parent = s.above(fd, unix.NS_GET_PARENT, ref.Type, func(up *Holders) { up.Children = append(up.Children, ref) })
	}
	if ref.Type == "user" {
		h.UserNS = h.Parent
		return
	}
	h.UserNS = s.above(fd, unix.NS_GET_USERNS, "user", func(up *Holders) { up.Owned = append(up.Owned, ref) })
}

// above asks for the namespace that is the parent or the owner of fd's, has it noted there,
// and goes on from it. It returns its number: 0 where there is none, or where it is
// above nstrace's own.
func (s *HolderScan) above(fd int, request uint, typ event.NSType, note func(*Holders)) uint32 {
	up, err := unix.IoctlRetInt(fd, request)
	if err != nil {
		return 0
	}
	defer unix.Close(up)
	id := inode(up)
	if id == 0 {
		return 0
	}
	note(s.of(typ, id))
	s.relateFD(up, NSRef{typ, id})
	return id
}

// onDevice says whether what is at path is on the same file system. It does not ask a
// server for that, which could take for ever. The name of a descriptor would not do: it is
// that of a mount, if it was opened there.
func onDevice(path string, as unix.Stat_t) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return err == nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == as.Dev
}

// namespaceAt asks the kernel which namespace a file is.
func NamespaceAt(path string) (event.NSType, uint32, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", 0, err
	}
	defer unix.Close(fd)
	flag, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return "", 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", 0, err
	}
	for typ, f := range CloneFlags {
		if int(f) == flag {
			return typ, uint32(st.Ino), nil
		}
	}
	return "", 0, unix.EINVAL
}
