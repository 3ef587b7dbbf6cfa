/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Writes to kernel parameters.
 *
 * proc_sys_write() is the one way from a file below /proc/sys to a parameter's
 * handler; its entry and exit give the parameter, its namespace, the result and
 * the memory before and after. A cgroup/sysctl program, which the kernel runs in
 * between, adds the old value as the kernel prints it and what was written.
 * Where proc_sys_write() cannot be hooked the latter reports alone.
 */
#ifndef __NSTRACE_SYSCTL_H__
#define __NSTRACE_SYSCTL_H__

#define SHORT_VALUE 64 /* nine parameters in ten are shorter */

/* A write that is under way, from its entry to its end. */
struct write {
	struct ctl_table *table;
	struct ctl_table_header *header;
	const char *procname; /* these three are the table's */
	void *data;	      /* where it really is */
	__u32 maxlen;
	__u32 kind; /* of ns; NS_KINDS: see describe_set() */
	void *ns;
	void *buf; /* the caller's, for writes that never reach the program */
	__u64 buf_len;
	__u16 flags;
	__u16 old_len; /* from SHORT_VALUE on: in long_values */
	__u16 new_len;
	__u16 raw_len;
	__u32 via; /* enum call_via */
	__u32 pad;
	void *extra1; /* of the table: what it is about, or its limits */
	void *extra2;
	__u64 cause; /* sysctl_record.fold_key, without a slot */
	char raw[RAW_OLD_LEN];
	char old[SHORT_VALUE];
	char new[SHORT_VALUE];
};

#define WRITES 512 /* tasks inside proc_sys_write() at one time */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WRITES);
	__type(key, __u32); /* tid */
	__type(value, struct write);
} writes SEC(".maps");

/* The same where cgroup/sysctl reports alone, or the file could not be opened, and nothing has
 * to last.
 */
struct write_slot {
	__u64 owner;
	__u32 number; /* plus 1 */
	struct write w;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct write_slot);
} write_slots SEC(".maps");

static __always_inline struct write_slot *write_slot_get(__u64 owner)
{
	for (__u32 i = 0; i < SCRATCH_SLOTS; i++) {
		__u32 slot = i;
		struct write_slot *s = bpf_map_lookup_elem(&write_slots, &slot);

		if (!s)
			break;
		if (READ_ONCE(s->owner) == 0) {
			s->owner = owner;
			s->number = i + 1;
			return s;
		}
	}
	count_missed(REC_SYSCTL_WRITE, 1);
	return NULL;
}

/* Whether another task took the slot meanwhile, see scratch_close(): it is that one's. */
static __always_inline bool write_slot_lost(struct write_slot *s, __u64 owner)
{
	if (READ_ONCE(s->owner) == owner)
		return false;
	count_missed(REC_SYSCTL_WRITE, 1);
	return true;
}

/* What does not fit into a write. */
struct long_values {
	char old[VALUE_BUF];
	char new[VALUE_BUF];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WRITES);
	__type(key, __u32);
	__type(value, struct long_values);
} long_values SEC(".maps");

static const struct long_values no_values;

/* The same parameter tried again by the same task, see same_try(). */
struct attempt {
	__u64 time;
	struct ctl_table *table;
	__u64 old; /* hashes of the values */
	__u64 written;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct attempt);
} tries SEC(".maps");

/* Takes what is wanted of w->table. Parameters of UTS (all kernels) and IPC (up to
 * 5.19) are registered once, with the host's copy as their memory, and the
 * handlers move it to the caller's namespace: get_uts() in kernel/utsname_sysctl.c,
 * get_ipc() in ipc/ipc_sysctl.c.
 */
