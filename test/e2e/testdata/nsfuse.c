// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsfuse DEVICE fixed|unmap
 *
 * Has a thread that waits for a FUSE file system while it holds the lock of this process's
 * memory, mmap_lock. A process that reads this memory, for example by /proc/PID/cmdline, waits,
 * too. Then makes a UTS namespace, with its command line in memory without a page.
 *
 * The file system is served by a child that does not answer to writes. DEVICE is a
 * /dev/fuse that this user may open. How the lock is held:
 *
 * fixed  mmap(MAP_FIXED) over a mapping with a dirty page. It writes the page back and waits
 *        for that (6.16 and later).
 * unmap  a write to a page under writeback waits for its end, and munmap() of the mapping
 *        waits for that write.
 *
 * Prints held=0 and ends if that does not work, otherwise held=1, made=uts, and, at the end
 * of standard input, whether the lock was held all the time.
 */
#include "args.h"
#include "fuse.h"

#include <pthread.h>
#include <stdbool.h>

static char *map;  /* the page of the file */
static int notify; /* a pipe: the server got a write */
static volatile int writer, holder;
static volatile bool written, released;

/* The code below runs while the lock is held. It must not touch any page for the first time,
 * because that takes the lock.
 */

static char text[512];

static void say_now(const char *line)
{
	if (write(1, line, strlen(line)) < 0)
		_exit(1);
}

/* Whether a thread of this process waits and can not be interrupted. */
static bool waits(int tid)
{
	char *end;
	ssize_t n;
	int fd;

	snprintf(text, sizeof(text), "/proc/self/task/%d/stat", tid);
	fd = open(text, O_RDONLY);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	end = strrchr(text, ')');
	return end && end[1] && end[2] == 'D';
}

/* Waits until a thread waits in that way, or is done. Before that, it can wait for a moment. */
static bool blocks(volatile int *tid, volatile bool *done)
{
	for (int seen = 0; seen < 20; usleep(10000)) {
		if (*done)
			return false;
		seen = *tid && waits(*tid) ? seen + 1 : 0;
	}
	return true;
}

/* page_mkwrite() waits for the end of the writeback. */
static void *write_page(void *arg)
{
	writer = gettid();
	map[1] = 2;
	written = true;
	return arg;
}

static void *hold_fixed(void *arg)
{
	holder = gettid();
	mmap(map, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	released = true;
	return arg;
}

static void *hold_unmap(void *arg)
{
	holder = gettid();
	munmap(map, PAGE);
	released = true;
	return arg;
}

int main(int argc, char **argv)
{
	bool fixed = argc == 3 && !strcmp(argv[2], "fixed");
	char c, *args;
	int file;
	pthread_t thread;
	pid_t server;

	if (argc != 3)
		return 2;
	server = mount_fuse(argv[1], CLONE_NEWNS, FUSE_WRITE, &notify);

	file = open("/mnt/file", O_RDWR);
	if (file < 0)
		fail("/mnt/file");
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map == MAP_FAILED)
		fail("mmap");
	map[0] = 1; /* dirty */
	args = map_memory(PAGE);
	set_args(args, PAGE);
	waits(getpid()); /* so that all code and memory of this call and of those below is in place
			  */
	unshare(0);
	usleep(0);
	say_now("ready=1\n");

	if (!fixed) {
		/* Starts the writeback. */
		if (sync_file_range(file, 0, PAGE, SYNC_FILE_RANGE_WRITE) ||
		    read(notify, &c, 1) != 1)
			fail("sync_file_range");
		if (pthread_create(&thread, NULL, write_page, NULL))
			return 1;
		blocks(&writer, &written);
	}
	if (pthread_create(&thread, NULL, fixed ? hold_fixed : hold_unmap, NULL))
		return 1;
	if (!blocks(&holder, &released)) {
		say_now("held=0\n");
		kill(server, SIGKILL);
		_exit(0);
	}
	say_now("held=1\n");
	if (unshare(CLONE_NEWUTS)) {
		say_now("made=none\n");
		_exit(1);
	}
	say_now("made=uts\n");
	while (read(0, &c, 1) > 0)
		;
	say_now(released ? "held=0\n" : "held=1\n");
	kill(server, SIGKILL);
	_exit(0);
}
