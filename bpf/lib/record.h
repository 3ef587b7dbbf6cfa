/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The records that go through the ring buffer.
 *
 * A record is a fixed struct, then a tail of variable parts. The parts come in the order of
 * their lengths in the struct. bpf2go makes the Go types from these structs, and
 * tracer/record.go takes the records apart.
 *
 * This header has what records share. The struct of each kind is in the header that sends it:
 *
 *	kind                            struct          tail                     header
 *	REC_NS_CREATE, REC_NS_ENTER     ns_record       ns_change[nchanges],     ns_call.h,
 *	                                                ns_refusal, ns_limit[]   refusal.h
 *	REC_NS_DESTROY                  destroy_record                           destroy.h
 *	REC_SYSCTL_WRITE                sysctl_record   old, new, raw_old, after write.h
 *	REC_TASK_EXIT                   head                                     destroy.h
 *	REC_WHO                         who_record      actor[nancestors], exe,  who.h
 *	                                                args, cgroup
 *	REC_PARAM                       param_record    name                     param.h
 *	REC_NETDEV_MOVE                 netdev_record                            netdev.h
 *	REC_TAMPER                      tamper_record                            tamper.h
 *	REC_NS_PIN, REC_NS_UNPIN        pin_record      path                     pin.h
 *	REC_PIN_END                     pin_end_record                           pin.h
 *	REC_PROOF                       head                                     lib/proof.h
 *	REC_SYSCTL_APPEAR, _VANISH      table_record    directory, names         table.h
 *
 * REC_WHO and REC_PARAM describe a process and a parameter under an id, and other records refer
 * to that id. A program sends the description before the first record that refers to it, again
 * when anything in it changes, and at least once every EPOCH_NS.
 *
 * The *_LEN limits are the most that a record keeps. A record is only as long as its content.
 */
#ifndef __NSTRACE_RECORD_H__
#define __NSTRACE_RECORD_H__

#include "vmlinux.h"

/* Keeps a type in the BTF of the object. bpf2go makes a Go type from it if gen.go names it. */
#define EXPORT_TYPE(tag, name) const tag name *type_##name __attribute__((unused))

#define COMM_LEN 16   /* TASK_COMM_LEN */
#define TTY_LEN	 32   /* tty_struct.name has 64; the longest name in use has 12 */
#define ARGS_LEN 1024 /* of the command line */
/* Of the path of an executable, a cgroup or a pin. PATH_MAX is 4096, but 99.9 % are below 256. */
#define PATH_LEN     1024
#define PATH_PARTS   32	  /* components of such a path, including mounts that it crosses */
#define NAME_LEN     256  /* one component: NAME_MAX + 1 */
#define CGROUP_PARTS 24	  /* depth of a cgroup; Kubernetes in a user session has about 10 */
#define ANCESTORS    24	  /* a login shell below sshd below systemd has about 8 */
#define VALUE_LEN    1024 /* of the old and the new value of a parameter */
#define VALUE_BUF    (VALUE_LEN + 2) /* with the newline and the NUL that the kernel appends */
#define RAW_OLD_LEN                                                                                \
	64 /* of the memory of a parameter before the write, which tells how the handler reads it  \
	    */

/* The changes of one call are reported in this order too, so an owner comes first. */
enum ns_kind {
	NS_USER,
	NS_MNT,
	NS_PID,
	NS_NET,
	NS_UTS,
	NS_IPC,
	NS_CGROUP,
	NS_TIME,
	NS_KINDS,
};

enum record_kind {
	REC_NS_CREATE = 1,
	REC_NS_ENTER,
	REC_NS_DESTROY,
	REC_SYSCTL_WRITE,
	/* Tracepoint backend: a task that had namespaces of its own is gone, so user space looks
	 * for namespaces that ended. Others: no more tables of this thread come, see table.h.
	 */
	REC_TASK_EXIT,
	REC_WHO,
	REC_PARAM,
	REC_NETDEV_MOVE,
	REC_TAMPER,
	REC_NS_PIN,
	REC_NS_UNPIN,
	REC_PIN_END, /* a pin went together with the mounts around it: no umount(2) */
	REC_PROOF,   /* a call of nstrace's own; head.ret is the kind that it stands for */
	REC_SYSCTL_APPEAR,
	REC_SYSCTL_VANISH,
	REC_KINDS,
};

/* The size of the arrays in struct counters: a power of two above REC_KINDS. The verifier follows a
 * mask, but not a remainder.
 */
#define REC_SLOTS 16
_Static_assert(REC_KINDS <= REC_SLOTS, "raise REC_SLOTS");

