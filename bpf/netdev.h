/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Network devices that move to another network namespace, or that a task creates in another
 * namespace than its own.
 *
 * __dev_change_net_namespace() moves all devices (from 5.13 on; dev_change_net_namespace() before):
 *
 * - those that a request to rtnetlink moves,
 * - those of a whole radio (nl80211),
 * - those that a namespace leaves behind (default_device_exit_batch()).
 *
 * It gets the namespace to move to, and has the result at its end. At that time the namespace that
 * the device left is known only from the entry.
 *
 * RTM_NEWLINK and RTM_SETLINK ask for most moves, and the kernel renames a device only after its
 * move. So a move in such a request stays in rtnl_call.pending until the end of the request.
 */
#ifndef __NSTRACE_NETDEV_H__
#define __NSTRACE_NETDEV_H__

#include "fold.h"
#include "lib/calls.h"
#include "lib/filter.h"
#include "lib/who.h"

#define NETDEV_LEN 16 /* IFNAMSIZ */

/* REC_NETDEV_MOVE. new_ifindex and new_name are set if the call succeeded, even if they are the
 * same as before.
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

EXPORT_TYPE(struct, netdev_record);

/* A device that moved or was created. */
struct netdev_move {
	__u64 time;
	struct net_device *dev; /* valid as long as the RTNL lock is held */
	struct ns_change from;
	struct ns_change to;
	__s32 ret;
	__u32 via;
	__u16 flags;   /* enum record_flag */
	bool same_net; /* it already is in the namespace to move to */
	__u32 ifindex;
	__u32 new_ifindex;
	char name[NETDEV_LEN];
	char new_name[NETDEV_LEN];
};

#define MAX_PENDING 2 /* one request makes a pair of devices for veth */

/* What a task does with devices: a request to rtnetlink, a move, or a move within a request. */
struct rtnl_call {
	__u32 moving; /* user space reads these two */
	__u32 npending;
	struct share_owner owner;
	struct net *request_net;	/* of the request; NULL: there is no request */
	struct net_device *registering; /* the device that register_netdevice() is at */
	struct netdev_move move;
	struct netdev_move pending[MAX_PENDING]; /* until the end of the request */
};

/* Requests and moves under way. All but one of them wait for the RTNL lock. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CALLS);
	__type(key, __u32); /* tid */
	__type(value, struct rtnl_call);
} rtnl_calls SEC(".maps");

static const struct rtnl_call no_rtnl_call;

static __always_inline struct rtnl_call *rtnl_call_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&rtnl_calls, &tid);
}

static __always_inline struct rtnl_call *rtnl_call_begin(void)
{
	__u32 tid = current_tid();
	struct rtnl_call *call = bpf_map_lookup_elem(&rtnl_calls, &tid);
	struct share_owner owner;

	if (call) {
		/* Nobody saw the end of the last one. */
		if (call->moving + call->npending)
			count_unended(REC_NETDEV_MOVE, call->moving + call->npending);
		call->request_net = NULL;
		call->registering = NULL;
		call->moving = call->npending = 0;
		return call;
	}
	if (hold_share(&owner, REC_NETDEV_MOVE, 1))
		return NULL;
	if (bpf_map_update_elem(&rtnl_calls, &tid, &no_rtnl_call, BPF_NOEXIST)) {
		release_share(&owner);
		count_missed(REC_NETDEV_MOVE, 1);
		return NULL;
	}
	call = bpf_map_lookup_elem(&rtnl_calls, &tid);
	if (call)
		call->owner = owner;
	return call;
}

static __always_inline void rtnl_call_end(struct rtnl_call *call)
{
	__u32 tid = current_tid();

	release_share(&call->owner);
	bpf_map_delete_elem(&rtnl_calls, &tid);
}

/* Reports whether nothing holds the namespace any more, so that the kernel is about to free it. */
static __always_inline bool net_is_dying(struct net *net)
{
	struct net___510 *net510 = (void *)net;
	struct ns_common *common = (void *)net + bpf_core_field_offset(struct net, ns);
	struct ns_common___618 *ns618 = (void *)common;
	struct ns_common___511 *ns511 = (void *)common;

	if (bpf_core_field_exists(ns618->__ns_ref))
		return BPF_CORE_READ(ns618, __ns_ref.refs.counter) == 0;
	if (bpf_core_field_exists(ns511->count))
		return BPF_CORE_READ(ns511, count.refs.counter) == 0;
	return BPF_CORE_READ(net510, count.refs.counter) == 0;
}

