// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// A clock turns the kernel's CLOCK_BOOTTIME into wall time. The offset between the two
// changes when the clock is set or slewed.
type clock struct {
	now    func() uint64 // CLOCK_BOOTTIME
	offset int64         // CLOCK_REALTIME - CLOCK_BOOTTIME, ns
	first  int64         // the offset at the start
	synced uint64        // when it was measured last, CLOCK_BOOTTIME
	newest uint64        // the newest time that syncAt was called with
}

// syncEvery is how long a measured offset is used.
const syncEvery = uint64(time.Second)

// jitter is how far two measurements of the same offset can be apart. If each was used, times
// would go back and forth by that.
const jitter = int64(100 * time.Microsecond)

// syncAt measures the offset if the last measurement is too old at the time now.
func (c *clock) syncAt(now uint64) {
	c.newest = max(c.newest, now)
	if now > c.synced+syncEvery || c.synced == 0 {
		c.synced = now
		c.sync()
	}
}

// sync measures the offset three times, and takes the measurement that took the shortest
// time: a preemption makes one wrong.
func (c *clock) sync() {
	best, offset := int64(1<<62), int64(0)
	for range 3 {
		var real unix.Timespec
		before := int64(bootNow())
		unix.ClockGettime(unix.CLOCK_REALTIME, &real)
		if d := int64(bootNow()) - before; d < best {
			best = d
			offset = real.Nano() - (before + d/2)
		}
	}
	if c.first == 0 {
		c.first = offset
	}
	if d := offset - c.offset; d > jitter || d < -jitter {
		c.offset = offset
	}
}

// start returns the start time of a process. With the pid it identifies the process, so it
// does not follow the clock.
func (c *clock) start(boot uint64) time.Time {
	return time.Unix(0, int64(boot)+c.first).UTC()
}

// wall returns the wall time of an event.
func (c *clock) wall(boot uint64) time.Time {
	if boot == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(boot)+c.offset).UTC()
}

// bootNow returns the CLOCK_BOOTTIME of the host, which is that of the records. In a time
// namespace the one of nstrace differs.
func bootNow() uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano() - int64(procfs.BootOffset()))
}
