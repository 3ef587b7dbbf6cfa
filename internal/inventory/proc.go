// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
)

// maxProcFile bounds what is read of a file of /proc that is about one process.
const maxProcFile = 64 << 10

// A procReader reads tasks and open files from /proc.
type procReader struct {
	b   *builder
	buf []byte
}

// readProc reads all processes. It needs no privilege, but sees only what the caller may see.
func (b *builder) readProc(ctx context.Context) error {
	pids, err := procfs.PIDs()
	if err != nil {
		return &procError{"list the processes", err}
	}
	r := &procReader{b: b, buf: make([]byte, 4096)}
	denied := 0
	for i, pid := range pids {
		if ctx.Err() != nil {
			b.cut("%d of %d processes", len(pids)-i, len(pids))
			break
		}
		if pid != b.o.Without && r.process(pid) {
			denied++
		}
	}
	b.addProcesses()
	if denied > 0 {
		b.incomplete("the namespaces of %d of %d processes: permission denied", denied, len(pids))
	}
	return nil
}

// process adds what a process is in and holds. It reports whether the caller may not see that.
func (r *procReader) process(pid uint32) (denied bool) {
	dir := "/proc/" + strconv.FormatUint(uint64(pid), 10)
	t := taskRecord{tid: pid}
	threads, ok := r.stat(dir, &t.Process)
	t.PID = pid
	if !ok && threads > 1 { // the first thread has ended
		r.threads(dir, &t)
	}
	if !ok {
		return false
	}
	if err := r.namespaces(dir, &t); err != nil {
		return os.IsPermission(err)
	}
	if r.b.o.FilesOnly {
		r.b.inMountNS(t.In(event.NSTypeMnt), pid)
	} else {
		r.status(dir, &t.Process)
		t.Cgroup = attribution.ParseProcCgroup(string(r.read(dir + "/cgroup")))
		r.b.process(&t)
	}
	if threads > 1 {
		r.threads(dir, &t)
	}
	r.files(dir, pid, &t.Process)
	return false
}

// read returns the beginning of a file, nil if it cannot be read. The next call reuses the memory.
func (r *procReader) read(file string) []byte {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		r.b.failed(err)
		return nil
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(r.buf) {
			if n >= maxProcFile {
				break
			}
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		got, err := unix.Read(fd, r.buf[n:])
		if err != nil || got <= 0 {
			break
		}
		n += got
	}
	return r.buf[:n]
}

// tick is the unit of times in /proc, in nanoseconds.
const tick = uint64(procfs.ClockTick)

// stat reads what /proc/PID/stat says, see proc_pid_stat(5).
func (r *procReader) stat(dir string, p *Process) (threads int, ok bool) {
	text := r.read(dir + "/stat")
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return 0, false
	}
	p.Comm = string(text[open+1 : end])
	f := bytes.Fields(text[end+1:])
	if len(f) < 20 {
		return 0, false
	}
	if string(f[0]) == "Z" || string(f[0]) == "X" {
		return int(number(f[17])), false
	}
	p.PPID = uint32(number(f[1]))
	p.Start = number(f[19]) * tick
	return int(number(f[17])), true
}

func number(text []byte) uint64 {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// status reads the real user id.
func (r *procReader) status(dir string, p *Process) {
	_, rest, ok := bytes.Cut(r.read(dir+"/status"), []byte("\nUid:\t"))
	if !ok {
		return
	}
	uid, _, _ := bytes.Cut(rest, []byte("\t"))
	p.UID = uint32(number(uid))
}

// namespaces reads the namespaces of a task. For files alone, its mount namespace is enough.
func (r *procReader) namespaces(dir string, t *taskRecord) error {
	for i, typ := range types {
		if r.b.o.FilesOnly && typ != event.NSTypeMnt {
			continue
		}
		ns, err := r.link(dir, string(typ))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		t.all[i].id, t.ns[i] = ns, ns
	}
	if r.b.o.FilesOnly {
		return nil
	}
	for i, name := range []string{"pid_for_children", "time_for_children"} {
		t.forChildren[i].id, _ = r.link(dir, name)
	}
	return nil
}

// link returns the inode number in a link of /proc/PID/ns.
func (r *procReader) link(dir, name string) (uint32, error) {
	n, err := unix.Readlink(dir+"/ns/"+name, r.buf)
	if err != nil {
		return 0, err
	}
	if n == 0 { // 5.10 returns this instead of EACCES
		return 0, unix.EACCES
	}
	ns, _ := procfs.ParseNSLink(string(r.buf[:n]))
	return ns.ID, nil
}

// threads adds the threads that are in other namespaces than the first one.
func (r *procReader) threads(dir string, first *taskRecord) {
	entries, err := os.ReadDir(dir + "/task")
	if err != nil {
		r.b.failed(err)
		return
	}
	for _, e := range entries {
		tid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || uint32(tid) == first.PID {
			continue
		}
		t := taskRecord{tid: uint32(tid)}
		sub := dir + "/task/" + e.Name()
		if !sameFiles(first.PID, t.tid) {
			if _, ok := r.stat(sub, &t.Process); ok {
				t.PID, t.ns[netKind] = first.PID, first.ns[netKind]
				if id, err := r.link(sub, string(event.NSTypeNet)); err == nil {
					t.ns[netKind] = id
				}
				r.files(sub, t.tid, &t.Process)
			}
			t = taskRecord{tid: t.tid}
		}
		if r.namespaces(sub, &t) != nil || t.ns == first.ns && t.forChildren == first.forChildren {
			continue
		}
		if _, ok := r.stat(sub, &t.Process); !ok {
			continue
		}
		t.PID = first.PID
		if r.b.o.FilesOnly {
			r.b.inMountNS(t.In(event.NSTypeMnt), t.tid)
		} else {
			r.b.thread(&t, &first.Process)
		}
	}
}

// sameFiles reports whether a thread shares its open files with the first thread of its process, as
// nearly all do. It also does if the kernel does not say (CONFIG_KCMP).
func sameFiles(pid, tid uint32) bool {
	const kcmpFiles = 2 // KCMP_FILES
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(tid), kcmpFiles, 0, 0, 0)
	return errno != 0 || r == 0
}

