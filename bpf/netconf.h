/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings of network devices that change without a write to them.
 *
 * net.ipv4.conf.* and net.ipv6.conf.* are members of one struct for each device, one
 * for "default" and one for "all". Some writes change that member in the others as
 * well, and some change a second one. None of the functions that do it says what was there
 * before, and most say nothing at all, so the members that can change are read when
 * the write begins, and compared when it is done. Over netlink, and when the device itself is
 * changed, any member can: there the struct is compared as a whole.
 *
 * What a member is called, and whether /proc/sys has it, the kernel's own table of it says.
 */
#ifndef __NSTRACE_NETCONF_H__
#define __NSTRACE_NETCONF_H__

#define DEVICES	     256 /* of a network namespace that are compared; what is behind is missed */
#define CONF_ENTRIES 128 /* more than the table of either family has: 33 and 50 to 60 */
#define NO_MEMBER    (~0u)

/* include/uapi/linux/ip.h, IPV4_DEVCONF_* minus 1 */
#define V4_FORWARDING	    0
#define V4_ACCEPT_REDIRECTS 3

/* A write whose effect can be on more than one parameter, from its entry to its end. */
struct cascade {
	__u64 id;
	__u64 net;
	__u64 header; /* the written table's */
	__u64 data;
	__u64 alias;	  /* the header of the other name that data has */
	__u32 members[2]; /* offsets in the struct */
	__u32 v6;
	__u32 found;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WRITES);
	__type(key, __u32); /* tid */
	__type(value, struct cascade);
} cascades SEC(".maps");

struct member {
	__u64 cascade;
	__u64 addr;
};

/* What was there. An entry whose device went away meanwhile is evicted one day. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct member);
	__type(value, __u32);
} members SEC(".maps");

#define V6_CNF bpf_core_field_offset(struct inet6_dev, cnf)

/* A kernel can be built without. */
static __always_inline bool has_ipv6(void)
{
	struct net *n = NULL;

	return bpf_core_field_exists(n->ipv6) && bpf_core_type_exists(struct inet6_dev) &&
	       bpf_core_type_exists(struct ipv6_devconf);
}

/* Whether w writes to one of these structs. __devinet_sysctl_register() has its tables
 * point to the struct and the namespace, __addrconf_sysctl_register() to the inet6_dev, of which
 * "all" and "default" have none, and the namespace; but for entries that have limits,
 * none of which spreads. net.ipv4.ip_forward points to that of "all". Other parameters
 * leave with the first compares.
 */
static __always_inline bool has_devconf(struct write *w)
{
	__u64 data = (__u64)w->data, of = (__u64)w->extra1;

	if (!of)
		return data != 0 && w->extra2;
	if (data - of < bpf_core_type_size(struct ipv4_devconf))
		return true;
	return has_ipv6() && data - of - V6_CNF < bpf_core_type_size(struct ipv6_devconf);
}

static __always_inline __u64 read_ptr(__u64 addr)
{
	__u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)addr);
	return v;
}

static __always_inline __u32 read_int(__u64 addr)
{
	__u32 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)addr);
	return v;
}

/* The header of a struct's table; 0: it has none. */
static __always_inline __u64 conf_header(__u64 cnf, bool v6)
{
	__u64 sysctl;

	if (v6 && has_ipv6())
		return (__u64)BPF_CORE_READ((struct ipv6_devconf *)cnf, sysctl_header);
	sysctl = (__u64)BPF_CORE_READ((struct ipv4_devconf *)cnf, sysctl);
	return sysctl ? read_ptr(sysctl) : 0;
}

/* What an entry of a table has to do with the memory at addr: 1, it is the entry for it; 0, it
 * is not; -1, it is none, the table is over. Global as send_call() is.
 */
__noinline int entry_has(__u64 entry, __u64 addr)
{
	if (read_ptr(entry + bpf_core_field_offset(struct ctl_table, data)) == addr)
		return 1;
	return read_ptr(entry + bpf_core_field_offset(struct ctl_table, procname)) ? 0 : -1;
}

