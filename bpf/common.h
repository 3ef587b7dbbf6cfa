/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Maps, settings, filters and the way into the ring, for every observation. */
#ifndef __NSTRACE_COMMON_H__
#define __NSTRACE_COMMON_H__

#define E2BIG	    7
#define MAX_ERRNO   4095
#define IS_ERR(ptr) ((unsigned long)(ptr) >= (unsigned long)-MAX_ERRNO)

/* include/linux/errno.h: what the kernel turns into a restart of the system
 * call or into EINTR, never seen by user space.
 */
#define ERESTARTSYS	      512
#define ERESTARTNOINTR	      513
#define ERESTARTNOHAND	      514
#define ERESTART_RESTARTBLOCK 516

#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))

/* Settings, written before load; the verifier then removes what is off. */
const volatile bool follow = false;		    /* only tasks in tracees */
const volatile bool filter_pid = false;		    /* only processes in pids */
const volatile bool filter_uid = false;		    /* only users in uids */
const volatile bool filter_comm = false;	    /* only commands in comms */
const volatile bool filter_failed = false;	    /* only calls that failed */
const volatile __u32 ns_mask = (1 << NS_KINDS) - 1; /* 1 << enum ns_kind */
const volatile bool write_result =
	true; /* proc_sys_write is hooked: it reports, cgroup/sysctl only adds values */
const volatile bool direct = false;   /* bpf_get_current_task_btf() is there, see GET() */
const volatile int v1_subsys = -1;    /* enum cgroup_subsys_id, see task_cgroup() */
const volatile __u64 hash_seed;	      /* random: nobody can make two hashes meet on purpose */
const volatile __u64 fold_above = ~0; /* bytes in the ring from which on repeats are folded */

/* Set when nstrace ends, before it detaches: calls that begin from then on are not
 * followed, since their ends may no longer be seen.
 */
bool stopping;

/* The process that nstrace is. Set by the first walk of the inventory. */
__u32 self;

/* Set by user space before it sleeps until there is something to read. Whoever
 * sends the next record takes it back and wakes it; nobody else pays for that.
 */
__u32 asleep;

/* The host's namespaces, that is pid 1's, and the addresses of some of them. Set
 * by the first walk of the inventory.
 */
__u32 host_ns[NS_KINDS];
__u64 host_nsproxy;
__u64 host_user;
__u64 host_uts;
__u64 host_ipc;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23); /* set from user space */
} ring SEC(".maps");

/* One entry a CPU, against contention, and mapped into user space: reading it by
 * bpf(2) would make the kernel skip kprobe and tracepoint programs on that CPU for
 * as long as the call takes (bpf_disable_instrumentation()).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set from user space: the possible CPUs */
	__type(key, __u32);
	__type(value, struct counters);
} counts SEC(".maps");

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak; /* 6.2 */

/* ptr as a pointer to what it points to that the verifier follows: loads through it
 * are plain ones, that give 0 where the address is bad. Only where
 * bpf_rdonly_cast is.
 */
#define CAST(ptr) ((typeof(ptr))bpf_rdonly_cast(ptr, bpf_core_type_id_kernel(typeof(*(ptr)))))

#define castable (direct && bpf_rdonly_cast)

/* A member of a kernel object, or what is reached from there over pointers, read the
 * cheapest way that there is: by plain loads where the kernel lets any address be
 * cast, before that each step is a call of bpf_probe_read_kernel().
 */
#define READ(src, ...)                                                                             \
	({                                                                                         \
		typeof(___arrow(src, __VA_ARGS__)) v_;                                             \
		if (castable) {                                                                    \
			typeof(src) p_ = CAST(src);                                                \
			v_ = ___arrow(p_, __VA_ARGS__);                                            \
		} else {                                                                           \
			v_ = BPF_CORE_READ(src, __VA_ARGS__);                                      \
		}                                                                                  \
		v_;                                                                                \
	})

/* The same for what comes from current_task() by GET() alone, which the verifier
 * follows from 5.11 on.
 */
