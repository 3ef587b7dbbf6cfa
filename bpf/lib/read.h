/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How programs read kernel memory. Each of these takes a pointer and the members to follow:
 *
 *	READ_CURRENT()    of the current task and what READ_CURRENT() gave: plain loads from 5.11 on
 *	READ()            of any object, on a path that every event takes: plain loads from 6.2 on
 *	BPF_CORE_READ()   of any object, elsewhere
 *	READ_OBJECT()     copies a whole object, of which MEMBER() then takes members
 */
#ifndef __NSTRACE_READ_H__
#define __NSTRACE_READ_H__

#include "common.h"

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak; /* 6.2 */

/* Turns ptr into a pointer that the verifier follows. A load through it is a plain one, and gives 0
 * if the address is bad. Use it only where bpf_rdonly_cast() exists.
 */
#define CAST(ptr) ((typeof(ptr))bpf_rdonly_cast(ptr, bpf_core_type_id_kernel(typeof(*(ptr)))))

#ifdef NO_RDONLY_CAST /* an object that is loaded quickly, and runs rarely */
#define can_cast false
#else
#define can_cast (has_task_btf && bpf_rdonly_cast)
#endif

/* Reads a member of a kernel object, or what pointers lead to from there, at the least cost. These
 * are plain loads where the kernel has bpf_rdonly_cast(). Elsewhere each step calls
 * bpf_probe_read_kernel().
 */
#define READ(src, ...)                                                                             \
	({                                                                                         \
		typeof(___arrow(src, __VA_ARGS__)) v_;                                             \
		if (can_cast) {                                                                    \
			typeof(src) p_ = CAST(src);                                                \
			v_ = ___arrow(p_, __VA_ARGS__);                                            \
		} else {                                                                           \
			v_ = BPF_CORE_READ(src, __VA_ARGS__);                                      \
		}                                                                                  \
		v_;                                                                                \
	})

/* Does the same for current_task(), and for pointers that READ_CURRENT() has read from it. The
 * verifier follows these from 5.11 on.
 */
#define READ_CURRENT(src, ...)                                                                     \
	({                                                                                         \
		typeof(___arrow(src, __VA_ARGS__)) v_;                                             \
		if (has_task_btf)                                                                  \
			v_ = ___arrow(src, __VA_ARGS__);                                           \
		else                                                                               \
			v_ = BPF_CORE_READ(src, __VA_ARGS__);                                      \
		v_;                                                                                \
	})

/* A copy of a kernel object, for when a program needs several members and READ_CURRENT() cannot
 * read them.
 */
struct object {
	__u64 words[16];
};

/* Copies the object at ptr. Its type must not be larger than a struct object. */
#define READ_OBJECT(obj, type, ptr)                                                                \
	do {                                                                                       \
		__u32 size_ = bpf_core_type_size(type);                                            \
		if (size_ > sizeof(struct object))                                                 \
			size_ = sizeof(struct object);                                             \
		bpf_probe_read_kernel(&(obj), size_, ptr);                                         \
	} while (0)

#define MEMBER(obj, type, member)                                                                  \
	(*(typeof(((type *)0)->member) *)((void *)&(obj) + bpf_core_field_offset(type, member)))

/* Turns a pointer whose type the verifier knows into a number. The verifier allows no arithmetic on
 * such a pointer, and an ERR_PTR() is a number.
 */
static __always_inline long ptr_to_number(const void *ptr)
{
	const void *spilled = ptr;
	long n = 0;

	bpf_probe_read_kernel(&n, sizeof(n), &spilled);
	return n;
}

#endif
