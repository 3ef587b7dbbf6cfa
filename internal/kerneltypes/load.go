// SPDX-License-Identifier: Apache-2.0

package kerneltypes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// iterator is what the kernel prepends to the name of an iterator (include/linux/bpf.h).
const iterator = "bpf_iter_"

// An Object has iterators that are adapted to the running kernel. It loads them as often as it is asked
// to, and does not repeat that work. Several goroutines may use it.
//
// It needs no more of the kernel than the programs do. cilium/ebpf also tries what the kernel can do,
// and explains errors. Who gets an error can load the same programs with that.
type Object struct {
	spec  *ebpf.CollectionSpec
	types *Types
}

// Prepare adapts an object, all programs of which are iterators. It keeps the object.
func Prepare(spec *ebpf.CollectionSpec) (*Object, error) {
	names, funcs, err := needs(spec)
	if err != nil {
		return nil, err
	}
	types, err := Read(names, funcs)
	if err != nil {
		return nil, err
	}
	for name, p := range spec.Programs {
		if err := relocate(p.Instructions, p.ByteOrder, types.spec); err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
	}
	types.spec = nil
	return &Object{spec: spec, types: types}, nil
}

// Load loads programs, and the maps that they use. Before that, set changes the maps of a copy of the
// object, which has no programs.
func (o *Object) Load(set func(*ebpf.CollectionSpec) error, programs ...string) (_ *ebpf.Collection, err error) {
	loading := &ebpf.Collection{Programs: map[string]*ebpf.Program{}, Maps: map[string]*ebpf.Map{}}
	defer func() {
		if err != nil {
			loading.Close()
		}
	}()
	used := map[string]bool{}
	for _, name := range programs {
		p := o.spec.Programs[name]
		if p == nil {
			return nil, fmt.Errorf("no program %s", name)
		}
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.IsLoadFromMap() {
				used[ins.Reference()] = true
			}
		}
	}
	own := (&ebpf.CollectionSpec{Maps: o.spec.Maps, Variables: o.spec.Variables}).Copy()
	if err := set(own); err != nil {
		return nil, err
	}
	for name := range used {
		if own.Maps[name] == nil {
			return nil, fmt.Errorf("no map %s", name)
		}
		if loading.Maps[name], err = ebpf.NewMap(own.Maps[name]); err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
	}
	// The verifier holds no lock for privileged callers.
	loaded := make([]*ebpf.Program, len(programs))
	errs := make([]error, len(programs))
	var wg sync.WaitGroup
	for i, name := range programs {
		wg.Go(func() { loaded[i], errs[i] = o.load(o.spec.Programs[name], loading.Maps) })
	}
	wg.Wait()
	for i, name := range programs {
		if errs[i] != nil {
			err = errors.Join(err, fmt.Errorf("program %s: %w", name, errs[i]))
		} else {
			loading.Programs[name] = loaded[i]
		}
	}
	if err != nil {
		return nil, err
	}
	return loading, nil
}

// needs returns the names of the types and functions of the kernel that an object of iterators needs.
func needs(spec *ebpf.CollectionSpec) (names, funcs []string, err error) {
	if spec.Types != nil {
		for t, err := range spec.Types.All() {
			if err != nil {
				return nil, nil, err
			}
			switch t.(type) {
			case *btf.Struct, *btf.Union, *btf.Enum, *btf.Typedef:
				if name := t.TypeName(); name != "" {
					names = append(names, Essential(name))
				}
			}
		}
	}
	for name, p := range spec.Programs {
		if p.AttachType != ebpf.AttachTraceIter || p.AttachTo == "" {
			return nil, nil, fmt.Errorf("program %s is no iterator", name)
		}
		funcs = append(funcs, iterator+p.AttachTo)
	}
	return names, funcs, nil
}

// A progLoadAttr is the part for BPF_PROG_LOAD of union bpf_attr (include/uapi/linux/bpf.h), up to
// what 5.10 knows.
type progLoadAttr struct {
	progType           uint32
	insnCnt            uint32
	insns              uint64
	license            uint64
	logLevel           uint32
	logSize            uint32
	logBuf             uint64
	kernVersion        uint32
	progFlags          uint32
	progName           [16]byte
	progIfindex        uint32
	expectedAttachType uint32
	progBTFFD          uint32
	funcInfoRecSize    uint32
	funcInfo           uint64
	funcInfoCnt        uint32
	lineInfoRecSize    uint32
	lineInfo           uint64
	lineInfoCnt        uint32
	attachBTFID        uint32
	attachProgFD       uint32
	_                  uint32
}

// load loads one iterator.
func (o *Object) load(spec *ebpf.ProgramSpec, maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	target, err := o.types.FuncID(iterator + spec.AttachTo)
	if err != nil {
		return nil, err
	}
	insns := slices.Clone(spec.Instructions)
	for name, m := range maps {
		if err := insns.AssociateMap(name, m); err != nil && !errors.Is(err, asm.ErrUnreferencedSymbol) {
			return nil, err
		}
	}
	var code bytes.Buffer
	if err := insns.Marshal(&code, spec.ByteOrder); err != nil {
		return nil, err
	}
	license := append([]byte(spec.License), 0)
	attr := progLoadAttr{
		progType: uint32(spec.Type), expectedAttachType: uint32(spec.AttachType), progFlags: spec.Flags,
		insnCnt: uint32(code.Len() / asm.InstructionSize), attachBTFID: uint32(target),
	}
	copy(attr.progName[:len(attr.progName)-1], spec.Name)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code.Bytes()[0])
	pin.Pin(&license[0])
	attr.insns = uint64(uintptr(unsafe.Pointer(&code.Bytes()[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		runtime.KeepAlive(maps)
		switch errno {
		case 0:
			return ebpf.NewProgramFromFD(int(fd))
		case unix.EAGAIN, unix.EINTR: // a signal interrupted the verifier
			continue
		}
		return nil, errno
	}
}

// relocate adapts instructions, in place, to the layout of the kernel's types.
func relocate(insns asm.Instructions, order binary.ByteOrder, types *btf.Spec) error {
	var all []*btf.CORERelocation
	var at []int
	for i := range insns {
		if r := btf.CORERelocationMetadata(&insns[i]); r != nil {
			all, at = append(all, r), append(at, i)
		}
	}
	if len(all) == 0 {
		return nil
	}
	fixups, err := btf.CORERelocate(all, []*btf.Spec{types}, order, func(t btf.Type) (btf.TypeID, error) {
		return 0, fmt.Errorf("%s: the id of a type in the object", t)
	})
	if err != nil {
		return err
	}
	for i, f := range fixups {
		if err := f.Apply(&insns[at[i]]); err != nil {
			return err
		}
	}
	return nil
}
