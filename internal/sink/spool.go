// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/safefile"
)

const (
	spoolSync  = time.Second     // what waits for longer survives a power cut
	spoolClose = 2 * time.Second // how long Close waits for a destination that works
	maxSmall   = 1 << 20         // bytes of lines for which the file need not shrink again
	maxRow     = 16 << 20        // bytes that nstrace reads of a row
)

// A spool is a destination that keeps events in a file until another destination has them. The file survives the
// process.
type spool struct {
	o      Options // of the destination behind it
	limit  int64   // bytes
	ctx    context.Context
	stop   context.CancelFunc
	wake   chan struct{} // holds at most one value
	done   chan struct{} // closed when the goroutine has ended
	row    int64         // id of the row that is being delivered; only for the goroutine
	items  []Item        // what is left of that row
	failed atomic.Bool   // the last try to deliver failed
	behind int64         // bytes of the rows up to it, which are still in the file

	mu     sync.Mutex
	conn   *sqlite.Conn
	size   int64 // of all lines in the file
	large  bool  // size was above maxSmall since the spool was empty
	lost   uint64
	taken  uint64 // events that the destination behind it took
	closed bool
	synced time.Time
}

// errSpoolFull is no error of a disk: the spool has as much as it may have.
var errSpoolFull = errors.New("the spool is full")

// Spool returns a destination that keeps what it gets in the file at path, at most limit bytes of lines, until that of o
// has it. It continues with what an earlier process left there. It uses o from then on. The folder must be one that
// only its owner can write.
func Spool(path string, limit int64, o Options) (Destination, error) {
	if err := safefile.MkdirAll(path); err != nil {
		return nil, err
	}
	if err := safefile.CheckFolder(path); err != nil {
		return nil, err
	}
	if _, err := safefile.HoldFiles(path, "", "-wal", "-journal"); err != nil {
		return nil, err
	}
	f, err := safefile.Open(path, os.O_RDWR|os.O_CREATE) // with its mode, before SQLite makes it with another one
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil { // before SQLite locks it
		return nil, err
	}
	o.encode()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := &spool{o: o, limit: limit, conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
	conn.SetBusyTimeout(0)
	for _, statement := range []string{
		"PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON", "PRAGMA auto_vacuum = INCREMENTAL",
		"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL",
		"CREATE TABLE IF NOT EXISTS batch (id INTEGER PRIMARY KEY AUTOINCREMENT, lines BLOB NOT NULL)",
		"CREATE TABLE IF NOT EXISTS missing (id INTEGER PRIMARY KEY, line BLOB NOT NULL)",
		// An earlier process ended before these events were in the file: its trace.loss comes after what is there.
		"BEGIN IMMEDIATE", "INSERT INTO batch (lines) SELECT line FROM missing", "DELETE FROM missing", "COMMIT",
	} {
		if err == nil {
			err = sqlitex.ExecuteTransient(conn, statement, nil)
		}
	}
	if err == nil {
		s.size, err = s.number("SELECT coalesce(sum(length(lines)), 0) FROM batch")
	}
	s.large = s.size > maxSmall
	if sqlite.ErrCode(err) == sqlite.ResultBusy {
		err = errors.New("another nstrace uses it")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), conn.Close())
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		deliver(s.ctx, s, &s.o, func() { s.failed.Store(true) })
	}()
	return s, nil
}

func (s *spool) number(query string) (n int64, err error) {
	err = sqlitex.Execute(s.conn, query, &sqlitex.ExecOptions{ResultFunc: func(stmt *sqlite.Stmt) error { n = stmt.ColumnInt64(0); return nil }})
	return n, err
}

