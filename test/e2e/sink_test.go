// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/confine"
)

// linesOf joins the lines of events as they were written.
func linesOf(events []*emitted) string {
	var b strings.Builder
	for _, e := range events {
		b.Write(e.line)
	}
	return b.String()
}

// parseLines parses and checks the lines of a sink.
func parseLines(t *testing.T, text string) (events []*emitted) {
	t.Helper()
	for line := range strings.Lines(text) {
		e, err := parseEvent([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// checkSkipped checks that each hole in the numbers of a filtered sink is explained, and that the sink has exactly
// the events of the stream that want holds for.
func checkSkipped(t *testing.T, all, got []*emitted, want func(*emitted) bool) {
	t.Helper()
	var wanted, has []uint64
	for _, e := range all {
		if e.Type.Family() == "trace" || want(e) {
			wanted = append(wanted, e.Seq)
		}
	}
	last := uint64(0)
	for _, e := range got {
		if e.Seq-last-1 != e.Skipped {
			t.Errorf("%d follows %d, skipped %d", e.Seq, last, e.Skipped)
		}
		last = e.Seq
		has = append(has, e.Seq)
	}
	if len(wanted) != len(has) || len(has) == 0 || last != all[len(all)-1].Seq {
		t.Errorf("the sink has %d, want %d", has, wanted)
	}
}

// TestSinks has files besides standard output. Somebody moves one of them.
func TestSinks(t *testing.T) {
	anyKernel(t)
	dir := t.TempDir()
	all, some := filepath.Join(dir, "all"), filepath.Join(dir, "some")
	s := startStream(t, "--runtime-socket", "none", "--sink", "file:"+all+",mode=0640",
		"--sink", "file:"+some+`,size=1MiB,keep=2,filter=type in ["namespace.create", "namespace.pin"]`)
	s.awaitStart(t)
	awaitText(t, all, `"type":"trace.start"`)
	checkThreads(t, s.cmd.Process.Pid, confine.Work{Files: true})
	output(t, "unshare", "--uts", "--net", "true")
	awaitText(t, all, `"type":"namespace.create"`)
	if err := os.Rename(all, all+".1"); err != nil {
		t.Fatal(err)
	}
	output(t, "unshare", "--ipc", "true")
	awaitText(t, all, `"type":"namespace.create"`)
	s.interrupt(t)
	s.checkEnd(t, false)
	events := s.since(0)
	if got := readLines(t, all+".1") + readLines(t, all); got != linesOf(events) {
		t.Errorf("the sink has\n%swant\n%s", got, linesOf(events))
	}
	for _, path := range []string{all + ".1", all} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	checkSkipped(t, events, parseLines(t, readLines(t, some)), func(e *emitted) bool {
		return e.Type == event.NamespaceCreate || e.Type == event.NamespacePin
	})
}

// awaitMessage waits for a text on standard error.
func awaitMessage(t *testing.T, s *stream, text string) {
	t.Helper()
	for limit := time.Now().Add(patience); !strings.Contains(s.stderr.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("nstrace does not say %q: %s", text, s.stderr.String())
		}
	}
}

// readLines returns a file with its last newline, which readFile cuts.
func readLines(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSinkOnFullDisk fills the disk of a sink. The other sink has each event at once. The first one has them all
// once there is space.
func TestSinkOnFullDisk(t *testing.T) {
	anyKernel(t)
	dir := smallDisk(t)
	full, other := filepath.Join(dir, "events"), filepath.Join(t.TempDir(), "events")
	s := startStream(t, "--runtime-socket", "none", "-e", "namespace.create", "--sink", "file:"+full, "--sink", "file:"+other)
	s.awaitStart(t)
	awaitText(t, full, `"type":"trace.start"`)
	fillDisk(t, dir)
	const creates = 30
	for range creates {
		output(t, "unshare", "--uts", "true")
	}
	awaitText(t, other, `"seq":31`)
	awaitMessage(t, s, "no space left on device; nstrace goes on")
	growDisk(t, dir)
	awaitText(t, full, `"seq":31`)
	s.interrupt(t)
	if s.err != nil {
		t.Errorf("%v: %s", s.err, s.stderr.String())
	}
	for _, path := range []string{full, other} {
		if got := readLines(t, path); got != linesOf(s.since(0)) {
			t.Errorf("%s has\n%swant\n%s", path, got, linesOf(s.since(0)))
		}
	}
	if said := s.stderr.String(); !strings.Contains(said, "works again") || strings.Contains(said, "lacks") {
		t.Errorf("nstrace says: %s", said)
	}
}

// TestSinkSyslog sends events by TCP from a process that is confined. The server closes the connection once.
func TestSinkSyslog(t *testing.T) {
	anyKernel(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := startStream(t, "--runtime-socket", "none", "-e", "namespace.create", "--sink", "syslog:tcp:"+listener.Addr().String())
	until := func(conn net.Conn, what string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(patience))
		for r := bufio.NewReader(conn); ; {
			var n int
			if _, err := fmt.Fscanf(r, "%d ", &n); err != nil {
				t.Fatalf("no %q: %v\n%s", what, err, s.stderr.String())
			}
			message := make([]byte, n)
			if _, err := io.ReadFull(r, message); err != nil {
				t.Fatal(err)
			}
			head, line, ok := strings.Cut(string(message), " - {")
			if !ok || !strings.HasPrefix(head, "<30>1 ") {
				t.Fatalf("%q", message)
			}
			if _, err := parseEvent([]byte("{" + line + "\n")); err != nil {
				t.Error(err)
			}
			if strings.Contains(string(message), what) {
				return
			}
		}
	}
	accept := func() net.Conn {
		t.Helper()
		if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first := accept()
	until(first, "trace.start")
	s.awaitStart(t)
	checkThreads(t, s.cmd.Process.Pid, confine.Work{})
	first.Close()
	output(t, "unshare", "--uts", "true")
	second := accept() // the filter of the process would refuse another family of sockets
	output(t, "unshare", "--ipc", "true")
	until(second, `"type":"ipc"`)
	s.interrupt(t)
	until(second, "trace.stop")
	second.Close()
	s.checkEnd(t, false)
}

// TestSinkUnix has a reader of the live events of a recorder, which comes when that is confined.
func TestSinkUnix(t *testing.T) {
	anyKernel(t)
	dir := openDir(t, 0o755)
	path, db := filepath.Join(dir, "live"), filepath.Join(dir, "history.db")
	s := startStream(t, "record", "--db", db, "--runtime-socket", "none", "--sink", "unix:"+path+`,filter=type == "namespace.create"`)
	s.awaitStart(t)
	output(t, "unshare", "--uts", "true")
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	next := func() *emitted {
		t.Helper()
		line, err := in.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		e, err := parseEvent(line)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	var first *emitted
	for seen := false; !seen; { // until nstrace has the reader
		output(t, "unshare", "--ipc", "true")
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := in.Peek(1); err == nil {
			conn.SetReadDeadline(time.Now().Add(patience))
			first, seen = next(), true
		}
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	last := first
	for last.Type != event.TraceStop {
		e := next()
		if e.Seq-last.Seq-1 != e.Skipped || e.RunID != first.RunID {
			t.Errorf("%d follows %d, skipped %d", e.Seq, last.Seq, e.Skipped)
		}
		last = e
	}
	s.awaitEnd(t)
	if s.err != nil {
		t.Errorf("%v: %s", s.err, s.stderr.String())
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestSinkHTTP posts events from a process that is confined, to a server that refuses requests at first.
func TestSinkHTTP(t *testing.T) {
	anyKernel(t)
	var mu sync.Mutex
	var got strings.Builder
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if requests++; requests <= 3 || err != nil {
			w.Header().Set("Connection", "close") // so that nstrace needs another socket
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got.Write(body)
	}))
	defer server.Close()
	s := startStream(t, "--runtime-socket", "none", "-e", "namespace.create", "--sink", "http:"+server.URL+"/insert")
	s.awaitStart(t)
	checkThreads(t, s.cmd.Process.Pid, confine.Work{Network: true})
	output(t, "unshare", "--uts", "true")
	awaitMessage(t, s, "503")
	for limit, done := time.Now().Add(patience), false; !done; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		done = strings.Contains(got.String(), `"seq":2`)
		mu.Unlock()
		if time.Now().After(limit) {
			t.Fatalf("the server has no event: %s", s.stderr.String())
		}
	}
	s.interrupt(t)
	if s.err != nil {
		t.Errorf("%v: %s", s.err, s.stderr.String())
	}
	if got.String() != linesOf(s.since(0)) {
		t.Errorf("the server has\n%swant\n%s", got.String(), linesOf(s.since(0)))
	}
}

// TestSinkOTLP kills nstrace while its server is down. The server gets all events from the next one, in order.
func TestSinkOTLP(t *testing.T) {
	anyKernel(t)
	var mu sync.Mutex
	var got strings.Builder
	up := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := new(collectorpb.ExportLogsServiceRequest)
		mu.Lock()
		defer mu.Unlock()
		if err != nil || proto.Unmarshal(body, request) != nil || !up {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, r := range request.ResourceLogs {
			for _, l := range r.ScopeLogs[0].LogRecords {
				got.WriteString(l.Body.GetStringValue() + "\n")
			}
		}
	}))
	defer server.Close()
	spool := filepath.Join(t.TempDir(), "spool")
	args := []string{"--runtime-socket", "none", "-e", "namespace.create", "--sink", "otlp:" + server.URL, "--spool", spool}
	s := startStream(t, args...)
	s.awaitStart(t)
	output(t, "unshare", "--uts", "true")
	awaitMessage(t, s, "503")
	files, err := filepath.Glob(filepath.Join(spool, "otlp-*.spool-wal"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	awaitText(t, files[0], `"seq":2`)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(patience); !s.over(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("nstrace does not end")
		}
	}
	mu.Lock()
	up = true
	mu.Unlock()
	next := startStream(t, args...)
	next.awaitStart(t)
	checkThreads(t, next.cmd.Process.Pid, confine.Work{Network: true})
	output(t, "unshare", "--uts", "true")
	next.await(t, "create", func(events []*emitted) bool {
		return slices.ContainsFunc(events, func(e *emitted) bool { return e.Type == event.NamespaceCreate })
	})
	next.interrupt(t)
	next.checkEnd(t, false)
	mu.Lock()
	defer mu.Unlock()
	if want := linesOf(s.since(0)) + linesOf(next.since(0)); got.String() != want {
		t.Errorf("the server has\n%swant\n%s", got.String(), want)
	}
}

// TestSinkJournald sends events to a journal of its own. journalctl finds them by the process.
func TestSinkJournald(t *testing.T) {
	anyKernel(t)
	const journald = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(journald); err != nil {
		t.Skip(err)
	}
	const script = `set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
if [ ! -s /etc/machine-id ]; then
	echo 0123456789abcdef0123456789abcdef > /run/machine-id
	mount --bind /run/machine-id /etc/machine-id
fi
` + journald + ` >/run/said 2>&1 &
journald=$!
until [ -S /run/systemd/journal/socket ]; do kill -0 $journald; sleep 0.1; done
"$nstrace" --runtime-socket none -e namespace.create -t uts -n 1 --sink journald --filter 'process.comm == "journal-test"' >/run/stdout &
tracer=$!
until journalctl -D /run/log/journal -o cat NSTRACE_TYPE=trace.start 2>&1 | grep -q trace.start; do kill -0 $tracer; sleep 0.1; done
"$unshare" --uts true
wait $tracer
until journalctl -D /run/log/journal -o cat NSTRACE_TYPE=trace.stop 2>&1 | grep -q trace.stop; do kill -0 $journald; sleep 0.1; done
kill $journald
cat /run/stdout >&2
pid=$(journalctl -D /run/log/journal -o cat --output-fields=NSTRACE_PID NSTRACE_TYPE=namespace.create)
exec journalctl -D /run/log/journal -o json OBJECT_PID=$pid SYSLOG_IDENTIFIER=nstrace
`
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	renamed := filepath.Join(t.TempDir(), "journal-test")
	if err := os.Symlink(unshare, renamed); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "nstrace="+nstraceBin, "unshare="+renamed)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, errorText(err), out)
	}
	var entry map[string]string
	if err := json.Unmarshal(out, &entry); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	e, err := parseEvent([]byte(entry["NSTRACE_JSON"] + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.FormatUint(uint64(e.Process.PID), 10)
	for field, want := range map[string]string{
		"OBJECT_PID": pid, "NSTRACE_PID": pid, "NSTRACE_COMM": "journal-test", "NSTRACE_NS_TYPE": "uts", "PRIORITY": "6", "_TRANSPORT": "journal",
		"NSTRACE_SEQ": strconv.FormatUint(e.Seq, 10), "NSTRACE_RUN_ID": e.RunID, "NSTRACE_UID": "0",
	} {
		if entry[field] != want {
			t.Errorf("%s is %q, want %q", field, entry[field], want)
		}
	}
	if !strings.HasPrefix(entry["MESSAGE"], "create uts ") || !strings.Contains(entry["MESSAGE"], "journal-test["+pid+"]") {
		t.Errorf("MESSAGE is %q", entry["MESSAGE"])
	}
}
