// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// A codec prints a parameter's memory as its handler would. ok is false where
// the memory cannot be of that kind.
type codec func(raw []byte) (text string, ok bool)

// codecs are the layouts of kernel/sysctl.c's handlers. Handlers are not known
// by name here: many are private to one subsystem, and most of those keep one of
// these layouts. Which one a parameter has is learnt from the old value, of which
// both the memory and the text that the kernel made of it are known.
var codecs = []codec{
	vector(4, func(b []byte) string { return strconv.Itoa(int(int32(binary.NativeEndian.Uint32(b)))) }),       // proc_dointvec
	vector(4, func(b []byte) string { return strconv.FormatUint(uint64(binary.NativeEndian.Uint32(b)), 10) }), // proc_douintvec
	vector(8, func(b []byte) string { return strconv.FormatUint(binary.NativeEndian.Uint64(b), 10) }),         // proc_doulongvec_minmax
	vector(1, func(b []byte) string { return strconv.Itoa(int(b[0])) }),                                       // proc_dou8vec_minmax, proc_dobool
	vector(2, func(b []byte) string { return strconv.Itoa(int(binary.NativeEndian.Uint16(b))) }),              // ip_local_port_range from 6.8
	text,                                                    // proc_dostring
	jiffies(100), jiffies(250), jiffies(300), jiffies(1000), // proc_dointvec_jiffies, at each CONFIG_HZ
	msJiffies(100), msJiffies(250), msJiffies(300), // proc_dointvec_ms_jiffies; HZ 1000 is proc_dointvec
}

func vector(size int, print func([]byte) string) codec {
	return func(raw []byte) (string, bool) {
		if len(raw) == 0 || len(raw)%size != 0 {
			return "", false
		}
		var out []string
		for ; len(raw) > 0; raw = raw[size:] {
			out = append(out, print(raw[:size]))
		}
		return strings.Join(out, "\t"), true
	}
}

func text(raw []byte) (string, bool) {
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw), true
}

func jiffies(hz int32) codec {
	return vector(4, func(b []byte) string { return strconv.Itoa(int(int32(binary.NativeEndian.Uint32(b)) / hz)) })
}

func msJiffies(hz int32) codec {
	return vector(4, func(b []byte) string {
		return strconv.Itoa(int(int64(int32(binary.NativeEndian.Uint32(b))) * 1000 / int64(hz)))
	})
}

// rawKept is RAW_OLD_LEN of bpf/record.h.
const rawKept = 64

// readAfter prints the memory after a write. It is nil where the parameter's
// layout is not certain: where no codec turns the old memory into the old text,
// or where those that do disagree on the new one and what was written does not
// settle it; and where a write that was done left the memory as it was, though
// another value was written: then the value lives elsewhere.
func readAfter(rawOld []byte, old string, maxlen int, rawAfter []byte, written *string, outcome Outcome) *string {
	want := ""
	if written != nil {
		want = strings.Join(strings.Fields(*written), "\t")
	}
	if outcome == Success && want != old && maxlen <= rawKept && bytes.Equal(rawAfter, rawOld) {
		return nil
	}
	var candidates []string
	for _, c := range codecs {
		// A long string's memory is known only in part.
		was, ok := c(rawOld)
		if !ok || (was != old && (len(rawOld) >= maxlen || !strings.HasPrefix(old, was) || was == "")) {
			continue
		}
		// An empty text proves nothing: any pointer to something aligned begins
		// with a NUL.
		is, ok := c(rawAfter)
		if was == "" && (written == nil || is != *written) {
			continue
		}
		if ok && !slices.Contains(candidates, is) {
			candidates = append(candidates, is)
		}
	}
	switch {
	case len(candidates) == 1:
		return &candidates[0]
	case len(candidates) > 1 && written != nil:
		if slices.Contains(candidates, want) {
			return &want
		}
	}
	return nil
}
