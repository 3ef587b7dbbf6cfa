// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"encoding/json"
	"testing"

	"github.com/nstrace/nstrace/event"
)

func decode(t *testing.T, line string) *event.Event {
	t.Helper()
	e := new(event.Event)
	if err := json.Unmarshal([]byte(line), e); err != nil {
		t.Fatal(err)
	}
	return e
}