static __noinline void read_table(struct write *w)
{
	struct task_struct *task = current_task();
	struct ctl_table *table;
	__u64 data, off;

	if (!w)
		return;
	if (castable) {
		table = CAST(w->table);
		w->procname = table->procname;
		w->maxlen = table->maxlen;
		data = (__u64)table->data;
		w->extra1 = table->extra1;
		w->extra2 = table->extra2;
	} else {
		struct object o;

		READ_OBJECT(o, struct ctl_table, w->table);
		w->procname = MEMBER(o, struct ctl_table, procname);
		w->maxlen = MEMBER(o, struct ctl_table, maxlen);
		data = (__u64)MEMBER(o, struct ctl_table, data);
		w->extra1 = MEMBER(o, struct ctl_table, extra1);
		w->extra2 = MEMBER(o, struct ctl_table, extra2);
	}
	w->kind = NS_KINDS;

	off = data - host_uts;
	if (host_uts && off < bpf_core_type_size(struct uts_namespace)) {
		w->kind = NS_UTS;
		w->ns = BPF_CORE_READ(task, nsproxy, uts_ns);
		data = (__u64)w->ns + off;
	}
	off = data - host_ipc;
	if (host_ipc && off < bpf_core_type_size(struct ipc_namespace)) {
		w->kind = NS_IPC;
		w->ns = BPF_CORE_READ(task, nsproxy, ipc_ns);
		data = (__u64)w->ns + off;
	}
	w->data = (void *)data;
}

static __always_inline struct write *write_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&writes, &tid);
}

/* A short value has a NUL behind it: the helpers give -E2BIG for one of SHORT_VALUE bytes. */
static __always_inline bool is_long(struct write *w)
{
	return w->old_len >= SHORT_VALUE || w->new_len >= SHORT_VALUE;
}

static __always_inline void write_end(struct write *w)
{
	__u32 tid = current_tid();

	if (is_long(w))
		bpf_map_delete_elem(&long_values, &tid);
	bpf_map_delete_elem(&writes, &tid);
}

static __always_inline struct long_values *long_values_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&long_values, &tid);
}

static __always_inline struct long_values *long_values_make(__u32 tid)
{
	bpf_map_update_elem(&long_values, &tid, &no_values, BPF_NOEXIST);
	return bpf_map_lookup_elem(&long_values, &tid);
}

/* Where the caller's buffer is. */
static __noinline void read_iter(struct write *w, struct iov_iter *iter)
{
	const struct iovec *iov = NULL;
	struct object it;

	if (!w)
		return;
	READ_OBJECT(it, struct iov_iter, iter);
	if (bpf_core_field_exists(iter->iter_type)) {
		u8 type = MEMBER(it, struct iov_iter, iter_type);

		if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
		    type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {
			w->buf = MEMBER(it, struct iov_iter, ubuf) +
				 MEMBER(it, struct iov_iter, iov_offset);
			w->buf_len = MEMBER(it, struct iov_iter, count);
		} else if (type == bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {
			if (bpf_core_field_exists(iter->__iov))
				iov = MEMBER(it, struct iov_iter, __iov);
			else
				iov = MEMBER(it, struct iov_iter___510, iov);
		}
	} else if ((MEMBER(it, struct iov_iter___510, type) & ~1) ==
		   bpf_core_enum_value(enum iter_type, ITER_IOVEC)) {
		iov = MEMBER(it, struct iov_iter___510, iov);
	}
	if (iov) {
		w->buf = BPF_CORE_READ(iov, iov_base);
		w->buf_len = BPF_CORE_READ(iov, iov_len);
	}
}

/* Netconf.h has these. */
static __always_inline bool has_devconf(struct write *w);
int cascade_enter(__u64 header, __u64 data, __u64 of, __u64 net);
static __always_inline __u64 cascade_exit(bool done);

/* Returns whether cascade_enter() is to be asked. */
static __noinline int write_enter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct inode *inode = READ(iocb, ki_filp, f_inode);
	struct proc_inode *pi = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	__u32 tid = current_tid(), size;
	struct write w = {};

	if (stopping)
		return 0;
	w.table = READ(pi, sysctl_entry);
	w.header = READ(pi, sysctl);
	read_table(&w);

	read_iter(&w, iter);
	size = w.maxlen;
	if (size > RAW_OLD_LEN)
		size = RAW_OLD_LEN;
	if (w.data && size && !bpf_probe_read_kernel(w.raw, size, w.data))
		w.raw_len = size;
	if (bpf_map_update_elem(&writes, &tid, &w, BPF_NOEXIST)) {
		/* No room, or there already: the end of the last one was missed. */
		count_missed(REC_SYSCTL_WRITE, 1);
		bpf_map_update_elem(&writes, &tid, &w, BPF_EXIST);
	}
	return w.extra2 && has_devconf(&w);
}

/* What follows on a write to a network device's settings is called from here: below
 * write_enter() there is no stack left for it.
 */
