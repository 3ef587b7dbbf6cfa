// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

const adminCap = 1 << unix.CAP_SYS_ADMIN

// refusedRecord is the record of a call that asked for a user namespace and failed, or for another
// one if kind is not NS_USER.
func refusedRecord(errno unix.Errno, kind bpf.NstraceNsKind, facts bpf.NstraceNsRefusal, limits ...bpf.NstraceNsLimit) []byte {
	wire := bpf.NstraceNsRecord{Nrefusals: 1, Nlimits: uint16(len(limits))}
	facts.Kinds |= 1 << kind
	change := bpf.NstraceNsChange{Kind: uint8(kind)}
	wire.Caller.Ns[bpf.NstraceNsKindNS_USER] = 4026532001
	wire.Head.Kind, wire.Head.Via, wire.Head.Nchanges = uint16(bpf.NstraceRecordKindREC_NS_CREATE), uint8(bpf.NstraceCallViaVIA_UNSHARE), 1
	wire.Head.Flags, wire.Head.Ret = uint16(bpf.NstraceRecordFlagF_RET_KNOWN), -int32(errno)
	wire.Head.Size = uint32(unsafe.Sizeof(wire) + unsafe.Sizeof(change) + unsafe.Sizeof(facts) + uintptr(len(limits))*unsafe.Sizeof(bpf.NstraceNsLimit{}))
	b := append(raw(&wire), raw(&change)...)
	b = append(b, raw(&facts)...)
	for i := range limits {
		b = append(b, raw(&limits[i])...)
	}
	return b
}

// raw returns the bytes of a struct of the wire.
func raw[T any](v *T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))...)
}

