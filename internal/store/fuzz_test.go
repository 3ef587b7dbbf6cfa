// SPDX-License-Identifier: Apache-2.0

package store

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

// An answer is a server that always answers the same.
type answer struct{ text string }

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.text)), Request: r}, nil
}

// FuzzAnswer has answers of a hostile store. Only events that nstrace can send come from it, and only those that the
// query selects.
func FuzzAnswer(f *testing.F) {
	const write = `{\"v\":1,\"type\":\"sysctl.write\",\"time\":\"2026-01-02T03:04:05Z\",\"host\":\"a\",\"outcome\":\"success\",\"sysctl\":{\"name\":\"vm.swappiness\",\"new\":\"1\"}}`
	row := `{"_time":"2026-01-02T03:04:05Z","_msg":"` + write + `"}`
	f.Add(row + "\n" + row)
	f.Add(row + "\n" + `{"_time":"2025-01-02T03:04:05Z","_msg":"{}"}`)
	f.Add(`{"writes":"3","sure":"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(row) + `","doubtful":"{}"}`)
	f.Add(`{"writes":"3","sure":"{\"_msg\":\"{\\\"type\\\":\\\"sysctl.write\\\"}\"}"}`)
	f.Add("null\n[]\n{}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := newClient("http://localhost", "", func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		c.client.Transport = answer{text}
		types := map[event.Type]bool{event.SysctlWrite: true}
		for e, err := range c.Events(t.Context(), Query{Hosts: []string{"a*"}, Types: types}) {
			if err != nil {
				break
			}
			if err := history.Check(e); err != nil || !types[e.Type] || !strings.HasPrefix(e.Host, "a") {
				t.Errorf("%+v: %v", e, err)
			}
		}
		rows, err := c.Blame(t.Context(), BlameQuery{AllNets: true})
		if err != nil {
			return
		}
		if lines := strings.Count(text, "\n") + 1; len(rows) > lines {
			t.Errorf("%d rows of %d lines", len(rows), lines)
		}
		for _, r := range rows {
			if r.Last == nil || r.Parameter != r.Last.Sysctl.Name || r.Writes == 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}
