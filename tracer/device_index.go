// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/capability"
	"github.com/nstrace/nstrace/internal/procfs"
)

// deviceIndexes finds the indexes of devices in nstrace's own network namespace.
type deviceIndexes struct {
	net    uint32 // that namespace, 0 if unknown
	socket int    // of that namespace
}

// lateDevice is how long after an event the device with a name is taken for the one of the event.
const lateDevice = uint64(100 * time.Millisecond)

func newDeviceIndexes() (d deviceIndexes) {
	// Any socket answers. The process keeps it until it ends.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return d
	}
	if d.socket = fd; d.socket > 0 {
		d.net, _ = procfs.NamespaceOf("thread-self", event.NSTypeNet)
	}
	return d
}

func (d *deviceIndexes) find(net uint32, name string, at uint64) uint32 {
	if net == 0 || net != d.net || len(name) >= unix.IFNAMSIZ || bootNow() > at+lateDevice {
		return 0
	}
	// With this capability, the kernel would load a module for a name that no device has any more, see
	// dev_load() in net/core/dev_ioctl.c. A confined nstrace does not have it.
	if has, err := capability.Effective(); err != nil || has.Has(unix.CAP_NET_ADMIN) || has.Has(unix.CAP_SYS_MODULE) {
		return 0
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0
	}
	if unix.IoctlIfreq(d.socket, unix.SIOCGIFINDEX, r) != nil {
		return 0
	}
	return r.Uint32()
}
