// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/nstrace/nstrace/event"
)

// A Verification is the result of Verify.
type Verification struct {
	Events      uint64 // in the history
	First, Last int64  // their IDs
	Head        Hash   // of the last event
	// Dropped is the number of events that retention dropped before the first one. DroppedTo is the
	// time of the last of them.
	Dropped   uint64
	DroppedTo time.Time
	Problems  []Problem // at most MaxProblems
}

// MaxProblems is the number of problems after which Verify stops.
const MaxProblems = 100

// A Problem is a break in the chain.
type Problem struct {
	ID   int64     // of the event, or of the first missing event
	To   int64     // of the last missing event; 0 if none is missing
	Time time.Time // of the event, or of the last event before the missing ones; zero if not known
	What string
}

func (p Problem) String() string {
	s := fmt.Sprintf("event %d", p.ID)
	if p.To > p.ID {
		s = fmt.Sprintf("events %d to %d", p.ID, p.To)
	}
	if !p.Time.IsZero() {
		at := p.Time.Format(time.RFC3339Nano)
		if p.To != 0 {
			at = "after " + at
		}
		s += " (" + at + ")"
	}
	return s + ": " + p.What
}

// chainHash returns the hash of an event from the previous hash and the event's line.
func chainHash(before Hash, line []byte) (h Hash) {
	sum := sha256.New()
	sum.Write(before[:])
	sum.Write(line)
	sum.Sum(h[:0])
	return h
}

// Verify follows the chain of hashes and returns the events that were removed or changed.
// References from other tables reveal that the newest events were removed. Somebody who can write
// the file can compute all hashes again. Verify cannot detect that; compare Head with a copy that
// was kept elsewhere.
func (db *DB) Verify(ctx context.Context) (*Verification, error) {
	v := &Verification{}
	before, err := db.anchors(v)
	if err != nil {
		return nil, explain(db.path, err)
	}
	if len(v.Problems) >= MaxProblems {
		return v, nil
	}
	next := before.ID + 1
	hash, at := before.Hash, before.Time
	encode := new(event.Encoder)
	var line []byte
	report := func(p Problem) bool {
		v.Problems = append(v.Problems, p)
		return len(v.Problems) < MaxProblems
	}
	p := &plan{from: 0, to: 1<<63 - 1, limit: pageEvents}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		page, anchor, more, err := db.rawPage(p)
		if err != nil {
			return nil, explain(db.path, err)
		}
		if anchor.ID >= next { // retention has dropped events since
			next, hash, at = anchor.ID+1, anchor.Hash, anchor.Time
		}
		for i := range page {
			s := &page[i]
			if err := p.advance(s.ID); err != nil {
				return nil, explain(db.path, err)
			}
			if v.Events == 0 {
				v.First = s.ID
			}
			v.Events++
			v.Last, v.Head = s.ID, s.Hash
			broken := false
			switch {
			case s.ID > next:
				broken = true
				if !report(Problem{next, s.ID - 1, at, "removed"}) {
					return v, nil
				}
			case s.ID < next:
				broken = true
				if !report(Problem{s.ID, 0, s.at, "added where retention dropped events"}) {
					return v, nil
				}
			}
			next = s.ID + 1
			if s.err != nil {
				if !report(Problem{s.ID, 0, s.at, "changed: " + s.err.Error()}) {
					return v, nil
				}
				hash, at = s.Hash, s.at
				continue
			}
			line = encode.Append(line[:0], s.Event)
			at = s.Event.Time
			if h := chainHash(hash, line); h != s.Hash && !broken {
				if !report(Problem{s.ID, 0, at, "the event or its hash was changed"}) {
					return v, nil
				}
			}
			hash = s.Hash
		}
		if !more {
			break
		}
	}
	last, err := number(db.conn, "SELECT max((SELECT coalesce(max(last_event), 0) FROM batch), (SELECT coalesce(max(event), 0) FROM last_write))")
	if err != nil {
		return nil, explain(db.path, err)
	}
	if last >= next {
		report(Problem{next, last, at, "removed"})
	}
	if len(v.Problems) < MaxProblems {
		err = db.verifyLists(ctx, report)
	}
	return v, explain(db.path, err)
}

// anchors verifies the anchors and returns the last one, where the chain begins.
func (db *DB) anchors(v *Verification) (last Anchor, err error) {
	var seal Hash
	err = eachAnchor(db.conn, func(a Anchor, sealed Hash) {
		if len(v.Problems) >= MaxProblems {
			return
		}
		if want := a.seal(seal); want != sealed {
			v.Problems = append(v.Problems, Problem{ID: a.ID, Time: a.Time, What: "the anchor that retention left here was changed"})
		}
		if a.ID != last.ID+int64(a.Events) {
			v.Problems = append(v.Problems, Problem{ID: last.ID + 1, To: a.ID, Time: last.Time, What: "removed, but not by retention"})
		}
		seal, last = sealed, a
		v.Dropped += a.Events
		v.DroppedTo = a.Time
	})
	return last, err
}

