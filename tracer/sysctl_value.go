// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A unit says how a handler turns the number of the text into that of the memory.
type unit uint8

const (
	plain   unit = iota // they are the same
	seconds             // proc_dointvec_jiffies
	userHZ              // proc_dointvec_userhz_jiffies: hundredths of a second
	millis              // proc_dointvec_ms_jiffies
)

// A layout is how the memory of a parameter holds its numbers. Each has 1<<shift bytes. In other units than
// plain, the memory has jiffies, of which a second has hz.
type layout struct {
	shift  uint8
	signed bool
	unit   unit
	hz     int64
}

// plainLayouts are those of the handlers in kernel/sysctl.c that keep the number of the text. Many handlers are
// private to one subsystem, and most of them use one of these layouts too, so the handler's name does not help.
// The old value shows the layout: its memory and the text that the kernel made of it are known.
var plainLayouts = []layout{
	{shift: 2, signed: true}, // proc_dointvec
	{shift: 2},               // proc_douintvec
	{shift: 3},               // proc_doulongvec_minmax
	{shift: 0},               // proc_dou8vec_minmax, proc_dobool
	{shift: 1},               // ip_local_port_range from 6.8
}

// layoutsOf returns all layouts of a kernel with that CONFIG_HZ, and of each if it is 0.
func layoutsOf(hz int64) []layout {
	all := slices.Clone(plainLayouts)
	each := []int64{hz}
	if hz == 0 {
		each = []int64{100, 250, 300, 1000}
	}
	for _, hz := range each {
		for _, u := range []unit{seconds, userHZ, millis} {
			all = append(all, layout{shift: 2, signed: true, unit: u, hz: hz})
		}
		all = append(all, layout{shift: 3, unit: millis, hz: hz}) // proc_doulongvec_ms_jiffies_minmax
	}
	return all
}

// kernelHZ returns CONFIG_HZ of the running kernel, 0 if it is unknown.
func kernelHZ() int64 {
	var tick unix.Timespec
	if unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick) != nil || tick.Nano() <= 0 {
		return 0
	}
	return int64(math.Round(float64(time.Second) / float64(tick.Nano())))
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

// bits returns number i of the memory as it is there.
func (l *layout) bits(raw []byte, i int) uint64 {
	raw = raw[i<<l.shift:]
	switch l.shift {
	case 0:
		return uint64(raw[0])
	case 1:
		return uint64(binary.NativeEndian.Uint16(raw))
	case 2:
		return uint64(binary.NativeEndian.Uint32(raw))
	}
	return binary.NativeEndian.Uint64(raw)
}

// at returns number i of the memory as the text has it.
func (l *layout) at(raw []byte, i int) number {
	u := l.bits(raw, i)
	var n number
	if n.abs = u; l.signed {
		if v := int64(int32(u)); v < 0 {
			n.negative, n.abs = true, uint64(-v)
		} else {
			n.abs = uint64(v)
		}
	}
	hz := uint64(l.hz)
	switch l.unit {
	case seconds:
		n.abs /= hz
	case userHZ:
		n.abs = scale(n.abs, 100, hz)
	case millis:
		n.abs = scale(n.abs, 1000, hz)
	}
	return n
}

// scale returns n*mul/div. It returns the largest number if that has more than 64 bits.
func scale(n, mul, div uint64) uint64 {
	hi, lo := bits.Mul64(n, mul)
	if hi >= div {
		return math.MaxUint64
	}
	quotient, _ := bits.Div64(hi, lo, div)
	return quotient
}

// store returns the number that a handler keeps for one of the text, as the bits of the memory.
func (l *layout) store(n number) uint64 {
	hz := uint64(l.hz)
	switch v := n.abs; {
	case l.unit == userHZ && n.negative:
		return math.MaxUint32 // clock_t_to_jiffies() takes it for too large a number
	case l.unit == millis && n.negative:
		return math.MaxUint32 - 1 // msecs_to_jiffies(): MAX_JIFFY_OFFSET
	case l.unit == seconds:
		n.abs = v * hz
	case l.unit == userHZ:
		n.abs = scale(v, hz, 100)
	case l.unit == millis && l.shift == 3:
		n.abs = scale(v, hz, 1000)
	case l.unit == millis:
		n.abs = scale(v, hz, 1000)
		if scale(n.abs, 1000, hz) < v { // msecs_to_jiffies() rounds up
			n.abs++
		}
	}
	if n.negative {
		n.abs = -n.abs
	}
	if l.shift == 3 {
		return n.abs
	}
	return n.abs & (1<<(8<<l.shift) - 1)
}

