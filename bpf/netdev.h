/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Network devices that go from one network namespace to another, or are made in
 * another than that of whoever asks for them.
 *
 * All moves go through __dev_change_net_namespace() (5.13; dev_change_net_namespace()
 * before that): those that rtnetlink is asked for, those of a whole radio, and those of
 * the devices that a namespace leaves behind (default_device_exit_batch()). It gets
 * where to, and has the result at its end, when where from is gone.
 *
 * Most are asked for by RTM_NEWLINK or RTM_SETLINK, and a new name is given only after
 * the move. So what happens during such a request waits for its end.
 */
#ifndef __NSTRACE_NETDEV_H__
#define __NSTRACE_NETDEV_H__

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

/* A device that moved or was made. */
struct move {
	__u64 time;
	struct net_device *dev; /* valid as long as the RTNL lock is held */
	struct ns_change from;
	struct ns_change to;
	__s32 ret;
	__u32 via;
	__u16 flags; /* enum record_flag */
	bool stays;  /* it is where it shall go */
	__u32 ifindex;
	__u32 new_ifindex;
	char name[NETDEV_LEN];
	char new_name[NETDEV_LEN];
};

#define WAITING 2 /* a pair, such as of veth, is made by one request */

/* What a task does with devices: a request to rtnetlink, a move, or the latter inside
 * the former.
 */
struct link_call {
	struct net *net;	 /* the request's; NULL: there is none */
	struct net_device *made; /* what is being registered */
	__u32 moving;
	__u32 nwait;
	struct move move;
	struct move wait[WAITING]; /* for the request's end */
};

/* Requests and moves that are under way at one time: but for those that wait for
 * the lock it is one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32); /* tid */
	__type(value, struct link_call);
} links SEC(".maps");

static const struct link_call no_link_call;

static __always_inline struct link_call *link_get(void)
{
	__u32 tid = current_tid();

	return bpf_map_lookup_elem(&links, &tid);
}

static __always_inline struct link_call *link_begin(void)
{
	__u32 tid = current_tid();
	struct link_call *call = bpf_map_lookup_elem(&links, &tid);

	if (call) {
		/* The end of the last one was missed. */
		if (call->moving + call->nwait)
			count_missed(REC_NETDEV_MOVE, call->moving + call->nwait);
		call->net = NULL;
		call->made = NULL;
		call->moving = call->nwait = 0;
		return call;
	}
	if (bpf_map_update_elem(&links, &tid, &no_link_call, BPF_NOEXIST)) {
		count_missed(REC_NETDEV_MOVE, 1);
		return NULL;
	}
	return bpf_map_lookup_elem(&links, &tid);
}

static __always_inline void link_end(void)
{
	__u32 tid = current_tid();

	bpf_map_delete_elem(&links, &tid);
}

/* Whether nothing holds the namespace any more: it is about to be freed. */
static __always_inline bool is_dying(struct net *net)
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

/* Sends what waits in a slot of the current task's. Global, so that the verifier goes
 * through it once for a program and not at each call.
 */
__noinline long send_move(__u32 slot)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct link_call *call = link_get();
	__u64 owner = (__u64)task, now;
	struct caller caller = {};
	struct netdev_record *r;
	struct scratch *s;
	struct move *m;
	bool failed, worker;

	if (!call)
		return 0;
	m = &call->wait[slot % WAITING];
	failed = m->ret < 0;
	worker = BPF_CORE_READ(task, flags) & PF_KTHREAD;
	/* A worker does it because a namespace ended: whoever made that one is known
	 * to user space.
	 */
	if (!(ns_mask & (1 << NS_NET)) ||
	    (worker ? filter_failed && !failed : !wanted(task, failed))) {
		count_filtered(REC_NETDEV_MOVE, 1);
		return 0;
	}
	now = bpf_ktime_get_boot_ns();
	if (!worker) {
		current_ns_ids(caller.ns);
		if (put_caller(&caller, now)) {
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
	r->head.time = m->time;
	r->head.kind = REC_NETDEV_MOVE;
	r->head.flags = m->flags | F_RET_KNOWN;
	r->head.ret = failed ? m->ret : 0;
	r->head.via = m->via;
	r->head.nchanges = 0;
	r->head.nancestors = 0;
	r->head.pad = 0;
	r->caller = caller;
	r->from = m->from;
	r->to = m->to;
	r->ifindex = m->ifindex;
	r->new_ifindex = failed ? 0 : m->new_ifindex;
	__builtin_memcpy(r->name, m->name, sizeof(r->name));
	__builtin_memcpy(r->new_name, m->new_name, sizeof(r->new_name));
	if (failed)
		r->new_name[0] = 0;
	send_scratch(s, owner, REC_NETDEV_MOVE, 1);
	return 0;
}

/* Sends what waits. */
static __always_inline void send_waiting(struct link_call *call)
{
	if (call->nwait > 0)
		send_move(0);
	if (call->nwait > 1)
		send_move(1);
	call->nwait = 0;
}

/* --- requests --- */

/* rtnl_newlink(), rtnl_setlink(): a request's network namespace is that of the socket
 * that it came to, and need not be the task's any more.
 */
static __always_inline int request_enter(struct sk_buff *skb)
{
	struct link_call *call;

	if (stopping)
		return 0;
	call = link_begin();
	if (call)
		call->net = READ(skb, sk, __sk_common.skc_net.net);
	return 0;
}

static __always_inline int request_exit(int ret)
{
	struct link_call *call = link_get();

	if (!call || !call->net)
		return 0;
	/* What a request that fails has made is gone; what it has moved stays there. */
	if (ret < 0) {
		for (int i = 0; i < WAITING; i++) {
			struct move *m = &call->wait[i];

			if (m->flags & F_CREATED && m->ret == 0)
				m->ret = ret;
		}
	}
	send_waiting(call);
	link_end();
	return 0;
}

/* Both are in a table of handlers alone, hence never inlined. */
SEC("fentry/rtnl_newlink")
int BPF_PROG(fentry_link, struct sk_buff *skb)
{
	return request_enter(skb);
}

SEC("fexit/rtnl_newlink")
int BPF_PROG(fexit_link, struct sk_buff *skb, void *nlh, void *extack, int ret)
{
	return request_exit(ret);
}

SEC("kprobe/rtnl_newlink")
int BPF_KPROBE(kprobe_link, struct sk_buff *skb)
{
	return request_enter(skb);
}

SEC("kretprobe/rtnl_newlink")
int BPF_KRETPROBE(kretprobe_link, int ret)
{
	return request_exit(ret);
}

/* --- moves --- */

static __noinline int dev_move_enter(struct net_device *dev, struct net *to)
{
	struct link_call *call = link_get();
	struct net *from = READ(dev, nd_net.net);
	struct move *m;

	if (!call || !call->net) {
		if (stopping)
			return 0;
		call = link_begin();
		if (!call)
			return 0;
	} else if (call->moving) {
		count_missed(REC_NETDEV_MOVE, 1);
	}
	call->moving = 1;
	m = &call->move;
	m->dev = dev;
	m->flags = 0;
	m->stays = from == to;
	m->via = VIA_NETLINK;
	if (BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), flags) & PF_KTHREAD)
		m->via = is_dying(from) ? VIA_EXIT : VIA_NONE;
	m->ifindex = READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->name, dev, name);
	describe_ns(&m->from, NS_NET, from);
	describe_ns(&m->to, NS_NET, to);
	return 0;
}

