// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsnew open_tree|open_tree_attr|fsmount|unshare|clone3|clone-bad|clone3-bad
 *
 * Makes a mount namespace by a call of newer kernels: around a tree of mounts, around a new file
 * system, or an empty one. Or asks for a UTS namespace together with what the kernel refuses before
 * it copies anything. Prints error=ERRNO or, if the call returns a descriptor of the namespace,
 * made=INODE.
 */
#include "common.h"

#include <linux/sched.h>
#include <sys/stat.h>

#define OPEN_TREE_NAMESPACE 2		 /* 7.0 */
#define FSMOUNT_NAMESPACE   2		 /* 7.1 */
#define UNSHARE_EMPTY_MNTNS 0x00100000	 /* 7.1 */
#define CLONE_EMPTY_MNTNS   (1ull << 37) /* 7.1 */

#define CLONE_DETACHED 0x00400000
#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif

static long new_clone(uint64_t flags)
{
	struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return pid;
}

static long new_fsmount(void)
{
	long fs = syscall(SYS_fsopen, "tmpfs", 0);

	if (fs < 0 || syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0)) {
		perror("tmpfs");
		exit(1);
	}
	return syscall(SYS_fsmount, fs, FSMOUNT_NAMESPACE, 0);
}

int main(int argc, char **argv)
{
	uint64_t attr[4] = {0}; /* struct mount_attr that changes nothing */
	struct stat st;
	int pidfd;
	long r;

	if (argc != 2)
		return 2;
	if (!strcmp(argv[1], "open_tree"))
		r = syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_NAMESPACE);
	else if (!strcmp(argv[1], "fsmount"))
		r = new_fsmount();
	else if (!strcmp(argv[1], "open_tree_attr"))
		r = syscall(SYS_open_tree_attr, AT_FDCWD, "/", OPEN_TREE_NAMESPACE, attr,
			    sizeof(attr));
	else if (!strcmp(argv[1], "unshare"))
		r = syscall(SYS_unshare, UNSHARE_EMPTY_MNTNS);
	else if (!strcmp(argv[1], "clone3"))
		r = new_clone(CLONE_EMPTY_MNTNS);
	else if (!strcmp(argv[1], "clone3-bad")) /* clone3_args_valid() */
		r = new_clone(CLONE_NEWUTS | CLONE_DETACHED);
	else /* kernel_clone(): the descriptor would be where the thread id is */
		r = syscall(SYS_clone, CLONE_NEWUTS | CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD,
			    NULL, &pidfd, NULL, 0);
	if (r < 0) {
		say_errno("error", errno);
	} else if (argv[1][0] == 'o' || argv[1][0] == 'f') {
		if (fstat(r, &st))
			return 1;
		say_number("made", st.st_ino);
	}
	return 0;
}