// TestRefusal has what no capture can have: parameters of other distributions, and values that no
// kernel sends.
func TestRefusal(t *testing.T) {
	const (
		user = bpf.NstraceNsKindNS_USER
		net  = bpf.NstraceNsKindNS_NET
	)
	limit := func(kind bpf.NstraceNsKind, count, maximum uint64, counted uint8) bpf.NstraceNsLimit {
		return bpf.NstraceNsLimit{Kind: uint8(kind), Count: count, Max: maximum, UserNs: 4026532001, Uid: 1000, Level: 3, Counted: counted}
	}
	debian := map[string]string{debianSysctl: "0"}
	ubuntu := map[string]string{ubuntuSysctl: "1"}
	for _, tt := range []struct {
		name    string
		sysctls map[string]string
		hostNS  uint32
		record  []byte
		want    string // JSON, without [ ]
	}{
		{name: "Debian", sysctls: debian, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{}),
			want: `{"reason":"sysctl","sysctl":"kernel.unprivileged_userns_clone","value":0,"read_later":true}`},
		{name: "Debian, root of a user namespace", sysctls: debian, hostNS: 4026531837, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{Caps: adminCap}),
			want: `{"reason":"sysctl","sysctl":"kernel.unprivileged_userns_clone","value":0,"read_later":true}`},
		{name: "Debian, root of the host", sysctls: debian, hostNS: 4026532001, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{Caps: adminCap})},
		{name: "Debian, allowed", sysctls: map[string]string{debianSysctl: "1"}, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{})},
		{name: "Debian, no user namespace", sysctls: debian, record: refusedRecord(unix.EPERM, net, bpf.NstraceNsRefusal{Caps: adminCap})},
		{name: "Ubuntu", sysctls: ubuntu, record: refusedRecord(unix.EACCES, user, bpf.NstraceNsRefusal{}),
			want: `{"reason":"sysctl","sysctl":"kernel.apparmor_restrict_unprivileged_userns","value":1,"read_later":true}`},
		{name: "Ubuntu, privileged", sysctls: ubuntu, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{Caps: adminCap})},
		{name: "Ubuntu, off", sysctls: map[string]string{ubuntuSysctl: "0"}, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{})},
		{name: "a value that is no number", sysctls: map[string]string{debianSysctl: "\x1b[0", ubuntuSysctl: "11"}, record: refusedRecord(unix.EPERM, user, bpf.NstraceNsRefusal{})},
		{name: "privileged, and refused all the same", record: refusedRecord(unix.EPERM, net, bpf.NstraceNsRefusal{Caps: adminCap})},
		{name: "other capabilities", record: refusedRecord(unix.EPERM, net, bpf.NstraceNsRefusal{Caps: ^uint64(adminCap)}),
			want: `{"reason":"capability","user_ns":4026532001,"capability":"CAP_SYS_ADMIN"}`},
		{name: "chroot is no obstacle to others", record: refusedRecord(unix.EPERM, net, bpf.NstraceNsRefusal{Caps: adminCap, Flags: math.MaxUint32})},
		{name: "count unknown", record: refusedRecord(unix.ENOSPC, net, bpf.NstraceNsRefusal{}, limit(net, 0, 0, 0)),
			want: `{"reason":"limit","type":"net","sysctl":"user.max_net_namespaces","value":0,"user_ns":4026532001,"level":3,"uid":1000,"user":"tester"}`},
		{name: "above the limit", record: refusedRecord(unix.EUSERS, net, bpf.NstraceNsRefusal{}, limit(net, 9, 2, 1)),
			want: `{"reason":"limit","type":"net","sysctl":"user.max_net_namespaces","value":2,"count":9,"user_ns":4026532001,"level":3,"uid":1000,"user":"tester"}`},
		{name: "two limits", record: refusedRecord(unix.ENOSPC, net, bpf.NstraceNsRefusal{}, limit(net, 2, 2, 1), limit(bpf.NstraceNsKindNS_CGROUP, 0, 0, 0)),
			want: `{"reason":"limit","type":"net","sysctl":"user.max_net_namespaces","value":2,"count":2,"user_ns":4026532001,"level":3,"uid":1000,"user":"tester"},` +
				`{"reason":"limit","type":"cgroup","sysctl":"user.max_cgroup_namespaces","value":0,"user_ns":4026532001,"level":3,"uid":1000,"user":"tester"}`},
		{name: "no such kind", record: refusedRecord(unix.ENOSPC, net, bpf.NstraceNsRefusal{}, limit(200, 1, 1, 1))},
		{name: "a negative limit", record: refusedRecord(unix.ENOSPC, net, bpf.NstraceNsRefusal{}, limit(net, 1, math.MaxUint64, 1))},
		{name: "a negative count", record: refusedRecord(unix.ENOSPC, net, bpf.NstraceNsRefusal{}, limit(net, math.MaxUint64, 1, 1))},
		{name: "one level short", record: refusedRecord(unix.ENOSPC, user, bpf.NstraceNsRefusal{UserLevel: 32, PidLevel: 32})},
		{name: "user namespaces nested", record: refusedRecord(unix.ENOSPC, user, bpf.NstraceNsRefusal{UserLevel: 33}),
			want: `{"reason":"nesting","type":"user","value":33,"count":33}`},
		{name: "no memory", sysctls: debian, record: refusedRecord(unix.ENOMEM, user, bpf.NstraceNsRefusal{Flags: math.MaxUint32, UserLevel: 33}, limit(user, 1, 1, 1))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := newCollect()
			in := offline(&fakeHost{sysctls: tt.sysctls}, events)
			in.registry.host[event.NSTypeUser] = tt.hostNS
			if err := in.interpret(tt.record); err != nil || len(events.events) != 1 {
				t.Fatalf("%d events: %v", len(events.events), err)
			}
			e := events.events[0]
			got, err := json.Marshal(e.Refusal)
			if err != nil || e.Type != event.NamespaceCreate || e.Outcome != event.Failure {
				t.Fatalf("%v: %+v", err, e)
			}
			if text := strings.TrimSuffix(strings.TrimPrefix(strings.Replace(string(got), "null", "[]", 1), "["), "]"); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
		})
	}
}

// TestSysctlCache checks that a parameter is read once for all that happened before.
func TestSysctlCache(t *testing.T) {
	c := sysctlCache{}
	const name = "kernel.ostype"
	if v := c.value(name, 0); v != "Linux" {
		t.Fatalf("%s is %q", name, v)
	}
	c[name] = cachedSysctl{value: "kept", at: c[name].at}
	if v := c.value(name, c[name].at-1); v != "kept" {
		t.Errorf("it was read again: %q", v)
	}
	if v := c.value(name, c[name].at); v != "Linux" {
		t.Errorf("it was not read again: %q", v)
	}
	if v := c.value("kernel.no_such_parameter", 0); v != "" {
		t.Errorf("a parameter that does not exist: %q", v)
	}
}