#define GET(src, ...)                                                                              \
	({                                                                                         \
		typeof(___arrow(src, __VA_ARGS__)) v_;                                             \
		if (direct)                                                                        \
			v_ = ___arrow(src, __VA_ARGS__);                                           \
		else                                                                               \
			v_ = BPF_CORE_READ(src, __VA_ARGS__);                                      \
		v_;                                                                                \
	})

/* Where the kernel tells trusted pointers from others (6.2), the verifier searches
 * all type names up to four times for each pointer that is read from a trusted one
 * (btf_nested_type_is_trusted()): milliseconds each, until 7.0. The cast drops the
 * trust, of which no use is made, and costs no instruction.
 */
static __always_inline struct task_struct *current_task(void)
{
	if (!direct)
		return (void *)bpf_get_current_task();
	if (!bpf_rdonly_cast)
		return bpf_get_current_task_btf();
	return CAST(bpf_get_current_task_btf());
}

/* A kernel object that is read at once, where it is not to be had by GET() and more
 * than one member is wanted.
 */
struct object {
	__u64 words[16];
};

/* Reads what is at ptr, a type of no more than an object's size. */
#define READ_OBJECT(obj, type, ptr)                                                                \
	do {                                                                                       \
		__u32 size_ = bpf_core_type_size(type);                                            \
		if (size_ > sizeof(struct object))                                                 \
			size_ = sizeof(struct object);                                             \
		bpf_probe_read_kernel(&(obj), size_, ptr);                                         \
	} while (0)

#define MEMBER(obj, type, member)                                                                  \
	(*(typeof(((type *)0)->member) *)((void *)&(obj) + bpf_core_field_offset(type, member)))

/* One step of a hash of 8-byte words; the multiplier is 2^64 / phi. */
static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 32);
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32); /* tgid */
	__type(value, __u8);
} tracees SEC(".maps");

#define FILTER_ENTRIES 1024 /* maxFilter of tracer/filter.go */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILTER_ENTRIES);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps"), uids SEC(".maps");

struct comm_key {
	char comm[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILTER_ENTRIES);
	__type(key, struct comm_key);
	__type(value, __u8);
} comms SEC(".maps");

/* Records are built here, since they are larger than the 512 bytes of stack
 * and bpf_ringbuf_reserve takes constant sizes only. More than one a CPU,
 * because a program can be interrupted by one in softirq context, and, with
 * a preemptible kernel, by another task's.
 */
#define SCRATCH_SLOTS 4
#define SCRATCH_MASK  8191 /* above the longest record: 5 values, ancestors, names, some 7 KiB */
#define PART_MAX      VALUE_BUF

/* A way up from one thing to the next. Each step of one is a call of a global function with
 * the slot: the verifier goes once through that, and not once for each step. What a step
 * leaves for the next is in memory, where the verifier takes it for anything.
 */
struct walk {
	void *at;
	struct vfsmount *vfsmnt; /* of a path */
	__u64 stop;		 /* end of the record from which on no more is put */
	__u64 whole;		 /* it came to the top */
};

struct scratch {
	__u64 owner;
	__u64 end; /* of what is in buf */
	__u64 slot;
	struct walk walk;
	__u8 buf[SCRATCH_MASK + 1 + PART_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_get(__u64 owner, __u64 size)
{
	for (__u32 i = 0; i < SCRATCH_SLOTS; i++) {
		__u32 slot = i;
		struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);

		if (!s)
			break;
		if (READ_ONCE(s->owner) == 0) {
			s->owner = owner;
			s->end = size;
			s->slot = i;
			return s;
		}
	}
	return NULL;
}

/* Begins a walk at what is there. */
static __always_inline __u32 walk_from(struct scratch *s, void *at)
{
	s->walk.at = at;
	s->walk.vfsmnt = NULL;
	s->walk.stop = s->end + PATH_KEEP - NAME_LEN;
	s->walk.whole = 0;
	return s->slot;
}

/* Where the record goes on. The position lives in memory, and not in a register,
 * on purpose: the verifier then takes it for any number below the mask, instead of
 * following all that comes after once for each length of what came before.
 */
static __always_inline void *scratch_end(struct scratch *s)
{
	return &s->buf[READ_ONCE(s->end) & SCRATCH_MASK];
}

static __always_inline struct counters *counters_get(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&counts, &cpu);
}

