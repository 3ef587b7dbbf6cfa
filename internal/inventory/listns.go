// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"context"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// sysListns is the number of listns(2), which is in Linux 6.19 and later.
const sysListns = 470

// An nsIDReq is struct ns_id_req of include/uapi/linux/nsfs.h.
type nsIDReq struct {
	size     uint32
	_        uint32
	after    uint64 // only ids greater than this
	nsType   uint32 // CLONE_NEW*
	_        uint32
	userNSID uint64 // 0: of any owner
}

const (
	listnsPage = 1024
	// maxUnseen bounds how many namespaces are added that nothing else shows. Each is opened.
	maxUnseen = 4096
)

// addUnseen adds the namespaces that the kernel lists and that neither tasks nor files, mounts or
// relatives led to. The list has those that user space can still reach, so it leaves out a namespace
// that only the kernel itself uses.
func (b *builder) addUnseen(ctx context.Context) {
	known := sync.OnceValue(func() map[uint64]bool { // only if the kernel lists any
		known := make(map[uint64]bool, len(b.inv.namespaces))
		for _, n := range b.inv.namespaces {
			if n.KernelID != 0 {
				known[n.KernelID] = true
			}
		}
		return known
	})
	added := 0
	for i, typ := range types {
		if !b.wanted[i] {
			continue
		}
		for id := range listns(typ) {
			if known()[id] || b.own[id] {
				continue
			}
			if ctx.Err() != nil {
				b.cut("some namespaces that only the kernel lists")
				return
			}
			if added == maxUnseen {
				b.incomplete("some namespaces that only the kernel lists: more than %d", maxUnseen)
				return
			}
			if b.addByID(typ, id) {
				added++
			}
		}
	}
}

// addByID adds the namespace with a 64-bit id if it still exists.
func (b *builder) addByID(typ event.NSType, id uint64) bool {
	f, err := procfs.OpenHandle(procfs.Namespace{Type: typ, KernelID: id})
	if err != nil {
		return false
	}
	defer f.Close()
	r, ok := refOf(int(f.Fd()))
	if !ok || r.Type != typ || b.inv.namespaces[r] != nil { // it has got a process since
		return false
	}
	n := b.of(r)
	if n == nil {
		return false
	}
	n.KernelID, n.Unseen = id, true
	b.relate(int(f.Fd()), n)
	return true
}

// listns yields the 64-bit ids of all namespaces of a type that the caller may see; none before 6.19.
func listns(typ event.NSType) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		req := nsIDReq{size: uint32(unsafe.Sizeof(nsIDReq{})), nsType: procfs.CloneFlag(typ)}
		var ids [listnsPage]uint64
		for {
			n, _, errno := unix.Syscall6(sysListns, uintptr(unsafe.Pointer(&req)), uintptr(unsafe.Pointer(&ids[0])), uintptr(len(ids)), 0, 0, 0)
			if errno != 0 || n == 0 || n > uintptr(len(ids)) {
				return
			}
			for _, id := range ids[:n] {
				if id <= req.after { // it would never end
					return
				}
				req.after = id
				if !yield(id) {
					return
				}
			}
		}
	}
}
