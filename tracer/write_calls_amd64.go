// SPDX-License-Identifier: Apache-2.0

package tracer

import "golang.org/x/sys/unix"

// writeCalls are the system calls that write to files, and those of 32-bit programs.
var writeCalls = []int{
	unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_IO_URING_ENTER,
	4, 146, 181, 334, 379, 187, 239, 313, // write, writev, pwrite64, pwritev, pwritev2, sendfile, sendfile64, splice
}
