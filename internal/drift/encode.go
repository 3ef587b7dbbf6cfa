// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"
	"unicode/utf8"

	"github.com/nstrace/nstrace/event"
)

// Version is the version of the encoding.
const Version = 2

// maxEncoded limits the decompressed size of a snapshot. It is enough for thousands of network
// namespaces.
var maxEncoded = 128 << 20

var errTooLong = errors.New("it is too long")

// A limitWriter is a writer that takes a limited number of bytes.
type limitWriter struct {
	io.Writer
	left int
}

func (w *limitWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errTooLong
	}
	return w.Writer.Write(b)
}

// The encoding is compressed JSON. It compresses well, because most network namespaces have similar
// parameters.
type (
	encoded struct {
		BootID     string             `json:"boot_id"`
		Time       time.Time          `json:"time"`
		Parameters encodedValues      `json:"parameters"`
		Devices    map[string]int     `json:"devices,omitempty"`
		Namespaces []encodedNamespace `json:"namespaces"`
		Cut        bool               `json:"cut,omitempty"`
		Incomplete bool               `json:"incomplete,omitempty"`
	}
	encodedNamespace struct {
		Namespace  event.Namespace `json:"namespace"`
		Parameters encodedValues   `json:"parameters"`
		Devices    map[string]int  `json:"devices,omitempty"`
		Cut        bool            `json:"cut,omitempty"`
	}
	// Values that are not valid UTF-8 are stored as bytes.
	encodedValues struct {
		Text  map[string]string `json:"text,omitempty"`
		Bytes map[string][]byte `json:"bytes,omitempty"`
	}
)

func encodeValues(values map[string]string) (e encodedValues) {
	e.Text = values
	for name, value := range values {
		if utf8.ValidString(value) {
			continue
		}
		if e.Bytes == nil {
			e.Text, e.Bytes = maps.Clone(values), map[string][]byte{}
		}
		e.Bytes[name] = []byte(value)
		delete(e.Text, name)
	}
	return e
}

func (e encodedValues) decode() map[string]string {
	values := e.Text
	for name, value := range e.Bytes {
		if values == nil {
			values = map[string]string{}
		}
		values[name] = string(value)
	}
	return values
}

// Encode encodes a snapshot.
func (s *Snapshot) Encode() ([]byte, error) {
	e := encoded{BootID: s.BootID, Time: s.Time, Parameters: encodeValues(s.Parameters), Devices: s.Devices, Cut: s.Cut, Incomplete: s.Incomplete}
	for _, ns := range s.Namespaces {
		e.Namespaces = append(e.Namespaces, encodedNamespace{ns.Namespace, encodeValues(ns.Parameters), ns.Devices, ns.Cut})
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(&limitWriter{z, maxEncoded}).Encode(&e); err != nil {
		return nil, fmt.Errorf("encode a snapshot: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode decodes a snapshot.
func Decode(version int, b []byte) (*Snapshot, error) {
	if version != Version {
		return nil, fmt.Errorf("snapshot has version %d, want version %d", version, Version)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("decode a snapshot: %w", err)
	}
	var e encoded
	if err := json.NewDecoder(io.LimitReader(z, int64(maxEncoded))).Decode(&e); err != nil {
		return nil, fmt.Errorf("decode a snapshot: %w", err)
	}
	s := &Snapshot{BootID: e.BootID, Time: e.Time, Parameters: e.Parameters.decode(), Devices: e.Devices, Cut: e.Cut, Incomplete: e.Incomplete}
	for _, ns := range e.Namespaces {
		s.Namespaces = append(s.Namespaces, &Namespace{ns.Namespace, ns.Parameters.decode(), ns.Devices, ns.Cut})
	}
	return s, nil
}
