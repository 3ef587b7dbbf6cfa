// SPDX-License-Identifier: Apache-2.0

package tracer

// arm64's compat table uses the 64-bit setns.
var setns32Fentry, setns32Kprobe []string

const moveMountFunc = "__arm64_sys_move_mount"

// setdomainnameFunc is the function of setdomainname(2).
const setdomainnameFunc = "__arm64_sys_setdomainname"

var moveMount32Fentry, moveMount32Kprobe []string
