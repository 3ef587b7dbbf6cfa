// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nswrite [-u FLAGS] [-n COUNT] [-dw] PATH VALUE...
 *
 * Opens PATH. With -u it calls unshare(FLAGS), and with -w it waits for the end of standard input.
 * Then it makes COUNT writes of the values in turn, each with one write(2) at the start of the
 * file. -d appends a number to each value, so that all differ. Prints how many writes succeeded
 * (ok=N) and how many failed (failed=N, error=ERRNO of the last one).
 */
#include "common.h"

int main(int argc, char **argv)
{
	unsigned long flags = 0, ok = 0, failed = 0;
	int opt, fd, nvalues, last = 0, wait = 0, distinct = 0;
	long count = -1;

	while ((opt = getopt(argc, argv, "+u:n:dw")) != -1) {
		switch (opt) {
		case 'u':
			flags = parse_flags(optarg);
			break;
		case 'n':
			count = atol(optarg);
			break;
		case 'd':
			distinct = 1;
			break;
		case 'w':
			wait = 1;
			break;
		default:
			return 2;
		}
	}
	nvalues = argc - optind - 1;
	if (nvalues < 1)
		return 2;
	if (count < 0)
		count = nvalues;
	fd = open(argv[optind], O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		say_errno("open", errno);
		return 0;
	}
	/*
	 * An open parameter does not hold its network namespace: without a process in
	 * it, cleanup_net() unregisters the table some time after unshare(2), and
	 * proc_sys_call_handler() then refuses with ENOENT.
	 */
	if ((flags & CLONE_NEWNET) && open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC) < 0) {
		perror("/proc/self/ns/net");
		return 1;
	}
	if (flags && unshare(flags)) {
		perror("unshare");
		return 1;
	}
	if (wait) {
		say("ready", "yes");
		wait_stdin();
	}
	for (long i = 0; i < count; i++) {
		const char *value = argv[optind + 1 + i % nvalues];
		char numbered[64];

		if (distinct) {
			snprintf(numbered, sizeof(numbered), "%s%ld", value, i);
			value = numbered;
		}
		if (pwrite(fd, value, strlen(value), 0) < 0) {
			failed++;
			last = errno;
		} else {
			ok++;
		}
	}
	say_number("ok", ok);
	say_number("failed", failed);
	if (last)
		say_errno("error", last);
	return 0;
}
