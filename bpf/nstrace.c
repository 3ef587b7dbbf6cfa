//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nstrace's kernel side: one object, of which user space loads the programs that
 * suit the running kernel. Each observation is an inline function of the values
 * that it needs; the programs below a SEC() only hand them over.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "record.h"
#include "common.h"
#include "who.h"
#include "namespace.h"
#include "pin.h"
#include "inventory.h"
#include "sysctl.h"
#include "netconf.h"
#include "open.h"
#include "hostname.h"
#include "netdev.h"
#include "follow.h"
#include "tamper.h"
#include "exit.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Puts the types into the object's BTF, from which bpf2go makes the Go ones. */
const struct head *type_head __attribute__((unused));
const struct who_record *type_who_record __attribute__((unused));
const struct param_record *type_param_record __attribute__((unused));
const struct caller *type_caller __attribute__((unused));
const struct fold *type_fold __attribute__((unused));
const struct ns_change *type_ns_change __attribute__((unused));
const struct actor *type_actor __attribute__((unused));
const struct ns_record *type_ns_record __attribute__((unused));
const struct sysctl_record *type_sysctl_record __attribute__((unused));
const struct destroy_record *type_destroy_record __attribute__((unused));
const struct tamper_record *type_tamper_record __attribute__((unused));
const struct own_key *type_own_key __attribute__((unused));
const enum own_object *type_own_object __attribute__((unused));
const struct netdev_record *type_netdev_record __attribute__((unused));
const struct pin_record *type_pin_record __attribute__((unused));
const struct pin_end_record *type_pin_end_record __attribute__((unused));
const struct inventory *type_inventory __attribute__((unused));
const enum record_kind *type_record_kind __attribute__((unused));
const enum ns_kind *type_ns_kind __attribute__((unused));
const enum call_via *type_call_via __attribute__((unused));
const enum record_flag *type_record_flag __attribute__((unused));
