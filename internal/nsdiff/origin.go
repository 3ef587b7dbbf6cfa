// SPDX-License-Identifier: Apache-2.0

package nsdiff

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// A trial is what happened to a parameter when a namespace was made within another one.
type trial struct {
	fresh   reading // its value in a fresh namespace
	changed reading // what it was changed to in that namespace
	child   reading // its value in a namespace that was made from within that one
}

// explain says of each row how a new namespace gets the parameter, as far as trying shows it:
//
//   - A fresh namespace is made, a value of one of the sides is written there, and another namespace is
//     made from within it. If this one has the written value, it was copied from the creator.
//   - Otherwise, if it has the fresh value, and the kernel's first namespace has another one, then it is
//     copied neither from the creator nor from the host: the kernel has a default. If nothing could be
//     written, this holds if nstrace itself is in the first namespace, and thus the creator.
//   - If the host has the same value as the fresh one, it is unknown whether it was copied.
//
// Only parameters that were seen to differ between two namespaces are written, so a write can change
// no other namespace.
func (c *comparison) explain(ctx context.Context, rows []*output.Diff) error {
	values := map[string][]string{} // values to write, by path
	byPath := map[string]*output.Diff{}
	var paths []string
	for _, row := range rows {
		if row.State != output.Different {
			continue
		}
		path := event.SysctlPath(row.Parameter)
		if d := device(path); d != "" && d != "lo" {
			continue // no fresh namespace has it
		}
		for _, v := range row.Values {
			if v.Text != nil && !v.Truncated {
				values[path] = append(values[path], *v.Text)
			}
		}
		byPath[path] = row
		paths = append(paths, path)
	}
	if len(paths) == 0 {
		return nil
	}
	trials, err := try(ctx, c.typ, paths, values)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return nil // what cannot be tried stays unknown
	}
	of, err := c.readHost(ctx, paths)
	if err != nil {
		return err
	}
	own, _ := procfs.NamespaceOf("self", c.typ)
	inFirst := c.host.Namespace != nil && c.host.Namespace.ID == own
	for path, row := range byPath {
		row.New = conclude(trials[path], of[path], inFirst)
		if row.New != nil {
			governed(row, path, trials[path], of)
		}
	}
	return nil
}

// conclude returns what a trial shows, nil for nothing. host is the zero reading with an error if it is
// unknown. inFirst says that nstrace is in the namespace that host is of.
func conclude(t trial, host reading, inFirst bool) *output.DiffNew {
	if t.fresh.err != nil || t.fresh.cut {
		return nil
	}
	n := &output.DiffNew{Value: t.fresh.text}
	if t.changed.err != nil || t.child.err != nil {
		return n
	}
	written := !t.changed.same(t.fresh)
	switch {
	case written && t.child.same(t.changed):
		n.From = output.FromCreator
	case t.child.same(t.fresh) && host.err == nil && !host.same(t.fresh) && (written || inFirst):
		n.From = output.FromDefault
	}
	return n
}

// inherit is the switch that says how a new network namespace gets the settings of devices, see
// Documentation/admin-guide/sysctl/net.rst.
const inherit = params.Dir + "/net/core/devconf_inherit_init_net"

// copies says what the switch says of the two protocols: what a new namespace gets by value.
var copies = map[string]map[string]output.DiffFrom{
	"ipv4": {"0": output.FromHost, "1": output.FromHost, "2": output.FromDefault, "3": output.FromCreator},
	"ipv6": {"0": output.FromDefault, "1": output.FromHost, "2": output.FromDefault, "3": output.FromCreator},
}

