//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The programs of internal/inventory: iterators over the tasks of the host, and over their open
 * files. They are an object of their own, because they are loaded for each inventory, and loading
 * takes longer than the walk does.
 */
#define NO_RDONLY_CAST
#include "lib/nsfs.h"

/* A member that this object alone reads. */
struct pid_namespace___parent {
	struct pid_namespace *parent;
} __attribute__((preserve_access_index));
struct user_namespace___owner {
	kuid_t owner;
} __attribute__((preserve_access_index));
struct socket {
	struct sock *sk;
} __attribute__((preserve_access_index));
struct file___file {
	struct inode *f_inode;
	void *private_data;
} __attribute__((preserve_access_index));
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
} __attribute__((preserve_access_index));
/* A namespace of a task. */
struct ns_row {
	__u64 ns_id;   /* see ns_unique_id() */
	__u32 inum;    /* 0: none */
	__u32 user_ns; /* the owner; for a user namespace its parent; 0: none */
};

/* A first thread, or another thread that is in other namespaces than the first one. */
struct task_row {
	struct ns_row ns[NS_KINDS];
	struct ns_row for_children[2]; /* pid, time */
	__u64 cgroups;	 /* the address of its css_set: tasks with the same one are in the same
			    cgroups */
	__u64 start;	 /* CLOCK_BOOTTIME, ns */
	__u64 arg_start; /* where in its memory the arguments are; 0: it has none */
	__u64 arg_end;
	__u32 pid_parent; /* of ns[NS_PID]: the inode number of its parent */
	__u32 user_owner; /* of ns[NS_USER]: the user who made it */
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 uid;
	char comm[16];
	__u32 ids_per_type; /* ns_id is unique only among the namespaces of a type */
	__u32 pad;
};

/* An open file of a namespace, or a socket in another network namespace than the task. */
struct file_row {
	struct ns_row ns;
	__u32 kind; /* enum ns_kind */
	__u32 socket;
	__u32 pid;
	__u32 tid; /* of the first thread that has the file */
	__u32 fd;
	char comm[16];
	__u32 pad;
};

/* If none of this changed, the process is the same one and runs the same program. */
struct same_row {
	__u64 start;
	__u64 arg_start;
	__u64 arg_end;
	__u32 pid;
	__u32 pad;
};

EXPORT_TYPE(struct, ns_row);
EXPORT_TYPE(struct, task_row);
EXPORT_TYPE(struct, file_row);
EXPORT_TYPE(struct, same_row);

/* The kinds to describe, as 1 << enum ns_kind. User space writes them before it loads the programs.
 */
const volatile __u32 wanted = (1 << NS_KINDS) - 1;

#define SOCKFS_MAGIC 0x534f434b /* include/uapi/linux/magic.h */

/* The inode number of a namespace of that kind. */
static __always_inline __u32 ns_inum(enum ns_kind kind, void *ns)
{
	switch (kind) {
	case NS_UTS:
		return BPF_CORE_READ((struct uts_namespace *)ns, ns.inum);
	case NS_IPC:
		return BPF_CORE_READ((struct ipc_namespace *)ns, ns.inum);
	case NS_MNT:
		return BPF_CORE_READ((struct mnt_namespace *)ns, ns.inum);
	case NS_PID:
		return BPF_CORE_READ((struct pid_namespace *)ns, ns.inum);
	case NS_NET:
		return BPF_CORE_READ((struct net *)ns, ns.inum);
	case NS_TIME:
		return BPF_CORE_READ((struct time_namespace *)ns, ns.inum);
	case NS_CGROUP:
		return BPF_CORE_READ((struct cgroup_namespace *)ns, ns.inum);
	case NS_USER:
		return BPF_CORE_READ((struct user_namespace *)ns, ns.inum);
	default:
		return 0;
	}
}

#define WANTED(kind) (wanted & (1 << (kind)))

/* Describes a namespace of a wanted kind in a row, which still describes last, that of the task
 * before. Most tasks are in the same namespaces.
 */
static __always_inline void copy_ns(struct ns_row *to, __u64 *last, enum ns_kind kind, void *ns)
{
	struct ns_change c;

	if (ns && (__u64)ns == *last && ns_inum(kind, ns) == to->inum)
		return;
	*last = (__u64)ns;
	describe_ns(&c, kind, ns);
	to->ns_id = c.ns_id;
	to->inum = c.inum;
	to->user_ns = c.user_ns;
}

/* The row of a task, and where the namespaces in it are. */
struct task_buf {
	struct task_row row;
	__u64 last[NS_KINDS];
	__u64 last_for_children[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_buf);
} task_buf SEC(".maps");

#define COPY_NS(kind, member)                                                                      \
	if (WANTED(kind))                                                                          \
	copy_ns(&t->ns[kind], &buf->last[kind], kind, MEMBER(proxy, struct nsproxy, member))

