// SPDX-License-Identifier: Apache-2.0

// Package kerneltypes reads the few types of the running kernel that a BPF object refers to, and loads
// programs with them.
//
// A kernel describes 150,000 types and functions (BTF). cilium/ebpf indexes the names of all of them
// before it adapts a program to the kernel. For a small object that takes longer than everything
// else. This package looks at each type once, keeps those that the object names, with what these
// contain, and leaves out what is behind pointers.
package kerneltypes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// File is where the kernel shows its types.
const File = "/sys/kernel/btf/vmlinux"

// The kinds of types, of include/uapi/linux/btf.h.
const (
	kindInt       = 1
	kindPtr       = 2
	kindArray     = 3
	kindStruct    = 4
	kindUnion     = 5
	kindEnum      = 6
	kindFwd       = 7
	kindTypedef   = 8
	kindVolatile  = 9
	kindConst     = 10
	kindRestrict  = 11
	kindFunc      = 12
	kindFuncProto = 13
	kindVar       = 14
	kindDatasec   = 15
	kindFloat     = 16
	kindDeclTag   = 17
	kindTypeTag   = 18
	kindEnum64    = 19
	kinds         = 20
)

const (
	magic     = 0xeb9f
	headerLen = 24
	typeLen   = 12 // name, info, size or type
	memberLen = 12 // name, type, offset
)

// more has how many bytes follow a type of a kind: fixed, and for each of its vlen elements.
var more = [kinds]struct{ fixed, each uint32 }{
	kindInt:       {fixed: 4},
	kindArray:     {fixed: 12},
	kindStruct:    {each: memberLen},
	kindUnion:     {each: memberLen},
	kindEnum:      {each: 8},
	kindFuncProto: {each: 8},
	kindVar:       {fixed: 4},
	kindDatasec:   {each: 12},
	kindDeclTag:   {fixed: 4},
	kindEnum64:    {each: 12},
}

// errFormat is the error for types that are not as the kernel writes them.
var errFormat = errors.New("the kernel's types have an unknown format")

// ErrNotFound is wrapped by the error for a function that the kernel does not have.
var ErrNotFound = errors.New("not in the kernel's types")

// Types are some types of the kernel.
type Types struct {
	spec  *btf.Spec // its ids are not those of the kernel, and each pointer in it is one to void
	funcs map[string]btf.TypeID
}

// FuncID returns the kernel's id of a function that Read was asked for.
func (t *Types) FuncID(name string) (btf.TypeID, error) {
	if id := t.funcs[name]; id != 0 {
		return id, nil
	}
	return 0, fmt.Errorf("function %s: %w", name, ErrNotFound)
}

// Read reads the types and functions with some names from the running kernel.
func Read(types, funcs []string) (*Types, error) {
	f, err := os.Open(File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// From 6.16 on it can be mapped, which copies nothing.
	raw, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err == nil {
		defer func() { _ = unix.Munmap(raw) }()
	} else if raw, err = readAll(f, info.Size()); err != nil {
		return nil, err
	}
	return parse(raw, types, funcs)
}

func readAll(r io.Reader, size int64) ([]byte, error) {
	raw := make([]byte, size)
	_, err := io.ReadFull(r, raw)
	return raw, err
}

// parse finds types and functions in all types of a kernel.
func parse(raw []byte, types, funcs []string) (*Types, error) {
	p, err := newParser(raw)
	if err != nil {
		return nil, err
	}
	t := &Types{funcs: map[string]btf.TypeID{}}
	roots, err := p.find(types, funcs, t.funcs)
	if err != nil {
		return nil, err
	}
	s := newSubset(p)
	for _, id := range roots {
		if _, err := s.add(id); err != nil {
			return nil, err
		}
	}
	t.spec, err = btf.LoadSpecFromReader(bytes.NewReader(s.encode()))
	return t, err
}

// A parser reads the types of a kernel.
type parser struct {
	types, strings []byte
	marks          []uint32 // offsets of the types 1, 1+stride, 1+2*stride ...
	n              uint32   // ids are below
}

// stride is of how many types one offset is kept.
const stride = 32

func newParser(raw []byte) (*parser, error) {
	if len(raw) < headerLen || binary.NativeEndian.Uint16(raw) != magic {
		return nil, errFormat
	}
	word := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(raw[at:])) }
	begin := word(4)
	part := func(at int) ([]byte, bool) {
		from := begin + word(at)
		to := from + word(at+4)
		if to > uint64(len(raw)) || to > math.MaxUint32 {
			return nil, false
		}
		return raw[from:to:to], true
	}
	types, ok := part(8)
	names, ok2 := part(16)
	if !ok || !ok2 {
		return nil, errFormat
	}
	return &parser{types: types, strings: names}, nil
}

// next returns the offset behind the type at an offset, 0 if there is no whole type.
func (p *parser) next(at uint32) uint32 {
	if uint64(at)+typeLen > uint64(len(p.types)) {
		return 0
	}
	info := binary.NativeEndian.Uint32(p.types[at+4:])
	kind := info >> 24 & 0x1f
	if kind == 0 || kind >= kinds {
		return 0
	}
	end := uint64(at) + typeLen + uint64(more[kind].fixed) + uint64(more[kind].each)*uint64(info&0xffff)
	if end > uint64(len(p.types)) {
		return 0
	}
	return uint32(end)
}