enum call_via {
	VIA_NONE,
	VIA_CLONE,
	VIA_CLONE3,
	VIA_UNSHARE,
	VIA_SETNS,
	VIA_WRITE,
	VIA_OPEN,
	VIA_NETLINK, /* rtnetlink; for a parameter: IFLA_AF_SPEC, a setting of the address family */
	VIA_EXIT,    /* the end of a namespace */
	VIA_OPEN_TREE,
	VIA_FSMOUNT,
	VIA_EXECVE,
	VIA_SETHOSTNAME,
	VIA_SETDOMAINNAME,
	VIA_MOUNT,
	VIA_MOVE_MOUNT,
	VIA_UMOUNT,
	VIA_CASCADE, /* the kernel changed the parameter together with the one that was written */
	VIA_DEVICE,  /* the device changed: its MTU, or it came up */
	VIA_OPEN_TREE_ATTR,
};

enum record_flag {
	F_RET_KNOWN = 1 << 0, /* ret is the result of the call */
	F_ARGS_CUT = 1 << 1,  /* the command line is longer */
	F_PATH_CUT = 1 << 2,  /* exe, or the path of a pin, has more leading components */
	F_CGROUP_CUT = 1 << 3,
	F_LOGINUID = 1 << 4,	 /* the kernel has an audit login uid, and it is set */
	F_ARGS_MISSING = 1 << 5, /* the page was not in memory */
	F_OLD_KNOWN = 1 << 6,
	F_OLD_CUT = 1 << 7,
	F_NEW_KNOWN = 1 << 8,
	F_NEW_CUT = 1 << 9,
	F_AFTER_KNOWN = 1 << 10,
	F_AFTER_CUT = 1 << 11,
	F_ANCESTORS_CUT = 1 << 12,
	F_CHILD_CGROUP = 1 << 14,  /* the child is in another cgroup than its parent */
	F_CREATED = 1 << 13,	   /* the device did not move: it was created there */
	F_PATH_AS_GIVEN = 1 << 15, /* the path is the text that the caller passed */
};

struct actor {
	__u32 pid;
	__u32 uid;
	char comm[COMM_LEN];
};

/* One namespace that a call created, entered or asked for. */
struct ns_change {
	__u64 ns_id; /* an id that the kernel never uses again, see ns_unique_id(); 0: none */
	__u32 inum;  /* 0: unknown */
	__u32 from;  /* enter: the one that the task left; pin: the mount namespace of the mount */
	__u32 user_ns; /* the owner; for a user namespace its parent */
	__u8 kind;     /* enum ns_kind; NS_KINDS: unknown */
	__u8 wanted;   /* setns: 1 << enum ns_kind of the types that the caller asked for; 0: any */
	__u8 pad[2];
};
_Static_assert(NS_KINDS <= 8, "wanted is too small");

struct head {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u32 size; /* of the whole record, to check the size that the ring gives */
	__u16 kind; /* enum record_kind */
	__u16 flags;
	__s32 ret; /* 0 or more, or -errno */
	__u8 via;  /* enum call_via */
	__u8 nchanges;
	__u8 nancestors;
	__u8 repeatable; /* a struct fold_ref is at the end */
};

/* CLOCK_BOOTTIME is cut into epochs of this length. An id in a record refers to the last REC_WHO or
 * REC_PARAM of that id in the same epoch.
 */
#define EPOCH_SHIFT 30
#define EPOCH_NS    (1ull << EPOCH_SHIFT)

/* Who did it, in the record of an event. */
struct caller {
	__u64 who; /* who_record.id */
	__u32 pid; /* in the initial PID namespace */
	__u32 tid;
	__u32 ns[NS_KINDS]; /* before the event */
};

/* Counts events by CPU and record kind. A record with three changes counts as 3. For each kind seen
 * = sent + folded + filtered + lost.
 */
struct counters {
	__u64 seen[REC_SLOTS];
	__u64 filtered[REC_SLOTS];
	__u64 lost[REC_SLOTS]; /* the ring was full */
	/* The call began, but its end never came, or there was no memory for its state. */
	__u64 missed[REC_SLOTS];
	__u64 unended[REC_SLOTS]; /* calls, not events: those of missed whose end never came */
	__u64 folded;		  /* counted in folds */
	__u64 first_lost;	  /* CLOCK_BOOTTIME, ns; 0: none */
	__u64 last_lost;
	__u64 last_unsent; /* when a write to a parameter was last folded or missed, like last_lost
			    */
	__u64 ftrace_off;  /* writes to kernel.ftrace_enabled while it was 0 */
};

EXPORT_TYPE(struct, head);
EXPORT_TYPE(struct, actor);
EXPORT_TYPE(struct, ns_change);
EXPORT_TYPE(struct, caller);
EXPORT_TYPE(enum, record_kind);
EXPORT_TYPE(enum, ns_kind);
EXPORT_TYPE(enum, call_via);
EXPORT_TYPE(enum, record_flag);

#endif