/* The entry of a table that has its memory at addr; 0: none has. */
__noinline __u64 conf_entry(__u64 header, __u64 addr)
{
	struct ctl_table_header *h = (void *)header;
	__u64 entry = (__u64)BPF_CORE_READ(h, ctl_table);
	__u32 size = CONF_ENTRIES;
	int has;

	if (bpf_core_field_exists(h->ctl_table_size))
		size = BPF_CORE_READ(h, ctl_table_size);
	for (int i = 0; i < CONF_ENTRIES; i++) {
		if (i >= size)
			break;
		has = entry_has(entry, addr);
		if (has)
			return has > 0 ? entry : 0;
		entry += bpf_core_type_size(struct ctl_table);
	}
	return 0;
}

/* Changes that were found and are still to be reported: from one function above all
 * others, since the calls below it need most of what there is of stack.
 */
struct change_key {
	__u64 id; /* of the cascade, or for what else they were found */
	__u64 n;
};

struct change {
	__u64 header;
	__u64 addr;
	__u32 old;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct change_key);
	__type(value, struct change);
} changes SEC(".maps");

static __always_inline __u32 add_change(__u64 id, __u64 n, __u64 header, __u64 addr, __u32 old)
{
	struct change_key key = {.id = id, .n = n};
	struct change ch = {.header = header, .addr = addr, .old = old};

	if (!header || bpf_map_update_elem(&changes, &key, &ch, BPF_ANY))
		return 0;
	return 1;
}

/* Makes a write of change n. Returns the number of its slot plus 1; 0 where it is none of a
 * parameter, or there is no slot.
 */
__noinline int conf_changed(__u64 id, __u64 n, __u64 cause)
{
	__u64 entry, tid = current_tid();
	struct change_key key = {.id = id, .n = n};
	struct write_slot *slot;
	struct change *ch;
	struct write *w;

	ch = bpf_map_lookup_elem(&changes, &key);
	if (!ch) { /* pushed out by those of others */
		count_missed(REC_SYSCTL_WRITE, 1);
		return 0;
	}
	entry = conf_entry(ch->header, ch->addr);
	if (!entry) /* no parameter: a pointer, or a set of flags */
		return 0;
	slot = write_slot_get(tid);
	if (!slot)
		return 0;
	w = &slot->w;
	w->header = (void *)ch->header;
	w->table = (void *)entry;
	read_table(w);
	w->buf = NULL;
	w->buf_len = 0;
	w->flags = 0;
	w->cause = cause;
	w->old_len = w->new_len = 0;
	w->raw_len = sizeof(ch->old);
	__builtin_memcpy(w->raw, &ch->old, sizeof(ch->old));
	bpf_map_delete_elem(&changes, &key);
	return slot->number;
}

#define CHANGES (2 * DEVICES + 8)

/* Reports one of the changes found. Returns whether it was of a parameter. */
__noinline int report_change(__u64 id, __u32 n, __u64 cause, enum call_via via)
{
	__u32 number = conf_changed(id, n, cause);

	return number ? send_write(number, 0, true, via) : 0;
}

/* Reports the first n changes. Returns how many were of parameters. Global as send_call() is. */
__noinline int report_changes(__u64 id, __u32 n, __u64 cause, enum call_via via)
{
	__u32 sent = 0;

	for (__u32 i = 0; i < CHANGES; i++) {
		if (i >= n)
			break;
		sent += report_change(id, i, cause, via);
	}
	return sent;
}

/* --- with a write to another parameter --- */

/* Remembers, or with done compares, the members of one struct. */
__noinline int cascade_visit(__u64 cnf, bool done)
{
	__u32 tid = current_tid(), now, *was;
	struct cascade *c;
	__u64 header;

	c = bpf_map_lookup_elem(&cascades, &tid);
	if (!c || !cnf)
		return 0;
	for (int i = 0; i < 2; i++) {
		struct member key = {.cascade = c->id, .addr = cnf + c->members[i]};

		if (c->members[i] == NO_MEMBER)
			continue;
		now = read_int(key.addr);
		if (!done) {
			bpf_map_update_elem(&members, &key, &now, BPF_ANY);
			continue;
		}
		was = bpf_map_lookup_elem(&members, &key);
		if (!was) /* a device that is new, or too many */
			continue;
		header = key.addr == c->data ? c->alias : conf_header(cnf, c->v6);
		if (*was != now)
			c->found += add_change(c->id, c->found, header, key.addr, *was);
		bpf_map_delete_elem(&members, &key);
	}
	return 0;
}

