// SPDX-License-Identifier: Apache-2.0

package nsdiff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A reading is what was read of a parameter.
type reading struct {
	text string
	cut  bool  // there is more
	err  error // nil, or why there is no value
}

// same reports whether two readings are the same: the same value, or the same error of the kernel.
func (r reading) same(o reading) bool {
	if r.err != nil || o.err != nil {
		return r.err != nil && o.err != nil && reason(r.err) == reason(o.err)
	}
	return r.cut == o.cut && event.SameValue(r.text, o.text)
}

// absent reports whether there was no such parameter.
func (r reading) absent() bool { return errors.Is(r.err, os.ErrNotExist) }

// reason is an error in a few words: that of the system call if it is one.
func reason(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no time left"
	}
	return err.Error()
}

// A view is the parameters that a task in some namespace sees.
type view interface {
	// list returns the paths of all parameters that can belong to the type of the namespace.
	list(ctx context.Context) ([]string, error)
	// read reads parameters, by their paths.
	read(ctx context.Context, paths []string) (map[string]reading, error)
	close()
}

// openView opens the view of a namespace, or of a fresh one if file is nil.
func openView(typ event.NSType, id uint32, file *os.File) (view, error) {
	if inChild(typ) {
		own, err := procfs.NamespaceOf("self", typ)
		return &forkView{typ: typ, file: file, own: err == nil && own == id}, nil
	}
	v := &threadView{typ: typ, jobs: make(chan func(*params.Root))}
	ready := make(chan error, 1)
	go func() {
		err := params.OnThread(func(t *params.Thread) error {
			root, err := enter(t, typ, id, file)
			ready <- err
			if err != nil {
				return nil
			}
			if file == nil {
				defer root.Close()
			}
			for job := range v.jobs {
				job(root)
			}
			return nil
		})
		if err != nil {
			ready <- err
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return v, nil
}

// enter puts the thread into a namespace, or into a fresh one if file is nil.
func enter(t *params.Thread, typ event.NSType, id uint32, file *os.File) (*params.Root, error) {
	if file != nil {
		return t.Enter(typ, id, []string{"/proc/thread-self/fd/" + strconv.Itoa(int(file.Fd()))})
	}
	if err := unix.Unshare(int(procfs.CloneFlag(typ))); err != nil {
		return nil, fmt.Errorf("create a %s namespace: %w", typ, err)
	}
	return params.Open()
}

// A threadView is the view of a thread in the namespace. The thread holds the namespace as long as the
// view is open.
type threadView struct {
	typ  event.NSType
	jobs chan func(*params.Root)
}

func (v *threadView) close() { close(v.jobs) }

// do calls f on the thread. It does not wait longer than until ctx ends: a read can take forever in
// the kernel.
func (v *threadView) do(ctx context.Context, f func(*params.Root)) error {
	done := make(chan struct{})
	job := func(root *params.Root) { defer close(done); f(root) }
	select {
	case v.jobs <- job:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read the parameters of a %s namespace: %w", v.typ, ctx.Err())
	}
}

func (v *threadView) list(ctx context.Context) (paths []string, err error) {
	var listErr error
	err = v.do(ctx, func(root *params.Root) { paths, listErr = list(ctx, root, v.typ) })
	if err = errors.Join(err, listErr); err != nil {
		return nil, err
	}
	return paths, nil
}

func (v *threadView) read(ctx context.Context, paths []string) (map[string]reading, error) {
	found := map[string]reading{}
	if err := v.do(ctx, func(root *params.Root) { readAll(ctx, root, paths, found) }); err != nil {
		return nil, err
	}
	return found, nil
}

// readAll reads parameters until ctx ends.
func readAll(ctx context.Context, root *params.Root, paths []string, into map[string]reading) {
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			into[path] = reading{err: err}
			continue
		}
		v, err := root.Read(path)
		into[path] = reading{text: v.Text, cut: v.Cut, err: err}
	}
}

// refresh must not be read: reading it has an effect.
const refresh = params.Dir + "/vm/stat_refresh"

// list returns the paths of all parameters that can belong to namespaces of a type: those in net to
// network namespaces, and all others to the other types.
func list(ctx context.Context, root *params.Root, typ event.NSType) (paths []string, err error) {
	add := func(path string) {
		if path != refresh {
			paths = append(paths, path)
		}
	}
	const net = params.Dir + "/net"
	if typ == event.NSTypeNet {
		if err = root.Walk(ctx, net, add); errors.Is(err, os.ErrNotExist) {
			err = nil // a kernel without them
		}
		return paths, err
	}
	dirs, err := os.ReadDir(params.Dir)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if path := params.Dir + "/" + d.Name(); path != net && d.IsDir() {
			_ = root.Walk(ctx, path, add) // it can be gone
		}
	}
	return paths, nil
}
