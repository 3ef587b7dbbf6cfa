/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A FUSE file system of a user without privileges that leaves some requests without an answer. */
#ifndef FUSE_H
#define FUSE_H

#include "common.h"

#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

enum { PAGE = 4096 };

static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}

static inline void reply(int fd, uint64_t unique, int err, const void *data, size_t n)
{
	struct fuse_out_header head = {.len = sizeof(head) + n, .error = -err, .unique = unique};
	char out[sizeof(head) + PAGE];

	memcpy(out, &head, sizeof(head));
	if (n)
		memcpy(out + sizeof(head), data, n);
	if (write(fd, out, head.len) < 0)
		exit(1);
}

/* A root folder in which every name is the same file of a page. */
static inline struct fuse_attr attributes(uint64_t node)
{
	if (node == FUSE_ROOT_ID)
		return (struct fuse_attr){.ino = node, .mode = S_IFDIR | 0777, .nlink = 1};
	return (struct fuse_attr){.ino = node, .mode = S_IFREG | 0666, .nlink = 1, .size = PAGE};
}

/* Serves the file system. It never answers requests of one kind, and tells each of them to a pipe.
 */
static inline void serve(int fd, uint32_t never, int tell)
{
	static char request[1 << 18];
	static const char page[PAGE];

	for (;;) {
		struct fuse_in_header *in = (void *)request;
		ssize_t n = read(fd, request, sizeof(request));

		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (n <= 0)
			exit(0); /* not mounted any more */
		if (in->opcode == never) {
			if (write(tell, "w", 1) < 0)
				exit(1);
			continue;
		}
		switch (in->opcode) {
		case FUSE_INIT: {
			struct fuse_init_out out = {
				.major = 7,
				.minor = 31,
				.max_write = PAGE,
				.flags = FUSE_WRITEBACK_CACHE,
			};
			reply(fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_LOOKUP: {
			struct fuse_entry_out out = {
				.nodeid = 2,
				.entry_valid = 1000,
				.attr_valid = 1000,
				.attr = attributes(2),
			};
			reply(fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_GETATTR: {
			struct fuse_attr_out out = {
				.attr_valid = 1000,
				.attr = attributes(in->nodeid),
			};
			reply(fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_OPEN: {
			struct fuse_open_out out = {};
			reply(fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_READ:
			reply(fd, in->unique, 0, page, sizeof(page));
			break;
		case FUSE_FORGET:
			break;
		default:
			reply(fd, in->unique, ENOSYS, NULL, 0);
		}
	}
}

static inline void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path);
	close(fd);
}

/* Enters a new user namespace, and new ones of these kinds, and mounts the file system at /mnt. A
 * child serves it. DEVICE is a /dev/fuse that this user may open. Returns the child, and in
 * requests where to read a byte for each request that it does not answer.
 */
static inline pid_t mount_fuse(const char *device, int kinds, uint32_t never, int *requests)
{
	char text[128];
	uid_t uid = getuid();
	gid_t gid = getgid();
	int fd, pipes[2];
	pid_t server;

	if (unshare(CLONE_NEWUSER | kinds))
		fail("unshare");
	put("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "0 %d 1", uid);
	put("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "0 %d 1", gid);
	put("/proc/self/gid_map", text);

	fd = open(device, O_RDWR);
	if (fd < 0)
		fail(device);
	snprintf(text, sizeof(text), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("nsfuse", "/mnt", "fuse", MS_NOSUID | MS_NODEV, text))
		fail("mount");
	if (pipe(pipes))
		fail("pipe");
	server = fork();
	if (server < 0)
		fail("fork");
	if (!server) {
		/* Its end, at the latest that of this process, wakes all waiting threads. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pipes[0]);
		serve(fd, never, pipes[1]);
	}
	close(fd);
	close(pipes[1]);
	*requests = pipes[0];
	return server;
}

#endif
