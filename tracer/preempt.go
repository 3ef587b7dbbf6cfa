// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// Where the kernel can preempt kernel code, fentry loses events. The kernel enables preemption while it
// runs an fentry or fexit program, and skips a program that another task on the same CPU is in
// (__bpf_prog_enter_recur() in kernel/bpf/trampoline.c, 5.12). So a task that is preempted in a program
// hides what the next task does. A program cannot prevent that: it can disable preemption
// (bpf_preempt_disable(), 6.10), but the kernel marks it as running before it starts, and preempts the
// task at the latest when the program enables preemption again, while it still counts as running.
//
// The kernel disables preemption while it runs a kprobe or kretprobe (kprobe_ftrace_handler(),
// rethook_trampoline_handler()). It skips such a program only in an interrupt of another one, or while
// bpf(2) changes a map on the same CPU. The functions that nstrace observes run in tasks, except for the
// end of a namespace, which a scan finds if its program was skipped.
//
// So Auto prefers kprobe to fentry if the kernel preempts.

// inOrder returns the ways of an observation in the order in which to try them.
func (k *kernel) inOrder(ways []way) (all []*way) {
	for i := range ways {
		all = append(all, &ways[i])
	}
	if k.preempts != "" {
		slices.SortStableFunc(all, func(a, b *way) int { return lastFentry(a) - lastFentry(b) })
	}
	return all
}

// avoidsFentry returns why Auto prefers kprobe to fentry, "" if it does not.
func (k *kernel) avoidsFentry() string {
	if k.preempts == "" || k.kprobe != nil {
		return ""
	}
	return "not chosen by auto: the kernel preempts kernel code (" + k.preempts + ") and then skips fentry programs"
}

// lastFentry sorts fentry behind kprobe, and tracepoint behind both.
func lastFentry(w *way) int {
	return slices.Index([]Backend{Kprobe, Fentry, Tracepoint}, w.backend)
}

// preemption is what is known of how the kernel preempts kernel code.
type preemption struct {
	model string   // of the kernel's build, as uname -v has it; "": it does not preempt
	file  *os.File // says which mode a PREEMPT_DYNAMIC kernel is in; nil if it cannot be read
}

// dynamic is the model of a kernel whose mode can change while it runs: by preempt= on its command
// line, or by a write to the file sched/preempt in debugfs.
const dynamic = "PREEMPT_DYNAMIC"

// openPreemption finds out how the kernel preempts. Close it after use.
//
// The model is part of the version that every build has (init/Makefile). /sys/kernel/realtime exists
// only with the patches for real time that were outside of the kernel up to 6.12. debugfs is often not
// mounted, so it gets a mount that is attached nowhere.
func openPreemption() *preemption {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return &preemption{model: "an unknown model of preemption"}
	}
	p := &preemption{model: preemptModel(unix.ByteSliceToString(uts.Version[:]))}
	if p.model == dynamic {
		p.file, _ = openDebugfs("sched/preempt")
	}
	return p
}

// preemptModel returns the model of preemption in the version of a kernel, such as "#1 SMP
// PREEMPT_DYNAMIC Debian 6.12.118-1".
func preemptModel(version string) string {
	for word := range strings.FieldsSeq(version) {
		if strings.HasPrefix(word, "PREEMPT") {
			return word
		}
	}
	return ""
}

// openDebugfs opens a file of debugfs for reading. A kernel that is locked down refuses that.
func openDebugfs(name string) (*os.File, error) {
	fs, err := unix.Fsopen("debugfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open debugfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("open debugfs: %w", err)
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount debugfs: %w", err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of debugfs: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// chosenMode matches the mode in effect, in what the file has: "none (voluntary) full".
var chosenMode = regexp.MustCompile(`\(([a-z]+)\)`)

// mode returns the mode that a PREEMPT_DYNAMIC kernel is in, "" if that is unknown.
func (p *preemption) mode() string {
	if p.file == nil {
		return ""
	}
	b := make([]byte, 64)
	n, err := p.file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	if m := chosenMode.FindSubmatch(b[:n]); m != nil {
		return string(m[1])
	}
	return ""
}

// reason returns how the kernel preempts kernel code, "" if it does not. It assumes that the kernel does
// if that is unknown.
func (p *preemption) reason() string {
	if p.model != dynamic {
		return p.model
	}
	switch mode := p.mode(); mode {
	case "none", "voluntary":
		return ""
	case "":
		return dynamic + ", in a mode that cannot be read"
	default:
		return dynamic + ", in the mode " + mode
	}
}

func (p *preemption) close() {
	if p != nil && p.file != nil {
		p.file.Close()
	}
}

// avoidPreemption replaces fentry by kprobe if the kernel has begun to preempt kernel code since the
// start. If it stops doing so, kprobe stays.
func (t *Tracer) avoidPreemption() error {
	if t.preempt == nil || t.preempt.reason() == "" {
		return nil
	}
	t.preempt.close()
	t.preempt = nil
	if !t.attached.loaded.uses(Fentry) {
		return nil // nstrace has fallen back to tracepoints
	}
	return t.replace(replacement{reason: event.LossReattach, optional: true,
		what: "the kernel began to preempt kernel code", then: "nstrace uses kprobe where it can"})
}
