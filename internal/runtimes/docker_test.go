// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// serveDocker serves the API at a socket, and returns a client of it. A version answers to ping.
func serveDocker(t testing.TB, version string, handle http.HandlerFunc) Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", version)
		if r.URL.Path != "/_ping" {
			handle(w, r)
		}
	})}
	go func() { _ = server.Serve(l) }()
	s, err := Open(t.Context(), "docker:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = server.Close()
	})
	return s
}

// TestDockerFailures checks what becomes of answers that are no list.
func TestDockerFailures(t *testing.T) {
	status := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/v1.50/elsewhere")
			w.WriteHeader(code)
			fmt.Fprint(w, text)
		}
	}
	for _, tt := range []struct {
		name, version string
		handle        http.HandlerFunc
		is            error
		says          string
	}{
		{name: "a message", version: "1.50", handle: status(http.StatusInternalServerError, `{"message":"the disk is full"}`), says: ": the disk is full"},
		{name: "no message", version: "1.50", handle: status(http.StatusBadGateway, "<html>"), says: "/v1.50/containers/json: 502 Bad Gateway"},
		{name: "not found", version: "1.50", handle: status(http.StatusNotFound, "{}"), is: ErrNotFound},
		{name: "a redirection", version: "1.50", handle: status(http.StatusMovedPermanently, "[]"), says: "301 Moved Permanently"},
		{name: "no JSON", version: "1.50", handle: status(http.StatusOK, "<html>"), says: "invalid character"},
		{name: "half of a list", version: "1.50", handle: status(http.StatusOK, `[{"Id":"a"},`), says: "unexpected EOF"},
		{name: "no version", version: "", handle: status(http.StatusOK, "[]"), is: errors.ErrUnsupported},
		{name: "a path as version", version: "1.50/../..", handle: status(http.StatusOK, "[]"), is: errors.ErrUnsupported},
	} {
		s := serveDocker(t, tt.version, tt.handle)
		if _, err := s.List(t.Context()); err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestDockerConnection checks that a query uses the connection of the one before.
func TestDockerConnection(t *testing.T) {
	from := map[string]bool{}
	s := serveDocker(t, "1.50", func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		from[fmt.Sprintf("%p %v", c, ok)] = true
		fmt.Fprint(w, "["+strings.Repeat(" ", 100_000)+"]\n")
	})
	for range 3 {
		if _, err := s.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(from) != 1 {
		t.Errorf("%d connections, want 1", len(from))
	}
}