static __noinline int dev_move_exit(int ret)
{
	struct link_call *call = link_get();
	struct net_device *dev;
	struct move *m;

	if (!call || !call->moving)
		return 0;
	call->moving = 0;
	m = &call->move;
	m->ret = ret;
	m->time = bpf_ktime_get_boot_ns();
	dev = m->dev;
	m->new_ifindex = BPF_CORE_READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->new_name, dev, name);
	if (ret < 0 || !m->stays) {
		/* A request for a group of devices moves them one after the other, and
		 * names none of them.
		 */
		send_waiting(call);
		call->wait[0] = *m;
		call->nwait = 1;
	}
	if (!call->net) {
		send_waiting(call);
		link_end();
	}
	return 0;
}

/* From 6.16 on dev_change_net_namespace() is one of several that call it. */
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

/* Without extack: 5.13 to some 6.12. */
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

/* do_setlink() renames a device that it has just moved, by dev_change_name(), from
 * 6.15 on by netif_change_name(). Its caller holds the lock: the device that moved is
 * still there, whichever this one is.
 */
static __always_inline int renamed(void)
{
	struct link_call *call = link_get();
	struct net_device *dev;

	if (call && call->nwait == 1 && !(call->wait[0].flags & F_CREATED)) {
		dev = call->wait[0].dev;
		BPF_CORE_READ_INTO(&call->wait[0].new_name, dev, name);
	}
	return 0;
}

SEC("fexit/dev_change_name")
int BPF_PROG(fexit_rename)
{
	return renamed();
}

SEC("kretprobe/dev_change_name")
int BPF_KRETPROBE(kretprobe_rename)
{
	return renamed();
}

/* --- devices made elsewhere --- */

/* register_netdevice(), in a request: of all that makes devices (a new namespace its
 * loopback, a module one for each namespace) only this has somebody who asked for it
 * from somewhere else.
 */
static __noinline int made(struct net_device *dev, int ret)
{
	struct link_call *call = link_get();
	struct net *net = READ(dev, nd_net.net);
	struct move *m;

	if (!call || !call->net || call->net == net)
		return 0;
	if (call->nwait >= WAITING)
		send_waiting(call);
	m = call->nwait ? &call->wait[1] : &call->wait[0];
	call->nwait++;
	m->time = bpf_ktime_get_boot_ns();
	m->dev = dev;
	m->ret = ret;
	m->via = VIA_NETLINK;
	m->flags = F_CREATED;
	m->ifindex = m->new_ifindex = READ(dev, ifindex);
	BPF_CORE_READ_INTO(&m->name, dev, name);
	BPF_CORE_READ_INTO(&m->new_name, dev, name);
	describe_ns(&m->from, NS_NET, call->net);
	describe_ns(&m->to, NS_NET, net);
	return 0;
}

SEC("fexit/register_netdevice")
int BPF_PROG(fexit_register, struct net_device *dev, int ret)
{
	return made(dev, ret);
}

SEC("kprobe/register_netdevice")
int BPF_KPROBE(kprobe_register, struct net_device *dev)
{
	struct link_call *call = link_get();

	if (call)
		call->made = dev;
	return 0;
}

SEC("kretprobe/register_netdevice")
int BPF_KRETPROBE(kretprobe_register, int ret)
{
	struct link_call *call = link_get();
	struct net_device *dev;

	if (!call || !call->made)
		return 0;
	dev = call->made;
	call->made = NULL;
	return made(dev, ret);
}

#endif
