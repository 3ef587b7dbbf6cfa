/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel types that bpf/ reads, each with only the members that it reads.
 *
 * Every struct below has preserve_access_index. So clang records each access by name, and the
 * loader adapts it to the layout of the running kernel (CO-RE). The names and the kinds of types
 * matter here. Offsets, order and missing members do not. That is why this file is short and
 * written by hand. The alternative is the 100,000 lines of
 *
 *	bpftool btf dump file /sys/kernel/btf/vmlinux format c
 *
 * To extend this file:
 *
 * - Run that command on the oldest and on the newest supported kernel.
 * - Copy the member by name.
 * - Put what differs between the two into a type with a triple-underscore suffix (struct
 *   ns_common___618). CO-RE ignores the suffix when it matches names. Read such a member only
 *   behind bpf_core_field_exists().
 *
 * The loader does not adapt what is ABI: integers, the map types, the registers of amd64 and arm64,
 * the records of system call tracepoints, and bpf_sysctl.
 */
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef short int __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long int __s64;
typedef unsigned long long __u64;
typedef __u8 u8;
typedef __u16 u16;
typedef __s32 s32;
typedef __u32 u32;
typedef __s64 s64;
typedef __u64 u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
typedef unsigned long size_t;

enum { false = 0, true = 1 };

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_F_SYSCTL_BASE_NAME = 1 };
enum { BPF_RB_AVAIL_DATA = 0, BPF_RB_CONS_POS = 2 };

/* Programs look the name up in the running kernel, to learn whether it has the helper. */
enum bpf_func_id {
	BPF_FUNC_task_pt_regs = 175, /* 5.15 */
};

/* The registers at the entry of a system call or a probed function: ABI. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};
struct pt_regs {
	union {
		struct user_pt_regs user_regs;
		struct {
			__u64 regs[31];
			__u64 sp, pc, pstate;
		};
	};
	__u64 orig_x0;
	__s32 syscallno;
	__u32 unused2;
};
#else
#error "nstrace supports amd64 and arm64"
#endif

/* include/uapi/linux/bpf.h: the context of a cgroup/sysctl program. */
struct bpf_sysctl {
	__u32 write;
	__u32 file_pos;
};

/* include/trace/events/syscalls.h: events/syscalls/sys_{enter,exit}_<name>. The layout is the same
 * for all system calls.
 */
struct trace_event_raw_sys_enter {
	__u64 ent; /* struct trace_entry */
	long id;
	unsigned long args[6];
};
struct syscall_trace_exit {
	__u64 ent;
	int nr; /* followed by four bytes without meaning */
	long ret;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

typedef struct {
	__u32 val;
} kuid_t, kgid_t;

struct list_head {
	struct list_head *next, *prev;
};
struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};

/* --- files --- */

struct qstr {
	const unsigned char *name;
};
struct super_block {
	unsigned long s_magic;
};
struct inode {
	u16 i_mode;
	struct super_block *i_sb;
	void *i_private;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
	int mnt_flags;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
	struct list_head mnt_mounts; /* the children, by mnt_child */
	struct list_head mnt_child;
	int mnt_id;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
/* fs/namei.c: a walk along a path. */
struct nameidata {
	struct path path; /* how far the walk is */
};
struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	atomic_t count; /* of the tasks that share it */
	struct fdtable *fdt;
};
struct kiocb {
	struct file *ki_filp;
};
struct iovec {
	void *iov_base;
	size_t iov_len;
};
/* These members differ between kernels:
 *
 *	iter_type   from 5.14 on; before it `type`, with the direction in bit 0
 *	__iov       from 6.4 on; before it iov
 *	ubuf        from 6.0 on
 */
struct iov_iter {
	size_t iov_offset;
	size_t count;
	const struct iovec *__iov;
	void *ubuf;
	u8 iter_type;
};
struct iov_iter___510 {
	unsigned int type;
	const struct iovec *iov;
};
enum iter_type {
	ITER_IOVEC,
	ITER_UBUF,
};

/* --- namespaces --- */

/* These members differ between kernels:
 *
 *	inum       all kernels
 *	ns_id      from 6.18 on; from 6.19 on in an unnamed struct ns_tree
 *	ns_type    from 6.18 on; before it ops->type
 *	__ns_ref   the reference count from 6.18 on; from 5.11 on it is count, and before that a
 *	           member of each type
 */
