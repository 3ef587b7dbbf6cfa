// SPDX-License-Identifier: Apache-2.0

// Package fusetest mounts a file system whose server stops to answer, for tests.
package fusetest

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// The parts of include/uapi/linux/fuse.h that a Server needs.
const (
	opLookup    = 1
	opForget    = 2
	opGetattr   = 3
	opInit      = 26
	opInterrupt = 36
	opForgets   = 42 // FUSE_BATCH_FORGET

	inHeader = 40
	rootNode = 1
)

// A Server serves a FUSE file system: a folder in which every name is the same empty file, which all users
// may read.
type Server struct {
	Dir    string // where it is mounted
	fd     int
	silent atomic.Bool
	asked  chan struct{} // gets something after a request that was not answered
}

// Mount mounts the file system on a folder, until the end of the test. It skips the test where it cannot.
func Mount(t *testing.T, dir string) *Server {
	t.Helper()
	device := filepath.Join(t.TempDir(), "fuse")
	if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))); err != nil { // FUSE_MINOR
		t.Skipf("make a FUSE device: %v", err)
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("this kernel has no FUSE: %v", err)
	}
	s := &Server{Dir: dir, fd: fd, asked: make(chan struct{}, 1)}
	if err := unix.Mount("fusetest", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)); err != nil {
		unix.Close(fd)
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
		s.End()
	})
	go s.serve()
	return s
}

// Silence makes the server answer no request any more.
func (s *Server) Silence() { s.silent.Store(true) }

// Asked gets something after a request that was not answered.
func (s *Server) Asked() <-chan struct{} { return s.asked }

// End ends the server. The kernel then answers all requests with errors.
func (s *Server) End() {
	if s.fd >= 0 {
		// The connection ends although a read of it is under way, which holds the file.
		_ = unix.Unmount(s.Dir, unix.MNT_FORCE|unix.MNT_DETACH)
		unix.Close(s.fd)
		s.fd = -1
	}
}

func (s *Server) serve() {
	fd, in := s.fd, make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, in)
		if err == unix.EINTR || err == unix.ENOENT { // the request was interrupted
			continue
		}
		if err != nil || n < inHeader {
			return
		}
		op, unique, node := binary.NativeEndian.Uint32(in[4:]), binary.NativeEndian.Uint64(in[8:]), binary.NativeEndian.Uint64(in[16:])
		if op == opForget || op == opForgets || op == opInterrupt { // these have no answer
			continue
		}
		if s.silent.Load() {
			select {
			case s.asked <- struct{}{}:
			default:
			}
			continue
		}
		body, errno := answer(op, node)
		out := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		out = binary.NativeEndian.AppendUint32(out, uint32(-int32(errno)))
		out = binary.NativeEndian.AppendUint64(out, unique)
		if _, err := unix.Write(fd, append(out, body...)); err != nil && err != unix.ENOENT {
			return
		}
	}
}

func answer(op uint32, node uint64) (body []byte, errno unix.Errno) {
	switch op {
	case opInit: // struct fuse_init_out
		body = make([]byte, 64)
		binary.NativeEndian.PutUint32(body, 7)
		binary.NativeEndian.PutUint32(body[4:], 31)
		binary.NativeEndian.PutUint32(body[20:], 4096) // max_write
	case opLookup: // struct fuse_entry_out, valid for no time
		body = make([]byte, 40)
		binary.NativeEndian.PutUint64(body, rootNode+1)
		body = append(body, attributes(rootNode+1)...)
	case opGetattr: // struct fuse_attr_out, valid for no time
		body = append(make([]byte, 16), attributes(node)...)
	default:
		return nil, unix.ENOSYS
	}
	return body, 0
}

// attributes returns a struct fuse_attr.
func attributes(node uint64) []byte {
	mode := uint32(unix.S_IFREG | 0o444)
	if node == rootNode {
		mode = unix.S_IFDIR | 0o555
	}
	b := make([]byte, 88)
	binary.NativeEndian.PutUint64(b, node)
	binary.NativeEndian.PutUint32(b[60:], mode)
	binary.NativeEndian.PutUint32(b[64:], 1) // nlink
	return b
}
