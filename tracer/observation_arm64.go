// SPDX-License-Identifier: Apache-2.0

package tracer

// callPrefix is what the names of the functions of system calls begin with.
const callPrefix = "__arm64_sys_"

// The system calls of 32-bit programs have the same functions (arch/arm64/kernel/sys32.c).
var (
	clone32Fentry, clone32Kprobe         []string
	setns32Fentry, setns32Kprobe         []string
	moveMount32Fentry, moveMount32Kprobe []string
	hostname32Fentry, hostname32Kprobe   []string
	mount32Fentry, mount32Kprobe         []string
)
