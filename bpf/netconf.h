/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings of network devices that rtnetlink changes, or that change with the device. See
 * devconf.h.
 */
#ifndef __NSTRACE_NETCONF_H__
#define __NSTRACE_NETCONF_H__

#include "devconf.h"

#define DEVCONF_SIZE  512 /* ipv6_devconf has 240 to 330 bytes, ipv4_devconf has 150 */
#define DEVCONF_WORDS (DEVCONF_SIZE / sizeof(__u32))

struct devconf_copy {
	__u64 cnf;
	__u32 nchanges; /* words that changed */
	__u32 pad;
	__u32 old[DEVCONF_WORDS];
	__u32 now[DEVCONF_WORDS];
};

/* Calls under way. The key is the thread id, the call and the family: a thread is in one call of
 * each kind at a time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 128);
	__type(key, __u64);
	__type(value, struct devconf_copy);
} devconf_copies SEC(".maps");

static const struct devconf_copy no_devconf_copy;

static __noinline int devconf_enter(struct net_device *dev, bool v6, enum call_via via)
{
	__u64 key = (__u64)current_tid() << 8 | via << 1 | v6, cnf;
	__u32 size = v6 ? bpf_core_type_size(struct ipv6_devconf)
			: bpf_core_type_size(struct ipv4_devconf);
	struct devconf_copy *c;

	if (stopping)
		return 0;
	if (v6)
		cnf = (__u64)BPF_CORE_READ(dev, ip6_ptr) + V6_CNF;
	else
		cnf = (__u64)BPF_CORE_READ(dev, ip_ptr) +
		      bpf_core_field_offset(struct in_device, cnf);
	if (cnf < 4096) /* the device has no addresses of this family */
		return 0;
	bpf_map_update_elem(&devconf_copies, &key, &no_devconf_copy, BPF_ANY);
	c = bpf_map_lookup_elem(&devconf_copies, &key);
	if (!c)
		return 0;
	c->cnf = cnf;
	if (size > DEVCONF_SIZE)
		size = DEVCONF_SIZE;
	bpf_probe_read_kernel(c->old, size, (void *)cnf);
	return 0;
}

/* Notes that word i of a struct changed. Global, see nstrace.c: the verifier then does not check
 * what follows once for each number of changes so far.
 */
__noinline int devconf_word_changed(__u64 key, bool v6, __u32 i)
{
	struct devconf_copy *c = bpf_map_lookup_elem(&devconf_copies, &key);

	if (c && i < DEVCONF_WORDS)
		c->nchanges += add_change(key, c->nchanges, devconf_header(c->cnf, v6),
					  c->cnf + i * sizeof(__u32), c->old[i]);
	return 0;
}

/* Finds the words that changed. Returns how many there are. */
__noinline int devconf_compare(__u64 key, bool v6)
{
	__u32 size = v6 ? bpf_core_type_size(struct ipv6_devconf)
			: bpf_core_type_size(struct ipv4_devconf);
	struct devconf_copy *c = bpf_map_lookup_elem(&devconf_copies, &key);
	__u32 nchanges;

	if (!c)
		return 0;
	if (size > DEVCONF_SIZE)
		size = DEVCONF_SIZE;
	if (!bpf_probe_read_kernel(c->now, size, (void *)c->cnf)) {
		for (__u32 i = 0; i < DEVCONF_WORDS; i++) {
			if (c->old[i] != c->now[i])
				devconf_word_changed(key, v6, i);
		}
	}
	nchanges = c->nchanges;
	bpf_map_delete_elem(&devconf_copies, &key);
	return nchanges;
}

static __always_inline int devconf_exit(bool v6, enum call_via via)
{
	__u64 key = (__u64)current_tid() << 8 | via << 1 | v6;
	__u32 n = devconf_compare(key, v6);

	if (n)
		report_changes(key, n, 0, via);
	return 0;
}

/* include/linux/netdevice.h, enum netdev_cmd: addrconf_notify() changes settings of a device for
 * these. For NETDEV_REGISTER the device has no settings yet.
 */
#define NETDEV_UP	 1
#define NETDEV_CHANGE	 4
#define NETDEV_CHANGEMTU 7

/* dev_disable_change() calls addrconf_notify() with block NULL. That call belongs to a write. */
static __always_inline int addrconf_notify_enter(void *block, unsigned long event, void *info)
{
	struct netdev_notifier_info *about = info;

	if (!block || (event != NETDEV_UP && event != NETDEV_CHANGE && event != NETDEV_CHANGEMTU))
		return 0;
	return devconf_enter(READ(about, dev), true, VIA_DEVICE);
}

/* do_setlink() in net/core/rtnetlink.c calls inet_set_link_af() and inet6_set_link_af() for what a
 * message has below IFLA_AF_SPEC.
 */
SEC("fentry/inet_set_link_af")
int BPF_PROG(fentry_link_af4, struct net_device *dev)
{
	return devconf_enter(dev, false, VIA_NETLINK);
}

SEC("fexit/inet_set_link_af")
int BPF_PROG(fexit_link_af4)
{
	return devconf_exit(false, VIA_NETLINK);
}

SEC("fentry/inet6_set_link_af")
int BPF_PROG(fentry_link_af6, struct net_device *dev)
{
	return devconf_enter(dev, true, VIA_NETLINK);
}

SEC("fexit/inet6_set_link_af")
int BPF_PROG(fexit_link_af6)
{
	return devconf_exit(true, VIA_NETLINK);
}

SEC("fentry/addrconf_notify")
int BPF_PROG(fentry_addrconf, void *block, unsigned long event, void *info)
{
	return addrconf_notify_enter(block, event, info);
}

SEC("fexit/addrconf_notify")
int BPF_PROG(fexit_addrconf, void *block, unsigned long event, void *info)
{
	return block ? devconf_exit(true, VIA_DEVICE) : 0;
}

SEC("kprobe/inet_set_link_af")
int BPF_KPROBE(kprobe_link_af4, struct net_device *dev)
{
	return devconf_enter(dev, false, VIA_NETLINK);
}

SEC("kretprobe/inet_set_link_af")
int BPF_KRETPROBE(kretprobe_link_af4)
{
	return devconf_exit(false, VIA_NETLINK);
}

SEC("kprobe/inet6_set_link_af")
int BPF_KPROBE(kprobe_link_af6, struct net_device *dev)
{
	return devconf_enter(dev, true, VIA_NETLINK);
}

SEC("kretprobe/inet6_set_link_af")
int BPF_KRETPROBE(kretprobe_link_af6)
{
	return devconf_exit(true, VIA_NETLINK);
}

SEC("kprobe/addrconf_notify")
int BPF_KPROBE(kprobe_addrconf, void *block, unsigned long event, void *info)
{
	return addrconf_notify_enter(block, event, info);
}

/* This needs no test of block: dev_disable_change() calls addrconf_notify() within a write, and
 * never within another call of it.
 */
SEC("kretprobe/addrconf_notify")
int BPF_KRETPROBE(kretprobe_addrconf)
{
	return devconf_exit(true, VIA_DEVICE);
}

#endif