/* Sends one of the pending moves of the current task. Global, see nstrace.c. */
__noinline long send_move(__u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct rtnl_call *call = rtnl_call_get();
	__u64 owner = (__u64)task, now;
	struct caller caller = {};
	struct netdev_record *r;
	struct scratch *s;
	struct netdev_move *m;
	bool failed, worker;

	if (!call)
		return 0;
	m = &call->pending[slot % MAX_PENDING];
	failed = m->ret < 0;
	worker = BPF_CORE_READ(task, flags) & PF_KTHREAD;
	/* A kernel worker moves devices because a namespace ended. User space knows who created
	 * that one.
	 */
	if (!(ns_mask & (1 << NS_NET)) ||
	    (worker ? filter_failed && !failed : !matches_filter(task, failed))) {
		count_filtered(REC_NETDEV_MOVE, 1);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (!worker) {
		current_ns_inums(caller.ns);
		if (put_caller(&caller, now, REC_NETDEV_MOVE, 1)) {
			count_lost(REC_NETDEV_MOVE, 1);
			return 0;
		}
	}
	s = scratch_get(owner, sizeof(*r));
	if (!s) {
		count_missed(REC_NETDEV_MOVE, 1);
		return 0;
	}
	r = (struct netdev_record *)s->buf;
	set_head(&r->head, m->time, REC_NETDEV_MOVE, m->flags | F_RET_KNOWN, failed ? m->ret : 0,
		 m->via);
	r->caller = caller;
	r->from = m->from;
	r->to = m->to;
	r->ifindex = m->ifindex;
	r->new_ifindex = failed ? 0 : m->new_ifindex;
	__builtin_memcpy(r->name, m->name, sizeof(r->name));
	__builtin_memcpy(r->new_name, m->new_name, sizeof(r->new_name));
	if (failed)
		r->new_name[0] = 0;
	if (failed)
		send_or_fold(s, owner, REC_NETDEV_MOVE, 1);
	else
		send_scratch(s, owner, REC_NETDEV_MOVE, 1);
	return 0;
}

/* Sends all pending moves. */
static __always_inline void send_pending(struct rtnl_call *call)
{
	if (call->npending > 0)
		send_move(0);
	if (call->npending > 1)
		send_move(1);
	call->npending = 0;
}

/* --- requests --- */

/* rtnl_newlink() and rtnl_setlink(). The network namespace of a request is that of the socket it
 * came to. The task may be in another one by now.
 */
static __always_inline int rtnl_request_enter(struct sk_buff *skb)
{
	struct rtnl_call *call;

	if (stopping)
		return 0;
	call = rtnl_call_begin();
	if (call)
		call->request_net = READ(skb, sk, __sk_common.skc_net.net);
	return 0;
}

static __always_inline int rtnl_request_exit(int ret)
{
	struct rtnl_call *call = rtnl_call_get();

	if (!call || !call->request_net)
		return 0;
	/* A device that a failed request created is gone. One that it moved stays where it is. */
	if (ret < 0) {
		for (int i = 0; i < MAX_PENDING; i++) {
			struct netdev_move *m = &call->pending[i];

			if (m->flags & F_CREATED && m->ret == 0)
				m->ret = ret;
		}
	}
	send_pending(call);
	rtnl_call_end(call);
	return 0;
}

/* Only a table of handlers refers to these functions, so no compiler inlines them. */
SEC("fentry/rtnl_newlink")
int BPF_PROG(fentry_newlink, struct sk_buff *skb)
{
	return rtnl_request_enter(skb);
}

SEC("fexit/rtnl_newlink")
int BPF_PROG(fexit_newlink, struct sk_buff *skb, void *nlh, void *extack, int ret)
{
	return rtnl_request_exit(ret);
}

SEC("kprobe/rtnl_newlink")
int BPF_KPROBE(kprobe_newlink, struct sk_buff *skb)
{
	return rtnl_request_enter(skb);
}

SEC("kretprobe/rtnl_newlink")
int BPF_KRETPROBE(kretprobe_newlink, int ret)
{
	return rtnl_request_exit(ret);
}

/* --- moves --- */

static __noinline int dev_move_enter(struct net_device *dev, struct net *to)
{
	struct rtnl_call *call = rtnl_call_get();
	struct net *from = READ(dev, nd_net.net);
	struct netdev_move *m;

	if (!call || !call->request_net) {
		if (stopping)
			return 0;
		call = rtnl_call_begin();
		if (!call)
			return 0;
	} else if (call->moving) {
		count_unended(REC_NETDEV_MOVE, 1);
	}
	call->moving = 1;
	m = &call->move;
	m->dev = dev;
	m->flags = 0;
	m->same_net = from == to;
	m->via = VIA_NETLINK;
	if (BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), flags) & PF_KTHREAD)
		m->via = net_is_dying(from) ? VIA_EXIT : VIA_NONE;
	m->ifindex = READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->name, dev, name);
	describe_ns(&m->from, NS_NET, from);
	describe_ns(&m->to, NS_NET, to);
	return 0;
}

