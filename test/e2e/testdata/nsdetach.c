// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsdetach LINK_ID
 *
 * Detaches a BPF link by bpf(2), with the arguments in a page that is not in the memory of this
 * process before the kernel reads them.
 */
#include "common.h"

#include <linux/bpf.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	union bpf_attr attr = {};
	int link, fd;
	void *page;

	if (argc < 2)
		return 2;
	attr.link_id = atoi(argv[1]);
	link = syscall(SYS_bpf, BPF_LINK_GET_FD_BY_ID, &attr, sizeof(attr));
	if (link < 0) {
		perror("BPF_LINK_GET_FD_BY_ID");
		return 1;
	}
	memset(&attr, 0, sizeof(attr));
	attr.link_detach.link_fd = link;
	fd = memfd_create("attr", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 4096) || write(fd, &attr, sizeof(attr)) != sizeof(attr)) {
		perror("memfd");
		return 1;
	}
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED || syscall(SYS_bpf, BPF_LINK_DETACH, page, sizeof(attr))) {
		perror("BPF_LINK_DETACH");
		return 1;
	}
	return 0;
}
