// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestSilentStore checks that a query ends if a store sends nothing, before or in the middle of an answer.
func TestSilentStore(t *testing.T) {
	for _, start := range []bool{false, true} {
		release := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if start {
				w.(http.Flusher).Flush()
			}
			<-release
		}))
		c, err := NewClient(server.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		c.silence = 50 * time.Millisecond
		err = c.query(t.Context(), "*", func([]byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "no answer for 50ms") {
			t.Errorf("started %v: %v", start, err)
		}
		close(release)
		server.Close()
	}
}