/* The same for the device behind one entry of a namespace's list of them. Returns the entry. */
__noinline __u64 cascade_device(__u64 at, __u64 head, bool v6, bool done)
{
	__u64 dev, cnf;

	at = read_ptr(at); /* list_head.next */
	if (!at || at == head)
		return 0;
	dev = at - bpf_core_field_offset(struct net_device, dev_list);
	if (v6 && has_ipv6()) {
		cnf = read_ptr(dev + bpf_core_field_offset(struct net_device, ip6_ptr));
		if (cnf)
			cnf += V6_CNF;
	} else {
		cnf = read_ptr(dev + bpf_core_field_offset(struct net_device, ip_ptr));
		if (cnf)
			cnf += bpf_core_field_offset(struct in_device, cnf);
	}
	cascade_visit(cnf, done);
	return at;
}

/* The same for all structs of a namespace. What the kernel changes it changes under
 * rtnl_lock(), these walks are without: a device that goes away at this moment can
 * end them early.
 */
__noinline int cascade_walk(__u64 net, bool v6, bool done)
{
	struct net *n = (void *)net;
	__u64 head = net + bpf_core_field_offset(struct net, dev_base_head), at = head;

	if (v6 && has_ipv6()) {
		cascade_visit((__u64)BPF_CORE_READ(n, ipv6.devconf_all), done);
		cascade_visit((__u64)BPF_CORE_READ(n, ipv6.devconf_dflt), done);
	} else {
		cascade_visit((__u64)BPF_CORE_READ(n, ipv4.devconf_all), done);
		cascade_visit((__u64)BPF_CORE_READ(n, ipv4.devconf_dflt), done);
	}
	for (int i = 0; i < DEVICES; i++) {
		at = cascade_device(at, head, v6, done);
		if (!at)
			return 0;
	}
	if (done && read_ptr(at) != head)
		count_missed(REC_SYSCTL_WRITE, 1);
	return 0;
}

/* A write to a struct's member at data begins. Those that spread:
 *
 * IPv4: inet_forward_change() sets "default" and all devices to what "all" is, and
 * accept_redirects of "all" to the opposite; devinet_copy_dflt_conf() sets what nobody has
 * set to what "default" is.
 *
 * IPv6: addrconf_fixup_forwarding(), addrconf_fixup_linkdown(), addrconf_disable_ipv6(),
 * addrconf_sysctl_addr_gen_mode() and (6.17) addrconf_sysctl_force_forwarding() set "default" and
 * all devices to what "all" is; addrconf_sysctl_stable_secret() sets addr_gen_mode. With
 * disable_ipv6 gone addrconf_notify() takes the MTU from the device.
 */