// Deliver adds items to the file.
func (s *spool) Deliver(_ context.Context, items []Item) (int, error) {
	var lines []byte
	for _, it := range items {
		lines = append(lines, it.Line...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size > 0 && s.size+int64(len(lines)) > s.limit {
		return 0, errSpoolFull
	}
	if err := s.add(lines); err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	s.size += int64(len(lines))
	s.large = s.large || s.size > maxSmall
	if time.Since(s.synced) >= spoolSync {
		s.synced = time.Now()
		_ = sqlitex.ExecuteTransient(s.conn, "PRAGMA wal_checkpoint(PASSIVE)", nil) // the next one tries again
	}
	s.signal()
	return len(items), nil
}

// add adds lines, after which nothing is missing.
func (s *spool) add(lines []byte) (err error) {
	end, err := sqlitex.ImmediateTransaction(s.conn)
	if err != nil {
		return err
	}
	defer end(&err)
	if err := sqlitex.Execute(s.conn, "INSERT INTO batch (lines) VALUES (?)", &sqlitex.ExecOptions{Args: []any{lines}}); err != nil {
		return err
	}
	return sqlitex.Execute(s.conn, "DELETE FROM missing", nil)
}

// keep remembers what would be missing if the process ended now. It does so also if the spool is full.
func (s *spool) keep(it *Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if it == nil {
		err = sqlitex.Execute(s.conn, "DELETE FROM missing", nil)
	} else {
		err = sqlitex.Execute(s.conn, "INSERT OR REPLACE INTO missing (id, line) VALUES (1, ?)", &sqlitex.ExecOptions{Args: []any{it.Line}})
	}
	if err != nil {
		s.o.Report(fmt.Sprintf("%s: spool: %v", s.o.Name, err))
	}
}

func (s *spool) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// batch returns the rest of a row.
func (s *spool) batch() []Item {
	for {
		if len(s.items) > 0 {
			return s.items
		}
		s.finishRow()
		lines, err := s.next()
		if err != nil {
			s.o.Report(fmt.Sprintf("%s: spool: %v; nstrace goes on, and tries again", s.o.Name, err))
			if pause(s.ctx, lastBackoff) != nil {
				return nil
			}
			continue
		}
		if lines != nil {
			s.items = s.decode(lines)
			continue
		}
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return nil
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return nil
		}
	}
}

// next reads the next row, nil if there is none.
func (s *spool) next() (lines []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = sqlitex.Execute(s.conn, "SELECT id, lines FROM batch WHERE id > ? ORDER BY id LIMIT 1", &sqlitex.ExecOptions{
		Args: []any{s.row},
		ResultFunc: func(stmt *sqlite.Stmt) error {
			if stmt.ColumnLen(1) > maxRow {
				return fmt.Errorf("row %d is too long", stmt.ColumnInt64(0))
			}
			s.row, lines = stmt.ColumnInt64(0), make([]byte, stmt.ColumnLen(1))
			stmt.ColumnBytes(1, lines)
			s.behind += int64(len(lines))
			return nil
		},
	})
	return lines, err
}

// finishRow removes what was delivered. On a full disk that can fail: it happens with a later row then, and after a
// restart the destination gets these events again.
func (s *spool) finishRow() {
	if s.behind == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := sqlitex.Execute(s.conn, "DELETE FROM batch WHERE id <= ?", &sqlitex.ExecOptions{Args: []any{s.row}}); err != nil {
		return
	}
	s.size -= s.behind
	s.behind = 0
	if s.size == 0 && s.large {
		s.large = false
		_ = sqlitex.ExecuteTransient(s.conn, "PRAGMA incremental_vacuum", nil) // the file can stay large
	}
}

// decode returns the events of a row.
func (s *spool) decode(lines []byte) (items []Item) {
	for line := range bytes.Lines(lines) {
		e := new(event.Event)
		if err := json.Unmarshal(line, e); err != nil {
			s.o.Report(fmt.Sprintf("%s: spool: a line is no event: %v", s.o.Name, err))
			continue
		}
		e.RestoreBytes()
		it := Item{Line: line, seq: e.Seq, skipped: e.Skipped, typ: e.Type, count: weight(e), time: e.Time, from: origin{e.RunID, e.Host, e.BootID, e.Labels}}
		if s.o.Events {
			it.Event = e
		}
		if e.Loss != nil && e.Loss.Reason == event.LossSink {
			it.loss = e.Loss
		}
		items = append(items, it)
	}
	return items
}

func (s *spool) drop(n int) {
	s.items = s.items[n:]
	if n > 0 {
		s.failed.Store(false)
	}
}

func (s *spool) replace(n int, it Item) { s.items = append([]Item{it}, s.items[n:]...) }

func (s *spool) miss(n uint64) { s.mu.Lock(); s.lost += n; s.mu.Unlock() }

func (s *spool) missing() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.lost }

// Close waits a moment for the destination. What it does not have by then stays in the file.
func (s *spool) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
	patience := spoolClose
	if s.failed.Load() {
		patience = 0
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		s.stop()
		select {
		case <-s.done:
		case <-time.After(spoolClose):
			return fmt.Errorf("%s does not end", s.o.Name) // the goroutine still uses everything
		}
	}
	s.stop()
	err := s.o.Destination.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size > 0 {
		s.o.Report(fmt.Sprintf("%s: events wait in the spool for the next start", s.o.Name))
	}
	if s.lost > 0 {
		err = errors.Join(err, fmt.Errorf("%s lacks up to %d events", s.o.Name, s.lost))
	}
	return errors.Join(err, s.conn.Close())
}

// SpoolPath returns the file of a sink in the folder of spools.
func SpoolPath(folder, name string) string { return filepath.Join(folder, name+".spool") }