SEC("iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct pid_namespace___parent *pid_ns;
	struct user_namespace___owner *user;
	const struct cred *cred;
	struct task_buf *buf;
	struct nsproxy *p;
	struct mm_struct *mm;
	struct object proxy;
	struct task_row *t;
	__u32 zero = 0;

	if (!task || in_ns_of_leader(task))
		return 0;
	/* A task that exits has no nsproxy, see exit_task_namespaces(). */
	p = BPF_CORE_READ(task, nsproxy);
	if (!p)
		return 0;
	buf = bpf_map_lookup_elem(&task_buf, &zero);
	if (!buf)
		return 0;
	t = &buf->row;
	t->pid = BPF_CORE_READ(task, tgid);
	t->tid = BPF_CORE_READ(task, pid);
	t->ppid = BPF_CORE_READ(task, real_parent, tgid);
	t->start = BPF_CORE_READ(task, start_boottime);
	t->cgroups = (__u64)BPF_CORE_READ(task, cgroups);
	BPF_CORE_READ_INTO(&t->comm, task, comm);
	t->ids_per_type = !bpf_core_field_exists(((struct ns_common___618 *)0)->ns_id);
	cred = BPF_CORE_READ(task, cred);
	t->uid = BPF_CORE_READ(cred, uid.val);
	mm = BPF_CORE_READ(task, mm);
	t->arg_start = BPF_CORE_READ(mm, arg_start);
	t->arg_end = BPF_CORE_READ(mm, arg_end);

	READ_OBJECT(proxy, struct nsproxy, p);
	COPY_NS(NS_UTS, uts_ns);
	COPY_NS(NS_IPC, ipc_ns);
	COPY_NS(NS_MNT, mnt_ns);
	COPY_NS(NS_NET, net_ns);
	COPY_NS(NS_CGROUP, cgroup_ns);
	COPY_NS(NS_TIME, time_ns);
	if (WANTED(NS_USER)) {
		user = (void *)BPF_CORE_READ(cred, user_ns);
		copy_ns(&t->ns[NS_USER], &buf->last[NS_USER], NS_USER, user);
		t->user_owner = BPF_CORE_READ(user, owner.val);
	}
	if (WANTED(NS_PID)) {
		pid_ns = (void *)active_pid_ns(task);
		copy_ns(&t->ns[NS_PID], &buf->last[NS_PID], NS_PID, pid_ns);
		t->pid_parent = BPF_CORE_READ(pid_ns, parent, ns.inum);
		copy_ns(&t->for_children[0], &buf->last_for_children[0], NS_PID,
			MEMBER(proxy, struct nsproxy, pid_ns_for_children));
	}
	if (WANTED(NS_TIME))
		copy_ns(&t->for_children[1], &buf->last_for_children[1], NS_TIME,
			MEMBER(proxy, struct nsproxy, time_ns_for_children));
	bpf_seq_write(seq, t, sizeof(*t));
	return 0;
}

SEC("iter/task_file")
int list_files(struct bpf_iter__task_file *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task, *leader;
	struct file___file *file = (void *)ctx->file;
	struct file_row f = {};
	struct ns_change c = {};
	struct inode *inode;
	unsigned long magic;

	if (!task || !file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (magic != NSFS_MAGIC && magic != SOCKFS_MAGIC)
		return 0;
	/* Threads usually share their files with the first one. Some kernels show them once each.
	 */
	leader = BPF_CORE_READ(task, group_leader);
	if (leader != task && BPF_CORE_READ(task, files) == BPF_CORE_READ(leader, files))
		return 0;
	if (magic == NSFS_MAGIC) {
		describe_ns_file(&c, inode);
	} else {
		struct socket *socket = BPF_CORE_READ(file, private_data);
		struct net *net = BPF_CORE_READ(socket, sk, __sk_common.skc_net.net);

		if (!net || net == BPF_CORE_READ(task, nsproxy, net_ns))
			return 0;
		describe_ns(&c, NS_NET, net);
		f.socket = 1;
	}
	if (!c.inum)
		return 0;
	f.ns.ns_id = c.ns_id;
	f.ns.inum = c.inum;
	f.ns.user_ns = c.user_ns;
	f.kind = c.kind;
	f.pid = BPF_CORE_READ(task, tgid);
	f.tid = BPF_CORE_READ(task, pid);
	f.fd = ctx->fd;
	BPF_CORE_READ_INTO(&f.comm, task, comm);
	bpf_seq_write(seq, &f, sizeof(f));
	return 0;
}

/* Tells which processes are still there. */
SEC("iter/task")
int list_same(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct same_row s = {};
	struct mm_struct *mm;

	if (!task)
		return 0;
	s.pid = BPF_CORE_READ(task, tgid);
	if (s.pid != BPF_CORE_READ(task, pid))
		return 0;
	s.start = BPF_CORE_READ(task, start_boottime);
	mm = BPF_CORE_READ(task, mm);
	s.arg_start = BPF_CORE_READ(mm, arg_start);
	s.arg_end = BPF_CORE_READ(mm, arg_end);
	bpf_seq_write(seq, &s, sizeof(s));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
