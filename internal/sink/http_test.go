// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// A store is a server that keeps the lines of the requests that it takes.
type store struct {
	mu       sync.Mutex
	lines    []string
	requests int
	answer   func(n int, lines []string) (status int, after string) // of request n, from 1 on
	header   http.Header
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for in := bufio.NewScanner(r.Body); in.Scan(); {
		lines = append(lines, in.Text()+"\n")
	}
	s.requests++
	s.header = r.Header
	status, after := http.StatusOK, ""
	if s.answer != nil {
		status, after = s.answer(s.requests, lines)
	}
	if after != "" {
		w.Header().Set("Retry-After", after)
	}
	if status/100 == 3 {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
	if status == http.StatusOK {
		s.lines = append(s.lines, lines...)
	}
}

// open starts a server and a sink for it.
func (s *store) open(t *testing.T, headers string) *Set {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	if err := ParseURL(server.URL); err != nil {
		t.Fatal(err)
	}
	to, err := OpenHTTP(server.URL+"/insert", headers)
	if err != nil {
		t.Fatal(err)
	}
	return NewSet(New(Options{Name: "http", Destination: to, Report: func(s string) { t.Log(s) }}))
}

// TestPost has a server that takes everything.
func TestPost(t *testing.T) {
	headers := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(headers, []byte("\nAuthorization: Bearer secret\nX-Tenant: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &store{}
	set := s.open(t, headers)
	var n numbered
	for range 5000 {
		set.Write(n.next(event.SysctlWrite))
	}
	end(t, set)
	to := &fake{lines: s.lines}
	if has, _, _ := check(t, to.events(t)); has != 5000 || s.requests > 100 {
		t.Errorf("%d events in %d requests", has, s.requests)
	}
	for name, want := range map[string]string{"Authorization": "Bearer secret", "X-Tenant": "7", "Content-Type": "application/x-ndjson"} {
		if got := s.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestPostAgain has a server that is not ready at first, and one that redirects, where nstrace does not follow.
func TestPostAgain(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusUnauthorized, http.StatusTemporaryRedirect} {
		s := &store{answer: func(n int, _ []string) (int, string) {
			if n == 1 {
				return status, "1"
			}
			return http.StatusOK, ""
		}}
		set := s.open(t, "")
		var n numbered
		start := time.Now()
		for range 3 {
			set.Write(n.next(event.SysctlWrite))
		}
		end(t, set)
		if len(s.lines) != 3 || s.requests != 2 || time.Since(start) < time.Second {
			t.Errorf("%d: %d events, %d requests, %v", status, len(s.lines), s.requests, time.Since(start))
		}
	}
}

// TestPostRefused has a server that refuses one event, and requests of many.
func TestPostRefused(t *testing.T) {
	s := &store{answer: func(_ int, lines []string) (int, string) {
		if len(lines) > 10 {
			return http.StatusRequestEntityTooLarge, ""
		}
		for _, line := range lines {
			if strings.Contains(line, `"type":"netdev.move"`) {
				return http.StatusBadRequest, ""
			}
		}
		return http.StatusOK, ""
	}}
	set := s.open(t, "")
	var n numbered
	for i := range 100 {
		typ := event.SysctlWrite
		if i == 50 {
			typ = event.NetdevMove
		}
		set.Write(n.next(typ))
	}
	if err := set.Close(); err == nil || err.Error() != "http lacks up to 1 events" {
		t.Error(err)
	}
	to := &fake{lines: s.lines}
	if has, _, lost := check(t, to.events(t)); has != 99 || lost != 1 {
		t.Errorf("%d events, %d lost", has, lost)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "999999": maxRetryAfter, "-1": 0, "soon": 0,
		"Mon, 23 Nov 2026 12:00:09 GMT": 9 * time.Second, "Mon, 23 Nov 2026 11:00:00 GMT": 0, "Tue, 24 Nov 2026 12:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestParseURL(t *testing.T) {
	for _, text := range []string{"", "x", "host:80", "ftp://host/", "http://", "https://user:secret@host/", "http://host:port/"} {
		if err := ParseURL(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	bad := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(bad, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenHTTP("http://host/", bad); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// TestPostEndless has a server whose answer does not end. nstrace does not read it all.
func TestPostEndless(t *testing.T) {
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		defer close(over)
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 1<<16))
		}
	}))
	defer server.Close()
	to, err := OpenHTTP(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	set := NewSet(New(Options{Name: "http", Destination: to, Report: func(s string) { t.Log(s) }}))
	var n numbered
	set.Write(n.next(event.SysctlWrite))
	end(t, set)
	<-over
}
