// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsthread COUNT FLAGS
 *
 * Starts COUNT threads with the name nsthread-worker. Each calls unshare(2) and prints thread=TID
 * NET (its network namespace). They live until standard input ends.
 */
#include "common.h"

#include <pthread.h>

static unsigned long flags;
static pthread_barrier_t made, end;

static void *thread(void *arg)
{
	char ns[64] = {};

	pthread_setname_np(pthread_self(), "nsthread-worker");
	if (unshare(flags))
		perror("unshare");
	else if (readlink("/proc/thread-self/ns/net", ns, sizeof(ns) - 1) < 0)
		perror("/proc/thread-self/ns/net");
	flockfile(stdout);
	printf("thread=%d %s\n", gettid(), ns);
	funlockfile(stdout);
	pthread_barrier_wait(&made);
	pthread_barrier_wait(&end);
	return arg;
}

int main(int argc, char **argv)
{
	int n = argc == 3 ? atoi(argv[1]) : 0;
	pthread_t threads[16];

	if (n < 1 || n > 16)
		return 2;
	flags = parse_flags(argv[2]);
	pthread_barrier_init(&made, NULL, n + 1);
	pthread_barrier_init(&end, NULL, n + 1);
	for (int i = 0; i < n; i++) {
		if (pthread_create(&threads[i], NULL, thread, NULL))
			return 1;
	}
	pthread_barrier_wait(&made);
	say("made", "all");
	wait_stdin();
	pthread_barrier_wait(&end);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
