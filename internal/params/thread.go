// SPDX-License-Identifier: Apache-2.0

package params

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// ErrNamespaceGone is the error for a namespace that none of the given paths leads to any more.
var ErrNamespaceGone = errors.New("the namespace is gone")

// enterable are the types of namespaces that have parameters of their own and that a thread of
// a program with many threads can enter.
var enterable = []event.NSType{event.NSTypeNet, event.NSTypeUTS, event.NSTypeIPC}

// Enterable reports whether a Thread can enter namespaces of a type.
func Enterable(t event.NSType) bool { return slices.Contains(enterable, t) }

// A Thread is an operating system thread that reads parameters in other namespaces. The kernel
// shows at /proc/sys the parameters of the namespaces of the thread that looks.
type Thread struct {
	root *Root
	home map[event.NSType]int // descriptors of the namespaces that the thread was in
}

// OnThread calls do on a thread of its own and returns its error. Then the thread returns to the
// namespaces that it came from. If it cannot, it ends: it would run other goroutines in the wrong
// namespaces.
func OnThread(do func(*Thread) error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread would not end but stay in the namespace, keep it alive, and
			// change what /proc/self shows. Hold it, so that the next goroutine gets another.
			defer runtime.UnlockOSThread()
			done <- OnThread(do)
			return
		}
		var t Thread
		err := do(&t)
		t.close()
		if t.returns() {
			runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
		}
		done <- err
	}()
	return <-done
}

func (t *Thread) close() {
	if t.root != nil {
		t.root.Close()
	}
}

// leave keeps the thread's own namespace of a type, for returns.
func (t *Thread) leave(typ event.NSType) error {
	if _, ok := t.home[typ]; ok {
		return nil
	}
	fd, err := unix.Open("/proc/thread-self/ns/"+string(typ), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the thread's own %s namespace: %w", typ, err)
	}
	if t.home == nil {
		t.home = map[event.NSType]int{}
	}
	t.home[typ] = fd
	return nil
}

// returns takes the thread back to the namespaces that it came from. It reports whether the thread is
// in all those of the program, which the main thread never leaves: do can have changed more than Enter
// does.
func (t *Thread) returns() bool {
	for typ, fd := range t.home {
		_ = unix.Setns(fd, int(procfs.CloneFlag(typ)))
		unix.Close(fd)
	}
	for _, typ := range event.NSTypes() {
		own, err := procfs.NamespaceOf("thread-self", typ)
		if errors.Is(err, os.ErrNotExist) { // the kernel has no such namespaces
			continue
		}
		if err != nil {
			return false
		}
		if program, err := procfs.NamespaceOf("self", typ); err != nil || own != program {
			return false
		}
	}
	return true
}

// Enter enters a namespace by the first of paths that leads to it, and opens /proc/sys there.
// Paths are hints: each can lead elsewhere by now, and nothing but the file of the namespace
// is used. The Root is valid until the next call of Enter. The error wraps ErrNamespaceGone if
// no path leads to the namespace, and errors.ErrUnsupported if its type is not Enterable.
func (t *Thread) Enter(typ event.NSType, id uint32, paths []string) (*Root, error) {
	if !Enterable(typ) {
		return nil, fmt.Errorf("enter a namespace of type %q: %w", typ, errors.ErrUnsupported)
	}
	if err := t.leave(typ); err != nil {
		return nil, err
	}
	fd, err := procfs.OpenNamespace(typ, id, paths)
	if err != nil {
		return nil, ErrNamespaceGone
	}
	if typ == event.NSTypeNet {
		err = netns.Set(netns.NsHandle(fd))
	} else {
		err = unix.Setns(fd, int(procfs.CloneFlag(typ)))
	}
	_ = unix.Close(fd)
	if err != nil {
		return nil, fmt.Errorf("enter the %s namespace %d to read its parameters: %w", typ, id, err)
	}
	root, err := Open()
	if err != nil {
		return nil, err
	}
	if t.root != nil {
		root.buf = t.root.buf
		t.close()
	}
	t.root = root
	return root, nil
}
