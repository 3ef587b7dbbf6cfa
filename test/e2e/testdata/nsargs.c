// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsargs MIB
 *
 * Has a command line of that size and makes a user namespace. The command line lies in memory
 * that nothing has touched, so the kernel side of a tracer finds no page there.
 */
#include "args.h"

int main(int argc, char **argv)
{
	size_t size = argc == 2 ? strtoul(argv[1], NULL, 10) << 20 : 0;

	if (!size)
		return 2;
	set_args(map_memory(size), size);
	if (unshare(CLONE_NEWUSER)) {
		perror("unshare");
		return 1;
	}
	say("made", "user");
	wait_stdin(); /* a tracer can read the command line until then */
	return 0;
}
