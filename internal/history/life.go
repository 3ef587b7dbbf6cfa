// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/nstrace/nstrace/event"
)

// A Life is one namespace from its creation to its end. Its number and its name can belong to other
// namespaces before and after it.
type Life struct {
	Type   event.NSType
	ID     uint32
	UID    string
	BootID string
	// Unsure says that the kernel has no unique id of the namespace, and that several runs recorded
	// it. So nstrace takes it for one namespace only because no end is recorded in between.
	Unsure bool
	Ended  bool // its end is recorded, or another namespace that had its number later

	rows []int64 // of the table namespace, sorted
}

// Covers reports whether the history has events about ns in the boot that belong to the life.
func (l *Life) Covers(ns *event.Namespace, bootID string) bool {
	return ns != nil && ns.Type == l.Type && ns.ID == l.ID && ns.UID == l.UID && bootID == l.BootID
}

// A lifeRow is a row of the table namespace.
type lifeRow struct {
	id    int64
	typ   event.NSType
	uid   string
	ended bool
}

// LifeOf returns the life of a namespace that an event of a boot is about.
func (db *DB) LifeOf(ctx context.Context, ns *event.Namespace, bootID string) (*Life, error) {
	l := &Life{Type: ns.Type, ID: ns.ID, UID: ns.UID, BootID: bootID}
	var all []lifeRow
	err := db.eachRow(`SELECT namespace.id, type, uid, ended FROM namespace JOIN origin ON origin.id = namespace.origin
		WHERE inode = ? AND boot_id = ? ORDER BY namespace.id`, func(stmt *sqlite.Stmt) {
		all = append(all, lifeRow{stmt.ColumnInt64(0), event.NSType(stmt.ColumnText(1)), stmt.ColumnText(2), !stmt.ColumnIsNull(3)})
	}, int64(ns.ID), bootID)
	if err != nil {
		return nil, explain(db.path, err)
	}
	mine := func(r lifeRow) bool { return r.typ == ns.Type && r.uid == ns.UID }
	first := slices.IndexFunc(all, mine)
	if first < 0 {
		return l, nil
	}
	last := first
	for i, r := range all {
		if mine(r) {
			last = i
		}
	}
	if !ns.KernelUID() {
		// Each run has its own uid for it. It is the same namespace until its end, or the creation of another one.
		follows := func(i int) (bool, error) {
			before, after := all[i-1], all[i]
			if before.ended || before.typ != after.typ || (&event.Namespace{UID: before.uid}).KernelUID() || (&event.Namespace{UID: after.uid}).KernelUID() {
				return false, nil
			}
			made, err := db.made(ctx, after.id)
			return !made, err
		}
		for first > 0 {
			ok, err := follows(first)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			first--
		}
		for last+1 < len(all) {
			ok, err := follows(last + 1)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			last++
		}
	}
	l.Ended = all[last].ended || last+1 < len(all)
	for i, r := range all {
		if mine(r) || !ns.KernelUID() && first <= i && i <= last {
			l.rows = append(l.rows, r.id)
			l.Unsure = l.Unsure || r.uid != ns.UID
		}
	}
	return l, nil
}

// made reports whether the creation of the namespace in a row is recorded.
func (db *DB) made(ctx context.Context, row int64) (bool, error) {
	q := Query{
		Life: &Life{rows: []int64{row}}, Types: map[event.Type]bool{event.NamespaceCreate: true},
		Match: func(e *event.Event) bool { return e.Outcome != event.Failure }, Limit: 1,
	}
	for _, err := range db.Events(ctx, q) {
		return err == nil, err
	}
	return false, nil
}

// Others returns the namespaces other than l that n selects, at most limit of them, those that were recorded
// last first.
func (db *DB) Others(n *NamespaceQuery, l *Life, limit int) (others []*event.Namespace, err error) {
	err = db.eachRow("SELECT type, inode, uid "+fromNamespaces+" AND namespace.id NOT"+in(l.rows)+" ORDER BY namespace.id DESC LIMIT ?6", func(stmt *sqlite.Stmt) {
		others = append(others, &event.Namespace{Type: event.NSType(stmt.ColumnText(0)), ID: uint32(stmt.ColumnInt64(1)), UID: stmt.ColumnText(2)})
	}, append(n.args(), limit)...)
	return others, explain(db.path, err)
}

// HostNamespaces returns the namespaces that were the host's own in each boot, as recorded.
func (db *DB) HostNamespaces() (map[string]map[event.NSType]uint32, error) {
	hosts := map[string]map[event.NSType]uint32{}
	err := db.eachRow(`SELECT DISTINCT boot_id, type, inode FROM namespace_view v JOIN namespace ON namespace.id = v.namespace
		JOIN origin ON origin.id = namespace.origin WHERE v.host`, func(stmt *sqlite.Stmt) {
		boot := stmt.ColumnText(0)
		if hosts[boot] == nil {
			hosts[boot] = map[event.NSType]uint32{}
		}
		hosts[boot][event.NSType(stmt.ColumnText(1))] = uint32(stmt.ColumnInt64(2))
	})
	return hosts, explain(db.path, err)
}

// Initial returns the value that the host's copy of a parameter had before its first recorded write in a boot,
// nil if that is unknown.
func (db *DB) Initial(ctx context.Context, parameter, bootID string) (*string, error) {
	q := Query{
		Parameter: parameter, Types: map[event.Type]bool{event.SysctlWrite: true}, Limit: 1,
		Match: func(e *event.Event) bool {
			return e.BootID == bootID && e.Sysctl != nil && (e.Sysctl.Namespace == nil || e.Sysctl.Namespace.Host)
		},
	}
	for s, err := range db.Events(ctx, q) {
		if err != nil {
			return nil, err
		}
		if s.Event.Sysctl.Truncated {
			return nil, nil
		}
		return s.Event.Sysctl.Old, nil
	}
	return nil, nil
}

// WatchedSince reports whether recorders watched without a gap from an event up to the end of the history.
func (db *DB) WatchedSince(ctx context.Context, id int64) (bool, error) {
	for _, err := range db.Events(ctx, Query{After: id, Types: map[event.Type]bool{event.TraceGap: true, event.TraceLoss: true}, Limit: 1}) {
		return false, err
	}
	return true, nil
}
