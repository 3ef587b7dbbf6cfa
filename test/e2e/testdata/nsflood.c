// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsflood N
 *
 * Makes N calls of setns(2) that fail, each under another name of the process, so that none is like
 * the one before. Prints failed=NUMBER.
 */
#include "common.h"

#include <sys/prctl.h>

int main(int argc, char **argv)
{
	int n, failed = 0;
	char name[16];

	if (argc < 2)
		return 2;
	n = atoi(argv[1]);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "flood%d", i);
		prctl(PR_SET_NAME, name);
		failed += setns(-1, 0) != 0;
	}
	say_number("failed", failed);
	return 0;
}
