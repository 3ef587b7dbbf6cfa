// SPDX-License-Identifier: Apache-2.0

// Package storetest runs VictoriaLogs for tests.
package storetest

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/internal/otelmap"
)

// Module is the program with its version. docs/fleet.md has the same.
const Module = "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.2"

// wait is how long a program may take to answer.
const wait = 30 * time.Second

// Binary returns the path of VictoriaLogs, which it builds once for all tests. Tests that need it run only if
// NSTRACE_TEST_ALL is set.
func Binary(t *testing.T) string {
	t.Helper()
	if os.Getenv("NSTRACE_TEST_ALL") == "" {
		t.Skip("NSTRACE_TEST_ALL is not set: needs a log store")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "nstrace-test", filepath.Base(Module))
	cmd := exec.Command("go", "install", Module)
	cmd.Dir = os.TempDir() // no module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s", Module, err, out)
	}
	return filepath.Join(dir, "victoria-logs")
}

// A Store is a running VictoriaLogs.
type Store struct {
	URL  string
	t    *testing.T
	args []string
	cmd  *exec.Cmd
}

// Start starts VictoriaLogs, and ends it with the test.
func Start(t *testing.T) *Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := &Store{URL: "http://" + addr, t: t, args: []string{Binary(t),
		"-httpListenAddr=" + addr, "-storageDataPath=" + t.TempDir(), "-retentionPeriod=100y", "-loggerLevel=WARN", "-inmemoryDataFlushInterval=1s"}}
	t.Cleanup(s.Stop)
	s.Run()
	return s
}

// Run starts the program again after Stop.
func (s *Store) Run() {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stderr = s.t.Output()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	Await(s.t, "the store to answer", func() bool {
		response, err := http.Get(s.URL + "/health")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// Stop ends the program in good order.
func (s *Store) Stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(os.Interrupt)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Send sends events as log records, as the sink does, and waits until a query can find them.
func (s *Store) Send(items ...otelmap.Item) {
	s.t.Helper()
	mapper := otelmap.Mapper{Version: "test"}
	body, err := proto.Marshal(mapper.Request(items, time.Now()))
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.Post(s.URL+"/insert/opentelemetry/v1/logs", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s", response.Status, text)
	}
	s.Flush()
}

// Flush makes what the store has taken visible to queries.
func (s *Store) Flush() {
	s.t.Helper()
	response, err := http.Get(s.URL + "/internal/force_flush")
	if err != nil {
		s.t.Fatal(err)
	}
	response.Body.Close()
}

// Await waits for a condition.
func Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(wait); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", wait, what)
		}
	}
}
