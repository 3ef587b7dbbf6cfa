// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsstorm PROCESSES N
 *
 * Makes PROCESSES processes that make N UTS namespaces each, all at once. Prints ok=NUMBER, how
 * many namespaces that were.
 */
#include "common.h"

int main(int argc, char **argv)
{
	int processes, n, status, ok = 0;

	if (argc < 3)
		return 2;
	processes = atoi(argv[1]);
	n = atoi(argv[2]);
	for (int i = 0; i < processes; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (pid == 0) {
			for (int j = 0; j < n; j++)
				if (unshare(CLONE_NEWUTS))
					_exit(1);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		if (status == 0)
			ok += n;
	say_number("ok", ok);
	return 0;
}
