// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsstuck DEVICE PARAMETER THREADS
 *
 * Has THREADS threads that write to a parameter of a network namespace of their own, from a page
 * that the server of a FUSE file system never gives. Each waits inside write(2). Prints
 * stuck=NUMBER when they do, and ends at the end of standard input. DEVICE is a /dev/fuse that this
 * user may open.
 */
#include "fuse.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>

static const char *page;
static const char *parameter;
static volatile int tids[8192];

static void *write_page(void *arg)
{
	int fd = open(parameter, O_WRONLY);

	if (fd < 0)
		fail(parameter);
	*(volatile int *)arg = gettid();
	if (write(fd, page, 4) > 0)
		fail("the page came");
	return NULL;
}

/* Whether a thread of this process is in write(2), and waits. */
static bool is_stuck(int tid)
{
	char path[64], text[32] = "";
	int fd, n;

	if (!tid)
		return false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 && atoi(text) == SYS_write && text[0] != 'r';
}

int main(int argc, char **argv)
{
	int n, file, requests;
	struct rlimit limit;
	pthread_attr_t attr;
	pid_t server;
	char c;

	if (argc != 4)
		return 2;
	parameter = argv[2];
	n = atoi(argv[3]);
	if (n > (int)(sizeof(tids) / sizeof(tids[0])))
		return 2;
	server = mount_fuse(argv[1], CLONE_NEWNS | CLONE_NEWNET, FUSE_READ, &requests);
	file = open("/mnt/file", O_RDWR);
	if (file < 0)
		fail("/mnt/file");
	page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
	if (page == MAP_FAILED)
		fail("mmap");
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 0; i < n; i++) {
		pthread_t thread;

		if (pthread_create(&thread, &attr, write_page, (void *)&tids[i]))
			fail("pthread_create");
	}
	for (int i = 0; i < n; i++)
		while (!is_stuck(tids[i]))
			usleep(1000);
	say_number("stuck", n);
	while (read(0, &c, 1) > 0)
		;
	kill(server, SIGKILL);
	_exit(0);
}
