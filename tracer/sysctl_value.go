// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// A layout is how the memory of a parameter holds its numbers. Each has 1<<shift bytes. The text
// is the number times mul/div.
type layout struct {
	shift    uint8
	signed   bool
	mul, div int64
}

// layouts are those of the handlers in kernel/sysctl.c. Many handlers are private to one
// subsystem, and most of them use one of these layouts too, so the handler's name does not
// help. The old value shows the layout: its memory and the text that the kernel made of it
// are known.
var layouts = [...]layout{
	{shift: 2, signed: true}, // proc_dointvec
	{shift: 2},               // proc_douintvec
	{shift: 3},               // proc_doulongvec_minmax
	{shift: 0},               // proc_dou8vec_minmax, proc_dobool
	{shift: 1},               // ip_local_port_range from 6.8
	// proc_dointvec_jiffies, for each CONFIG_HZ
	{shift: 2, signed: true, mul: 1, div: 100}, {shift: 2, signed: true, mul: 1, div: 250},
	{shift: 2, signed: true, mul: 1, div: 300}, {shift: 2, signed: true, mul: 1, div: 1000},
	// proc_dointvec_ms_jiffies; with HZ 1000 it is proc_dointvec
	{shift: 2, signed: true, mul: 1000, div: 100}, {shift: 2, signed: true, mul: 1000, div: 250},
	{shift: 2, signed: true, mul: 1000, div: 300},
}

// A number is any number that 8 bytes can hold, signed or not.
type number struct {
	negative bool
	abs      uint64
}

// count returns how many numbers the memory holds, 0 if the last one is incomplete.
func (l *layout) count(raw []byte) int {
	if len(raw)&(1<<l.shift-1) != 0 {
		return 0
	}
	return len(raw) >> l.shift
}

// at returns number i of the memory.
func (l *layout) at(raw []byte, i int) number {
	raw = raw[i<<l.shift:]
	var u uint64
	switch l.shift {
	case 0:
		u = uint64(raw[0])
	case 1:
		u = uint64(binary.NativeEndian.Uint16(raw))
	case 2:
		u = uint64(binary.NativeEndian.Uint32(raw))
	case 3:
		u = binary.NativeEndian.Uint64(raw)
	}
	if !l.signed {
		return number{abs: u}
	}
	v := int64(int32(u))
	if l.div != 0 {
		v = v * l.mul / l.div
	}
	if v < 0 {
		return number{negative: true, abs: uint64(-v)}
	}
	return number{abs: uint64(v)}
}

// holds reports whether the memory holds these numbers: all of them, or the first ones if only
// a part of the memory is known.
func (l *layout) holds(raw []byte, whole bool, numbers []number) bool {
	n := l.count(raw)
	if n == 0 || n > len(numbers) || (whole && n != len(numbers)) {
		return false
	}
	for i := range n {
		if l.at(raw, i) != numbers[i] {
			return false
		}
	}
	return true
}

// append appends the memory as the handlers print it.
func (l *layout) append(dst, raw []byte) []byte {
	for i := range l.count(raw) {
		if i > 0 {
			dst = append(dst, '\t')
		}
		n := l.at(raw, i)
		if n.negative {
			dst = append(dst, '-')
		}
		dst = strconv.AppendUint(dst, n.abs, 10)
	}
	return dst
}

// parseNumbers parses a text that the handlers printed. It returns none for any other text: each
// number has only one.
func parseNumbers(dst []number, text string) []number {
	dst = dst[:0]
	for i := 0; i < len(text); i++ {
		var n number
		if text[i] == '-' {
			n.negative = true
			i++
		}
		start := i
		for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
			digit := uint64(text[i] - '0')
			if n.abs > (math.MaxUint64-digit)/10 {
				return dst[:0]
			}
			n.abs = n.abs*10 + digit
		}
		switch {
		case i == start, text[start] == '0' && (i > start+1 || n.negative):
			return dst[:0]
		case i < len(text) && (text[i] != '\t' || i == len(text)-1):
			return dst[:0]
		}
		dst = append(dst, n)
	}
	return dst
}

// rawKept is RAW_OLD_LEN of bpf/lib/record.h.
const rawKept = 64

// A valueReader prints the memory of parameters. It reuses its buffers.
type valueReader struct {
	numbers    []number
	want, text []byte
	candidates [][]byte
}

// after prints the memory after a write. It reports false if the layout is not certain:
//   - no layout makes the old text of the old memory,
//   - several do, they disagree on the new text, and none of these is what was written,
//   - the write succeeded with another value, but the memory did not change: the value is
//     elsewhere.
//
// The text is valid until the next call.
func (v *valueReader) after(rawOld []byte, old string, maxlen int, rawAfter []byte, written *string, outcome event.Outcome) (text []byte, ok bool) {
	v.want, v.text, v.candidates = v.want[:0], v.text[:0], v.candidates[:0]
	if written != nil {
		v.want = appendFields(v.want, *written)
	}
	if outcome == event.Success && string(v.want) != old && maxlen <= rawKept && bytes.Equal(rawAfter, rawOld) {
		return nil, false
	}
	whole := len(rawOld) >= maxlen // otherwise only a part is known
	if v.numbers = parseNumbers(v.numbers, old); len(v.numbers) > 0 {
		for i := range layouts {
			l := &layouts[i]
			if !l.holds(rawOld, whole, v.numbers) || l.count(rawAfter) == 0 {
				continue
			}
			from := len(v.text)
			v.text = l.append(v.text, rawAfter)
			v.add(v.text[from:])
		}
	}
	// proc_dostring
	was, is := untilNUL(rawOld), untilNUL(rawAfter)
	if string(was) == old || (!whole && len(was) > 0 && strings.HasPrefix(old, string(was))) {
		// An empty text proves nothing: a pointer to aligned memory begins with a NUL.
		if len(was) > 0 || (written != nil && string(is) == *written) {
			v.add(is)
		}
	}
	switch {
	case len(v.candidates) == 1:
		return v.candidates[0], true
	case len(v.candidates) > 1 && written != nil && v.has(v.want):
		return v.want, true
	}
	return nil, false
}

// number prints a memory that is one int, as for the settings of network devices.
func (v *valueReader) number(raw []byte) (text []byte, ok bool) {
	if len(raw) != 4 {
		return nil, false
	}
	v.text = layouts[0].append(v.text[:0], raw)
	return v.text, true
}

func (v *valueReader) has(text []byte) bool {
	for _, c := range v.candidates {
		if bytes.Equal(c, text) {
			return true
		}
	}
	return false
}

func (v *valueReader) add(text []byte) {
	if !v.has(text) {
		v.candidates = append(v.candidates, text)
	}
}

func untilNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// appendFields appends what was written as the kernel prints it: with tabs between the words.
func appendFields(dst []byte, s string) []byte {
	for word := range strings.FieldsSeq(s) {
		if len(dst) > 0 {
			dst = append(dst, '\t')
		}
		dst = append(dst, word...)
	}
	return dst
}