struct ns_common {
	unsigned int inum;
};
struct ns_common___618 {
	u32 ns_type;
	u64 ns_id;
	refcount_t __ns_ref;
};
struct ns_common___511 {
	refcount_t count;
};
struct proc_ns_operations {
	const char *name;
	int type;
};
struct ns_common___510 {
	const struct proc_ns_operations *ops;
};
struct uid_gid_extent {
	u32 lower_first;
	u32 count;
};
struct uid_gid_map {
	u32 nr_extents;
	struct uid_gid_extent extent[5];
};
struct ucounts;
/* The elements of ucount_max are longs from 5.14 on, and ints before. */
struct user_namespace {
	struct uid_gid_map uid_map;
	struct uid_gid_map gid_map;
	struct user_namespace *parent;
	int level;
	kuid_t owner;
	struct ns_common ns;
	struct ucounts *ucounts;
	long ucount_max[1];
};
/* The elements of ucount are 64 bits long from 5.14 on, and 32 before. */
struct ucounts {
	struct user_namespace *ns;
	kuid_t uid;
	atomic64_t ucount[1];
};
enum ucount_type {
	UCOUNT_USER_NAMESPACES,
	UCOUNT_PID_NAMESPACES,
	UCOUNT_UTS_NAMESPACES,
	UCOUNT_IPC_NAMESPACES,
	UCOUNT_NET_NAMESPACES,
	UCOUNT_MNT_NAMESPACES,
	UCOUNT_CGROUP_NAMESPACES,
	UCOUNT_TIME_NAMESPACES,
};

struct ctl_dir;
struct ctl_table {
	const char *procname;
	void *data;
	int maxlen;
	void *extra1;
	void *extra2;
};
struct ctl_table_set;
struct ctl_table_root;
struct ctl_table_header {
	struct ctl_table *ctl_table;
	int ctl_table_size; /* from 6.6 on; before it the table ends with an entry without a name */
	struct ctl_table_root *root;
	struct ctl_table_set *set;
	struct ctl_dir *parent;
};
struct ctl_dir {
	struct ctl_table_header header;
};
struct ctl_table_set {
	struct ctl_dir dir;
};
struct ctl_table_root {
	struct ctl_table_set default_set;
};

/* The set of the parameters of one namespace:
 *
 *	user.*                         all kernels
 *	net.*                          all kernels
 *	kernel.* of IPC, fs.mqueue.*   from 6.0 on
 *	kernel.pid_max                 from 6.14 on
 */
struct user_namespace___set {
	struct ctl_table_set set;
};
struct new_utsname {
	char nodename[65];
	char domainname[65];
};
struct uts_namespace {
	struct new_utsname name;
	struct user_namespace *user_ns;
	struct ns_common ns;
};
struct ipc_namespace {
	struct user_namespace *user_ns;
	struct ns_common ns;
};
struct ipc_namespace___set {
	struct ctl_table_set mq_set;
	struct ctl_table_set ipc_set;
};
/* seq: up to 6.17. ns_id took its place. */
struct mnt_namespace {
	struct ns_common ns;
	struct mount *root;
	struct user_namespace *user_ns;
};
struct mnt_namespace___seq {
	u64 seq;
};
struct pid_namespace {
	unsigned int level;
	struct user_namespace *user_ns;
	struct ns_common ns;
};
struct pid_namespace___set {
	struct ctl_table_set set;
};

/* --- settings of network devices --- */

struct ipv4_devconf {
	void *sysctl; /* the first word there is the address of the ctl_table_header */
	int data[1];  /* one for each IPV4_DEVCONF_* */
};
struct ipv6_devconf {
	s32 mtu6;
	s32 disable_ipv6;
	s32 addr_gen_mode;
	struct {
		bool initialized;
	} stable_secret;
	struct ctl_table_header *sysctl_header;
};
struct net_device;
struct in_device {
	struct net_device *dev;
	struct ipv4_devconf cnf;
};
struct inet6_dev {
	struct net_device *dev;
	struct ipv6_devconf cnf;
};
struct netdev_notifier_info {
	struct net_device *dev;
};
struct netns_ipv4 {
	struct ctl_table_header *forw_hdr;
	struct ipv4_devconf *devconf_all;
	struct ipv4_devconf *devconf_dflt;
};
struct netns_ipv6 {
	struct ipv6_devconf *devconf_all;
	struct ipv6_devconf *devconf_dflt;
};

