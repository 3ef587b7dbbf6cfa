/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The records that go through the ring buffer: a fixed head, then a tail of
 * variable parts in the order in which their lengths stand in the head. bpf2go
 * makes the Go types from these structs; tracer/decode.go takes them apart.
 *
 * Who acted and the name of a parameter are records of their own, sent before the
 * first one that refers to them and again when anything in them changes, but
 * at least every EPOCH_NS.
 *
 * Sizes are the longest that is kept; a record is only as long as its content.
 */
#ifndef __NSTRACE_RECORD_H__
#define __NSTRACE_RECORD_H__

#define COMM_LEN 16   /* TASK_COMM_LEN */
#define TTY_LEN	 32   /* tty_struct.name is 64; the longest driver name + number in use is 12 */
#define ARGS_LEN 1024 /* the part of the command line that is kept */
#define PATH_KEEP                                                                                  \
	1024 /* of an executable or cgroup path; PATH_MAX is 4096, but 99.9 % are below 256 */
#define PATH_PARTS   32		     /* components of such a path, mount crossings included */
#define NAME_LEN     256	     /* NAME_MAX + 1: one component */
#define CGROUP_PARTS 24		     /* cgroup depth; Kubernetes in a user session is about 10 */
#define ANCESTORS    24		     /* a login shell below sshd below systemd is about 8 */
#define VALUE_LEN    1024	     /* of a parameter's value, old and new */
#define VALUE_BUF    (VALUE_LEN + 2) /* and the newline and NUL that the kernel puts behind it */
#define RAW_OLD_LEN  64 /* of a parameter's memory before the write, to learn how it is read */

/* Also the order in which one call's changes are reported: an owner first. */
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
	REC_TASK_EXIT, /* tracepoint backend: a task with namespaces of its own is gone, look what
			  ended */
	REC_WHO,
	REC_PARAM,
	REC_NETDEV_MOVE,
	REC_TAMPER,
	REC_NS_PIN,
	REC_NS_UNPIN,
	REC_PIN_END, /* a pin went with the mounts around it: nobody unmounted it */
	REC_KINDS,
};

/* Of counters, above REC_KINDS. A power of two: the verifier follows a mask, and a
 * remainder not.
 */
#define REC_SLOTS 16

enum call_via {
	VIA_NONE,
	VIA_CLONE,
	VIA_CLONE3,
	VIA_UNSHARE,
	VIA_SETNS,
	VIA_WRITE,
	VIA_OPEN,
	VIA_NETLINK, /* rtnetlink; for a parameter: a setting of the address family, IFLA_AF_SPEC */
	VIA_EXIT,    /* of a namespace */
	VIA_OPEN_TREE,
	VIA_FSMOUNT,
	VIA_EXECVE,
	VIA_SETHOSTNAME,
	VIA_SETDOMAINNAME,
	VIA_MOUNT,
	VIA_MOVE_MOUNT,
	VIA_UMOUNT,
	VIA_CASCADE, /* the kernel changed it along with the parameter that was written */
	VIA_DEVICE,  /* the device was changed: its MTU, or it came up */
};

enum record_flag {
	F_RET_KNOWN = 1 << 0, /* ret holds the call's result */
	F_ARGS_CUT = 1 << 1,  /* the command line goes on */
	F_EXE_CUT = 1 << 2,   /* the path has more leading components */
	F_CGROUP_CUT = 1 << 3,
	F_LOGINUID = 1 << 4,	 /* the kernel has an audit login uid and it is set */
	F_ARGS_MISSING = 1 << 5, /* the page was not in memory */
	F_OLD_KNOWN = 1 << 6,
	F_OLD_CUT = 1 << 7,
	F_NEW_KNOWN = 1 << 8,
	F_NEW_CUT = 1 << 9,
	F_AFTER_KNOWN = 1 << 10,
	F_AFTER_CUT = 1 << 11,
	F_ANCESTORS_CUT = 1 << 12,
	F_ELSEWHERE = 1 << 14,	/* the child is in another cgroup than its parent */
	F_CREATED = 1 << 13,	/* the device did not move, it was made there */
	F_PATH_NAMED = 1 << 15, /* the path is text as the caller named it */
};

struct actor {
	__u32 pid;
	__u32 uid;
	char comm[COMM_LEN];
};

/* One namespace that a call made, entered or asked for. */
struct ns_change {
	__u64 uid;     /* the kernel's own id that is never reused, 0 where it has none */
	__u32 inum;    /* 0: not known */
	__u32 from;    /* enter: what the task left */
	__u32 user_ns; /* the owner; for a user namespace its parent */
	__u8 kind;     /* enum ns_kind, NS_KINDS: not known */
	__u8 pad[3];
};

struct head {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	__u32 size; /* of the whole record: a check against the ring's own */
	__u16 kind; /* enum record_kind */
	__u16 flags;
	__s32 ret; /* 0 or more, or -errno */
	__u8 via;  /* enum call_via */
	__u8 nchanges;
	__u8 nancestors;
	__u8 pad;
};

/* An id in a record refers to the REC_WHO or REC_PARAM of that id sent last, which
 * is of the same one of these spans of CLOCK_BOOTTIME.
 */
#define EPOCH_SHIFT 30
#define EPOCH_NS    (1ull << EPOCH_SHIFT)

