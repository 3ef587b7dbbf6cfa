// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	payload := []byte{0, 3, 4, 10, 13, 17, 19, 255} // bytes that a terminal would act on
	for _, p := range [][]byte{nil, payload} {
		if err := w.Write(Stdout, p); err != nil {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(buf.Bytes())
	for _, want := range [][]byte{nil, payload} {
		kind, got, err := Read(&buf)
		if err != nil || kind != Stdout || !bytes.Equal(got, want) {
			t.Errorf("got %c % x %v, want % x", kind, got, err, want)
		}
	}
	if _, _, err := Read(&buf); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}

	// A stream that is cut inside a frame must not look like a normal end.
	for n := 6; n < len(whole); n++ {
		r := bytes.NewReader(whole[5:n])
		if _, _, err := Read(r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", n-5, err)
		}
	}
	if _, _, err := Read(bytes.NewReader([]byte("[    0.000000] Linux"))); err == nil {
		t.Error("kernel messages were taken for a frame")
	}
	if _, _, err := Read(bytes.NewReader([]byte{'o', 0xff, 0xff, 0xff, 0xff})); err == nil {
		t.Error("a frame of 4 GiB was accepted")
	}
	if err := w.Write(Stdout, make([]byte, maxPayload+1)); err == nil {
		t.Error("Write accepted a frame that is too long")
	}
}