// find looks for types and functions by their names. It returns the ids of the types, and sets those of
// the functions.
func (p *parser) find(types, funcs []string, found map[string]btf.TypeID) (roots []uint32, err error) {
	wanted := map[string]bool{}
	for _, name := range types {
		wanted[name] = true
	}
	function := map[string]bool{}
	var first [256]bool // whether the name of a function begins so: there are many functions
	for _, name := range funcs {
		function[name] = true
		first[name[0]] = true
	}
	p.marks = make([]uint32, 0, len(p.types)/(stride*2*typeLen)) // most types have members
	id := uint32(1)
	for at := uint32(0); int(at) < len(p.types); id++ {
		if id%stride == 1 {
			p.marks = append(p.marks, at)
		}
		end := p.next(at)
		if end == 0 {
			return nil, errFormat
		}
		name := binary.NativeEndian.Uint32(p.types[at:])
		switch p.types[at+7] & 0x1f {
		case kindStruct, kindUnion, kindEnum, kindEnum64, kindTypedef:
			if name != 0 && wanted[string(p.name(name))] {
				roots = append(roots, id)
			}
		case kindFunc:
			if int(name) < len(p.strings) && first[p.strings[name]] {
				if text := p.name(name); function[string(text)] {
					found[string(text)] = btf.TypeID(id)
				}
			}
		}
		at = end
	}
	p.n = id
	return roots, nil
}

// name returns the string at an offset, without CO-RE's suffix.
func (p *parser) name(at uint32) []byte {
	if int64(at) >= int64(len(p.strings)) {
		return nil
	}
	text, _, _ := bytes.Cut(p.strings[at:min(len(p.strings), int(at)+maxName)], []byte{0})
	return text
}

// maxName is KSYM_NAME_LEN, the longest name of the kernel.
const maxName = 512

// Essential returns the name of a type without the suffix that CO-RE ignores.
func Essential(name string) string {
	if i := strings.LastIndex(name, "___"); i > 0 {
		return name[:i]
	}
	return name
}

// at returns the offset of the type with an id.
func (p *parser) at(id uint32) (uint32, error) {
	if id == 0 || id >= p.n {
		return 0, errFormat
	}
	at := p.marks[(id-1)/stride]
	for range (id - 1) % stride {
		at = p.next(at)
	}
	return at, nil
}

// A subset is some types of a kernel, with numbers of their own.
type subset struct {
	*parser
	types   []byte
	strings []byte
	ids     map[uint32]uint32 // by the kernel's id
	names   map[uint32]uint32 // offsets in strings, by those in the kernel's
	n       uint32            // how many types there are
	pointer uint32            // the id of the one pointer, 0 if there is none
}

// newSubset returns an empty subset, with room for what task_struct, net and their like contain.
func newSubset(p *parser) *subset {
	s := &subset{
		parser: p, ids: make(map[uint32]uint32, 512), names: make(map[uint32]uint32, 2048),
		types: make([]byte, 0, 48<<10), strings: make([]byte, 1, 32<<10),
	}
	s.names[0] = 0
	return s
}

// maxDepth is more than how deep types contain each other.
const maxDepth = 64

// maxTypes bounds the subset.
const maxTypes = 1 << 16

// add adds a type with all that it contains, and returns its new id.
func (s *subset) add(id uint32) (uint32, error) { return s.addAt(id, 0) }

func (s *subset) addAt(id uint32, depth int) (uint32, error) {
	if id == 0 {
		return 0, nil
	}
	if to := s.ids[id]; to != 0 {
		return to, nil
	}
	at, err := s.at(id)
	if err != nil {
		return 0, err
	}
	kind := s.parser.types[at+7] & 0x1f
	if kind == kindPtr && s.pointer != 0 {
		return s.pointer, nil
	}
	if depth > maxDepth || s.n == maxTypes {
		return 0, errFormat
	}
	s.n++
	to := s.n
	s.ids[id] = to
	begin := len(s.types)
	s.types = append(s.types, s.parser.types[at:s.next(at)]...)
	s.rename(begin)
	size := uint32(len(s.types) - begin)
	// What a type contains is added behind it, and s.types can move.
	refer := func(offset int) error {
		new, err := s.addAt(binary.NativeEndian.Uint32(s.types[begin+offset:]), depth+1)
		binary.NativeEndian.PutUint32(s.types[begin+offset:], new)
		return err
	}
	switch kind {
	case kindPtr:
		s.pointer = to
		binary.NativeEndian.PutUint32(s.types[begin+8:], 0)
	case kindTypedef, kindVolatile, kindConst, kindRestrict, kindTypeTag:
		return to, refer(8)
	case kindArray:
		return to, errors.Join(refer(typeLen), refer(typeLen+4))
	case kindStruct, kindUnion:
		for at := typeLen; at < int(size); at += memberLen {
			s.rename(begin + at)
			if err := refer(at + 4); err != nil {
				return 0, err
			}
		}
	case kindEnum, kindEnum64:
		for at := typeLen; at < int(size); at += int(more[kind].each) {
			s.rename(begin + at)
		}
	case kindInt, kindFwd, kindFloat:
	default: // it cannot be in another one
		return 0, errFormat
	}
	return to, nil
}

// rename turns the offset of a name in the kernel's strings into one in those of the subset.
func (s *subset) rename(at int) {
	from := binary.NativeEndian.Uint32(s.types[at:])
	to, ok := s.names[from]
	if !ok {
		to = uint32(len(s.strings))
		s.strings = append(append(s.strings, s.name(from)...), 0)
		s.names[from] = to
	}
	binary.NativeEndian.PutUint32(s.types[at:], to)
}

// encode returns the subset as the kernel writes types.
func (s *subset) encode() []byte {
	raw := make([]byte, 0, headerLen+len(s.types)+len(s.strings))
	raw = binary.NativeEndian.AppendUint16(raw, magic)
	raw = append(raw, 1, 0) // version, flags
	for _, word := range []int{headerLen, 0, len(s.types), len(s.types), len(s.strings)} {
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	raw = append(raw, s.types...)
	return append(raw, s.strings...)
}
