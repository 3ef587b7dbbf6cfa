// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A State is what a recorder says of itself.
type State struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"` // in the PID namespace of the recorder
	Since   time.Time `json:"since"`
	Events  uint64    `json:"events"` // written so far
	Lost    uint64    `json:"lost"`   // of those that the hooks saw
	// MoreLost says that more was lost, and nobody knows how much.
	MoreLost bool `json:"more_lost,omitempty"`
	// Problems are sentences about what does not work now.
	Problems []string `json:"problems,omitempty"`
}

// errNoState says that the recorder is of a version that has no State.
var errNoState = errors.New("the recorder is of another version, and does not report its state")

// AskState asks the recorder of the history at path for its state. The error wraps ErrNoRecorder if no recorder runs.
func AskState(ctx context.Context, path string) (*State, error) {
	c, answer, err := ask(ctx, path, fmt.Sprintf("%s%016x", wantsState, rand.Uint64()))
	if c != nil {
		c.Close()
	}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(answer, "{") {
		return nil, errNoState
	}
	var s State
	if err := json.Unmarshal([]byte(answer), &s); err != nil {
		return nil, fmt.Errorf("the recorder's state: %w", err)
	}
	return &s, nil
}

// wantsState reports whether the client wants a State.
func (q request) wantsState() bool {
	at, ok := q.RemoteAddr().(*net.UnixAddr)
	return ok && at != nil && strings.HasPrefix(at.Name, wantsState)
}

// line returns the state as JSON, in at most maxAnswer bytes.
func (s *State) line() string {
	for {
		text, err := json.Marshal(s)
		if err != nil || len(text) <= maxAnswer || len(s.Problems) == 0 {
			return string(text)
		}
		s.Problems = s.Problems[:len(s.Problems)-1]
	}
}

// Stats are the numbers of a Recorder at one moment.
type Stats struct {
	Waiting      int    // events in memory, not on the disk yet
	WaitingBytes int64  // their memory
	Written      uint64 // events on the disk
	Fault        error  // why the database cannot be written, nil if it can
}

// Stats returns the numbers of the Recorder. It never waits for the disk.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{Waiting: r.waiting, WaitingBytes: r.bytes, Written: r.written, Fault: r.fault}
}

// Head returns the newest event on the disk, nil if there is none or the database is not open. It never waits for the
// disk.
func (r *Recorder) Head() *event.Head {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

// noteHead notes the newest event of an open database. The caller holds r.mu, or nobody else has r.
func (r *Recorder) noteHead() {
	r.head = nil
	if r.w != nil && r.w.nextEvent > 1 {
		r.head = &event.Head{ID: uint64(r.w.nextEvent - 1), Hash: hex.EncodeToString(r.w.head[:])}
	}
}
