// SPDX-License-Identifier: Apache-2.0

package tracer

import "github.com/nstrace/nstrace/bpf"

// callPrefix is what the names of the functions of system calls begin with.
const callPrefix = "__x64_sys_"

// The system calls of 32-bit programs, where the kernel has no function below them that it uses for
// both (CONFIG_IA32_EMULATION).
var (
	clone32Fentry = []string{bpf.NstraceProgFexitClone332}
	clone32Kprobe = []string{bpf.NstraceProgKretprobeClone332}

	setns32Fentry = []string{bpf.NstraceProgFentrySetns32, bpf.NstraceProgFexitSetns32}
	setns32Kprobe = []string{bpf.NstraceProgKprobeSetns32, kretprobeSetns32}

	moveMount32Fentry = []string{bpf.NstraceProgFentryMoveMount32, bpf.NstraceProgFexitMoveMount32}
	moveMount32Kprobe = []string{bpf.NstraceProgKprobeMoveMount32, kretprobeMoveMount32}

	hostname32Fentry = []string{bpf.NstraceProgFentryHostname32, fexitHostname32, bpf.NstraceProgFentryDomainname32, fexitDomainname32}
	hostname32Kprobe = []string{bpf.NstraceProgKprobeHostname32, kretprobeHostname32, bpf.NstraceProgKprobeDomainname32, kretprobeDomainname32}

	mount32Fentry = []string{
		bpf.NstraceProgFentryOpenTree32, fexitOpenTree32, bpf.NstraceProgFentryOpenTreeAttr32, fexitOpenTreeAttr32,
		bpf.NstraceProgFentryFsmount32, fexitFsmount32,
	}
	mount32Kprobe = []string{
		bpf.NstraceProgKprobeOpenTree32, kretprobeOpenTree32, bpf.NstraceProgKprobeOpenTreeAttr32, kretprobeOpenTreeAttr32,
		bpf.NstraceProgKprobeFsmount32, kretprobeFsmount32,
	}
)

func init() { insteadOf[bpf.NstraceProgFexitClone332] = bpf.NstraceProgKretprobeClone332 }
