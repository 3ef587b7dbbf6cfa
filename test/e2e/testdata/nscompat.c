// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nscompat CALL
 *
 * A 32-bit program without a C library, for the kernel of a 64-bit machine. Makes one system call
 * and exits with status 0 if it succeeded, or with its error number:
 *
 *	clone3        makes a child in a new UTS namespace
 *	clone3-bad    the same with CLONE_DETACHED, which clone3 refuses
 *	unshare       a UTS namespace
 *	setns         enters the network namespace that it is in
 *	sethostname, setdomainname    to "compat"
 *	write         601 to net.ipv4.tcp_keepalive_time
 *	mount, umount a bind mount of its UTS namespace, at $2
 *	open_tree, open_tree_attr, fsmount    a mount namespace
 */
#define CLONE_NEWUTS   0x04000000
#define CLONE_NEWNET   0x40000000
#define CLONE_DETACHED 0x00400000
#define SIGCHLD	       17
#define AT_FDCWD       (-100)

enum {
	NR_EXIT = 1,
	NR_WRITE = 4,
	NR_OPEN = 5,
	NR_WAITPID = 7,
	NR_MOUNT = 21,
	NR_UMOUNT = 52,
	NR_SETHOSTNAME = 74,
	NR_SETDOMAINNAME = 121,
	NR_UNSHARE = 310,
	NR_SETNS = 346,
	NR_OPEN_TREE = 428,
	NR_FSOPEN = 430,
	NR_FSCONFIG = 431,
	NR_FSMOUNT = 432,
	NR_CLONE3 = 435,
	NR_OPEN_TREE_ATTR = 467,
};

static long call(long nr, long a, long b, long c, long d, long e)
{
	long ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return ret;
}

static int is(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static long clone3(unsigned long long flags)
{
	/* struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size,
	 * tls
	 */
	volatile unsigned long long args[8] = {flags, 0, 0, 0, SIGCHLD};
	long pid = call(NR_CLONE3, (long)args, sizeof(args), 0, 0, 0);

	if (pid == 0)
		call(NR_EXIT, 0, 0, 0, 0, 0);
	if (pid > 0)
		call(NR_WAITPID, pid, 0, 0, 0, 0);
	return pid;
}

static long run(const char *name, const char *at)
{
	volatile unsigned long long attr[4] = {0};
	long fd;

	if (is(name, "clone3"))
		return clone3(CLONE_NEWUTS);
	if (is(name, "clone3-bad"))
		return clone3(CLONE_NEWUTS | CLONE_DETACHED);
	if (is(name, "unshare"))
		return call(NR_UNSHARE, CLONE_NEWUTS, 0, 0, 0, 0);
	if (is(name, "setns")) {
		fd = call(NR_OPEN, (long)"/proc/self/ns/net", 0, 0, 0, 0);
		return call(NR_SETNS, fd, CLONE_NEWNET, 0, 0, 0);
	}
	if (is(name, "sethostname"))
		return call(NR_SETHOSTNAME, (long)"compat", 6, 0, 0, 0);
	if (is(name, "setdomainname"))
		return call(NR_SETDOMAINNAME, (long)"compat", 6, 0, 0, 0);
	if (is(name, "write")) {
		fd = call(NR_OPEN, (long)"/proc/sys/net/ipv4/tcp_keepalive_time", 1, 0, 0, 0);
		return call(NR_WRITE, fd, (long)"601", 3, 0, 0);
	}
	if (is(name, "mount"))
		return call(NR_MOUNT, (long)"/proc/self/ns/uts", (long)at, 0, 4096 /* MS_BIND */,
			    0);
	if (is(name, "umount"))
		return call(NR_UMOUNT, (long)at, 0, 0, 0, 0);
	if (is(name, "open_tree")) /* OPEN_TREE_NAMESPACE */
		return call(NR_OPEN_TREE, AT_FDCWD, (long)"/", 2, 0, 0);
	if (is(name, "open_tree_attr"))
		return call(NR_OPEN_TREE_ATTR, AT_FDCWD, (long)"/", 2, (long)attr, sizeof(attr));
	fd = call(NR_FSOPEN, (long)"tmpfs", 0, 0, 0, 0);
	call(NR_FSCONFIG, fd, 6 /* FSCONFIG_CMD_CREATE */, 0, 0, 0);
	return call(NR_FSMOUNT, fd, 2 /* FSMOUNT_NAMESPACE */, 0, 0, 0);
}

__attribute__((used)) static void start(const char **stack)
{
	long ret = run(stack[2], stack[3]);

	call(NR_EXIT, ret < 0 ? -ret : 0, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %esp, %eax\n\tand $-16, %esp\n\tsub $12, %esp\n\tpush "
	"%eax\n\tcall start\n");
