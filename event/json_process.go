// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strconv"
)

// processCache has the processes of late as they were encoded. A process is most
// of a line, and those that cause a storm are few. It is found by its address,
// since a tracer.Process does not change and those of one description are one;
// that it is referred to from here keeps the address from being used again. The
// slot is that of its thread id, where threads of one process do not meet.
type processCache [256]struct {
	process *Process
	encoded []byte
}

// maxCached is the longest encoding that is kept, many times what one usually
// takes: arguments and paths can be thousands of bytes that take six each.
const maxCached = 8 << 10

func (enc *Encoder) appendProcess(b []byte, p *Process) []byte {
	slot := &enc.processes[p.TID%uint32(len(enc.processes))]
	if slot.process == p {
		return append(b, slot.encoded...)
	}
	start := len(b)
	b = enc.encodeProcess(b, p)
	if encoded := b[start:]; len(encoded) <= maxCached {
		slot.process = p
		slot.encoded = append(slot.encoded[:0], encoded...)
	}
	return b
}

func (enc *Encoder) encodeProcess(b []byte, p *Process) []byte {
	start := len(b)
	b = strconv.AppendUint(append(b, `,"pid":`...), uint64(p.PID), 10)
	b = strconv.AppendUint(append(b, `,"tid":`...), uint64(p.TID), 10)
	b = AppendString(append(b, `,"comm":`...), p.Comm)
	b = appendText(b, `,"exe":`, p.Exe)
	b = appendTexts(b, `,"args":`, p.Args)
	b = strconv.AppendUint(append(b, `,"ppid":`...), uint64(p.PPID), 10)
	b = strconv.AppendUint(append(b, `,"uid":`...), uint64(p.UID), 10)
	b = strconv.AppendUint(append(b, `,"gid":`...), uint64(p.GID), 10)
	b = appendText(b, `,"user":`, p.User)
	b = appendID(b, `,"login_uid":`, p.LoginUID)
	b = appendText(b, `,"login_user":`, p.LoginUser)
	b = appendID(b, `,"session_id":`, p.SessionID)
	b = appendID(b, `,"sudo_uid":`, p.SudoUID)
	b = appendText(b, `,"sudo_user":`, p.SudoUser)
	b = appendText(b, `,"tty":`, p.TTY)
	b = appendText(b, `,"role":`, p.Role)
	b = appendText(b, `,"cgroup":`, p.Cgroup)
	if len(p.NS) > 0 {
		b = appendMap(append(b, `,"ns":`...), p.NS)
	}
	b = appendList(b, `,"ancestors":`, p.Ancestors, appendActor)
	b = enc.times.appendMember(b, `,"start_time":`, p.StartTime)
	return object(b, start)
}
