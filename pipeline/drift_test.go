// SPDX-License-Identifier: Apache-2.0

package pipeline_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/drift"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/pipeline"
)

// kept is the end of a pipeline that keeps the events that it gets.
type kept struct{ events []*event.Event }

func (k *kept) Event(e *event.Event) error { k.events = append(k.events, e.Clone()); return nil }
func (*kept) Idle() error                  { return nil }

// driftRun runs a Drift until the run ends, and returns the types of its events and its messages. idle is
// called before each Idle.
func driftRun(t *testing.T, ctx context.Context, path string, scan func(context.Context) ([]drift.Found, bool, error), idle func(*pipeline.Drift)) (types []event.Type, messages []string) {
	t.Helper()
	events, messages := driftEvents(t, ctx, path, scan, idle)
	for _, e := range events {
		types = append(types, e.Type)
	}
	return types, messages
}

// driftEvents is driftRun, and returns the events.
func driftEvents(t *testing.T, ctx context.Context, path string, scan func(context.Context) ([]drift.Found, bool, error), idle func(*pipeline.Drift)) (events []*event.Event, messages []string) {
	t.Helper()
	r, err := history.Create(history.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	d := pipeline.NewDrift(pipeline.DriftOptions{
		History: r, DB: path, Scan: scan, Wake: func() {},
		Report: func(message string) { mu.Lock(); defer mu.Unlock(); messages = append(messages, message) },
	})
	next := new(kept)
	d.Next = next
	run, end := d.Keep(ctx)
	for run.Err() == nil {
		if idle != nil {
			idle(d)
		}
		if err := d.Idle(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	end()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return next.events, slices.Clone(messages)
}

func storedSnapshot(t *testing.T, path string) *drift.Snapshot {
	t.Helper()
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	left, ok, err := db.Snapshot("drift")
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return nil
	}
	s, err := drift.Decode(left.Version, left.Data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func finds(all ...drift.Found) func(context.Context) ([]drift.Found, bool, error) {
	return func(context.Context) ([]drift.Found, bool, error) { return all, true, nil }
}

func found(id uint32) drift.Found {
	return drift.Found{Namespace: event.Namespace{Type: event.NSTypeUTS, ID: id}}
}

// enoughTime lets the end of a run take as long as it does on a busy machine.
func enoughTime() (restore func()) { return pipeline.SetEndTimes(time.Minute, time.Minute) }

func stopped(t *testing.T) context.Context {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	return ctx
}

// TestDriftStoppedAtOnce stops runs at once. Each compares, and stores a snapshot for the next run, no
// matter what its goroutines notice first.
func TestDriftStoppedAtOnce(t *testing.T) {
	defer enoughTime()()
	for range 20 {
		path := filepath.Join(t.TempDir(), "history.db")
		for i, want := range []string{"", string(event.NamespaceGone) + " " + string(event.NamespaceAppeared)} {
			types, messages := driftRun(t, stopped(t), path, finds(found(uint32(i+1))), nil)
			var got []string
			for _, typ := range types {
				got = append(got, string(typ))
			}
			if s := strings.Join(got, " "); s != want || len(messages) > 0 {
				t.Errorf("run %d: %q, %q", i, s, messages)
			}
			if s := storedSnapshot(t, path); s == nil || len(s.Namespaces) != 1 || s.Namespaces[0].ID != uint32(i+1) {
				t.Fatalf("run %d: snapshot %+v", i, s)
			}
		}
	}
}

// TestDriftSlow has a look at the host that takes for ever, whether it heeds its context or not. Neither the
// start nor the end waits for it, and the next run compares with the snapshot before.
func TestDriftSlow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	restore := enoughTime()
	driftRun(t, stopped(t), path, finds(found(1)), nil)
	restore()
	stuck := make(chan struct{})
	defer close(stuck)
	for name, scan := range map[string]func(context.Context) ([]drift.Found, bool, error){
		"slow":  func(ctx context.Context) ([]drift.Found, bool, error) { <-ctx.Done(); return nil, false, ctx.Err() },
		"stuck": func(context.Context) ([]drift.Found, bool, error) { <-stuck; return nil, false, nil },
	} {
		ctx, stop := context.WithCancel(t.Context())
		var asked time.Time
		first := true
		types, messages := driftRun(t, ctx, path, scan, func(*pipeline.Drift) {
			if first {
				first, asked = false, time.Now()
				stop()
			}
		})
		if took := time.Since(asked); took > 4*time.Second {
			t.Errorf("%s: the end took %v", name, took)
		}
		if len(types) > 0 || len(messages) != 1 || !strings.Contains(messages[0], "no time at the end") {
			t.Errorf("%s: %q, %q", name, types, messages)
		}
	}
	defer enoughTime()()
	if types, _ := driftRun(t, stopped(t), path, finds(found(1), found(2)), nil); !slices.Equal(types, []event.Type{event.NamespaceAppeared}) {
		t.Errorf("the next run reports %q", types)
	}
}

// TestDriftIncomplete has a look at the host that finds only some namespaces. Those that it lacks are not
// gone, and do not appear later.
func TestDriftIncomplete(t *testing.T) {
	defer enoughTime()()
	path := filepath.Join(t.TempDir(), "history.db")
	some := func(all ...drift.Found) func(context.Context) ([]drift.Found, bool, error) {
		return func(context.Context) ([]drift.Found, bool, error) { return all, false, nil }
	}
	driftRun(t, stopped(t), path, some(found(1)), nil)
	types, messages := driftRun(t, stopped(t), path, finds(found(1), found(2)), nil)
	if len(types) > 0 || len(messages) != 1 || !strings.Contains(messages[0], "no time for some namespaces") {
		t.Errorf("after an incomplete snapshot: %q, %q", types, messages)
	}
	types, messages = driftRun(t, stopped(t), path, some(found(1)), nil)
	if len(types) > 0 || len(messages) != 2 || !strings.Contains(messages[1], "no time at the end") {
		t.Errorf("with an incomplete snapshot: %q, %q", types, messages)
	}
	// The run before kept the complete snapshot.
	if types, _ := driftRun(t, stopped(t), path, finds(found(2)), nil); !slices.Equal(types, []event.Type{event.NamespaceGone}) {
		t.Errorf("the next run reports %q", types)
	}
}

// TestDriftTouched has events while the first look at the host is under way. What they are about is no
// difference, although the history does not have them.
func TestDriftTouched(t *testing.T) {
	defer enoughTime()()
	path := filepath.Join(t.TempDir(), "history.db")
	driftRun(t, stopped(t), path, finds(), nil)
	looking, look := make(chan struct{}), make(chan struct{})
	scan := func(context.Context) ([]drift.Found, bool, error) {
		select {
		case <-looking:
		default:
			close(looking)
		}
		<-look
		return []drift.Found{found(1), found(2)}, true, nil
	}
	ctx, stop := context.WithCancel(t.Context())
	done := false
	types, messages := driftRun(t, ctx, path, scan, func(d *pipeline.Drift) {
		if done {
			return
		}
		done = true
		<-looking
		made := found(1)
		if err := d.Event(&event.Event{Type: event.NamespaceCreate, Outcome: event.Success, Namespace: &made.Namespace}); err != nil {
			t.Error(err)
		}
		close(look)
		stop()
	})
	if !slices.Equal(types, []event.Type{event.NamespaceCreate, event.NamespaceAppeared}) || len(messages) > 0 {
		t.Errorf("%q, %q", types, messages)
	}
}

// TestDriftReset boots the host after writes to parameters. Those that have their value from before the writes
// again were set back by the reboot. Others were not.
func TestDriftReset(t *testing.T) {
	defer enoughTime()()
	path := filepath.Join(t.TempDir(), "history.db")
	now := func(name string) string {
		b, err := os.ReadFile(event.SysctlPath(name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	const boot = "00000000-0000-0000-0000-000000000001"
	r, err := history.Create(history.Options{Path: path, BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	before := &drift.Snapshot{BootID: boot, Time: time.Now().Add(-time.Hour), Parameters: map[string]string{}}
	for i, w := range []struct{ name, old, new string }{
		{"vm.swappiness", now("vm.swappiness"), "101"},
		{"vm.swappiness", "101", "102"},
		{"vm.stat_interval", "77", "78"},
	} {
		before.Parameters[w.name] = w.new
		e := &event.Event{
			V: event.SchemaVersion, Time: before.Time.Add(-time.Minute), Seq: uint64(i + 1), BootID: boot, Type: event.SysctlWrite, Outcome: event.Success, Via: event.ViaWrite,
			Sysctl: &event.Sysctl{Name: w.name, Path: event.SysctlPath(w.name), Old: &w.old, New: &w.new, After: &w.new},
		}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	before.Parameters["vm.overcommit_ratio"] = "49"
	data, err := before.Encode()
	if err := errors.Join(err, r.Sync(), r.PutSnapshot("drift", drift.Version, data), r.Close()); err != nil {
		t.Fatal(err)
	}
	events, messages := driftEvents(t, stopped(t), path, finds(), nil)
	reset := map[string]bool{}
	for _, e := range events {
		if e.Type == event.SysctlDrift {
			reset[e.Sysctl.Name] = e.Between.Reset
		}
	}
	if want := map[string]bool{"vm.swappiness": true, "vm.stat_interval": false, "vm.overcommit_ratio": false}; !maps.Equal(reset, want) {
		t.Errorf("reset: %v, want %v (%q)", reset, want, messages)
	}
}

// TestDriftGoneBoot boots the host while a namespace of the new boot has the number and the uid of one of the
// previous boot. Only that one has ended.
func TestDriftGoneBoot(t *testing.T) {
	defer enoughTime()()
	path := filepath.Join(t.TempDir(), "history.db")
	const oldBoot, newBoot = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
	ns := event.Namespace{Type: event.NSTypeUTS, ID: 1, UID: "7"}
	r, err := history.Create(history.Options{Path: path, BootID: oldBoot, Host: "before"})
	if err != nil {
		t.Fatal(err)
	}
	before := &drift.Snapshot{BootID: oldBoot, Time: time.Now().Add(-time.Hour), Namespaces: []*drift.Namespace{{Namespace: ns}}}
	data, err := before.Encode()
	if err := errors.Join(err, r.PutSnapshot("drift", drift.Version, data), r.Close()); err != nil {
		t.Fatal(err)
	}

	r, err = history.Create(history.Options{Path: path, BootID: newBoot, Host: "after"})
	if err != nil {
		t.Fatal(err)
	}
	d := pipeline.NewDrift(pipeline.DriftOptions{
		History: r, DB: path, Scan: finds(drift.Found{Namespace: ns}), Wake: func() {}, Report: func(message string) { t.Log(message) },
	})
	all := new(kept)
	d.Next = pipeline.NewNumber(all, pipeline.NewRunID(), nil, new(pipeline.Drops))
	write := func(ref uint64) {
		value := "x"
		if err := d.Event(&event.Event{
			Time: time.Now(), Ref: ref, Host: "after", BootID: newBoot, Type: event.SysctlWrite, Outcome: event.Success, Via: event.ViaWrite,
			Sysctl: &event.Sysctl{Name: "kernel.domainname", Path: "/proc/sys/kernel/domainname", New: &value, Namespace: &ns},
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	for run, end := d.Keep(stopped(t)); ; {
		if err := d.Idle(); err != nil {
			t.Fatal(err)
		}
		if run.Err() != nil {
			end()
			break
		}
		time.Sleep(time.Millisecond)
	}
	write(2)
	last := &event.Event{Time: time.Now(), Type: event.TraceGap}
	if err := d.Next.Event(last); err != nil {
		t.Fatal(err)
	}
	gone := 0
	for _, e := range all.events {
		host, boot := "after", newBoot
		if e.Type == event.NamespaceGone {
			gone++
			host, boot = "before", oldBoot
		}
		if e.Host != host || e.BootID != boot {
			t.Errorf("%s is of %s on %s, want %s on %s", e.Type, e.BootID, e.Host, boot, host)
		}
		if err := r.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if gone != 1 {
		t.Errorf("%d namespaces are gone, want 1", gone)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := history.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for boot, ended := range map[string]bool{oldBoot: true, newBoot: false} {
		if life, err := db.LifeOf(t.Context(), &ns, boot); err != nil || life.Ended != ended {
			t.Errorf("the namespace of boot %s has ended: %v (%v), want %v", boot, life.Ended, err, ended)
		}
	}
	for w, err := range db.LastWrites(t.Context(), nil) {
		if err != nil || w.Ended {
			t.Errorf("the last write to %s: its namespace has ended: %v (%v)", w.Parameter, w.Ended, err)
		}
	}
}

// TestDriftSyncHangs asks for what is on the disk again and again while the disk hangs. Only one request waits for
// it. Once the disk works, a request returns after a write that began after it.
func TestDriftSyncHangs(t *testing.T) {
	r, err := history.Create(history.Options{Path: filepath.Join(t.TempDir(), "history.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d := pipeline.NewDrift(pipeline.DriftOptions{History: r, Wake: func() {}, Report: func(message string) { t.Log(message) }})
	d.Next = new(kept)
	stop, idle := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(idle)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				if err := d.Idle(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	defer func() { close(stop); <-idle }()
	var writes atomic.Int64
	disk := make(chan struct{})
	d.SetSync(func() error { writes.Add(1); <-disk; return nil })
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := d.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the disk hangs: %v", err)
		}
		cancel()
	}
	if n := writes.Load(); n != 1 {
		t.Errorf("%d writes wait for the disk, want 1", n)
	}
	waited := make(chan error)
	go func() { waited <- d.Sync(t.Context()) }()
	close(disk)
	before := writes.Load()
	if err := errors.Join(<-waited, d.Sync(t.Context())); err != nil || writes.Load() == before {
		t.Errorf("%d writes after the disk works again: %v", writes.Load()-before, err)
	}
}
