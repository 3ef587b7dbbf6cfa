// SPDX-License-Identifier: Apache-2.0

package event

import "time"

// Loss says what did not reach the stream.
type Loss struct {
	Records map[Type]uint64 `json:"records,omitempty"` // how many of which type; nil where nobody knows
	Reason  string          `json:"reason"`            // ring_full, missed, ftrace_off, probes_off, history
	From    time.Time       `json:"from,omitzero"`
	To      time.Time       `json:"to,omitzero"`
}

// Tamper is what somebody did, or tried to do, to nstrace itself.
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
	Observations []Observation `json:"observations,omitempty"` // for trace.start, and for a trace.loss after which things are attached in another way
	Totals       *Totals       `json:"totals,omitempty"`       // for trace.stop
	Signal       string        `json:"signal,omitempty"`       // for trace.stop: what ended the run, if a signal did; the event's process sent it

	// Notes are sentences for people, for trace.start, trace.loss and trace.stop: what is
	// unusual about how nstrace attached or detached.
	Notes []string `json:"notes,omitempty"`

	// For trace.gap: between which times nothing was recorded, whether the host was
	// booted in between, and how the run before had ended: GapStopped or GapCrashed.
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	SameBoot *bool     `json:"same_boot,omitempty"`
	Ended    string    `json:"ended,omitempty"`
}

// How the run before a trace.gap had ended.
const (
	GapStopped = "stopped" // in good order
	GapCrashed = "crashed" // or was killed, or the power went
)

// Observation says how one thing that nstrace watches is attached.
type Observation struct {
	Name    string   `json:"name"`
	Backend string   `json:"backend"`           // fentry, kprobe, tracepoint, or none
	Hooks   []string `json:"hooks,omitempty"`   // such as fexit/ksys_unshare
	Missing []string `json:"missing,omitempty"` // what this way cannot see
}

// Totals closes a run's books, in events, of which an Event with a Count is as
// many: Seen = Written + Filtered + Lost.
type Totals struct {
	Seen       uint64 `json:"seen"`
	Written    uint64 `json:"written"`
	Folded     uint64 `json:"folded,omitempty"` // of Seen, repeats that were counted instead of told one by one
	Filtered   uint64 `json:"filtered"`
	Lost       uint64 `json:"lost"`
	Alerts     uint64 `json:"alerts,omitempty"` // rules that the written ones met
	DurationMS int64  `json:"duration_ms"`
}

// Reasons of a trace.loss.
const (
	LossRingFull = "ring_full" // more was offered than read: a larger --ring-size holds more
	LossMissed   = "missed"    // the kernel could not run a program, or had no room to keep a call's state

	// Of these nobody knows how many records are lost.
	LossFtraceOff = "ftrace_off" // somebody turned ftrace off: the kernel runs no fentry and kprobe programs
	LossProbesOff = "probes_off" // the kernel stopped running the programs for another reason, such as kprobes turned off
)