__noinline int cascade_enter(__u64 header, __u64 data, __u64 of, __u64 net)
{
	struct cascade c = {.net = net, .header = header, .data = data};
	struct net *n = (void *)net;
	__u64 all, dflt, off, cnf;
	__u32 tid = current_tid();

	c.members[0] = c.members[1] = NO_MEMBER;
	all = (__u64)BPF_CORE_READ(n, ipv4.devconf_all);
	dflt = (__u64)BPF_CORE_READ(n, ipv4.devconf_dflt);
	if (of && (of == all || of == dflt)) {
		__u64 data0 = bpf_core_field_offset(struct ipv4_devconf, data);
		__u64 forw = (__u64)BPF_CORE_READ(n, ipv4.forw_hdr);

		off = data - of;
		c.members[0] = off;
		if (of == all) {
			if (off != data0 + V4_FORWARDING * sizeof(int))
				return 0;
			c.members[1] = data0 + V4_ACCEPT_REDIRECTS * sizeof(int);
			c.alias = header == forw ? conf_header(all, false) : forw;
		}
	} else if (has_ipv6()) {
		struct ipv6_devconf *v6 = NULL;
		__u64 size = bpf_core_type_size(struct ipv6_devconf);

		all = (__u64)BPF_CORE_READ(n, ipv6.devconf_all);
		dflt = (__u64)BPF_CORE_READ(n, ipv6.devconf_dflt);
		if (of)
			cnf = of + V6_CNF;
		else if (data - all < size)
			cnf = all;
		else
			cnf = dflt;
		off = data - cnf;
		if (off >= size || !all || !dflt)
			return 0;
		c.v6 = 1;
		if (off >= bpf_core_field_offset(struct ipv6_devconf, stable_secret) &&
		    off - bpf_core_field_offset(struct ipv6_devconf, stable_secret) <
			    bpf_core_field_size(v6->stable_secret))
			c.members[0] = bpf_core_field_offset(struct ipv6_devconf, addr_gen_mode);
		else if (cnf == all ||
			 off == bpf_core_field_offset(struct ipv6_devconf, disable_ipv6))
			c.members[0] = off;
		else
			return 0;
		if (off == bpf_core_field_offset(struct ipv6_devconf, disable_ipv6))
			c.members[1] = bpf_core_field_offset(struct ipv6_devconf, mtu6);
	} else {
		return 0;
	}
	c.id = mix(mix(hash_seed, bpf_ktime_get_boot_ns()), tid) | 1;
	if (bpf_map_update_elem(&cascades, &tid, &c, BPF_ANY))
		return 0;
	return cascade_walk(net, c.v6, false);
}

/* The write is over, and done if it succeeded. Returns the id under which what changed
 * with it was reported; 0: nothing did.
 */
static __always_inline __u64 cascade_exit(bool done)
{
	__u32 tid = current_tid(), found;
	struct cascade *c = bpf_map_lookup_elem(&cascades, &tid);
	__u64 id;

	if (!c)
		return 0;
	id = c->id;
	if (done)
		cascade_walk(c->net, c->v6, true);
	found = c->found;
	bpf_map_delete_elem(&cascades, &tid);
	return report_changes(id, found, id, VIA_CASCADE) ? id : 0;
}

/* --- over netlink, and with the device --- */

#define CONF_SIZE  512 /* ipv6_devconf has 240 to 330 bytes, ipv4_devconf 150 */
#define CONF_WORDS (CONF_SIZE / sizeof(__u32))

struct conf {
	__u64 cnf;
	__u32 found; /* how many words have changed */
	__u32 pad;
	__u32 old[CONF_WORDS];
	__u32 now[CONF_WORDS];
};

/* A call under way. Of the same kind a thread has one at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 128);
	__type(key, __u64);
	__type(value, struct conf);
} confs SEC(".maps");

static const struct conf no_conf;

static __noinline int conf_enter(struct net_device *dev, bool v6, enum call_via via)
{
	__u64 key = (__u64)current_tid() << 8 | via << 1 | v6, cnf;
	__u32 size = v6 ? bpf_core_type_size(struct ipv6_devconf)
			: bpf_core_type_size(struct ipv4_devconf);
	struct conf *c;

	if (stopping)
		return 0;
	if (v6)
		cnf = (__u64)BPF_CORE_READ(dev, ip6_ptr) + V6_CNF;
	else
		cnf = (__u64)BPF_CORE_READ(dev, ip_ptr) +
		      bpf_core_field_offset(struct in_device, cnf);
	if (cnf < 4096) /* it has no such addresses */
		return 0;
	bpf_map_update_elem(&confs, &key, &no_conf, BPF_ANY);
	c = bpf_map_lookup_elem(&confs, &key);
	if (!c)
		return 0;
	c->cnf = cnf;
	if (size > CONF_SIZE)
		size = CONF_SIZE;
	bpf_probe_read_kernel(c->old, size, (void *)cnf);
	return 0;
}

/* Notes that word i of a struct changed. Global, so that the verifier need not follow
 * what comes after it once for each number of changes so far.
 */
__noinline int conf_differs(__u64 key, bool v6, __u32 i)
{
	struct conf *c = bpf_map_lookup_elem(&confs, &key);

	if (c && i < CONF_WORDS)
		c->found += add_change(key, c->found, conf_header(c->cnf, v6),
				       c->cnf + i * sizeof(__u32), c->old[i]);
	return 0;
}