static __always_inline int write_begin(struct kiocb *iocb, struct iov_iter *iter)
{
	struct write *w;

	if (!write_enter(iocb, iter))
		return 0;
	w = write_get();
	if (w)
		cascade_enter((__u64)w->header, (__u64)w->data, (__u64)w->extra1, (__u64)w->extra2);
	return 0;
}

/* The root of the sets of network namespaces' parameters, once one was seen: the
 * namespace can then be told without a look at the path.
 */
__u64 net_root;

/* The namespace that a set of parameters is a member of. The path's first letter,
 * top, tells which type: one for each root but that of the host-wide set.
 */
static __always_inline void describe_set(struct ns_change *c, struct ctl_table_set *set,
					 struct ctl_table_header *header, char top)
{
	struct user_namespace___set *user = NULL;
	struct ipc_namespace___set *ipc = NULL;
	struct pid_namespace___set *pid = NULL;

	if (top == 'n') {
		describe_ns(c, NS_NET, (void *)set - bpf_core_field_offset(struct net, sysctls));
	} else if (top == 'u') {
		if (bpf_core_field_exists(user->set))
			describe_ns(c, NS_USER,
				    (void *)set - bpf_core_field_offset(struct user_namespace___set,
									set));
	} else if (top == 'f') {
		if (bpf_core_field_exists(ipc->mq_set))
			describe_ns(c, NS_IPC,
				    (void *)set - bpf_core_field_offset(struct ipc_namespace___set,
									mq_set));
	} else if (top == 'k') {
		char name[4] = {};

		/* kernel.pid_max, 6.14; the rest of kernel.* that has a namespace is IPC's. */
		bpf_probe_read_kernel_str(name, sizeof(name),
					  BPF_CORE_READ(header, ctl_table, procname));
		if (bpf_core_field_exists(pid->set) && name[0] == 'p' && name[1] == 'i')
			describe_ns(c, NS_PID,
				    (void *)set -
					    bpf_core_field_offset(struct pid_namespace___set, set));
		else if (bpf_core_field_exists(ipc->ipc_set))
			describe_ns(c, NS_IPC,
				    (void *)set - bpf_core_field_offset(struct ipc_namespace___set,
									ipc_set));
	}
}

#define PARAM_PARTS 8 /* net/ipv4/conf/<device>/<name> is the deepest, 5 */

/* One folder of a parameter's path. Returns whether there is another. */
__noinline int param_step(__u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	struct ctl_dir *dir, *parent;

	if (!s)
		return 0;
	dir = s->walk.at;
	parent = BPF_CORE_READ(dir, header.parent);
	if (!parent) /* the root directory */
		return 0;
	s->walk.stop = s->end; /* where the last name begins */
	put_name(s, BPF_CORE_READ(dir, header.ctl_table, procname));
	s->walk.at = parent;
	return 1;
}

/* Describes the parameter of that name (a const char *) of header (a ctl_table_header)
 * under id. Returns the first letter of its path, negative where that cannot be sent. Global
 * as send_call() is.
 */
__noinline int send_param(__u64 id, __u64 header, __u64 procname, __u64 now)
{
	__u64 owner = (__u64)bpf_get_current_task();
	struct param_record *r;
	struct scratch *s;
	__u32 slot;
	char top;

	s = scratch_get(owner, sizeof(*r));
	if (!s)
		return -1;
	r = (struct param_record *)s->buf;
	__builtin_memset(&r->head, 0, sizeof(r->head));
	r->head.time = now;
	r->head.kind = REC_PARAM;
	r->id = id;
	slot = walk_from(s, BPF_CORE_READ((struct ctl_table_header *)header, parent));
	s->walk.stop = s->end;
	put_name(s, (const char *)procname);
	for (int i = 0; i < PARAM_PARTS; i++) {
		if (!param_step(slot))
			break;
	}
	top = s->buf[READ_ONCE(s->walk.stop) & SCRATCH_MASK];
	if (send_scratch(s, owner, REC_PARAM, 1))
		return -1;
	return (__u8)top;
}

/* As said in who.h, by their id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SAID);
	__type(key, __u32);
	__type(value, __u64);
} said_params SEC(".maps");

/* Where a parameter is. */
struct place {
	struct ctl_table_set *set;
	struct ctl_table_root *root;
	__u64 dir; /* a keyed hash of the directory, the one above, and its name's beginning */
};

