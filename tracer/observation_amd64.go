// SPDX-License-Identifier: Apache-2.0

package tracer

import "github.com/nstrace/nstrace/bpf"

// Only x86 has a function of its own for setns of 32-bit programs (CONFIG_IA32_EMULATION).
// arm64's compat table uses the 64-bit function.
var (
	setns32Fentry = []string{bpf.NstraceProgFentrySetns32, bpf.NstraceProgFexitSetns32}
	setns32Kprobe = []string{bpf.NstraceProgKprobeSetns32, kretprobeSetns32}
)

// moveMountFunc is MOVE_MOUNT of bpf/pin.h.
const moveMountFunc = "__x64_sys_move_mount"

// setdomainnameFunc is the function of setdomainname(2).
const setdomainnameFunc = "__x64_sys_setdomainname"

// The same for move_mount(2).
var (
	moveMount32Fentry = []string{bpf.NstraceProgFentryMoveMount32, bpf.NstraceProgFexitMoveMount32}
	moveMount32Kprobe = []string{bpf.NstraceProgKprobeMoveMount32, kretprobeMoveMount32}
)
