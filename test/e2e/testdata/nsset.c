// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsset file PATH|handle PATH|pidfd PID|fd NUMBER FLAGS [CMD [ARG...]]
 *
 * Calls setns(2) on a file, on a file opened again by its handle, on a pidfd, or on a number that
 * need not be a descriptor. Prints error=ERRNO or result=ok, and then executes CMD in its
 * namespaces.
 */
#include "common.h"

#define FD_NSFS_ROOT -10003 /* 6.18 */

/* Opens the namespace by the id in its file handle (nsfs, 6.18). */
static int open_handle(const char *path)
{
	struct {
		struct file_handle h;
		char bytes[64];
	} handle = {.h.handle_bytes = sizeof(handle.bytes)};
	int mount;

	if (name_to_handle_at(AT_FDCWD, path, &handle.h, &mount, AT_SYMLINK_FOLLOW))
		return -1;
	return open_by_handle_at(FD_NSFS_ROOT, &handle.h, O_RDONLY | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	int fd;

	if (argc < 4)
		return 2;
	if (!strcmp(argv[1], "file"))
		fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	else if (!strcmp(argv[1], "handle"))
		fd = open_handle(argv[2]);
	else if (!strcmp(argv[1], "pidfd"))
		fd = syscall(SYS_pidfd_open, atoi(argv[2]), 0);
	else
		fd = atoi(argv[2]);
	if (fd < 0) {
		perror(argv[2]);
		return 1;
	}
	if (setns(fd, parse_flags(argv[3])))
		say_errno("error", errno);
	else
		say("result", "ok");
	if (argc > 4) {
		execvp(argv[4], argv + 4);
		return 127;
	}
	return 0;
}