static __noinline void read_place(struct place *at, struct ctl_table_header *header)
{
	__u64 name[2] = {}; /* a device's is no longer */
	struct ctl_dir *dir;
	struct object o;

	if (!at)
		return;
	READ_OBJECT(o, struct ctl_table_header, header);
	at->set = MEMBER(o, struct ctl_table_header, set);
	at->root = MEMBER(o, struct ctl_table_header, root);
	dir = MEMBER(o, struct ctl_table_header, parent);
	READ_OBJECT(o, struct ctl_table_header, dir); /* the first member of a ctl_dir */
	bpf_probe_read_kernel_str(name, sizeof(name),
				  READ(MEMBER(o, struct ctl_table_header, ctl_table), procname));
	at->dir =
		mix(mix(hash_seed, (__u64)dir), (__u64)MEMBER(o, struct ctl_table_header, parent));
	at->dir = mix(mix(at->dir, name[0]), name[1]);
}

/* As put_param(), for a parameter that was set by a call of its own, see hostname.h. */
static __noinline long put_hostname(struct write *w, struct ns_change *c, __u64 *param, __u64 now)
{
	static const char host[] = "hostname\0kernel", domain[] = "domainname\0kernel";
	__u64 owner = (__u64)bpf_get_current_task(), *last;
	struct param_record *r;
	bool is_domain;
	struct scratch *s;
	__u32 slot;

	if (!w || !c || !param)
		return -1;
	describe_ns(c, NS_UTS, w->ns);
	is_domain = w->data - w->ns == bpf_core_field_offset(struct uts_namespace, name.domainname);
	*param = mix(mix(hash_seed, now >> EPOCH_SHIFT), is_domain) | 1;
	slot = (*param >> 8) % SAID;
	last = bpf_map_lookup_elem(&said_params, &slot);
	if (!last)
		return -1;
	if (READ_ONCE(*last) == *param)
		return 0;
	s = scratch_get(owner, sizeof(*r));
	if (!s)
		return -1;
	r = (struct param_record *)s->buf;
	__builtin_memset(&r->head, 0, sizeof(r->head));
	r->head.time = now;
	r->head.kind = REC_PARAM;
	r->id = *param;
	if (is_domain)
		put_bytes(s, domain, sizeof(domain));
	else
		put_bytes(s, host, sizeof(host));
	if (send_scratch(s, owner, REC_PARAM, 1))
		return -1;
	*last = *param;
	return 0;
}

/* Sets *param to the id of the parameter that w writes, sees to it that its name is in
 * the ring, and describes the namespace that has it. Returns 0, or not where
 * that cannot be done: the event is then lost.
 *
 * The id is a hash of where the parameter is. Its memory can be another's a moment
 * later, when a device or a namespace is gone: hence the directory's name, which is the
 * device's, and the namespace's own id.
 */
static __noinline long put_param(struct write *w, struct ns_change *c, __u64 *param, __u64 now)
{
	__u64 h = mix(hash_seed, now >> EPOCH_SHIFT), *last;
	struct place at;
	bool hostwide, net;
	__u32 slot;
	int top;

	if (!w || !c || !param)
		return -1;
	if (!w->header)
		return put_hostname(w, c, param, now);
	read_place(&at, w->header);
	hostwide = !at.set ||
		   (void *)at.set == (void *)at.root + bpf_core_field_offset(struct ctl_table_root,
									     default_set);
	net = !hostwide && (__u64)at.root == READ_ONCE(net_root);
	if (w->kind == NS_UTS)
		describe_ns(c, NS_UTS, w->ns);
	else if (w->kind == NS_IPC)
		describe_ns(c, NS_IPC, w->ns);
	else if (net)
		describe_ns(c, NS_NET, (void *)at.set - bpf_core_field_offset(struct net, sysctls));
	else
		describe_ns(c, NS_KINDS, NULL);

	h = mix(h, (__u64)w->procname);
	h = mix(h, (__u64)w->header);
	h = mix(h, at.dir);
	h = mix(h, (__u64)at.set);
	h = mix(h, (__u64)c->inum);
	h = mix(h, c->uid);
	if (!hostwide && !net)
		h = mix(h, now); /* not told apart well enough to be said once */
	h |= 1;
	*param = h;

	slot = (h >> 8) % SAID;
	last = bpf_map_lookup_elem(&said_params, &slot);
	if (!last)
		return -1;
	if (READ_ONCE(*last) == h)
		return 0;
	top = send_param(h, (__u64)w->header, (__u64)w->procname, now);
	if (top < 0)
		return -1;
	if (hostwide || net) {
		*last = h;
		return 0;
	}
	describe_set(c, at.set, w->header, top);
	if (top == 'n')
		net_root = (__u64)at.root;
	return 0;
}

