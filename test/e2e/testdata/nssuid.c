// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nssuid CMD [ARG...]
 * nssuid -n N CMD [ARG...]
 *
 * Becomes root, as sudo(8) does, and executes CMD. The test makes it a set-user-ID program. With
 * -n, N children of the user execute it before.
 */
#include "common.h"

static int execute_self(char *name)
{
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/proc/self/exe", name, NULL);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3;
}

int main(int argc, char **argv)
{
	if (argc > 3 && !strcmp(argv[1], "-n")) {
		for (int n = atoi(argv[2]); n > 0; n--)
			if (!execute_self(argv[0]))
				return 2;
		argv += 2;
		argc -= 2;
	}
	if (argc < 2)
		return 3;
	if (setgid(0) || setuid(0))
		return 2;
	execvp(argv[1], argv + 1);
	return 1;
}
