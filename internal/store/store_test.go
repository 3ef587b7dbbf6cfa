// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/store"
)

func decode(t *testing.T, line string) *event.Event {
	t.Helper()
	e := new(event.Event)
	if err := json.Unmarshal([]byte(line), e); err != nil {
		t.Fatal(err)
	}
	return e
}

// fake serves an answer to each query.
func fake(t *testing.T, answer func(w http.ResponseWriter, query string)) *store.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/select/logsql/query" {
			t.Errorf("asked for %s", r.URL)
		}
		answer(w, r.FormValue("query"))
	}))
	t.Cleanup(server.Close)
	return client(t, server.URL)
}

// captured returns an answer of VictoriaLogs 1.52.2.
func captured(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func events(t *testing.T, c *store.Client, q store.Query) (all []*event.Event, err error) {
	for e, err := range c.Events(t.Context(), q) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// TestCaptured reads captured answers. Each line comes twice, as copies do.
func TestCaptured(t *testing.T) {
	text := captured(t, "events.jsonl")
	c := fake(t, func(w http.ResponseWriter, _ string) {
		for line := range strings.Lines(text) {
			_, _ = io.WriteString(w, line+line)
		}
	})
	all, err := events(t, c, store.Query{})
	if err != nil || len(all) != strings.Count(text, "\n") {
		t.Fatalf("%d events: %v", len(all), err)
	}
	enc := new(event.Encoder)
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		var record struct {
			Body string `json:"_msg"`
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if got := string(enc.Append(nil, all[i])); got != record.Body {
			t.Errorf("got  %s\nwant %s", got, record.Body)
		}
	}
	c = fake(t, func(w http.ResponseWriter, _ string) { _, _ = io.WriteString(w, captured(t, "blame.jsonl")) })
	rows, err := c.Blame(t.Context(), store.BlameQuery{AllNets: true})
	if err != nil || len(rows) != 2 || rows[0].Parameter != "kernel.panic_on_oops" || rows[1].Parameter != "net.ipv4.ip_forward" || rows[1].Last.Host != "vm" {
		t.Errorf("%v: %v", rows, err)
	}
	rows, err = c.Blame(t.Context(), store.BlameQuery{}) // the store gives more than the query selects
	if err != nil || len(rows) != 1 {
		t.Errorf("%v: %v", rows, err)
	}
}

// TestHostileStore checks that bad answers end a query, and that records which are no events are left out.
func TestHostileStore(t *testing.T) {
	line := func(at int, body string) string {
		b, _ := json.Marshal(body)
		return fmt.Sprintf(`{"_time":%q,"_msg":%s}`+"\n", time.Unix(int64(at), 0).UTC().Format(time.RFC3339Nano), b)
	}
	requests := 0
	for name, answer := range map[string]func(w io.Writer){
		"no JSON":     func(w io.Writer) { _, _ = io.WriteString(w, "<html>\n") },
		"no time":     func(w io.Writer) { _, _ = io.WriteString(w, "{}\n") },
		"disorder":    func(w io.Writer) { _, _ = io.WriteString(w, line(2, "")+line(1, "")) },
		"long line":   func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat("x", 17<<20)) },
		"too many":    func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat(line(1, ""), 5001)) },
		"same moment": func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat(line(1, ""), 5000)) },
		"same page": func(w io.Writer) {
			_, _ = io.WriteString(w, strings.Repeat(line(1, ""), 4999)+line(2, ""))
		},
	} {
		requests = 0
		c := fake(t, func(w http.ResponseWriter, _ string) { requests++; answer(w) })
		all, err := events(t, c, store.Query{})
		if (err == nil && name != "same moment") || len(all) > 0 || requests > 10 {
			t.Errorf("%s: %d events after %d requests: %v", name, len(all), requests, err)
		}
	}
	c := fake(t, func(w http.ResponseWriter, _ string) {
		_, _ = io.WriteString(w, line(1, "text")+line(2, `{"type":"sysctl.write"}`)+line(3, `{"type":"socket.open"}`))
	})
	if all, err := events(t, c, store.Query{}); err != nil || len(all) > 0 {
		t.Errorf("%v: %v", all, err)
	}
	if n, err := c.LeftOut(); n != 3 || err == nil {
		t.Errorf("left out %d: %v", n, err)
	}
	c = fake(t, func(w http.ResponseWriter, _ string) { http.Error(w, "\x1b[2J no", http.StatusBadRequest) })
	if _, err := events(t, c, store.Query{}); err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "400") {
		t.Errorf("got %v", err)
	}
	redirect := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusTemporaryRedirect))
	defer redirect.Close()
	if _, err := events(t, client(t, redirect.URL), store.Query{}); err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("a redirect: %v", err)
	}
}

// TestQueryText checks that no text of a user leaves its token.
func TestQueryText(t *testing.T) {
	for _, hostile := range []string{`" | delete *`, "a\nb", `\`, "`", `") or ("x":="`, "\xff"} {
		var got string
		c := fake(t, func(_ http.ResponseWriter, query string) { got = query })
		if _, err := events(t, c, store.Query{Hosts: []string{hostile}, Parameter: hostile, BootID: hostile, Users: []string{hostile}, Filter: event.Filter{Comms: []string{hostile}, Sysctl: []string{hostile}}}); err != nil {
			t.Fatal(err)
		}
		outside := false // of a token in quotes
		for i, depth := 0, 0; i < len(got); i++ {
			switch {
			case got[i] == '"':
				for i++; got[i] != '"'; i++ {
					if got[i] == '\\' {
						i++
					}
				}
			case got[i] == '(':
				depth++
			case got[i] == ')':
				if depth--; depth < 0 {
					outside = true
				}
			case got[i] == '|' && depth == 0 && !strings.HasPrefix(got[i:], "| sort by") && !strings.HasPrefix(got[i:], "| fields"):
				outside = true
			}
		}
		if outside || strings.Contains(got, "\n") {
			t.Errorf("%q: %s", hostile, got)
		}
	}
}

// TestNewClient checks URLs and headers.
func TestNewClient(t *testing.T) {
	for _, bad := range []string{"", "logs:9428", "ftp://logs", "http://", "http://user:secret@logs", "http://logs?x=1", "http://lo gs"} {
		if _, err := store.NewClient(bad, ""); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("AccountID: 12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NSTRACE_STORE_HEADERS", "Authorization=Bearer%20x")
	c, err := store.NewClient(server.URL+"/", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events(t, c, store.Query{}); err != nil || got.Get("Authorization") != "Bearer x" || got.Get("AccountID") != "12" {
		t.Errorf("%v: %v", got, err)
	}
}
