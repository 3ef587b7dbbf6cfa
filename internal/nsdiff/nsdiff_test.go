// SPDX-License-Identifier: Apache-2.0

package nsdiff

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/output"
)

func of(text string) reading { return reading{text: text} }

var failed = reading{err: syscall.EIO}

func TestConclude(t *testing.T) {
	for name, c := range map[string]struct {
		trial   trial
		host    reading
		inFirst bool
		want    output.DiffFrom
		nothing bool
	}{
		"copied from the creator":               {trial: trial{of("1"), of("2"), of("2")}, host: of("1"), want: output.FromCreator},
		"also if the host has another":          {trial: trial{of("1"), of("2"), of("2")}, host: of("3"), want: output.FromCreator},
		"a default":                             {trial: trial{of("1"), of("2"), of("1")}, host: of("3"), want: output.FromDefault},
		"a default or the host's":               {trial: trial{of("1"), of("2"), of("1")}, host: of("1")},
		"the host's is unknown":                 {trial: trial{of("1"), of("2"), of("1")}, host: failed},
		"random":                                {trial: trial{of("1"), of("2"), of("4")}, host: of("3")},
		"not written":                           {trial: trial{of("1"), of("1"), of("1")}, host: of("3")},
		"not written, the creator is the first": {trial: trial{of("1"), of("1"), of("1")}, host: of("3"), inFirst: true, want: output.FromDefault},
		"not read":                              {trial: trial{failed, failed, failed}, host: of("3"), inFirst: true, nothing: true},
		"not read in the second":                {trial: trial{of("1"), of("2"), failed}, host: of("3")},
	} {
		got := conclude(c.trial, c.host, c.inFirst)
		if (got == nil) != c.nothing || got != nil && (got.From != c.want || got.Value != "1") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestGoverned(t *testing.T) {
	const dir = params.Dir + "/net/"
	notCopied, copied := trial{of("1"), of("2"), of("1")}, trial{of("1"), of("2"), of("2")}
	for _, c := range []struct {
		path, set string
		trial     trial
		host      string
		from      output.DiffFrom
		want      bool
	}{
		{"ipv4/conf/all/rp_filter", "0", notCopied, "1", "", true},
		{"ipv4/conf/default/rp_filter", "1", notCopied, "1", "", true},
		{"ipv4/conf/all/rp_filter", "0", notCopied, "3", output.FromDefault, false}, // it was not copied
		{"ipv4/conf/all/rp_filter", "0", copied, "1", output.FromCreator, false},
		{"ipv4/conf/all/rp_filter", "2", notCopied, "3", output.FromDefault, true},
		{"ipv4/conf/all/rp_filter", "3", copied, "1", output.FromCreator, true},
		{"ipv4/conf/all/rp_filter", "3", notCopied, "1", "", false},
		{"ipv6/conf/all/accept_ra", "0", notCopied, "3", output.FromDefault, true},
		{"ipv6/conf/all/accept_ra", "1", notCopied, "3", output.FromDefault, false},
		{"ipv4/conf/all/rp_filter", "9", notCopied, "1", "", false}, // a value of a newer kernel
		{"ipv4/conf/lo/rp_filter", "0", notCopied, "1", "", false},
		{"ipv4/neigh/default/gc_stale_time", "0", notCopied, "1", "", false},
		{"ipv4/tcp_rmem", "0", notCopied, "1", "", false},
		{"mpls/conf/all/input", "0", notCopied, "1", "", false},
		{"ipv4/conf/all/rp_filter", "0", trial{of("1"), of("1"), of("1")}, "1", "", false}, // nothing was tried
	} {
		row := &output.Diff{New: &output.DiffNew{From: c.from}}
		governed(row, dir+c.path, c.trial, map[string]reading{inherit: of(c.set), dir + c.path: of(c.host)})
		if got := row.New.Switch != ""; got != c.want || got && (row.New.Switch != "net.core.devconf_inherit_init_net" || row.New.SwitchValue != c.set) {
			t.Errorf("%+v: %+v", c, row.New)
		}
	}
}

func TestDevice(t *testing.T) {
	for path, want := range map[string]string{
		"net/ipv4/conf/eth0/forwarding": "eth0", "net/ipv6/neigh/eth0.7/gc_stale_time": "eth0.7", "net/mpls/conf/lo/input": "lo",
		"net/ipv4/conf/all/forwarding": "", "net/ipv4/neigh/default/gc_thresh1": "", "net/ipv4/route/flush": "", "net/ipv4/ip_forward": "", "kernel/conf/x/y/z": "",
	} {
		if got := device(params.Dir + "/" + path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestScript runs scripts in the test's own namespaces.
func TestScript(t *testing.T) {
	var s script
	slots := []int{s.read("/proc/sys/kernel/ostype"), s.read("/proc/sys/kernel/none"), s.read("/etc/passwd"), s.read("/proc/kallsyms"), s.read("/proc/sys/kernel/ostype")}
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []reading{of("Linux"), {err: syscall.ENOENT}, {err: syscall.EXDEV}, {}, of("Linux")} {
		got := s.result(slots[i])
		switch {
		case i == 3:
			if len(got.text) < 1000 || len(got.text) > slotText || got.err != nil {
				t.Errorf("%d: %d bytes, %v", i, len(got.text), got.err)
			}
		case got.text != want.text || !errors.Is(got.err, want.err):
			t.Errorf("%d: %+v, want %+v", i, got, want)
		}
	}
	s = script{}
	s.add(stepEnter, ^uintptr(0))
	s.read("/proc/sys/kernel/ostype")
	if err := s.run(t.Context()); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a step that fails: %v", err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	s = script{}
	for range 200 {
		s.read("/proc/kallsyms")
	}
	if err := s.run(ctx); !errors.Is(err, context.DeadlineExceeded) && err != nil {
		t.Errorf("after the deadline: %v", err)
	}
}

// TestFresh reads a fresh namespace of each type.
func TestFresh(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to create a namespace")
	}
	for _, typ := range Types() {
		t.Run(string(typ), func(t *testing.T) {
			v, err := openView(typ, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer v.close()
			paths, err := v.list(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			found, err := v.read(t.Context(), paths)
			if err != nil {
				t.Fatal(err)
			}
			good := 0
			for path, r := range found {
				if strings.HasPrefix(path, params.Dir+"/net/") != (typ == event.NSTypeNet) {
					t.Errorf("%s is read", path)
				}
				if r.err == nil {
					good++
				}
			}
			if len(found) != len(paths) || good < 100 {
				t.Errorf("%d of %d were read of %d", good, len(found), len(paths))
			}
		})
	}
}

// A read that does not end does not keep nstrace.
func TestDeadline(t *testing.T) {
	own, err := os.Open("/proc/thread-self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(own.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	v, err := openView(event.NSTypeUTS, uint32(st.Ino), own)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root to enter a namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	defer v.close()
	defer close(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := v.(*threadView).do(ctx, func(*params.Root) { <-stuck }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := v.read(ctx, []string{params.Dir + "/kernel/ostype"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
