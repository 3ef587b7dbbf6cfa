// SPDX-License-Identifier: Apache-2.0

package event

import (
	"strconv"
)

// A processCache has the encoding of recent processes. A process is most of a line, and few
// processes cause a storm. The slot is that of the thread id. The key is the address: a
// Process never changes, and the pointer in the cache keeps the address from being reused.
type processCache [256]struct {
	process *Process
	encoded []byte
}

// maxCached is the longest encoding that is cached, many times the usual length. Arguments
// and paths can have thousands of bytes that need an escape of six bytes each.
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
	b = appendText(b, `,"leader_comm":`, p.LeaderComm)
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
