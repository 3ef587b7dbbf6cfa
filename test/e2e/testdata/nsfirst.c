// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A program without a C library whose first instructions are unshare(CLONE_NEWUTS);
 * it exits with status 7 if that succeeded.
 */
#if defined(__x86_64__)
#define NR_UNSHARE    272
#define NR_EXIT_GROUP 231

static long call(long nr, long arg)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(arg) : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
#define NR_UNSHARE    97
#define NR_EXIT_GROUP 94

static long call(long nr, long arg)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = arg;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8) : "memory");
	return x0;
}
#endif

void _start(void)
{
	call(NR_EXIT_GROUP, call(NR_UNSHARE, 0x04000000) == 0 ? 7 : 8);
	__builtin_unreachable();
}
