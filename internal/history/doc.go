// SPDX-License-Identifier: Apache-2.0

// Package history stores events in an SQLite database and queries them.
//
// A Recorder is the only writer of a database. Its Append takes an event and never waits
// for the disk: a goroutine writes the events in batches.
//
//	r, err := history.Create(history.Options{Path: "/var/lib/nstrace/history.db"})
//	if err != nil { ... }
//	err = r.Append(event)
//	err = r.Close()
//
// A DB reads a history, also while a Recorder writes it:
//
//	db, err := history.Open("/var/lib/nstrace/history.db")
//	if err != nil { ... }
//	for stored, err := range db.Events(ctx, history.Query{Parameter: "net.ipv4.ip_forward"}) { ... }
//
// docs/history.md documents the tables. Each event has a hash over the previous event's
// hash and its own JSON line. Verify follows this chain.
//
// Events come back with the same line as in the stream, byte for byte. Times are in
// nanoseconds since 1970 in the database, and in UTC in an Event.
package history
