// SPDX-License-Identifier: Apache-2.0

package drift

import (
	"bytes"
	"compress/gzip"
	"reflect"
	"testing"
)

// FuzzDecode decodes snapshots that nstrace did not make. What it decodes it can encode again, and that is the same
// snapshot.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		`{"boot_id":"a","time":"2026-01-02T03:04:05Z","parameters":{"text":{"kernel.hostname":"a"},"bytes":{"kernel.domainname":"/w=="}}}`,
		`{"namespaces":[{"namespace":{"type":"net","id":4026531840},"parameters":{"text":{"net.core.somaxconn":"1"}},"cut":true}],"incomplete":true}`,
		`{"namespaces":[null,{}],"devices":{"eth0":2}}`,
		`null`,
	} {
		f.Add([]byte(text), false)
	}
	whole, err := (&Snapshot{BootID: "a", Parameters: map[string]string{"a": "\xff"}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, true)
	f.Add(whole[:len(whole)-9], true)
	f.Fuzz(func(t *testing.T, b []byte, compressed bool) {
		if !compressed {
			var out bytes.Buffer
			z := gzip.NewWriter(&out)
			if _, err := z.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			b = out.Bytes()
		}
		s, err := Decode(Version, b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			return // a time that JSON does not have
		}
		other, err := Decode(Version, again)
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		last, err := other.Encode()
		if err != nil || !bytes.Equal(last, again) {
			t.Errorf("%+v became %+v, %v", s, other, err)
		}
		if !reflect.DeepEqual(s.Parameters, other.Parameters) && len(s.Parameters)+len(other.Parameters) > 0 {
			t.Errorf("%q became %q", s.Parameters, other.Parameters)
		}
	})
}