/* --- storms --- */

#define FOLDS	     1024	   /* a power of two */
#define FOLD_TRIES   8		   /* slots that a key can be in */
#define FOLD_KEEP_NS 1000000000ull /* longer than a program can be preempted */
#define FOLD_WORDS   64		   /* of a record that is compared, behind its head */

/* One after the other for each CPU, and mapped into user space, which reads them
 * without a system call, like counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FOLDS); /* set from user space: times the possible CPUs */
	__type(key, __u32);
	__type(value, struct fold);
} folds SEC(".maps");

/* A keyed hash of all that the record says but when; 0 where it is too long. */
static __always_inline __u64 write_hash(struct scratch *s, struct sysctl_record *r)
{
	__u64 h =
		mix(hash_seed, (__u64)(__u32)r->head.ret << 32 | r->head.via << 16 | r->head.flags);
	__u64 *words = (__u64 *)&s->buf[sizeof(struct head)];
	__u64 size = READ_ONCE(s->end) - sizeof(struct head);

	if (size > FOLD_WORDS * sizeof(*words))
		return 0;
	*(__u64 *)scratch_end(s) = 0; /* the last word ends in what was there before */
	for (int i = 0; i < FOLD_WORDS; i++) {
		if (i * sizeof(*words) >= size)
			break;
		h = mix(h, words[i]);
	}
	return h | 1;
}

/* Whether the write is the repeat of one that was sent, and now counted as such. If
 * not, the record may take a free slot, by which the next ones are.
 *
 * A slot that nobody counted in for FOLD_KEEP_NS, and whose count user space has
 * taken, is free. Each CPU has its own, so nobody else can come in between but a
 * task that preempts this one, for less than that time.
 */
static __always_inline bool fold(struct scratch *s, struct sysctl_record *r, struct fold **taken)
{
	__u64 key = write_hash(s, r), now = r->head.time;
	__u32 first = bpf_get_smp_processor_id() * FOLDS;
	struct counters *c;

	if (!key)
		return false;
	for (int i = 0; i < FOLD_TRIES; i++) {
		__u32 slot = first + ((key + i) & (FOLDS - 1));
		struct fold *f = bpf_map_lookup_elem(&folds, &slot);

		if (!f)
			return false;
		if (READ_ONCE(f->key) == key) {
			if (READ_ONCE(f->count) == READ_ONCE(f->taken))
				f->first = now;
			f->last = now;
			add(&f->count, 1);
			c = counters_get();
			if (c) {
				add(&c->seen[REC_SYSCTL_WRITE], 1);
				add(&c->folded, 1);
			}
			return true;
		}
		if (!*taken && READ_ONCE(f->count) == READ_ONCE(f->taken) &&
		    (!f->key || now - f->last > FOLD_KEEP_NS)) {
			*taken = f;
			r->fold_slot = slot + 1;
		}
	}
	if (*taken) {
		(*taken)->key = r->fold_key = key;
		(*taken)->last = now;
	}
	return false;
}

/* Appends one of a write's values. */
static __always_inline __u64 put_value(struct scratch *s, const char *value, __u64 len,
				       __u64 long_offset)
{
	struct long_values *lv;

	if (len >= SHORT_VALUE) {
		lv = long_values_get();
		if (!lv)
			return 0;
		value = (const char *)lv + long_offset;
	}
	return put_bytes(s, value, len);
}