/* Finds what changed. Returns how many words. */
__noinline int conf_compare(__u64 key, bool v6)
{
	__u32 size = v6 ? bpf_core_type_size(struct ipv6_devconf)
			: bpf_core_type_size(struct ipv4_devconf);
	struct conf *c = bpf_map_lookup_elem(&confs, &key);
	__u32 found;

	if (!c)
		return 0;
	if (size > CONF_SIZE)
		size = CONF_SIZE;
	if (!bpf_probe_read_kernel(c->now, size, (void *)c->cnf)) {
		for (__u32 i = 0; i < CONF_WORDS; i++) {
			if (c->old[i] != c->now[i])
				conf_differs(key, v6, i);
		}
	}
	found = c->found;
	bpf_map_delete_elem(&confs, &key);
	return found;
}

static __always_inline int conf_exit(bool v6, enum call_via via)
{
	__u64 key = (__u64)current_tid() << 8 | via << 1 | v6;
	__u32 n = conf_compare(key, v6);

	if (n)
		report_changes(key, n, 0, via);
	return 0;
}

/* include/linux/netdevice.h, enum netdev_cmd: those upon which addrconf_notify() sets a
 * setting of a device that has some. With NETDEV_REGISTER it has none yet.
 */
#define NETDEV_UP	 1
#define NETDEV_CHANGE	 4
#define NETDEV_CHANGEMTU 7

/* dev_disable_change() calls it without a block: that is a write's. */
static __always_inline int notify_enter(void *block, unsigned long event, void *info)
{
	struct netdev_notifier_info *about = info;

	if (!block || (event != NETDEV_UP && event != NETDEV_CHANGE && event != NETDEV_CHANGEMTU))
		return 0;
	return conf_enter(READ(about, dev), true, VIA_DEVICE);
}

/* do_setlink() (net/core/rtnetlink.c) calls the first two for what the message has below
 * IFLA_AF_SPEC.
 */
SEC("fentry/inet_set_link_af")
int BPF_PROG(fentry_link4, struct net_device *dev)
{
	return conf_enter(dev, false, VIA_NETLINK);
}

SEC("fexit/inet_set_link_af")
int BPF_PROG(fexit_link4)
{
	return conf_exit(false, VIA_NETLINK);
}

SEC("fentry/inet6_set_link_af")
int BPF_PROG(fentry_link6, struct net_device *dev)
{
	return conf_enter(dev, true, VIA_NETLINK);
}

SEC("fexit/inet6_set_link_af")
int BPF_PROG(fexit_link6)
{
	return conf_exit(true, VIA_NETLINK);
}

SEC("fentry/addrconf_notify")
int BPF_PROG(fentry_addrconf, void *block, unsigned long event, void *info)
{
	return notify_enter(block, event, info);
}

SEC("fexit/addrconf_notify")
int BPF_PROG(fexit_addrconf, void *block, unsigned long event, void *info)
{
	return block ? conf_exit(true, VIA_DEVICE) : 0;
}

SEC("kprobe/inet_set_link_af")
int BPF_KPROBE(kprobe_link4, struct net_device *dev)
{
	return conf_enter(dev, false, VIA_NETLINK);
}

SEC("kretprobe/inet_set_link_af")
int BPF_KRETPROBE(kretprobe_link4)
{
	return conf_exit(false, VIA_NETLINK);
}

SEC("kprobe/inet6_set_link_af")
int BPF_KPROBE(kprobe_link6, struct net_device *dev)
{
	return conf_enter(dev, true, VIA_NETLINK);
}

SEC("kretprobe/inet6_set_link_af")
int BPF_KRETPROBE(kretprobe_link6)
{
	return conf_exit(true, VIA_NETLINK);
}

SEC("kprobe/addrconf_notify")
int BPF_KPROBE(kprobe_addrconf, void *block, unsigned long event, void *info)
{
	return notify_enter(block, event, info);
}

/* dev_disable_change() is inside of a write, never of another call of this. */
SEC("kretprobe/addrconf_notify")
int BPF_KRETPROBE(kretprobe_addrconf)
{
	return conf_exit(true, VIA_DEVICE);
}

#endif