static __noinline int dev_move_exit(int ret)
{
	struct rtnl_call *call = rtnl_call_get();
	struct net_device *dev;
	struct netdev_move *m;

	if (!call || !call->moving)
		return 0;
	call->moving = 0;
	m = &call->move;
	m->ret = ret;
	m->time = bpf_ktime_get_boot_ns();
	dev = m->dev;
	m->new_ifindex = BPF_CORE_READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->new_name, dev, name);
	if (ret < 0 || !m->same_net) {
		/* A request for a group of devices moves them one after the other, and renames
		 * none.
		 */
		send_pending(call);
		call->pending[0] = *m;
		call->npending = 1;
	}
	if (!call->request_net) {
		send_pending(call);
		rtnl_call_end(call);
	}
	return 0;
}

/* Not dev_change_net_namespace(): from 6.16 on it is only one of several callers. */
SEC("fentry/__dev_change_net_namespace")
int BPF_PROG(fentry_move, struct net_device *dev, struct net *net)
{
	return dev_move_enter(dev, net);
}

SEC("fexit/__dev_change_net_namespace")
int BPF_PROG(fexit_move, struct net_device *dev, struct net *net, void *pat, int ifindex,
	     void *extack, int ret)
{
	return dev_move_exit(ret);
}

/* Without extack: from 5.13 up to some 6.12. */
SEC("fexit/__dev_change_net_namespace")
int BPF_PROG(fexit_move_513, struct net_device *dev, struct net *net, void *pat, int ifindex,
	     int ret)
{
	return dev_move_exit(ret);
}

/* Up to 5.12. */
SEC("fexit/dev_change_net_namespace")
int BPF_PROG(fexit_move_510, struct net_device *dev, struct net *net, void *pat, int ret)
{
	return dev_move_exit(ret);
}

SEC("kprobe/__dev_change_net_namespace")
int BPF_KPROBE(kprobe_move, struct net_device *dev, struct net *net)
{
	return dev_move_enter(dev, net);
}

SEC("kretprobe/__dev_change_net_namespace")
int BPF_KRETPROBE(kretprobe_move, int ret)
{
	return dev_move_exit(ret);
}

/* The end of dev_change_name() (netif_change_name() from 6.15 on), by which do_setlink() renames a
 * device that it has just moved. The caller holds the RTNL lock, so the device that moved still
 * exists, whichever device this is.
 */
static __always_inline int rename_exit(void)
{
	struct rtnl_call *call = rtnl_call_get();
	struct net_device *dev;

	if (call && call->npending == 1 && !(call->pending[0].flags & F_CREATED)) {
		dev = call->pending[0].dev;
		BPF_CORE_READ_INTO(&call->pending[0].new_name, dev, name);
	}
	return 0;
}

SEC("fexit/dev_change_name")
int BPF_PROG(fexit_rename)
{
	return rename_exit();
}

SEC("kretprobe/dev_change_name")
int BPF_KRETPROBE(kretprobe_rename)
{
	return rename_exit();
}

/* --- devices made elsewhere --- */

/* The end of register_netdevice() in a request. Elsewhere nobody asks for a device from another
 * namespace: a new namespace registers its loopback, and a module registers one for each namespace.
 */
static __noinline int register_exit(struct net_device *dev, int ret)
{
	struct rtnl_call *call = rtnl_call_get();
	struct net *net = READ(dev, nd_net.net);
	struct netdev_move *m;

	if (!call || !call->request_net || call->request_net == net)
		return 0;
	if (call->npending >= MAX_PENDING)
		send_pending(call);
	m = call->npending ? &call->pending[1] : &call->pending[0];
	call->npending++;
	m->time = bpf_ktime_get_boot_ns();
	m->dev = dev;
	m->ret = ret;
	m->via = VIA_NETLINK;
	m->flags = F_CREATED;
	m->ifindex = m->new_ifindex = READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->name, dev, name);
	BPF_CORE_READ_INTO(&m->new_name, dev, name);
	describe_ns(&m->from, NS_NET, call->request_net);
	describe_ns(&m->to, NS_NET, net);
	return 0;
}

SEC("fexit/register_netdevice")
int BPF_PROG(fexit_register, struct net_device *dev, int ret)
{
	return register_exit(dev, ret);
}

SEC("kprobe/register_netdevice")
int BPF_KPROBE(kprobe_register, struct net_device *dev)
{
	struct rtnl_call *call = rtnl_call_get();

	if (call)
		call->registering = dev;
	return 0;
}

SEC("kretprobe/register_netdevice")
int BPF_KRETPROBE(kretprobe_register, int ret)
{
	struct rtnl_call *call = rtnl_call_get();
	struct net_device *dev;

	if (!call || !call->registering)
		return 0;
	dev = call->registering;
	call->registering = NULL;
	return register_exit(dev, ret);
}

static __always_inline void free_rtnl_call(const __u32 *tid)
{
	struct rtnl_call *call = bpf_map_lookup_elem(&rtnl_calls, tid);
	__u32 n;

	if (!call)
		return;
	n = READ_ONCE(call->moving) + READ_ONCE(call->npending);
	if (n)
		count_unended(REC_NETDEV_MOVE, n);
	release_share(&call->owner);
	bpf_map_delete_elem(&rtnl_calls, tid);
}

#endif
