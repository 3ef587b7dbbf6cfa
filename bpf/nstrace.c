//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The kernel side of nstrace: one object. User space loads those of its programs that suit the
 * running kernel.
 *
 * lib/ has what the programs share. Each other header has one subject, which its head names. In it
 * an observation is an inline function of the values that it needs, and the programs below a SEC()
 * only pass those values on. Each header includes what it needs, so the order of the lines below
 * does not matter.
 *
 * What sends a record, and each step of a loop, is a global function: __noinline and not static.
 * The verifier checks a global function once for a program, and then assumes any value for what it
 * returns. It would check a static function again for each call and for each state of the caller. A
 * global function takes only numbers, since it cannot take pointers before 5.13.
 */
#include "unshare.h"
#include "clone.h"
#include "setns.h"
#include "mount_tree.h"
#include "exec.h"
#include "setuid.h"
#include "syscall_exit.h"
#include "destroy.h"
#include "tasks.h"
#include "pin.h"
#include "sysctl.h"
#include "netconf.h"
#include "open.h"
#include "hostname.h"
#include "netdev.h"
#include "table.h"
#include "tamper.h"
#include "follow.h"
#include "exit.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