/* net_cookie is a u64 from 5.12 on. Before that it is an atomic64_t, which the kernel sets when
 * somebody asks for it.
 */
struct net {
	struct user_namespace *user_ns;
	struct ns_common ns;
	struct ctl_table_set sysctls;
	u64 net_cookie;
	struct list_head list;
	struct list_head dev_base_head;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};
struct net___510 {
	refcount_t count;
	atomic64_t net_cookie;
};
struct time_namespace {
	struct user_namespace *user_ns;
	struct ns_common ns;
};
struct cgroup_namespace {
	struct ns_common ns;
	struct user_namespace *user_ns;
};
struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct time_namespace *time_ns;
	struct time_namespace *time_ns_for_children;
	struct cgroup_namespace *cgroup_ns;
};

/* --- network devices, and requests for them --- */

typedef struct {
	struct net *net;
} possible_net_t;
struct rtnl_link_ops {
	const char *kind;
};
struct net_device {
	char name[16];
	struct list_head dev_list;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
	int ifindex;
	const struct rtnl_link_ops *rtnl_link_ops;
	possible_net_t nd_net;
};
struct net_device___69 { /* from 6.9 on */
	u8 reg_state;
};
struct net_device___510 { /* up to 6.8 */
	enum {
		NETREG_UNREGISTERING = 2,
	} reg_state : 8;
};
struct sock_common {
	possible_net_t skc_net;
};
struct sock {
	struct sock_common __sk_common;
};
struct sk_buff {
	struct sock *sk;
};

/* --- processes --- */

struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[1];
};
/* A u64 from 6.3 on, and an array of two u32 before. */
typedef struct {
	u64 val;
} kernel_cap_t;

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t euid;
	kgid_t egid;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};
struct cred___514 {
	struct ucounts
		*ucounts; /* of the real user from 5.17 on, before that of the effective one */
};
struct fs_struct {
	struct path root;
};
struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};
struct tty_driver {
	int major;
};
struct tty_struct {
	struct tty_driver *driver;
	int index;
	char name[64];
};
struct signal_struct {
	struct tty_struct *tty;
	atomic_t live;
};
/* From 6.16 on parent is named __parent. */
struct kernfs_node {
	struct kernfs_node *__parent;
	const char *name;
	u64 id;
};
struct kernfs_node___510 {
	struct kernfs_node *parent;
};
struct cgroup {
	struct kernfs_node *kn;
	int level;
	struct cgroup *ancestors[]; /* from 6.1 on */
};
struct cgroup___510 { /* up to 6.0 */
	int level;
	u64 ancestor_ids[];
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
};
struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};
struct task_io_accounting {
	u64 wchar;
};
struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	u64 start_boottime;
	u64 self_exec_id; /* how many programs the process has executed */
	struct cred *cred;
	struct task_io_accounting ioac;
	char comm[16];
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
	struct mm_struct *mm;
	struct nameidata *nameidata; /* NULL: the task walks along no path */
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
	void *stack;
	/* CONFIG_AUDIT */
	kuid_t loginuid;
	unsigned int sessionid;
};
struct kernel_clone_args {
	u64 flags;
};

struct kernel_siginfo {
	int si_code;
};

/* What the descriptors of bpf(2) refer to. */
struct bpf_prog_aux {
	u32 id;
};
struct bpf_prog {
	struct bpf_prog_aux *aux;
};
struct bpf_map {
	u32 id;
};
struct bpf_link {
	u32 id;
};

/* kernel/bpf/cgroup.c: the real context of a cgroup/sysctl program. */
struct bpf_sysctl_kern {
	struct ctl_table_header *head;
	struct ctl_table *table;
};
struct proc_inode {
	struct ctl_table_header *sysctl;
	struct ctl_table *sysctl_entry;
	struct inode vfs_inode;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

#endif /* __VMLINUX_H__ */
