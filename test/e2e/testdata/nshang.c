// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Calls sethostname(2) with a name in a page that never arrives. Prints tid=TID once the call waits
 * for the page, and continues to wait.
 */
#include "common.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static char *page;
static volatile pid_t tid;

static void *hang(void *unused)
{
	(void)unused;
	tid = gettid();
	sethostname(page, 4);
	return NULL;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	long size = sysconf(_SC_PAGESIZE);
	struct uffdio_register range;
	struct uffd_msg fault;
	pthread_t thread;
	int fd;

	if (unshare(CLONE_NEWUTS)) {
		perror("unshare");
		return 1;
	}
	page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range = (struct uffdio_register){.range = {.start = (uintptr_t)page, .len = size},
					 .mode = UFFDIO_REGISTER_MODE_MISSING};
	fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range)) {
		perror("userfaultfd");
		return 1;
	}
	if (pthread_create(&thread, NULL, hang, NULL))
		return 1;
	if (read(fd, &fault, sizeof(fault)) != sizeof(fault)) {
		perror("read");
		return 1;
	}
	say_number("tid", tid);
	for (;;)
		pause();
}
