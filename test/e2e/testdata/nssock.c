// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nssock FILE
 *
 * Listens on a TCP socket in its network namespace, enters that of FILE, prints fd=NUMBER, and
 * waits for the end of its input.
 */
#include "common.h"

#include <netinet/in.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	int sock = socket(AF_INET, SOCK_STREAM, 0), ns;

	if (argc < 2)
		return 2;
	if (sock < 0 || bind(sock, (void *)&any, sizeof(any)) || listen(sock, 1))
		return 1;
	ns = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET))
		return 1;
	close(ns);
	say_number("fd", sock);
	wait_stdin();
	return 0;
}
