// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/nstrace/nstrace/output"
)

// TestBlameBytes writes a line with strings that are not UTF-8, and one without.
func TestBlameBytes(t *testing.T) {
	for _, row := range []struct {
		value string
		want  map[string]string
	}{
		{"caf\xe9\\\u202e", map[string]string{"parameter": `net.\xff`, "value": "caf\\xe9\\\\\u202e"}},
		{"caf\xea", map[string]string{"parameter": `net.\xff`, "value": `caf\xea`}},
	} {
		var out bytes.Buffer
		b := output.NewBlameJSON(&out)
		recorded := "é"
		if err := b.Add(&output.Blame{Parameter: "net.\xff", Value: &row.value, Recorded: &recorded}); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		var got struct{ Bytes map[string]string }
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Bytes, row.want) {
			t.Errorf("got %q, want %q", got.Bytes, row.want)
		}
	}
	var out bytes.Buffer
	b := output.NewBlameJSON(&out)
	if err := b.Add(&output.Blame{Parameter: "vm.swappiness"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil || bytes.Contains(out.Bytes(), []byte("bytes")) {
		t.Errorf("%s %v", out.Bytes(), err)
	}
}
