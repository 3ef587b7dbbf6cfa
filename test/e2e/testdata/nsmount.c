// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsmount bind|move|tree|move-tree SOURCE TARGET, nsmount umount|detach TARGET
 *
 * Mounts or unmounts by one system call: mount(2) with MS_BIND or MS_MOVE, open_tree(2) and
 * move_mount(2), move_mount(2) by paths, umount2(2). Prints error=ERRNO or result=ok.
 */
#include "common.h"

#include <linux/mount.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif

/* Older C libraries cannot include both sys/mount.h and linux/mount.h. */
#define MOUNT_DETACH 2

static long act(const char *how, const char *from, const char *to)
{
	long fd;

	if (!strcmp(how, "umount"))
		return syscall(SYS_umount2, from, 0);
	if (!strcmp(how, "detach"))
		return syscall(SYS_umount2, from, MOUNT_DETACH);
	if (!strcmp(how, "bind"))
		return syscall(SYS_mount, from, to, NULL, MS_BIND, NULL);
	if (!strcmp(how, "move"))
		return syscall(SYS_mount, from, to, NULL, MS_MOVE, NULL);
	if (!strcmp(how, "move-tree"))
		return syscall(SYS_move_mount, AT_FDCWD, from, AT_FDCWD, to, 0);
	fd = syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (fd < 0)
		return fd;
	return syscall(SYS_move_mount, fd, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	if (act(argv[1], argv[2], argc > 3 ? argv[3] : "") < 0)
		say_errno("error", errno);
	else
		say("result", "ok");
	return 0;
}
