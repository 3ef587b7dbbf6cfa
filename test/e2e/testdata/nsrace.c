// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsrace N
 *
 * Makes a network namespace, and calls setns(2) N times without a type, on a descriptor that
 * another thread turns from the caller's UTS namespace into that network namespace and back.
 * Returns home after each call that entered the latter. Prints entered=NUMBER, how many did.
 */
#include "common.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

enum { FD = 100 };

static int uts, net;
static volatile bool done;

static void *flip(void *arg)
{
	while (!done) {
		dup2(uts, FD);
		for (volatile int i = 0; i < 300; i++)
			;
		dup2(net, FD);
		for (volatile int i = 0; i < 300; i++)
			;
	}
	return arg;
}

static ino_t current_net(void)
{
	struct stat st;

	if (stat("/proc/thread-self/ns/net", &st)) {
		perror("stat");
		exit(1);
	}
	return st.st_ino;
}

int main(int argc, char **argv)
{
	int home = open("/proc/self/ns/net", O_RDONLY), n, entered = 0;
	pthread_t thread;
	ino_t other;

	if (argc < 2)
		return 2;
	n = atoi(argv[1]);
	uts = open("/proc/self/ns/uts", O_RDONLY);
	if (unshare(CLONE_NEWNET)) {
		perror("unshare");
		return 1;
	}
	net = open("/proc/self/ns/net", O_RDONLY);
	other = current_net();
	if (home < 0 || uts < 0 || net < 0 || setns(home, CLONE_NEWNET) || dup2(uts, FD) < 0 ||
	    pthread_create(&thread, NULL, flip, NULL)) {
		perror("nsrace");
		return 1;
	}
	for (int i = 0; i < n; i++) {
		sched_yield();
		if (setns(FD, 0)) {
			perror("setns");
			return 1;
		}
		if (current_net() != other)
			continue;
		entered++;
		if (setns(home, CLONE_NEWNET)) {
			perror("setns");
			return 1;
		}
	}
	done = true;
	pthread_join(thread, NULL);
	say_number("entered", entered);
	return 0;
}
