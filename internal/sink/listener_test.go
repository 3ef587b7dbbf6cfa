// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/filter"
)

// openListener returns a listener in a folder that other users can reach.
func openListener(t *testing.T, o Options) (*Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sink")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "live")
	l, err := Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

// join connects to a listener and waits until it is a reader.
func join(t *testing.T, l *Listener, path string) net.Conn {
	t.Helper()
	before := newest(l)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	for limit := time.Now().Add(time.Minute); newest(l) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is no reader")
		}
	}
	return conn
}

// newest returns the last reader that connected.
func newest(l *Listener) *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.readers) == 0 {
		return nil
	}
	return l.readers[len(l.readers)-1]
}

func readers(l *Listener) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers)
}

// readEvents reads what is left.
func readEvents(t *testing.T, conn io.Reader) (all []*event.Event) {
	t.Helper()
	for in := bufio.NewReader(conn); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if err != io.EOF || len(line) > 0 {
				t.Fatalf("%v: %q", err, line)
			}
			return all
		}
		var e event.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, &e)
	}
}

// TestReaders has a reader that reads at once, one that comes later, and one that reads nothing until the end.
func TestReaders(t *testing.T) {
	program, err := filter.Compile(`type == "sysctl.write"`)
	if err != nil {
		t.Fatal(err)
	}
	l, path := openListener(t, Options{Name: "live", Filter: program, Report: silent})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	set := NewSet(l)
	quick, slow := join(t, l, path), join(t, l, path)
	got := make(chan []*event.Event)
	go func() { got <- readEvents(t, quick) }()
	var n numbered
	const each = 3 * readerEvents
	write := func() {
		for i := range each {
			typ := event.SysctlWrite
			if i%3 == 0 {
				typ = event.NamespaceCreate
			}
			set.Write(n.next(typ))
			if i%100 == 0 { // the quick one must keep up
				set.Flush()
				r := l.readers[0]
				for full := true; full; runtime.Gosched() {
					r.mu.Lock()
					full = len(r.queue) > readerEvents/2
					r.mu.Unlock()
				}
			}
		}
	}
	write()
	late := join(t, l, path)
	lateGot := make(chan []*event.Event)
	go func() { lateGot <- readEvents(t, late) }()
	first := n.seq
	for range 30 {
		set.Write(n.next(event.SysctlWrite))
	}
	set.Flush()
	slowGot := make(chan []*event.Event)
	go func() { slowGot <- readEvents(t, slow) }()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // until its trace.loss is on its way
		r := l.readers[1]
		r.mu.Lock()
		told := r.lost == nil
		r.mu.Unlock()
		if told {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("the slow reader works no more")
		}
	}
	set.Write(n.next(event.TraceStop))
	end(t, set)
	const matching = each*2/3 + 30 + 1
	if has, skipped, lost := check(t, <-got); has != matching || skipped != each/3 || lost != 0 {
		t.Errorf("quick: %d events, %d skipped, %d lost", has, skipped, lost)
	}
	if has, _, lost := check(t, <-slowGot); has+lost != matching || lost == 0 || has <= readerEvents {
		t.Errorf("slow: %d events, %d lost", has, lost)
	}
	if events := <-lateGot; len(events) != 31 || events[0].Seq != first+1 || events[0].Skipped != 0 {
		t.Errorf("late: %d events, %+v", len(events), events[0])
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestReaderGoes lets readers go, with and without an event after that. Others take their places.
func TestReaderGoes(t *testing.T) {
	l, path := openListener(t, Options{Name: "live", Report: silent})
	set := NewSet(l)
	var conns []net.Conn
	for range maxReaders {
		conns = append(conns, join(t, l, path))
	}
	refused, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	if n, err := refused.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	conns[3].Close()
	more := join(t, l, path)
	conns[4].Close()
	var n numbered
	for readers(l) == maxReaders {
		set.Write(n.next(event.SysctlWrite))
		set.Flush()
	}
	end(t, set)
	if got := readEvents(t, more); uint64(len(got)) != n.seq {
		t.Errorf("%d events of %d", len(got), n.seq)
	}
}

// TestReaderIsStuck has a reader that never reads. The end does not wait for it for ever.
func TestReaderIsStuck(t *testing.T) {
	l, path := openListener(t, Options{Name: "live", Report: silent})
	set := NewSet(l)
	join(t, l, path)
	var n numbered
	for range 2 * readerEvents {
		set.Write(n.next(event.SysctlWrite))
	}
	start := time.Now()
	end(t, set)
	if d := time.Since(start); d > 2*closeTime {
		t.Errorf("the end took %v", d)
	}
}

// TestOtherReader lets another user connect, to a socket whose mode somebody changed.
func TestOtherReader(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l, path := openListener(t, Options{Name: "live", Report: silent})
	defer end(t, NewSet(l))
	try := func() (int, error) {
		type result struct {
			n   int
			err error
		}
		done := make(chan result)
		go func() {
			runtime.LockOSThread() // and never unlock: the thread ends with its user
			const nobody = 65534
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				done <- result{0, errno}
				return
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			}
			n := -1
			if err == nil {
				n, err = unix.Read(fd, make([]byte, 1))
			}
			unix.Close(fd)
			done <- result{n, err}
		}()
		r := <-done
		return r.n, r.err
	}
	if _, err := try(); !errors.Is(err, unix.EACCES) {
		t.Errorf("mode 0600: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if n, err := try(); n != 0 || err != nil || readers(l) != 0 {
		t.Errorf("mode 0666: %d, %v", n, err)
	}
}

// TestListenAgain has a socket that a process left behind, one that is in use, and a file.
func TestListenAgain(t *testing.T) {
	l, path := openListener(t, Options{Name: "live", Report: silent})
	if _, err := Listen(path, Options{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	l.listener.SetUnlinkOnClose(false)
	end(t, NewSet(l))
	again, err := Listen(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	end(t, NewSet(again))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Options{}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Error(err)
	}
	if _, err := Listen("/tmp/nstrace-live", Options{}); err == nil || !strings.Contains(err.Error(), "other users") {
		t.Error(err)
	}
}
