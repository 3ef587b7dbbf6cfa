// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// RootCgroup is the kernfs id, and the inode number, of the root of a hierarchy of cgroups.
const RootCgroup = 1

const fileIDKernfs = 0xfe // FILEID_KERNFS of the kernel

// OpenCgroup opens the cgroup with that kernfs id in the hierarchy of which fd is a directory
// (kernfs_fh_to_dentry() in fs/kernfs/mount.c).
func OpenCgroup(fd int, id uint64) (int, error) {
	h := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	return unix.OpenByHandleAt(fd, h, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
}
