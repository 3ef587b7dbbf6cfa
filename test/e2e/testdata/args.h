/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shared by the programs that move their command line away from where the kernel put it. */
#ifndef ARGS_H
#define ARGS_H

#include "common.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* Fresh memory. Until somebody touches it, it has no page. */
static inline char *map_memory(size_t size)
{
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return mem;
}

/* Makes that memory this process's command line, which takes no privilege. */
static inline void set_args(char *mem, size_t size)
{
	struct prctl_mm_map m = {.exe_fd = -1};
	unsigned long long field[53] = {};
	char line[4096];
	FILE *f = fopen("/proc/self/stat", "r");

	if (!f || !fgets(line, sizeof(line), f)) {
		perror("/proc/self/stat");
		exit(1);
	}
	fclose(f);
	/* Field 3 follows the command name; see proc_pid_stat(5). */
	strtok(strrchr(line, ')'), " ");
	for (int i = 3; i < 53; i++) {
		char *text = strtok(NULL, " ");

		if (text)
			field[i] = strtoull(text, NULL, 10);
	}
	m.start_code = field[26];
	m.end_code = field[27];
	m.start_stack = field[28];
	m.start_data = field[45];
	m.end_data = field[46];
	m.start_brk = field[47];
	m.brk = (unsigned long)sbrk(0);
	m.env_start = field[50];
	m.env_end = field[51];
	m.arg_start = (unsigned long)mem;
	m.arg_end = (unsigned long)mem + size;
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &m, sizeof(m), 0)) {
		perror("PR_SET_MM_MAP");
		exit(1);
	}
}

#endif
