// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// A hostName keeps the name of the host as it was when the event in hand happened. Records of
// changes come in the order in which these happened. What no record shows, it reads.
type hostName struct {
	out     *stream
	visible bool // nstrace is in the host's UTS namespace
	watched bool // records show all changes

	unsure time.Time // until then, a change can still be under way
}

// renameTime is much longer than a write to the parameter takes.
const renameTime = 100 * time.Millisecond

func newHostName(out *stream, host map[event.NSType]uint32, o *Options) *hostName {
	own, err := procfs.NamespaceOf("self", event.NSTypeUTS)
	f := &o.Filter
	return &hostName{
		out: out, visible: err == nil && own == host[event.NSTypeUTS],
		watched: !o.Follow && !f.Failed && !f.ByProcess() && f.NSTypes == nil && (f.Types == nil || f.Types[event.SysctlWrite]),
	}
}

// set sets the name for the next events; "" if it is unknown.
func (h *hostName) set(name string) {
	if name == "" { // the record of a tracepoint comes before the change
		h.unsure = time.Now().Add(renameTime)
		h.read()
		return
	}
	h.out.host = name
}

// read reads the name.
func (h *hostName) read() {
	var u unix.Utsname
	if h.visible && unix.Uname(&u) == nil {
		h.out.host = unix.ByteSliceToString(u.Nodename[:])
	}
}

// begin is to be called before the first of several records.
func (h *hostName) begin() {
	if !h.watched || !h.unsure.IsZero() && time.Now().Before(h.unsure) {
		h.read()
	}
}

// end is to be called when the ring is empty: a record of a change can be lost.
func (h *hostName) end() { h.read() }