// governed notes that the switch governs a parameter, if the trial does not contradict that.
func governed(row *output.Diff, path string, t trial, host map[string]reading) {
	parts := strings.Split(strings.TrimPrefix(path, params.Dir+"/net/"), "/")
	set, ok := host[inherit]
	if !ok || set.err != nil || len(parts) != 4 || parts[1] != "conf" || parts[2] != "all" && parts[2] != "default" {
		return
	}
	want, ok := copies[parts[0]][set.text]
	if !ok || t.changed.err != nil || t.changed.same(t.fresh) {
		return
	}
	switch want {
	case output.FromCreator:
		ok = row.New.From == output.FromCreator
	case output.FromHost:
		ok = row.New.From == "" && host[path].same(t.fresh)
	default:
		ok = row.New.From != output.FromCreator
	}
	if ok {
		name, _ := params.Name(inherit)
		row.New.Switch, row.New.SwitchValue = name, set.text
	}
}

// initial are the inode numbers of the first namespaces of the kernel (include/uapi/linux/nsfs.h).
var initial = map[event.NSType]uint32{
	event.NSTypeIPC: 0xEFFFFFFF, event.NSTypeUTS: 0xEFFFFFFE, event.NSTypeUser: 0xEFFFFFFD, event.NSTypePID: 0xEFFFFFFC,
}

// readHost reads the parameters in the host's namespace, if that is the kernel's first one.
func (c *comparison) readHost(ctx context.Context, paths []string) (map[string]reading, error) {
	unknown := map[string]reading{}
	for _, path := range paths {
		unknown[path] = reading{err: errUnknown}
	}
	host := c.host
	if host.Namespace == nil || host.File == nil {
		return unknown, nil
	}
	if id := initial[c.typ]; id != 0 && host.Namespace.ID != id {
		return unknown, nil
	}
	v, err := openView(c.typ, host.Namespace.ID, host.File)
	if err != nil {
		return unknown, nil
	}
	defer v.close()
	if c.typ == event.NSTypeNet {
		paths = append([]string{inherit}, paths...)
	}
	all, err := v.read(ctx, paths)
	if err != nil {
		return nil, err
	}
	// The number of the first network namespace is not fixed, but only this one has the switch.
	if c.typ == event.NSTypeNet && all[inherit].err != nil {
		return unknown, nil
	}
	return all, nil
}

var errUnknown = errors.New("unknown")

// try makes two namespaces, the second one from within the first, and reads parameters there.
func try(ctx context.Context, typ event.NSType, paths []string, values map[string][]string) (map[string]trial, error) {
	if inChild(typ) {
		fresh, err := (&forkView{typ: typ}).read(ctx, paths)
		if err != nil {
			return nil, err
		}
		trials, err := tryForked(ctx, typ, paths, values, fresh)
		if err != nil && ctx.Err() == nil {
			// A limit that was written can prevent the second one.
			trials, err = tryForked(ctx, typ, paths, nil, fresh)
		}
		return trials, err
	}
	all := map[string]trial{}
	done := make(chan error, 1)
	go func() {
		done <- params.OnThread(func(*params.Thread) error {
			var read [3]map[string]reading
			for i := range read {
				if i != 1 {
					if err := unix.Unshare(int(procfs.CloneFlag(typ))); err != nil {
						return fmt.Errorf("create a %s namespace: %w", typ, err)
					}
				}
				root, err := params.Open()
				if err != nil {
					return err
				}
				read[i] = map[string]reading{}
				if i == 1 {
					for _, path := range paths {
						change(path, read[0][path], values[path])
					}
				}
				readAll(ctx, root, paths, read[i])
				root.Close()
			}
			for _, path := range paths {
				all[path] = trial{fresh: read[0][path], changed: read[1][path], child: read[2][path]}
			}
			return nil
		})
	}()
	select {
	case err := <-done:
		return all, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// other returns the first of the values that differs from what a parameter is.
func other(is reading, values []string) (string, bool) {
	if is.err != nil {
		return "", false
	}
	for _, v := range values {
		if v != "" && !event.SameValue(v, is.text) {
			return v, true
		}
	}
	return "", false
}

// change writes a parameter of the thread's own namespace. Not every parameter can be written.
func change(path string, is reading, values []string) {
	v, ok := other(is, values)
	if !ok {
		return
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		_, _ = unix.Write(fd, []byte(v))
	}
}
