// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nsexec vfork N      N children execute a broken program
 * nsexec thread N     N children execute a broken program in a thread other than their first
 * nsexec run CMD...   a child executes CMD in a thread other than its first
 *
 * Each of these execve(2)s enters a time namespace: one that its process, or the parent
 * that it shares memory with, made for its children.
 *
 * The broken program passes all checks that the kernel makes before it gives up the old
 * program. Then its second segment, which has more bytes in the file than in memory, makes
 * the kernel kill the process (elf_load() in fs/binfmt_elf.c).
 *
 * Prints died=N, how many children a signal ended, or pid=PID of the child.
 */
#include "common.h"

#include <elf.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#endif

#define PAGE 0x10000 /* the largest of both architectures */

static char broken[64];
static char *const broken_args[] = {"broken", NULL};

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static void make_broken(void)
{
	struct {
		Elf64_Ehdr elf;
		Elf64_Phdr segments[2];
	} file = {
		.elf = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				    EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = MACHINE,
			.e_version = EV_CURRENT,
			.e_entry = 64 * PAGE,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2},
		.segments = {{.p_type = PT_LOAD,
			      .p_flags = PF_R | PF_X,
			      .p_vaddr = 64 * PAGE,
			      .p_filesz = sizeof(file),
			      .p_memsz = sizeof(file),
			      .p_align = PAGE},
			     {.p_type = PT_LOAD,
			      .p_flags = PF_R | PF_X,
			      .p_vaddr = 80 * PAGE,
			      .p_filesz = PAGE,
			      .p_memsz = 1,
			      .p_align = PAGE}},
	};
	struct rlimit no_core = {0};
	int fd = memfd_create("broken", 0);

	if (fd < 0 || write(fd, &file, sizeof(file)) != sizeof(file))
		die("memfd_create");
	snprintf(broken, sizeof(broken), "/proc/self/fd/%d", fd);
	setrlimit(RLIMIT_CORE, &no_core);
}

static void make_time_namespace(void)
{
	if (unshare(CLONE_NEWTIME | (getuid() ? CLONE_NEWUSER : 0)))
		die("unshare");
}

static const char *path;
static char *const *args;

static void *execute(void *unused)
{
	(void)unused;
	execvp(path, args);
	die(path);
	return NULL;
}

/* Has a child execute the program in its second thread, while the first one waits. */
static pid_t start_thread_child(void)
{
	pid_t pid = fork();
	pthread_t thread;

	if (pid)
		return pid;
	make_time_namespace();
	if (pthread_create(&thread, NULL, execute, NULL))
		die("pthread_create");
	for (;;)
		pause();
}

static pid_t start_vfork_child(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execv(broken, broken_args);
		_exit(1);
	}
	return pid;
}

static int wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("child");
	return status;
}

int main(int argc, char **argv)
{
	int n, died = 0;
	pid_t pid;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "run")) {
		path = argv[2];
		args = argv + 2;
		pid = start_thread_child();
		say_number("pid", pid);
		return wait_for(pid) ? 1 : 0;
	}
	make_broken();
	path = broken;
	args = broken_args;
	n = atoi(argv[2]);
	if (!strcmp(argv[1], "vfork"))
		make_time_namespace();
	for (int i = 0; i < n; i++) {
		if (!strcmp(argv[1], "vfork"))
			pid = start_vfork_child();
		else
			pid = start_thread_child();
		died += WIFSIGNALED(wait_for(pid)) != 0;
	}
	say_number("died", died);
	return 0;
}
