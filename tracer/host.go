// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/procfs"
)

// hostInfo says where the events come from.
type hostInfo struct {
	host, bootID, kernel string
}

func readHost() hostInfo {
	var h hostInfo
	h.host, _ = os.Hostname()
	h.bootID = procfs.BootID()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.kernel = unix.ByteSliceToString(u.Release[:])
	}
	return h
}

// clock turns the kernel's CLOCK_BOOTTIME into wall time. The distance between
// the two moves when somebody sets the clock, or slews it.
type clock struct {
	offset int64  // CLOCK_REALTIME - CLOCK_BOOTTIME, ns
	first  int64  // what it was at the start
	synced uint64 // when it was measured last, CLOCK_BOOTTIME
}

// syncEvery is how long a measured distance is believed.
const syncEvery = uint64(time.Second)

// jitter is how far two measures of the distance can be apart though the clocks
// ran alike. Times would jump back and forth by it if each were believed.
const jitter = int64(100 * time.Microsecond)

// syncAt measures the distance anew if the last measure is too old at the time now.
func (c *clock) syncAt(now uint64) {
	if now > c.synced+syncEvery || c.synced == 0 {
		c.synced = now
		c.sync()
	}
}

// sync measures the distance anew; of three tries the one least disturbed by a
// preemption counts.
func (c *clock) sync() {
	best, offset := int64(1<<62), int64(0)
	for range 3 {
		var before, real, after unix.Timespec
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &before)
		unix.ClockGettime(unix.CLOCK_REALTIME, &real)
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &after)
		if d := after.Nano() - before.Nano(); d < best {
			best = d
			offset = real.Nano() - (before.Nano() + d/2)
		}
	}
	if c.first == 0 {
		c.first = offset
	}
	if d := offset - c.offset; d > jitter || d < -jitter {
		c.offset = offset
	}
}

// start is when a process started. With its pid it identifies the process, so it
// must not move with the clock.
func (c *clock) start(boot uint64) time.Time {
	return time.Unix(0, int64(boot)+c.first).UTC()
}

func (c *clock) wall(boot uint64) time.Time {
	if boot == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(boot)+c.offset).UTC()
}

func bootNow() uint64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}

// clockTick is USER_HZ, which the kernel fixes at 100 on amd64 and arm64.
const clockTick = time.Second / 100
