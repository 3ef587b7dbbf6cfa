// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsclone clone|clone3|absent|clone3:CGROUP FLAGS [CMD [ARG...]]
 *
 * Makes a child with this system call and these flags, in the cgroup with this folder, and waits
 * for it. absent is a clone3 whose arguments are in a page that is not in the memory of the process
 * before the kernel reads them. The child executes CMD or ends at once. In a new user namespace the
 * child is root. Prints child=PID or error=ERRNO.
 */
#include "common.h"

#include <linux/sched.h>
#include <sys/mman.h>

static int map_root(long pid, const char *file)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/%s", pid, file);
	fd = open(path, O_WRONLY);
	return fd < 0 || write(fd, "0 0 1", 5) != 5;
}

/* Copies the arguments to a page that this process maps, and has not touched. */
static struct clone_args *absent(const struct clone_args *args)
{
	int fd = memfd_create("args", MFD_CLOEXEC);
	void *page;

	if (fd < 0 || ftruncate(fd, 4096) || write(fd, args, sizeof(*args)) != sizeof(*args)) {
		perror("memfd");
		exit(1);
	}
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return page;
}

int main(int argc, char **argv)
{
	unsigned long flags;
	int go[2];
	long pid;

	if (argc < 3)
		return 2;
	flags = parse_flags(argv[2]);
	if (pipe(go))
		return 1;
	if (!strcmp(argv[1], "absent")) {
		struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};

		pid = syscall(SYS_clone3, absent(&args), sizeof(args));
	} else if (!strncmp(argv[1], "clone3", 6)) {
		struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};

		if (argv[1][6]) {
			int cgroup = open(argv[1] + 7, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

			if (cgroup < 0) {
				perror(argv[1]);
				return 1;
			}
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = cgroup;
		}
		pid = syscall(SYS_clone3, &args, sizeof(args));
	} else {
		pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0);
	}
	if (pid < 0) {
		say_errno("error", errno);
		return 0;
	}
	if (pid == 0) {
		char c;

		close(go[1]);
		if (read(go[0], &c, 1) != 1)
			_exit(1);
		close(go[0]);
		if (argc > 3) {
			execvp(argv[3], argv + 3);
			_exit(127);
		}
		_exit(0);
	}
	if (flags & CLONE_NEWUSER && (map_root(pid, "uid_map") || map_root(pid, "gid_map")))
		return 1;
	say_number("child", pid);
	if (write(go[1], "", 1) != 1)
		return 1;
	waitpid(pid, NULL, __WALL);
	return 0;
}