// stores reports whether the memory is what the handler makes of written numbers, all of them.
func (l *layout) stores(raw []byte, numbers []number) bool {
	if l.count(raw) == 0 || l.count(raw) != len(numbers) {
		return false
	}
	for i, n := range numbers {
		if l.bits(raw, i) != l.store(n) {
			return false
		}
	}
	return true
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

// A layoutSet is a set of layouts, by their indexes.
type layoutSet uint32

// asString is the layout of proc_dostring in a layoutSet.
const asString layoutSet = 1 << 31

// maxKnown limits the memory for what is known of parameters. Users can invent names of devices, which are not
// part of what is remembered, but modules can have any number of parameters.
const maxKnown = 4096

// A valueReader prints the memory of parameters. It reuses its buffers.
type valueReader struct {
	layouts    []layout
	known      map[string]layoutSet // what each parameter can have, by its name without that of a device
	numbers    []number
	want, text []byte
	candidates [][]byte
}

func newValueReader(hz int64) valueReader {
	return valueReader{layouts: layoutsOf(hz), known: map[string]layoutSet{}}
}

// fits returns the layouts by which a memory has a text. whole says that raw is all of the memory.
func (v *valueReader) fits(raw []byte, whole bool, value string) (set layoutSet) {
	if v.numbers = parseNumbers(v.numbers, value); len(v.numbers) > 0 {
		for i := range v.layouts {
			if v.layouts[i].holds(raw, whole, v.numbers) {
				set |= 1 << i
			}
		}
	}
	// An empty text proves nothing: a pointer to aligned memory begins with a NUL.
	if is := untilNUL(raw); len(is) > 0 && (string(is) == value || !whole && strings.HasPrefix(value, string(is))) {
		set |= asString
	}
	return set
}

// learn remembers that a parameter had a text when its memory was raw.
func (v *valueReader) learn(name string, raw []byte, whole bool, value string) {
	v.narrow(name, v.fits(raw, whole, value), raw)
}

// learnInt remembers that a parameter is an int. The kernel changes other parameters only along with ints of
// network devices, and sets no other ones by netlink.
func (v *valueReader) learnInt(name string) { v.remember(name, 1) }

func (v *valueReader) remember(name string, set layoutSet) {
	if known, ok := v.known[name]; ok && known == set {
		return
	}
	if len(v.known) >= maxKnown {
		clear(v.known)
	}
	v.known[strings.Clone(name)] = set
}

// narrow returns the layouts of set that a parameter can have by all that is known of it. It remembers them,
// unless the memory that showed them is zero: that fits any unit.
func (v *valueReader) narrow(name string, set layoutSet, raw []byte) layoutSet {
	if known := v.known[name]; known&set != 0 {
		set &= known
	}
	if set != 0 && !isZero(raw) {
		v.remember(name, set)
	}
	return set
}

// after prints the memory of a parameter after a write. It reports false if the text is not certain:
//   - no layout makes the old text of the old memory,
//   - several do, and they disagree on the new text,
//   - the old memory is zero, which fits any unit, and no layout makes the new memory of what was written,
//   - the write succeeded with another value, but the memory did not change: the value is elsewhere, or the
//     kernel ignored the write.
//
// The text is valid until the next call.
func (v *valueReader) after(name string, rawOld []byte, old string, maxlen int, rawAfter []byte, written *string, outcome event.Outcome) (after []byte, ok bool) {
	v.want, v.text, v.candidates = v.want[:0], v.text[:0], v.candidates[:0]
	if written != nil {
		v.want = appendFields(v.want, *written)
	}
	whole, unchanged := len(rawOld) >= maxlen, maxlen <= rawKept && bytes.Equal(rawAfter, rawOld)
	known := v.known[name]
	set := v.narrow(name, v.fits(rawOld, whole, old), rawOld)
	if outcome == event.Success && string(v.want) != old && unchanged {
		return nil, false
	}
	if outcome == event.Success {
		fitting := v.stores(set, rawAfter)
		switch {
		case fitting != 0:
			set = fitting | set&asString
		case !unchanged && known == 0 && isZero(rawOld):
			set &= asString
		}
	}
	if len(rawAfter) >= maxlen { // otherwise the numbers are only the first ones
		for i := range v.layouts {
			if l := &v.layouts[i]; set&(1<<i) != 0 && l.count(rawAfter) > 0 {
				from := len(v.text)
				v.text = l.append(v.text, rawAfter)
				v.add(v.text[from:])
			}
		}
	}
	is := untilNUL(rawAfter)
	if set&asString != 0 || old == "" && len(untilNUL(rawOld)) == 0 && written != nil && string(is) == *written {
		v.add(is)
	}
	if len(v.candidates) != 1 {
		return nil, false
	}
	return v.candidates[0], true
}

// stores returns the layouts of set by which a memory is what was written, which is in want.
func (v *valueReader) stores(set layoutSet, raw []byte) (fitting layoutSet) {
	if v.numbers = parseNumbers(v.numbers, string(v.want)); len(v.numbers) == 0 {
		return 0
	}
	for i := range v.layouts {
		if set&(1<<i) != 0 && v.layouts[i].stores(raw, v.numbers) {
			fitting |= 1 << i
		}
	}
	return fitting
}

// number prints a memory that is one int, as for the settings of network devices.
func (v *valueReader) number(raw []byte) (text []byte, ok bool) {
	if len(raw) != 4 {
		return nil, false
	}
	v.text = plainLayouts[0].append(v.text[:0], raw)
	return v.text, true
}

func (v *valueReader) add(text []byte) {
	if !slices.ContainsFunc(v.candidates, func(c []byte) bool { return bytes.Equal(c, text) }) {
		v.candidates = append(v.candidates, text)
	}
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

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
