// SPDX-License-Identifier: Apache-2.0

package history

import (
	"crypto/sha256"
	"time"

	"github.com/nstrace/nstrace/event"
)

// Hash is a link of the chain: SHA-256 over the hash of the event before and the event's
// own JSON line, without a newline. Before the first is the zero Hash.
type Hash [sha256.Size]byte

// Stored is an event as a history has it.
type Stored struct {
	ID    int64 // from 1, in the order of recording, also where the clock was set back
	Event *event.Event
	Hash  Hash
}

// Query says which events are wanted; the zero value wants all, oldest first.
type Query struct {
	Since, Until time.Time // both inclusive; zero for no bound
	After        int64     // only with a greater ID
	To           int64     // only with no greater ID; 0 for no bound
	Types        map[event.Type]bool
	Parameter    string          // only writes to this parameter, most of which come without their Hash
	Namespace    *NamespaceQuery // only what is about one that matches
	// Match, if not nil, has the last word. The event is Match's until it returns.
	Match   func(*event.Event) bool
	Limit   int  // at most so many; 0 for any number
	Reverse bool // newest first
}

// NamespaceQuery names namespaces. What is zero matches any. The same ID can be of
// several, one after the other; UID is of one in one boot.
type NamespaceQuery struct {
	Type   event.NSType
	ID     uint32
	UID    string
	BootID string
	Name   string // that it had at some time
}

// LastWrite is the last write to a parameter in one network namespace, or on the host
// where the parameter is of no namespace, that was not known to fail.
type LastWrite struct {
	Parameter string
	// Namespace is nil for a parameter of no namespace.
	Namespace *event.Namespace
	Writes    uint64 // how many there were, with this one, as far back as the history ever went
	// Stored is the write. Its ID can be that of an event that was dropped since, which
	// then has no Hash.
	Stored
}

// Run is one run of a recorder.
type Run struct {
	ID      int64
	Version string // of nstrace
	Host    string
	BootID  string
	Started time.Time
	Last    time.Time // the last batch; between it and the next Run's start nothing was recorded
	Stopped time.Time // zero if it crashed, or still runs
}

// Snapshot is what somebody else left here at a time, such as the parameters and
// namespaces that there were.
type Snapshot struct {
	Name    string
	Version int
	RunID   int64 // of the Run that took it
	Taken   time.Time
	Data    []byte
}
