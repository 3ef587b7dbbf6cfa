/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Parameters: the name of one, and the namespace whose copy it is. */
#ifndef __NSTRACE_PARAM_H__
#define __NSTRACE_PARAM_H__

#include "write.h"
#include "lib/namespace.h"
#include "lib/who.h"

/* REC_PARAM. The tail is the name: components, leaf first, each ended by a NUL. */
struct param_record {
	struct head head;
	__u64 id;
};

EXPORT_TYPE(struct, param_record);

/* The root of the parameter sets of network namespaces, as soon as a program has seen one. It then
 * tells the type of a namespace without the path.
 */
__u64 net_sysctl_root;

/* Fills c with the namespace that a set of parameters belongs to. top is the first letter of the
 * path. It tells the type, since each root except that of the host-wide set has one.
 */
static __always_inline void describe_param_ns(struct ns_change *c, struct ctl_table_set *set,
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

		/* From 6.14 on kernel.pid_max belongs to a PID namespace. All else in kernel.* that
		 * belongs to a namespace belongs to an IPC namespace.
		 */
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

#define PARAM_PARTS 8 /* net/ipv4/conf/<device>/<name> is the deepest, with 5 */

/* Appends one directory of the path of a parameter. Returns 1 if there is another. */
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
	s->walk.last_name = s->end;
	put_name(s, BPF_CORE_READ(dir, header.ctl_table, procname));
	s->walk.at = parent;
	return 1;
}

/* Sends the name of a parameter under that id. header is a struct ctl_table_header, and procname a
 * const char *. Returns the first letter of the path, or a negative number if it could not send the
 * record. Global, see nstrace.c.
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
	slot = s->slot;
	s->walk.at = BPF_CORE_READ((struct ctl_table_header *)header, parent);
	s->walk.last_name = s->end;
	put_name(s, (const char *)procname);
	for (int i = 0; i < PARAM_PARTS; i++) {
		if (!param_step(slot))
			break;
	}
	top = s->buf[READ_ONCE(s->walk.last_name) & SCRATCH_MASK];
	if (send_scratch(s, owner, REC_PARAM, 1))
		return -1;
	return (__u8)top;
}

/* The id that was sent last, as sent_who of who.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SENT_IDS);
	__type(key, __u32);
	__type(value, __u64);
} sent_params SEC(".maps");

/* The directory of a parameter. */
struct param_dir {
	struct ctl_table_set *set;
	struct ctl_table_root *root;
	__u64 dir; /* a keyed hash of the directory, its parent and the first 16 bytes of its name
		    */
};

static __noinline void read_param_dir(struct param_dir *at, struct ctl_table_header *header)
{
	__u64 name[2] = {}; /* the name of a device has no more */
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
	at->dir = hash_mix(hash_mix(hash_seed, (__u64)dir),
			   (__u64)MEMBER(o, struct ctl_table_header, parent));
	at->dir = hash_mix(hash_mix(at->dir, name[0]), name[1]);
}

/* Does what put_param() does, for a parameter that sethostname(2) or setdomainname(2) sets. */
static __noinline long put_uts_param(struct write *w, struct ns_change *c, __u64 *param, __u64 now)
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
	*param = hash_mix(hash_mix(hash_seed, now >> EPOCH_SHIFT), is_domain) | 1;
	slot = (*param >> 8) % SENT_IDS;
	last = bpf_map_lookup_elem(&sent_params, &slot);
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

/* Sets *param to the id of the parameter that w writes, sends its name if the ring does not have it
 * yet, and fills c with the namespace whose copy it is. Returns 0, or another value if it could not
 * send the name: the event is then lost.
 *
 * The id is a hash of where the parameter is in memory. That memory can become another parameter
 * when a device or a namespace goes away. So the hash includes the name of the directory, which is
 * the name of the device, and the id of the namespace.
 */
static __noinline long put_param(struct write *w, struct ns_change *c, __u64 *param, __u64 now)
{
	__u64 h = hash_mix(hash_seed, now >> EPOCH_SHIFT), *last;
	struct param_dir at;
	bool hostwide, net;
	__u32 slot;
	int top;

	if (!w || !c || !param)
		return -1;
	if (!w->header)
		return put_uts_param(w, c, param, now);
	read_param_dir(&at, w->header);
	hostwide = !at.set ||
		   (void *)at.set == (void *)at.root + bpf_core_field_offset(struct ctl_table_root,
									     default_set);
	net = !hostwide && (__u64)at.root == READ_ONCE(net_sysctl_root);
	if (w->kind == NS_UTS)
		describe_ns(c, NS_UTS, w->ns);
	else if (w->kind == NS_IPC)
		describe_ns(c, NS_IPC, w->ns);
	else if (net)
		describe_ns(c, NS_NET, (void *)at.set - bpf_core_field_offset(struct net, sysctls));
	else
		describe_ns(c, NS_KINDS, NULL);

	h = hash_mix(h, (__u64)w->procname);
	h = hash_mix(h, (__u64)w->header);
	h = hash_mix(h, at.dir);
	h = hash_mix(h, (__u64)at.set);
	h = hash_mix(h, (__u64)c->inum);
	h = hash_mix(h, c->ns_id);
	if (!hostwide && !net)
		h = hash_mix(h, now); /* the hash does not tell parameters apart well enough, so
					 each write sends the name */
	h |= 1;
	*param = h;

	slot = (h >> 8) % SENT_IDS;
	last = bpf_map_lookup_elem(&sent_params, &slot);
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
	describe_param_ns(c, at.set, w->header, top);
	if (top == 'n')
		net_sysctl_root = (__u64)at.root;
	return 0;
}

#endif
