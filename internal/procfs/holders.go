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

// Holders is what keeps one namespace alive, as far as user space can see it. Two kinds of
// holders are invisible: descriptors in flight through a Unix socket, and mounts in a mount
// namespace without tasks.
type Holders struct {
	Type event.NSType
	ID   uint32

	Tasks       []Task       // tasks that are in it
	ForChildren []Task       // tasks that are not in it, but whose next child will be
	Mounts      []Mount      // mounts of its file
	Descriptors []Descriptor // descriptors of its file
	// Sockets are sockets of a network namespace that tasks in another one hold.
	Sockets []Descriptor
	// Children are the PID or user namespaces right below a PID or user namespace.
	Children []NSRef
	// Owned are the namespaces that a user namespace owns, except its children.
	Owned []NSRef

	Parent uint32 // of a PID or user namespace; 0 for the topmost visible one
	UserNS uint32 // the user namespace that owns it; for a user namespace its parent

	KernelID uint64 // the kernel's id, 0 if unknown; only with HolderScan.IDs
}

// NSRef identifies a namespace.
type NSRef struct {
	Type event.NSType
	ID   uint32
}

// Task is a process, or a thread that is in other namespaces than the process's first thread.
type Task struct {
	PID  uint32
	TID  uint32 // the same as PID for the first thread
	Comm string
}

// Mount is a mount of a namespace's file, in one mount namespace.
type Mount struct {
	Path    string // as that mount namespace has it
	MountNS uint32
	PID     uint32 // a process in it: /proc/PID/root leads to the path
}

// Descriptor is an open file of a process.
type Descriptor struct {
	PID  uint32
	Comm string
	FD   uint32
}

// AllHolders returns what keeps each namespace alive that can be found, by inode number. It
// goes once through all processes, their descriptors and their mounts. It leaves out what ends
// meanwhile, and what the caller may not see.
func AllHolders() (map[uint32]*Holders, error) {
	s := HolderScan{relatives: true}
	if err := s.Run(uint32(os.Getpid())); err != nil {
		return nil, err
	}
	return s.Held, nil
}

// HeldByFiles returns the inode numbers of the namespaces that a mount or a descriptor of any
// process keeps alive. It follows no path through another process's mounts, because a file
// system there can take any time to answer.
func HeldByFiles() map[uint32]bool {
	s := HolderScan{}
	_ = s.Run(uint32(os.Getpid())) // without /proc nothing is held
	held := map[uint32]bool{}
	for id, h := range s.Held {
		if len(h.Mounts)+len(h.Descriptors) > 0 {
			held[id] = true
		}
	}
	return held
}

// A HolderScan is one walk through /proc.
type HolderScan struct {
	Held      map[uint32]*Holders // what Run found, by inode number
	relatives bool                // also find tasks, parents, owners and sockets
	IDs       bool                // also find the kernel's ids
	nsfs      unix.Stat_t
	mountNS   map[uint32]bool
	related   map[uint32]bool
}

// Run goes through all processes. It begins with self, because a path through another process
// leads nowhere after that has ended.
func (s *HolderScan) Run(self uint32) error {
	s.Held = map[uint32]*Holders{}
	s.mountNS, s.related = map[uint32]bool{}, map[uint32]bool{}
	if err := unix.Stat("/proc/self/ns/user", &s.nsfs); err != nil {
		return fmt.Errorf("find the device of namespaces: %w", err)
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list the processes: %w", err)
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

// of returns the entry of a namespace, and adds it if it is new.
func (s *HolderScan) of(typ event.NSType, id uint32) *Holders {
	h := s.Held[id]
	if h == nil {
		h = &Holders{Type: typ, ID: id}
		s.Held[id] = h
	}
	return h
}

// process adds what a process holds.
func (s *HolderScan) process(pid uint32) {
	dir := fmt.Sprintf("/proc/%d", pid)
	comm, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return
	}
	self := Task{PID: pid, TID: pid, Comm: string(bytes.TrimSuffix(comm, []byte("\n")))}
	first := s.task(dir, self, nil)
	// Some programs have threads that enter namespaces.
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

// nsLinks are the names in /proc/PID/ns. The namespaces of children come last.
var nsLinks = append(typeNames(), "pid_for_children", "time_for_children")

func typeNames() (names []string) {
	for _, t := range event.NSTypes() {
		names = append(names, string(t))
	}
	return names
}

// task adds the namespaces of one task that are not those of first. It returns all of them, by
// nsLinks.
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

// mounts adds the mounts of the mount namespace id, which the process pid is in.
func (s *HolderScan) mounts(dir string, pid, id uint32) {
	for _, ns := range PinnedIn(dir + "/mountinfo") {
		h := s.of(ns.Type, ns.ID)
		m := Mount{Path: ns.Path, MountNS: id, PID: pid}
		// Twice on one mount point if the file system below was mounted on itself.
		if slices.Contains(h.Mounts, m) {
			continue
		}
		h.Mounts = append(h.Mounts, m)
		s.identify(h, dir+"/root"+ns.Path)
	}
}

// descriptors adds the open files of the process at dir. Its first thread is in the namespaces
// first.
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
			typ, id, err := namespaceAt(file)
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

// socket adds a socket of a process if its network namespace is not own, the one that the
// process is in.
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
		h := s.of(event.NSTypeNet, id)
		h.Sockets = append(h.Sockets, d)
		s.relateFD(net, NSRef{event.NSTypeNet, id})
	}
}

// identify completes the entry of a namespace by a file that it can be entered by.
func (s *HolderScan) identify(h *Holders, path string) {
	switch {
	case s.relatives:
		s.relate(path, Namespace{Type: h.Type, ID: h.ID})
	case s.IDs && h.KernelID == 0:
		h.KernelID = HandleID(path)
	}
}

// inode returns the inode number of an open file, 0 if it is unknown.
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
		return // another path to it may work
	}
	defer unix.Close(fd)
	if inode(fd) == ns.ID { // else another namespace is there by now
		s.relateFD(fd, NSRef{ns.Type, ns.ID})
	}
}

// relateFD does the same for an open namespace, and for all above it.
func (s *HolderScan) relateFD(fd int, ref NSRef) {
	if s.related[ref.ID] {
		return
	}
	s.related[ref.ID] = true
	h := s.of(ref.Type, ref.ID)
	if ref.Type == event.NSTypePID || ref.Type == event.NSTypeUser {
		h.Parent = s.above(fd, unix.NS_GET_PARENT, ref.Type, func(up *Holders) { up.Children = append(up.Children, ref) })
	}
	if ref.Type == event.NSTypeUser {
		h.UserNS = h.Parent
		return
	}
	h.UserNS = s.above(fd, unix.NS_GET_USERNS, event.NSTypeUser, func(up *Holders) { up.Owned = append(up.Owned, ref) })
}

// above gets the namespace that is the parent or the owner of fd's, calls note with its entry,
// and goes on from it. It returns its inode number: 0 if there is none, or if it is above
// nstrace's own.
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

// onDevice reports whether path is on a device. It does not ask the server of a network file
// system, which can take forever. The target of the link does not show that it is a
// namespace: if that was opened at a mount, the target is the mount point.
func onDevice(path string, as unix.Stat_t) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return err == nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == as.Dev
}

// namespaceAt returns which namespace a file is.
func namespaceAt(path string) (event.NSType, uint32, error) {
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
	for typ, f := range cloneFlags {
		if int(f) == flag {
			return typ, uint32(st.Ino), nil
		}
	}
	return "", 0, unix.EINVAL
}
