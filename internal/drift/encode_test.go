// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
)

// TestDecodeIsLimited decodes a snapshot that becomes much longer than it is.
func TestDecodeIsLimited(t *testing.T) {
	defer func(before int) { maxEncoded = before }(maxEncoded)
	maxEncoded = 1 << 20
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	long := bytes.Repeat([]byte(" "), 1<<10)
	for range maxEncoded/len(long) + 1 {
		if _, err := z.Write(long); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(z, "{}"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(Version, b.Bytes()); err == nil {
		t.Error("it is decoded")
	}
	s := &Snapshot{Parameters: map[string]string{"a": string(bytes.Repeat([]byte("x"), maxEncoded))}}
	if _, err := s.Encode(); !errors.Is(err, errTooLong) {
		t.Errorf("%v", err)
	}
}
