// SPDX-License-Identifier: Apache-2.0

package event

import "time"

// Loss says what is missing from the stream.
type Loss struct {
	Records map[Type]uint64 `json:"records,omitempty"` // how many of each type; nil if unknown
	Reason  string          `json:"reason"`            // LossRingFull and so on
	UID     *uint32         `json:"uid,omitempty"`     // whose events are missing, for LossUserShare; as the host numbers users
	// FirstSeq and LastSeq bound the numbers of the events that a sink lacks, for LossSink and LossRejected.
	FirstSeq uint64    `json:"first_seq,omitempty"`
	LastSeq  uint64    `json:"last_seq,omitempty"`
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
}

// Tamper is what a process did, or tried to do, to nstrace itself.
type Tamper struct {
	Action string `json:"action"`           // signal, or the command of bpf(2): link_detach, link_update, prog_detach, map_update, map_delete, map_freeze
	Signal string `json:"signal,omitempty"` // such as SIGKILL
	Object string `json:"object,omitempty"` // name of the program or map
}

// Trace describes the run itself.
type Trace struct {
	Version      string        `json:"version,omitempty"`
	Kernel       string        `json:"kernel,omitempty"`
	Arch         string        `json:"arch,omitempty"`
	Observations []Observation `json:"observations,omitempty"` // for trace.start and trace.attach, and for a trace.loss after which nstrace attached in another way
	Totals       *Totals       `json:"totals,omitempty"`       // for trace.stop, and for trace.alive: so far
	Head         *Head         `json:"head,omitempty"`         // for trace.alive, if there is a history
	Signal       string        `json:"signal,omitempty"`       // for trace.stop: the signal that ended the run; the event's process sent it

	// Notes are sentences for people, for trace.start, trace.attach, trace.loss and trace.stop: what is
	// unusual about how nstrace attached or detached.
	Notes []string `json:"notes,omitempty"`

	// For trace.gap: the times between which no recorder was running, whether the host
	// was up all that time, and how the previous run ended: GapStopped or GapCrashed.
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	SameBoot *bool     `json:"same_boot,omitempty"`
	Ended    string    `json:"ended,omitempty"`
}

// Head is the newest event that a history had on the disk, and so the head of its chain of hashes.
type Head struct {
	ID   uint64 `json:"id"`   // the number of the event in the history
	Hash string `json:"hash"` // 64 hexadecimal digits
}

// Values of Trace.Ended: how the run before a trace.gap ended.
const (
	GapStopped = "stopped" // in order
	GapCrashed = "crashed" // it crashed or was killed, or the power failed
)

// Observation says how one thing that nstrace watches is attached.
type Observation struct {
	Name    string   `json:"name"`
	Backend string   `json:"backend"`           // fentry, kprobe, tracepoint, or none
	Hooks   []string `json:"hooks,omitempty"`   // such as fexit/ksys_unshare
	Missing []string `json:"missing,omitempty"` // what this way cannot see
}

// Totals counts the events of a run: Seen = Written + Filtered + Lost. An Event with a
// Count counts as that many.
type Totals struct {
	Seen       uint64 `json:"seen"`
	Written    uint64 `json:"written"`
	Folded     uint64 `json:"folded,omitempty"` // part of Seen: repeats that one event with a Count stands for
	Filtered   uint64 `json:"filtered"`
	Lost       uint64 `json:"lost"`
	Alerts     uint64 `json:"alerts,omitempty"` // rules that the written events met
	DurationMS int64  `json:"duration_ms"`
	Uncounted  []Type `json:"uncounted,omitempty"` // types of which the kernel may have skipped events without counting them
}

// Values of Loss.Reason.
const (
	LossRingFull  = "ring_full"  // the ring buffer was full: use a larger --ring-size
	LossUserShare = "user_share" // a user had used up their share of the ring buffer, or of the calls under way
	LossMissed    = "missed"     // the kernel could not run a program, or had no room for the state of a call
	LossHistory   = "history"    // the history could not store the events; they are in the stream
	LossQuota     = "quota"      // an account used up its share of the history; the events are in the stream
	LossOutput    = "output"     // the output could not be written, as on a full disk; a history has the events
	LossSink      = "sink"       // one sink could not take the events: only its own stream has this line

	// The number of lost events is unknown for these.
	LossFtraceOff  = "ftrace_off"  // ftrace was turned off: the kernel does not run fentry and kprobe programs
	LossProbesOff  = "probes_off"  // the kernel stopped running the programs for another reason, such as disabled kprobes
	LossHookSilent = "hook_silent" // a call of nstrace's own did not come back from some hooks
	LossReattach   = "reattach"    // nstrace attached in another way, which takes a moment
	LossRejected   = "rejected"    // the server of a sink took not all of FirstSeq to LastSeq: only the sink's stream has this line
)
