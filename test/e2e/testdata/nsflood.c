// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsflood N [setns|unshare|mount]
 *
 * Makes N calls that fail, and prints failed=NUMBER. Without a name, they are calls of setns(2),
 * each under another name of the process, so that none is like the one before. With a name, all are
 * alike.
 */
#include "common.h"

#include <sys/mount.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	const char *call = argc > 2 ? argv[2] : "";
	int n, failed = 0;
	char name[16];

	if (argc < 2)
		return 2;
	n = atoi(argv[1]);
	for (int i = 0; i < n; i++) {
		if (!strcmp(call, "setns")) {
			failed += setns(-1, CLONE_NEWNET | CLONE_NEWUTS) != 0;
		} else if (!strcmp(call, "unshare")) {
			failed += unshare(CLONE_NEWUTS | CLONE_NEWIPC) != 0;
		} else if (!strcmp(call, "mount")) {
			failed += mount("/proc/self/ns/uts", "/", NULL, MS_BIND, NULL) != 0;
		} else {
			snprintf(name, sizeof(name), "flood%d", i);
			prctl(PR_SET_NAME, name);
			failed += setns(-1, 0) != 0;
		}
	}
	say_number("failed", failed);
	return 0;
}
