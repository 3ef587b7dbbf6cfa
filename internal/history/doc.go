// SPDX-License-Identifier: Apache-2.0

// Package history keeps events in an SQLite database and finds them again.
//
// A Recorder is the one writer of a database; it can be handed a tracer's events
// like a sink, and never holds them up: a goroutine of its own writes them, some
// at a time.
//
//	r, err := history.Create(history.Options{Path: "/var/lib/nstrace/history.db"})
//	if err != nil { ... }
//	err = r.Append(event)
//	err = r.Close()
//
// A DB reads one, also while it is being written:
//
//	db, err := history.Open("/var/lib/nstrace/history.db")
//	if err != nil { ... }
//	for stored, err := range db.Events(ctx, history.Query{Parameter: "net.ipv4.ip_forward"}) { ... }
//
// The tables are documented in docs/history.md. Each event carries a hash over
// the hash of the one before it and its own JSON line; Verify follows that chain.
package history