// netKind is the index of network namespaces in types.
var netKind = slices.Index(types[:], event.NSTypeNet)

// files adds the open files of a task that hold a namespace.
func (r *procReader) files(dir string, tid uint32, p *Process) {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		r.b.failed(err)
		return
	}
	pidfd := -1
	defer func() {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
	}()
	sockets := !r.b.o.FilesOnly && r.b.wants(event.NSTypeNet)
	for _, entry := range fds {
		fd, err := strconv.ParseUint(entry.Name(), 10, 32)
		if err != nil {
			continue
		}
		d := Descriptor{PID: p.PID, TID: tid, Comm: p.Comm, FD: uint32(fd)}
		file := dir + "/fd/" + entry.Name()
		if procfs.OnNSFS(file) {
			r.b.descriptor(d, file)
			continue
		}
		if !sockets {
			continue
		}
		target, err := os.Readlink(file)
		if err != nil || !strings.HasPrefix(target, "socket:[") {
			continue
		}
		if pidfd < 0 {
			if pidfd, err = pidfdOf(p.PID, tid); err != nil {
				return
			}
		}
		r.b.socket(pidfd, d, p.In(event.NSTypeNet))
	}
}

// pidfdOf returns a pidfd of a task. For a thread that needs PIDFD_THREAD, which is in Linux 6.9 and
// later.
func pidfdOf(pid, tid uint32) (int, error) {
	if pid == tid {
		return unix.PidfdOpen(int(pid), 0)
	}
	return unix.PidfdOpen(int(tid), unix.PIDFD_THREAD)
}

// descriptor adds an open file of a namespace.
func (b *builder) descriptor(d Descriptor, path string) {
	fd, err := procfs.OpenAnyNamespace(path) // by now it can lead elsewhere
	if err != nil {
		b.failed(err)
		return
	}
	defer unix.Close(fd)
	r, ok := refOf(fd)
	if !ok {
		return
	}
	if n := b.of(r); n != nil {
		n.Descriptors = append(n.Descriptors, d)
		b.relate(fd, n)
	}
}

// refOf returns which namespace an open file is.
func refOf(fd int) (Ref, bool) {
	ns, ok := procfs.Identify(fd)
	return Ref{ns.Type, ns.ID}, ok
}

// socket adds a socket of a process if its network namespace is not own, the one that the process
// is in.
func (b *builder) socket(pidfd int, d Descriptor, own uint32) {
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
	id := inode(net)
	if id == 0 || id == own {
		return
	}
	if n := b.of(Ref{event.NSTypeNet, id}); n != nil {
		n.Sockets = append(n.Sockets, d)
		b.relate(net, n)
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

// mountTries is in how many processes of a mount namespace its mounts are looked for: one of them
// can end meanwhile.
const mountTries = 4

// mounts adds the mounts of the files of namespaces, in a mount namespace with some processes. It reports
// whether there was time to read all of them.
func (b *builder) mounts(ctx context.Context, id uint32, pids []uint32) bool {
	for _, pid := range pids {
		dir := "/proc/" + strconv.FormatUint(uint64(pid), 10)
		f, err := os.Open(dir + "/mountinfo")
		if err != nil {
			b.failed(err)
			continue
		}
		for i, ns := range procfs.PinnedFrom(contextReader{ctx, io.LimitReader(f, maxMountinfo)}) {
			n := b.of(Ref{ns.Type, ns.ID})
			if n == nil {
				continue
			}
			m := Mount{Path: ns.Path, ID: ns.MountID, MountNS: id, PID: pid, order: uint32(i)}
			// Twice on one mount point if the file system below was mounted on itself.
			same := func(o Mount) bool { return o.Path == m.Path && o.MountNS == m.MountNS }
			if i := slices.IndexFunc(n.Mounts, same); i >= 0 {
				n.Mounts[i].order = m.order
			} else {
				n.Mounts = append(n.Mounts, m)
			}
		}
		f.Close()
		return ctx.Err() == nil
	}
	return true
}

// A contextReader reads until a context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read is io.Reader.
func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// maxMountinfo bounds how much is read of the mounts of one mount namespace. The kernel allows
// fs.mount-max mounts in each, by default 100,000.
const maxMountinfo = 64 << 20