// A rawEvent is an event, or the error in its row, and the time in its row.
type rawEvent struct {
	readEvent
	at time.Time
}

// rawPage reads the next rows, including those with errors, and the last anchor.
func (db *DB) rawPage(p *plan) (page []rawEvent, anchor Anchor, more bool, err error) {
	db.trim()
	if err := db.begin(); err != nil {
		return nil, anchor, false, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	if err := db.eachRow("SELECT event, hash, time FROM anchor ORDER BY id DESC LIMIT 1", func(stmt *sqlite.Stmt) {
		anchor.ID, anchor.Time = stmt.ColumnInt64(0), nanos(stmt.ColumnInt64(2))
		stmt.ColumnBytes(1, anchor.Hash[:])
	}); err != nil {
		return nil, anchor, false, err
	}
	err = sqlitex.Execute(db.conn, "SELECT "+eventColumns+" FROM event WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
		&sqlitex.ExecOptions{Args: []any{p.from, p.to, p.limit}, ResultFunc: func(stmt *sqlite.Stmt) error {
			if db.pageFull() {
				return errFullPage
			}
			s, err := db.event(stmt)
			if err != nil && !isRowError(err) {
				return err
			}
			page = append(page, rawEvent{readEvent{s, err}, nanos(stmt.ColumnInt64(1))})
			return nil
		}})
	if errors.Is(err, errFullPage) {
		err = nil
	}
	return page, anchor, len(page) >= p.limit || db.pageFull(), err
}

// An exportMark is the member history of an exported line.
type exportMark struct {
	ID   int64  `json:"id"`
	Prev string `json:"prev,omitempty"`
	Hash string `json:"hash"`
}

// Export writes the whole history as JSON lines. Each line is the event's line of the stream with
// one more member, history: an object with the id, the hash and, in the first line, prev, the
// previous hash. Export returns the number of events. It ends with an error if a row is damaged.
func (db *DB) Export(ctx context.Context, w io.Writer) (n uint64, err error) {
	out := bufio.NewWriterSize(w, 1<<16)
	encode := new(event.Encoder)
	var line []byte
	var last int64
	var before Hash
	// Skip no row: the import must result in the same chain.
	all := func(s *readEvent) (bool, error) {
		if s.err != nil {
			return false, fmt.Errorf("event %d: %w", s.ID, s.err)
		}
		return true, nil
	}
	for s, err := range db.events(ctx, Query{}, all) {
		if err != nil {
			return n, err
		}
		if n == 0 {
			if err := db.eachRow("SELECT hash FROM anchor WHERE event = ?", func(stmt *sqlite.Stmt) { stmt.ColumnBytes(0, before[:]) }, s.ID-1); err != nil {
				return n, explain(db.path, err)
			}
		} else if s.ID != last+1 {
			return n, fmt.Errorf("%s: events %d to %d disappeared during the export: retention dropped them, or somebody removed them (see nstrace history verify)", db.path, last+1, s.ID-1)
		}
		last = s.ID
		line = encode.Append(line[:0], s.Event)
		line = append(line[:len(line)-1], `,"history":{"id":`...)
		line = strconv.AppendInt(line, s.ID, 10)
		if n == 0 {
			line = append(hex.AppendEncode(append(line, `,"prev":"`...), before[:]), '"')
		}
		line = append(hex.AppendEncode(append(line, `,"hash":"`...), s.Hash[:]), "\"}}\n"...)
		if _, err := out.Write(line); err != nil {
			return n, err
		}
		n++
	}
	return n, out.Flush()
}

// An ImportError says which line of an export Import rejects, and why.
type ImportError struct {
	Line int   // of the export, from 1
	ID   int64 // of the event, 0 if not known
	Time time.Time
	What string
}

func (e *ImportError) Error() string {
	s := fmt.Sprintf("line %d", e.Line)
	if e.ID != 0 {
		s += fmt.Sprintf(", event %d", e.ID)
	}
	if !e.Time.IsZero() {
		s += " (" + e.Time.Format(time.RFC3339Nano) + ")"
	}
	return s + ": " + e.What
}

// ErrNotEmpty is wrapped by the error for a history that does not end where the export begins.
var ErrNotEmpty = errors.New("the history does not end where the export begins")

// Import reads the output of Export into the history at path. The history must be new, or end with
// the event before the first one of the export. Import adds all events or none: at the first line
// that is not an event, or does not follow from the previous one, it returns an *ImportError. It
// returns the number of events.
func Import(ctx context.Context, path string, in io.Reader) (n uint64, err error) {
	lock, newLock, err := lockFile(path)
	if err != nil {
		return 0, err
	}
	defer func() {
		if newLock && err != nil {
			err = errors.Join(err, os.Remove(lock.Name()))
		}
		err = errors.Join(err, lock.Close())
	}()
	fresh := false
	if _, statErr := os.Stat(path); errors.Is(statErr, os.ErrNotExist) {
		fresh = true
	}
	defer func() {
		if fresh && err != nil {
			_ = os.Remove(path)
		}
	}()
	w, err := openWriter(ctx, path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	err = w.transaction(func() error {
		n, err = w.importAll(ctx, in)
		return err
	})
	if err != nil {
		return 0, importError(path, err)
	}
	return n, nil
}

// importError returns an *ImportError as it is, and explains any other error.
func importError(path string, err error) error {
	var bad *ImportError
	if errors.As(err, &bad) {
		return bad
	}
	return explain(path, err)
}

// importBatch is the number of events in a row of the table batch.
const importBatch = 1000

func (w *writer) importAll(ctx context.Context, in io.Reader) (n uint64, err error) {
	lines := bufio.NewReaderSize(in, 1<<16)
	pack := newPacker()
	var room [1]pending
	for number := 1; ; number++ {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		text, readErr := readLine(lines)
		if errors.Is(readErr, errLongLine) {
			return n, &ImportError{Line: number, What: readErr.Error()}
		}
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return n, readErr
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			bad := func(m exportMark, at time.Time, format string, args ...any) error {
				return &ImportError{number, m.ID, at, fmt.Sprintf(format, args...)}
			}
			var with struct {
				event.Event
				History *exportMark `json:"history"`
			}
			// The database could not keep a field that this version does not know.
			decode := json.NewDecoder(bytes.NewReader(text))
			decode.DisallowUnknownFields()
			if err := decode.Decode(&with); err != nil {
				return n, bad(exportMark{}, time.Time{}, "not an event: %v", err)
			}
			e := &with.Event
			e.RestoreBytes()
			if err := Check(e); err != nil {
				return n, bad(exportMark{}, e.Time, "not an event: %v", err)
			}
			if with.History == nil {
				return n, bad(exportMark{}, e.Time, "not a line of an export: it has no member history")
			}
			m := *with.History
			hash, err := parseHash(m.Hash)
			if err != nil {
				return n, bad(m, e.Time, "%v", err)
			}
			if n == 0 {
				if err := w.startAt(m); err != nil {
					return n, bad(m, e.Time, "%v", err)
				}
				clear(w.writes)
			}
			if m.ID != w.nextEvent {
				return n, bad(m, e.Time, "expected event %d", w.nextEvent)
			}
			if n%importBatch == 0 {
				w.firstTime, w.lastTime = 1<<63-1, -1<<63
			}
			room[0] = pack.pack(e)
			if err := w.insert(&room[0]); err != nil {
				return n, err
			}
			if w.head != hash {
				return n, bad(m, e.Time, "does not follow from the previous event: the event or its hash was changed")
			}
			n++
			if n%importBatch == 0 {
				if err := w.storeImportBatch(importBatch); err != nil {
					return n, err
				}
			}
		}
		if readErr != nil {
			break
		}
	}
	if rest := int64(n % importBatch); rest > 0 {
		if err := w.storeImportBatch(rest); err != nil {
			return n, err
		}
	}
	return n, w.storeLastWrites()
}

// errLongLine reports a line of an export that is too long.
var errLongLine = errors.New("longer than any line that nstrace writes")

// readLine reads a line. The end of the input also ends a line.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > min(maxText, maxValue) {
			return nil, errLongLine
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// storeImportBatch records the last events as a batch.
func (w *writer) storeImportBatch(events int64) error {
	if err := w.addSegments(events); err != nil {
		return err
	}
	return execute(w.conn, `INSERT INTO batch VALUES (?, ?, ?, ?, 0, ?)`, w.nextEvent-events, w.nextEvent-1, w.firstTime, w.lastTime, time.Now().UnixNano())
}

// startAt begins the import with the first exported event.
func (w *writer) startAt(m exportMark) error {
	before, err := parseHash(m.Prev)
	if err != nil {
		return fmt.Errorf("the hash of the previous event: %w", err)
	}
	if w.nextEvent == 1 && m.ID > 1 {
		// Retention dropped the earlier events where the export comes from.
		a := Anchor{ID: m.ID - 1, Hash: before, Events: uint64(m.ID - 1), Reason: "import", Made: time.Now()}
		a.Time = time.Unix(0, 0)
		if _, err := w.addAnchor(&a, Hash{}); err != nil {
			return err
		}
		w.nextEvent, w.head, w.generationEnd, w.segmentEnd = m.ID, before, 0, m.ID-1
		return nil
	}
	if m.ID != w.nextEvent || before != w.head {
		return fmt.Errorf("%w: it has %d events", ErrNotEmpty, w.nextEvent-1)
	}
	return nil
}

func parseHash(text string) (h Hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%q is not a SHA-256 hash", text)
	}
	return Hash(b), nil
}