/* REC_WHO: then actor[nancestors], exe, args, cgroup. */
struct who_record {
	struct head head;
	__u64 id;	  /* a keyed hash of what follows, never 0 */
	__u64 start_time; /* of the process, CLOCK_BOOTTIME, ns */
	__u32 pid;	  /* these three in the initial PID namespace */
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 loginuid;
	__u32 sessionid;
	char comm[COMM_LEN];
	char tty[TTY_LEN];
	/* Lengths of the tail's parts that follow the ancestors, in their order. */
	__u16 exe_len; /* components, leaf first, each ended by a NUL */
	__u16 args_len;
	__u16 cgroup_len; /* as exe_len; see task_cgroup() */
	__u16 pad[3];
};

/* REC_PARAM: then name, components, leaf first, each ended by a NUL. */
struct param_record {
	struct head head;
	__u64 id;
};

/* Who acted, in an event's record. */
struct caller {
	__u64 who; /* who_record.id */
	__u32 pid; /* in the initial PID namespace */
	__u32 tid;
	__u32 ns[NS_KINDS]; /* before the event */
};

/* REC_NS_CREATE, REC_NS_ENTER: then ns_change[nchanges]. */
struct ns_record {
	struct head head;
	struct caller caller;
	__u32 child; /* pid of the task that a clone made */
	__u32 pad;
};

/* REC_SYSCTL_WRITE: then old, new, raw_old, after. What changed along with a parameter comes
 * before the record of the write that did it, so that none of others is between them when
 * user space has both.
 */
struct sysctl_record {
	struct head head;
	struct caller caller;
	struct ns_change ns; /* the namespace whose copy was written; kind NS_KINDS: host-wide */
	__u64 param;	     /* param_record.id */
	/* Of the slot in folds that counts repeats of this from now on. Without a slot: the
	 * same for a write and all that changed along with it; 0: nothing did.
	 */
	__u64 fold_key;
	__u32 fold_slot; /* its number plus 1; 0: none */
	__u32 maxlen;	 /* of the parameter's memory */
	__u16 old_len;
	__u16 new_len;
	__u16 raw_len;
	__u16 after_len;
};

/* REC_NS_DESTROY, no process: whoever is current did not do it. */
struct destroy_record {
	struct head head;
	__u64 uid;
	__u32 inum;
	__u8 ns_kind; /* NS_KINDS: the kernel does not say (before 6.18) */
	__u8 pad[3];
};

/* REC_TAMPER: somebody does something to nstrace itself. */
struct tamper_record {
	struct head head;
	struct caller caller; /* who 0: the kernel, for whomever */
	__u32 signal;	      /* 0: none */
	__u32 cmd;	      /* enum bpf_cmd */
	__u32 object;	      /* enum own_object */
	__u32 id;	      /* of the object, as bpf(2) knows it */
};

/* What of nstrace is in the kernel. */
enum own_object {
	OWN_NONE,
	OWN_LINK,
	OWN_MAP,
	OWN_PROGRAM,
};

struct own_key {
	__u32 object;
	__u32 id;
};

#define NETDEV_LEN 16 /* IFNAMSIZ */

/* REC_NETDEV_MOVE. What is new stands there for a success alone, also where it is the
 * same.
 */
struct netdev_record {
	struct head head;
	struct caller caller; /* who 0: a worker of the kernel */
	struct ns_change from;
	struct ns_change to;
	__u32 ifindex;
	__u32 new_ifindex;
	char name[NETDEV_LEN];
	char new_name[NETDEV_LEN];
};

/* REC_NS_PIN, REC_NS_UNPIN: then path, components, leaf first, each ended by a NUL, or
 * text (F_PATH_NAMED).
 */
struct pin_record {
	struct head head;
	struct caller caller;
	struct ns_change ns;
	__u32 mnt_id; /* of the mount, as in mountinfo; 0: not known */
	__u16 path_len;
	__u16 pad;
};

/* REC_PIN_END, no process. */
struct pin_end_record {
	struct head head;
	__u32 mnt_id;
	__u32 inum;
};

/* What the task iterator gives, one a task that is in namespaces of its own. */
struct inventory {
	struct ns_change ns[NS_KINDS];
	struct ns_change for_children[2]; /* pid, time; inum 0 where the same as above */
	__u64 cgroup;			  /* kernfs id; as who_record's path, see task_cgroup() */
	__u32 pid;
	__u32 exiting; /* it is about to leave them */
};

/* Repeats of one write that were counted instead of sent, since more was offered
 * than user space read.
 */
struct fold {
	__u64 key;   /* a keyed hash of who and what; 0: the slot was never used */
	__u64 count; /* only grows */
	__u64 taken; /* how much of it user space has reported: written by it alone */
	__u64 first; /* of those not reported yet; CLOCK_BOOTTIME, ns */
	__u64 last;
};

/* Per CPU and record kind, in events (a record with three changes counts 3).
 * seen = sent + folded + filtered + lost.
 */
struct counters {
	__u64 seen[REC_SLOTS];
	__u64 filtered[REC_SLOTS];
	__u64 lost[REC_SLOTS];	 /* the ring was full */
	__u64 missed[REC_SLOTS]; /* seen begun, its end never came, or no memory to keep its state
				  */
	__u64 folded;		 /* of REC_SYSCTL_WRITE: counted in folds */
	__u64 first_lost;	 /* CLOCK_BOOTTIME, ns; 0: none */
	__u64 last_lost;
};

#endif