/* Atomic: with a preemptible kernel another task's program can come in between. */
static __always_inline void add(__u64 *counter, __u64 n)
{
	__sync_fetch_and_add(counter, n);
}

static __always_inline void count_missed(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();

	if (c) {
		add(&c->seen[kind], n);
		add(&c->missed[kind], n);
	}
}

static __always_inline void count_filtered(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();

	if (c) {
		add(&c->seen[kind], n);
		add(&c->filtered[kind], n);
	}
}

/* Sends size bytes that were built elsewhere. The ring's own way to wake, a piece
 * of work in an interrupt whenever the reader has caught up, costs ten times
 * what the record does.
 */
static __always_inline long submit(void *rec, __u64 size)
{
	long err = bpf_ringbuf_output(&ring, rec, size, BPF_RB_NO_WAKEUP);
	void *nothing;

	/* Ordered by the exchange that publishes the record: either this sees that
	 * the reader wants to sleep, or the reader, which looks once more after it
	 * said so, sees the record.
	 */
	if (READ_ONCE(asleep)) {
		asleep = 0;
		nothing = bpf_ringbuf_reserve(&ring, 8, 0);
		if (nothing)
			bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
		else
			asleep = 1;
	}
	return err;
}

static __always_inline void count_lost(enum record_kind kind, __u32 n)
{
	struct counters *c = counters_get();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!c)
		return;
	add(&c->seen[kind], n);
	add(&c->lost[kind], n);
	if (!c->first_lost)
		c->first_lost = now;
	c->last_lost = now;
}

/* Sends size bytes, which stand for n events, and keeps the books. */
static __always_inline long send(enum record_kind kind, __u32 n, void *rec, __u64 size)
{
	struct counters *c;
	long err = submit(rec, size);

	if (err) {
		count_lost(kind, n);
		return err;
	}
	c = counters_get();
	if (c)
		add(&c->seen[kind], n);
	return 0;
}

/* Closes what was built in s, unless it was spoilt. */
static __always_inline __u64 scratch_close(struct scratch *s, __u64 owner)
{
	struct head *h = (struct head *)s->buf;
	__u64 size = READ_ONCE(s->end);

	if (READ_ONCE(s->owner) != owner) {
		/* Another task took the slot in the two instructions between look
		 * and take: what is in it is a mixture. It is the other's now.
		 */
		return 0;
	}
	if (size > SCRATCH_MASK) { /* the parts wrapped round, see scratch_end() */
		s->owner = 0;
		return 0;
	}
	h->size = size;
	return size;
}

/* Sends what was built in s, and gives s back. */
static __always_inline long send_scratch(struct scratch *s, __u64 owner, enum record_kind kind,
					 __u32 n)
{
	__u64 size = scratch_close(s, owner);
	long err;

	if (!size) {
		count_missed(kind, n);
		return -1;
	}
	err = send(kind, n, s->buf, size);
	s->owner = 0;
	return err;
}

static __always_inline bool wanted(struct task_struct *task, bool failed)
{
	__u32 tgid;

	if (filter_failed && !failed)
		return false;
	if (follow || filter_pid) {
		tgid = BPF_CORE_READ(task, tgid);
		if (follow && !bpf_map_lookup_elem(&tracees, &tgid))
			return false;
		if (filter_pid && !bpf_map_lookup_elem(&pids, &tgid))
			return false;
	}
	if (filter_uid) {
		__u32 uid = BPF_CORE_READ(task, cred, uid.val);

		if (!bpf_map_lookup_elem(&uids, &uid))
			return false;
	}
	if (filter_comm) {
		struct comm_key key = {};

		BPF_CORE_READ_STR_INTO(&key.comm, task, comm);
		if (!bpf_map_lookup_elem(&comms, &key))
			return false;
	}
	return true;
}

static __always_inline bool will_restart(long ret)
{
	return ret == -ERESTARTNOINTR || ret == -ERESTARTSYS || ret == -ERESTARTNOHAND ||
	       ret == -ERESTART_RESTARTBLOCK;
}

#endif
