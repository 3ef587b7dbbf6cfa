// SPDX-License-Identifier: Apache-2.0

package history

import (
	"crypto/sha256"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A Hash is a link of the chain: SHA-256 over the previous event's hash and the event's own JSON
// line, without the newline. The first event's previous hash is the zero Hash.
type Hash [sha256.Size]byte

// Stored is an event as the history holds it.
type Stored struct {
	ID    int64 // from 1, without gaps, in the order of recording, even if the clock was set back
	Event *event.Event
	Hash  Hash
}

// A Query selects events. The zero value selects all, oldest first.
type Query struct {
	Since, Until time.Time // both inclusive; zero: no bound
	After        int64     // only events with a greater ID
	To           int64     // only events up to this ID; 0: no bound
	Types        map[event.Type]bool
	Parameter    string          // only writes to this parameter. Most of them come without Hash, which their list does not contain
	Parameters   []string        // only writes to one of these parameters; Parameter is ignored
	Namespace    *NamespaceQuery // only events about a namespace that matches
	Life         *Life           // only events about this namespace; Namespace is ignored
	// Process, if not nil, decides which processes' events are wanted. Like New, it saves reading the others in full.
	Process func(*event.Process) bool
	// New, if not nil, decides which written values are wanted. An event without one is not.
	New    func(value string) bool
	BootID string // only events of this boot
	// Likely, if not nil, names rows that the wanted events refer to, so that the others need not be read in full. Match
	// decides.
	Likely *Likely
	// Match, if not nil, decides last. It must not keep the event.
	Match   func(*event.Event) bool
	Limit   int   // the maximum number of events; 0: no limit
	Reverse bool  // newest first
	host    *boot // only events of this boot, and those about namespaces only if they are the host's own
}

// Likely says what the wanted events have in common. An event is wanted only if it meets each field that is not zero, or
// if its row does not tell.
type Likely struct {
	PIDs, UIDs []uint32 // one of them is that of its process
	Comms      []string // one of them is the name of its process
	Contained  bool     // it is by a process of a container or a pod, or about a namespace of one
	Inodes     []uint32 // it is about namespaces, one of which has one of these numbers
}

// A NamespaceQuery selects namespaces. A zero field matches any value. Namespaces that follow each
// other can have the same ID. Within a boot, a UID belongs to one namespace.
type NamespaceQuery struct {
	Type   event.NSType
	ID     uint32
	UID    string
	BootID string
	Name   string // a name that it had at some time
}

// LastWrite is the last write to a parameter that is not known to have failed or, if its outcome is unknown, to
// have left another value than the written one. A parameter that belongs to namespaces has one in each of them, any other parameter has one.
type LastWrite struct {
	Parameter string
	// Namespace is nil if the parameter belongs to no namespace.
	Namespace *event.Namespace
	Ended     bool   // the end of Namespace is recorded
	Writes    uint64 // number of writes that were ever recorded, including this one
	// Stored is the write. If retention has dropped the event, Hash is zero.
	Stored
}

// A Run is one run of a Recorder.
type Run struct {
	ID      int64
	Version string // nstrace's
	Host    string
	BootID  string
	Started time.Time
	Last    time.Time // when the run was last known to be alive; nothing was recorded between it and the next run's start
	Stopped time.Time // zero if the run crashed or has not ended
}

// A Snapshot is data that one run leaves for the next, such as the parameters and namespaces that
// it saw.
type Snapshot struct {
	Name    string
	Version int
	Run     int64 // ID of the Run that took it
	Taken   time.Time
	Data    []byte
}
