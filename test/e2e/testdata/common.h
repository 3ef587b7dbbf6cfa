/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shared by the helper programs. They print one fact per line, as key=value. */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const struct {
	const char *name;
	unsigned long flag;
} flag_names[] = {
	{"mnt", CLONE_NEWNS},	 {"uts", CLONE_NEWUTS},
	{"ipc", CLONE_NEWIPC},	 {"user", CLONE_NEWUSER},
	{"pid", CLONE_NEWPID},	 {"net", CLONE_NEWNET},
	{"time", CLONE_NEWTIME}, {"cgroup", CLONE_NEWCGROUP},
	{"fs", CLONE_FS},	 {"none", 0},
};

/* "net,uts" to CLONE_NEWNET | CLONE_NEWUTS. */
static inline unsigned long parse_flags(char *list)
{
	unsigned long flags = 0;
	char *save = NULL;

	for (char *s = strtok_r(list, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
		size_t i, n = sizeof(flag_names) / sizeof(flag_names[0]);

		for (i = 0; i < n && strcmp(s, flag_names[i].name); i++)
			;
		if (i == n) {
			fprintf(stderr, "unknown flag %s\n", s);
			exit(2);
		}
		flags |= flag_names[i].flag;
	}
	return flags;
}

static inline void say(const char *key, const char *value)
{
	printf("%s=%s\n", key, value);
	fflush(stdout);
}

static inline void say_number(const char *key, long value)
{
	printf("%s=%ld\n", key, value);
	fflush(stdout);
}

static inline void say_errno(const char *key, int err)
{
	say(key, strerrorname_np(err));
}

/* Waits until whoever started this closes its end. */
static inline void wait_stdin(void)
{
	char c;

	while (read(0, &c, 1) > 0)
		;
}

#endif
