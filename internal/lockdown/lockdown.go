// SPDX-License-Identifier: Apache-2.0

// Package lockdown finds out whether the kernel lets BPF programs read its memory. It does not if it
// was locked down for confidentiality (kernel_lockdown(7)).
package lockdown

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// ErrLocked means that BPF programs cannot read the memory of the kernel.
var ErrLocked = errors.New("the kernel lets no BPF program read its memory")

// file shows the mode. securityfs need not be mounted.
const file = "/sys/kernel/security/lockdown"

// Check returns ErrLocked if BPF programs cannot read the memory of the kernel. It asks by a program
// that reads 8 bytes: kernels from 5.14 on refuse to load it, and older ones let the read fail
// (security_locked_down(LOCKDOWN_BPF_READ_KERNEL) in kernel/bpf/helpers.c and
// kernel/trace/bpf_trace.c). It returns nil if it cannot ask, for example without privileges.
func Check() error {
	const size = 8
	read := asm.Instructions{
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -size),
		asm.Mov.Imm(asm.R2, size),
		asm.FnProbeReadKernel.Call(),
		asm.Return(),
	}
	harmless := asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	p, err := load(read)
	if err != nil {
		other, err := load(harmless)
		if err != nil { // the kernel refuses any program
			return nil
		}
		other.Close()
		return locked()
	}
	defer p.Close()
	if ret, err := p.Run(nil); err == nil && ret != 0 { // run: since 5.10
		return locked()
	}
	return nil
}

func load(ins asm.Instructions) (*ebpf.Program, error) {
	return ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Name: "nstrace_probe", Type: ebpf.RawTracepoint, License: "Dual BSD/GPL", Instructions: ins,
	}, ebpf.ProgramOptions{LogDisabled: true})
}

func locked() error {
	why := "as with lockdown=confidentiality"
	if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "[confidentiality]") {
		why = "because of lockdown=confidentiality"
	}
	return fmt.Errorf("%w, %s", ErrLocked, why)
}
