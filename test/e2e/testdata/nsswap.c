// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsswap
 *
 * Makes a user namespace while its command line has no page in memory, and executes cat at once,
 * with another command line.
 */
#include "args.h"

int main(void)
{
	set_args(map_memory(4096), 4096);
	if (unshare(CLONE_NEWUSER)) {
		perror("unshare");
		return 1;
	}
	execlp("cat", "made=after", NULL);
	perror("exec");
	return 1;
}
