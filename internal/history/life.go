// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"fmt"
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

	rows     []int64 // of the table namespace, sorted
	followed bool    // another namespace of the boot had the number later
	preceded bool    // or before
	end      int64   // the event of its end, 0 if that is not recorded

	// Set by Widen: also events of which it is not the subject, between two ids.
	wide        bool
	first, last int64
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
	ended int64 // the event of its end, 0 if that is not recorded
}

// LifeOf returns the life of a namespace that an event of a boot is about.
func (db *DB) LifeOf(ctx context.Context, ns *event.Namespace, bootID string) (*Life, error) {
	l := &Life{Type: ns.Type, ID: ns.ID, UID: ns.UID, BootID: bootID}
	var all []lifeRow
	err := db.eachRow(`SELECT namespace.id, type, uid, ended FROM namespace JOIN origin ON origin.id = namespace.origin
		WHERE inode = ? AND boot_id = ? ORDER BY namespace.id`, func(stmt *sqlite.Stmt) {
		all = append(all, lifeRow{stmt.ColumnInt64(0), event.NSType(stmt.ColumnText(1)), stmt.ColumnText(2), stmt.ColumnInt64(3)})
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
			if before.ended != 0 || before.typ != after.typ || (&event.Namespace{UID: before.uid}).KernelUID() || (&event.Namespace{UID: after.uid}).KernelUID() {
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
	l.end, l.preceded, l.followed = all[last].ended, first > 0, last+1 < len(all)
	l.Ended = l.end != 0 || l.followed
	for i, r := range all {
		if mine(r) || !ns.KernelUID() && first <= i && i <= last {
			l.rows = append(l.rows, r.id)
			l.Unsure = l.Unsure || r.uid != ns.UID
		}
	}
	return l, nil
}

// Widen makes queries for l also return the events of processes that left it and of devices that came or
// went. Events know only the number of a namespace that a process left, which belongs to l between its first
// and its last event.
func (db *DB) Widen(ctx context.Context, l *Life) error {
	edge := func(reverse bool) (id int64, err error) {
		for s, err := range db.Events(ctx, Query{Life: l, Limit: 1, Reverse: reverse}) {
			return s.ID, err
		}
		return 0, nil
	}
	first, last := int64(0), int64(1<<63-1)
	var err error
	if made, madeErr := db.made(ctx, l.rows...); madeErr != nil {
		return madeErr
	} else if made || l.preceded {
		if first, err = edge(false); err != nil {
			return err
		}
	}
	switch {
	case l.end != 0:
		last = l.end
	case l.followed:
		if last, err = edge(true); err != nil {
			return err
		}
	}
	l.wide, l.first, l.last = true, first, last
	return nil
}

// touches reports whether an event between the first and the last one of l is about it, or about a process that
// left it or a device that came or went.
func (l *Life) touches(e *event.Event) bool {
	if e.BootID != l.BootID {
		return false
	}
	if d := e.Netdev; d != nil && e.Sysctl == nil {
		return l.Covers(d.From, e.BootID) || l.Covers(d.To, e.BootID)
	}
	ns := e.Namespace
	if ns == nil && e.Sysctl != nil {
		ns = e.Sysctl.Namespace
	}
	if ns == nil || ns.Type != l.Type {
		return false
	}
	return ns.ID == l.ID || e.Type == event.NamespaceEnter && e.Outcome != event.Failure && ns.From == l.ID
}

// planLife limits a plan to the events of l.
func (db *DB) planLife(p *plan, l *Life) error {
	if !l.wide {
		p.where += " AND namespace" + in(l.rows)
		p.table, p.listed = byNamespace, l.rows
		p.empty = p.empty || len(l.rows) == 0
		return nil
	}
	enters, err := db.ids("SELECT id FROM kind WHERE type = ?", string(event.NamespaceEnter))
	if err != nil {
		return err
	}
	moves, err := db.ids("SELECT id FROM kind WHERE type = ?", string(event.NetdevMove))
	if err != nil {
		return err
	}
	p.where += fmt.Sprintf(" AND (namespace%s OR ns_from = %d AND kind%s OR kind%s)", in(l.rows), l.ID, in(enters), in(moves))
	p.from, p.to = max(p.from, l.first), min(p.to, l.last)
	return nil
}

// made reports whether the creation of the namespace in rows is recorded.
func (db *DB) made(ctx context.Context, rows ...int64) (bool, error) {
	q := Query{
		Life: &Life{rows: rows}, Types: map[event.Type]bool{event.NamespaceCreate: true},
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
// nil if that is unknown. Users decide how many writes in namespaces of theirs it reads.
func (db *DB) Initial(ctx context.Context, parameter, bootID string) (*string, error) {
	boot, err := db.bootOf(bootID)
	if err != nil || boot.cut {
		return nil, explain(db.path, err)
	}
	q := Query{
		Parameter: parameter, Types: map[event.Type]bool{event.SysctlWrite: true}, Limit: 1, host: boot,
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
	return nil, ctx.Err()
}

// A boot says where the events of a boot are.
type boot struct {
	first, last int64          // ids
	host        map[int64]bool // the views of the host's own namespaces, in all boots
	cut         bool           // retention dropped events of it
}

// bootOf returns where the events of an earlier boot are.
func (db *DB) bootOf(bootID string) (*boot, error) {
	if b := db.boots[bootID]; b != nil {
		return b, nil
	}
	b := &boot{host: map[int64]bool{}}
	const runs = "FROM run JOIN origin ON origin.id = run.origin WHERE boot_id = ?1"
	// Events that were imported have no run.
	if err := db.eachRow("SELECT coalesce(min(first_event), 0), coalesce(max(last_event), 0) FROM batch WHERE run = 0 OR run IN (SELECT run.id "+runs+")", func(stmt *sqlite.Stmt) {
		b.first, b.last = stmt.ColumnInt64(0), stmt.ColumnInt64(1)
	}, bootID); err != nil {
		return nil, err
	}
	if err := db.eachRow("SELECT count(*) FROM anchor WHERE time >= (SELECT min(started) "+runs+")", func(stmt *sqlite.Stmt) {
		b.cut = stmt.ColumnInt64(0) > 0
	}, bootID); err != nil {
		return nil, err
	}
	if err := db.eachRow("SELECT id FROM namespace_view WHERE host LIMIT 1000000", func(stmt *sqlite.Stmt) {
		b.host[stmt.ColumnInt64(0)] = true
	}); err != nil {
		return nil, err
	}
	db.boots[bootID] = b
	return b, nil
}

// WatchedSince reports whether recorders watched without a gap from an event up to the end of the history.
func (db *DB) WatchedSince(ctx context.Context, id int64) (bool, error) {
	for _, err := range db.Events(ctx, Query{After: id, Types: map[event.Type]bool{event.TraceGap: true, event.TraceLoss: true}, Limit: 1}) {
		return false, err
	}
	return true, nil
}