/* Builds and sends the record of the write w. */
static __always_inline int put_write(struct write *w, long ret, bool known, enum call_via via)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 owner = (__u64)task, now, size, param = 0;
	struct caller caller = {};
	struct ns_change ns = {};
	struct fold *taken = NULL;
	struct sysctl_record *r;
	struct scratch *s;

	if (!wanted(task, known && ret < 0)) {
		count_filtered(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	current_ns_ids(caller.ns);
	if (put_caller(&caller, now) || put_param(w, &ns, &param, now)) {
		count_lost(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	r = (struct sysctl_record *)s->buf;
	r->head.time = now;
	r->head.kind = REC_SYSCTL_WRITE;
	r->head.flags = w->flags | (known ? F_RET_KNOWN : 0);
	r->head.ret = ret < 0 ? ret : 0;
	r->head.via = via;
	r->head.nchanges = 0;
	r->head.nancestors = 0;
	r->head.pad = 0;
	r->caller = caller;
	r->fold_key = w->cause;
	r->fold_slot = 0;
	r->ns = ns;
	r->param = param;
	r->old_len = put_value(s, w->old, w->old_len, offsetof(struct long_values, old));
	if (r->head.flags & F_NEW_KNOWN) {
		r->new_len = put_value(s, w->new, w->new_len, offsetof(struct long_values, new));
	} else {
		/* Refused before the program was reached; the caller's buffer is
		 * still there.
		 */
		size = w->buf_len;
		if (size > VALUE_LEN) {
			size = VALUE_LEN;
			r->head.flags |= F_NEW_CUT;
		}
		r->new_len = put_user(s, w->buf, size);
		if (w->buf && r->new_len == size)
			r->head.flags |= F_NEW_KNOWN;
	}
	r->raw_len = known ? put_bytes(s, w->raw, w->raw_len) : 0;

	r->after_len = 0;
	r->maxlen = size = w->maxlen;
	if (size > VALUE_LEN) {
		size = VALUE_LEN;
		r->head.flags |= F_AFTER_CUT;
	}
	if (known && w->data) {
		r->after_len = put_bytes(s, w->data, size);
		if (r->after_len)
			r->head.flags |= F_AFTER_KNOWN;
	}
	/* What stands for other records, or follows from one, is not counted alone. */
	if (!w->cause && bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > fold_above &&
	    fold(s, r, &taken)) {
		s->owner = 0;
		return 0;
	}
	if (send_scratch(s, owner, REC_SYSCTL_WRITE, 1) && taken)
		taken->key = 0; /* user space would not know what is counted */
	return 0;
}

/* Sends the write in the task's slot of that number plus 1, and gives the slot back; with 0 the
 * write that the task is in. Returns whether there was one. Global as send_call() is.
 */
__noinline int send_write(__u32 number, long ret, bool known, enum call_via via)
{
	struct write_slot *slot = NULL;
	struct write *w;

	if (number) {
		number--;
		slot = bpf_map_lookup_elem(&write_slots, &number);
		if (!slot || write_slot_lost(slot, current_tid()))
			return 0;
		w = &slot->w;
	} else {
		w = write_get();
		if (!w)
			return 0;
	}
	put_write(w, ret, known, via);
	if (slot)
		slot->owner = 0;
	return 1;
}

static __always_inline int write_exit(long ret)
{
	struct write *w = write_get();

	if (!w)
		return 0;
	if (w->extra2 && has_devconf(w))
		w->cause = cascade_exit(ret >= 0);
	/* restart_syscall(): the handler did nothing, and the same write comes again. */
	if (!will_restart(ret))
		send_write(0, ret, true, VIA_WRITE);
	write_end(w);
	return 0;
}

SEC("fentry/proc_sys_write")
int BPF_PROG(fentry_write, struct kiocb *iocb, struct iov_iter *iter)
{
	return write_begin(iocb, iter);
}

SEC("fexit/proc_sys_write")
int BPF_PROG(fexit_write, struct kiocb *iocb, struct iov_iter *iter, long ret)
{
	return write_exit(ret);
}

SEC("kprobe/proc_sys_write")
int BPF_KPROBE(kprobe_write, struct kiocb *iocb, struct iov_iter *iter)
{
	return write_begin(iocb, iter);
}

SEC("kretprobe/proc_sys_write")
int BPF_KRETPROBE(kretprobe_write, long ret)
{
	return write_exit(ret);
}

/* The beginning of a value; the kernel fills what it leaves with zeros. */
static __always_inline __u64 value_hash(const char *value)
{
	const __u64 *words = (const __u64 *)value;
	__u64 h = 0;

	for (int i = 0; i < SHORT_VALUE / sizeof(*words); i++)
		h = mix(h, words[i]);
	return h;
}

#define TRY_AGAIN_NS 2000000000ull

/* Without the result of a write, one that the kernel restarts (restart_syscall())
 * looks like several. Those are told by what they cannot have: an effect. The
 * same task, parameter and values within two seconds, with the old value still there.
 * A program that repeats a failing write that fast looks the same.
 */
static __always_inline bool same_try(struct write *w)
{
	__u32 tid = current_tid();
	struct attempt now = {
		.time = bpf_ktime_get_boot_ns(),
		.table = w->table,
		.old = value_hash(w->old),
		.written = value_hash(w->new),
	};
	struct attempt *last;
	bool same;

	if (now.old == now.written) /* there is no effect to wait for */
		return false;
	last = bpf_map_lookup_elem(&tries, &tid);
	if (!last) {
		bpf_map_update_elem(&tries, &tid, &now, BPF_ANY);
		return false;
	}
	same = last->table == now.table && last->old == now.old && last->written == now.written &&
	       now.time - last->time < TRY_AGAIN_NS;
	*last = now; /* it is this task's own */
	return same;
}

/* Takes the newline off the end of a short value, so that what was there and what was
 * written can be compared; returns the length without it.
 */
static __always_inline __u16 without_newline(char value[SHORT_VALUE], int len)
{
	__u32 last = (__u32)(len - 1) % SHORT_VALUE;

	if (len <= 0 || value[last] != '\n')
		return len;
	value[last] = 0;
	return last;
}

/* What the kernel gives a cgroup/sysctl program: the old value as the parameter's
 * handler prints it, and what was written.
 */
static __always_inline void get_values(struct bpf_sysctl *ctx, struct write *w, __u32 tid)
{
	struct long_values *lv;
	int n;

	n = bpf_sysctl_get_current_value(ctx, w->old, sizeof(w->old));
	if (n >= 0) {
		w->old_len = without_newline(w->old, n);
		w->flags |= F_OLD_KNOWN;
	} else if (n == -E2BIG) {
		lv = long_values_make(tid);
		if (lv) {
			n = bpf_sysctl_get_current_value(ctx, lv->old, sizeof(lv->old));
			w->old_len = n >= 0 ? n : VALUE_LEN;
		} else {
			w->old_len = SHORT_VALUE - 1;
		}
		w->flags |= F_OLD_KNOWN | (n < 0 ? F_OLD_CUT : 0);
	} else {
		w->old[0] = 0;
	}
	n = bpf_sysctl_get_new_value(ctx, w->new, sizeof(w->new));
	if (n >= 0) {
		w->new_len = without_newline(w->new, n);
		w->flags |= F_NEW_KNOWN;
	} else if (n == -E2BIG) {
		lv = long_values_make(tid);
		if (lv) {
			n = bpf_sysctl_get_new_value(ctx, lv->new, sizeof(lv->new));
			w->new_len = n >= 0 ? n : VALUE_LEN;
		} else {
			w->new_len = SHORT_VALUE - 1;
		}
		w->flags |= F_NEW_KNOWN | (n < 0 ? F_NEW_CUT : 0);
	} else {
		w->new[0] = 0;
	}
}

/* Runs in the writing task, after the permission check and before the handler,
 * for every read and write below /proc/sys. Always returns 1: anything else would
 * refuse the access.
 */
SEC("cgroup/sysctl")
int cgroup_sysctl(struct bpf_sysctl *ctx)
{
	struct bpf_sysctl_kern *kern = (void *)ctx;
	struct write_slot *slot = NULL;
	__u32 tid = current_tid();
	struct write *w;

	if (!ctx->write)
		return 1;
	if (write_result) {
		w = bpf_map_lookup_elem(&writes, &tid);
		if (!w) /* its entry was missed and counted */
			return 1;
	} else {
		if (stopping)
			return 1;
		slot = write_slot_get(tid);
		if (!slot)
			return 1;
		w = &slot->w;
		/* The program's real context, which only a probe read reaches. */
		w->table = READ(kern, table);
		w->header = READ(kern, head);
		read_table(w);
		w->flags = 0;
		w->cause = 0;
		w->old_len = w->new_len = 0;
	}
	get_values(ctx, w, tid);
	if (!write_result) {
		bool with_long = is_long(w);

		if (write_slot_lost(slot, tid))
			return 1;
		if (same_try(w))
			slot->owner = 0;
		else
			send_write(slot->number, 0, false, VIA_WRITE);
		if (with_long)
			bpf_map_delete_elem(&long_values, &tid);
	}
	return 1;
}

#endif
