// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"fmt"
	"io"
)

// Version is that of what Encode makes.
const Version = 1

// maxEncoded is how much Decode makes of what it is given: the parameters of thousands of
// network namespaces.
const maxEncoded = 1 << 30

// Encode makes a snapshot into bytes to be kept. They are not JSON, which cannot hold every
// value, and compressed, since one network namespace's parameters are like the other's.
func (s *Snapshot) Encode() ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := gob.NewEncoder(z).Encode(s); err != nil {
		return nil, fmt.Errorf("encode a snapshot: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode makes a snapshot of what Encode made.
func Decode(version int, b []byte) (*Snapshot, error) {
	if version != Version {
		return nil, fmt.Errorf("a snapshot of version %d: this is for version %d", version, Version)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("decode a snapshot: %w", err)
	}
	s := &Snapshot{}
	if err := gob.NewDecoder(io.LimitReader(z, maxEncoded)).Decode(s); err != nil {
		return nil, fmt.Errorf("decode a snapshot: %w", err)
	}
	return s, nil
}
