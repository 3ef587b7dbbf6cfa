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

// A Verification is what Verify found.
type Verification struct {
	Events      uint64 // that are there
	First, Last int64  // their ids
	Head        Hash   // of the last
	// Dropped is how many events retention dropped before the first, and DroppedTo the time
	// of the last of them.
	Dropped   uint64
	DroppedTo time.Time
	Problems  []Problem // the first of them, up to MaxProblems
}

// MaxProblems is how many problems Verify looks for.
const MaxProblems = 100

// A Problem is where the chain is broken.
type Problem struct {
	ID   int64     // of the event, or of the first that is missing
	To   int64     // of the last that is missing, 0 where none is
	Time time.Time // of the event, or of the one before those that are missing
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

// link is the hash of an event behind another.
func link(before Hash, line []byte) (h Hash) {
	sum := sha256.New()
	sum.Write(before[:])
	sum.Write(line)
	sum.Sum(h[:0])
	return h
}

// Verify follows the chain of hashes and says where events were removed or changed. That
// the newest were removed is seen by what else refers to them; whoever can write the file
// can make a chain anew, which only a hash that was kept elsewhere (Head) shows.
func (db *DB) Verify(ctx context.Context) (*Verification, error) {
	v := &Verification{}
	before, err := db.anchors(v)
	if err != nil {
		return nil, explain(db.path, err)
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
		if anchor.ID >= next { // retention has gone on meanwhile
			next, hash, at = anchor.ID+1, anchor.Hash, anchor.Time
		}
		for i := range page {
			s := &page[i]
			if err := p.pass(s.ID); err != nil {
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
				if !report(Problem{s.ID, 0, s.at, "added behind what retention dropped"}) {
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
			if h := link(hash, line); h != s.Hash && !broken {
				if !report(Problem{s.ID, 0, at, "changed, or the hash of it"}) {
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

// anchors checks what retention left, and returns where the chain begins.
func (db *DB) anchors(v *Verification) (last Anchor, err error) {
	var seal Hash
	err = db.row("SELECT event, hash, time, events, reason, made, seal FROM anchor ORDER BY id", func(stmt *sqlite.Stmt) {
		a := Anchor{ID: stmt.ColumnInt64(0), Time: nanos(stmt.ColumnInt64(2)), Events: uint64(stmt.ColumnInt64(3)), Reason: stmt.ColumnText(4), Made: nanos(stmt.ColumnInt64(5))}
		stmt.ColumnBytes(1, a.Hash[:])
		var sealed Hash
		stmt.ColumnBytes(6, sealed[:])
		if want := a.seal(seal); want != sealed {
			v.Problems = append(v.Problems, Problem{ID: a.ID, Time: a.Time, What: "what retention noted here was changed"})
		}
		if a.ID != last.ID+int64(a.Events) {
			v.Problems = append(v.Problems, Problem{ID: last.ID + 1, To: a.ID, Time: last.Time, What: "dropped, but not by retention"})
		}
		seal, last = sealed, a
		v.Dropped += a.Events
		v.DroppedTo = a.Time
	})
	return last, err
}

// A rawEvent is an event, or why it can't be read.
type rawEvent struct {
	readEvent
	at time.Time
}

// rawPage reads some events, also such as can't be made out, and what had been dropped
// before.
func (db *DB) rawPage(p *plan) (page []rawEvent, anchor Anchor, more bool, err error) {
	db.trim()
	if err := db.begin(); err != nil {
		return nil, anchor, false, err
	}
	defer func() { err = errors.Join(err, db.commit()) }()
	if err := db.row("SELECT event, hash, time FROM anchor ORDER BY id DESC LIMIT 1", func(stmt *sqlite.Stmt) {
		anchor.ID, anchor.Time = stmt.ColumnInt64(0), nanos(stmt.ColumnInt64(2))
		stmt.ColumnBytes(1, anchor.Hash[:])
	}); err != nil {
		return nil, anchor, false, err
	}
	err = sqlitex.Execute(db.conn, "SELECT "+eventColumns+" FROM event WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
		&sqlitex.ExecOptions{Args: []any{p.from, p.to, p.limit}, ResultFunc: func(stmt *sqlite.Stmt) error {
			if db.full() {
				return errFullPage
			}
			s, err := db.event(stmt)
			if err != nil && !ofRow(err) {
				return err
			}
			page = append(page, rawEvent{readEvent{s, err}, nanos(stmt.ColumnInt64(1))})
			return nil
		}})
	if errors.Is(err, errFullPage) {
		err = nil
	}
	return page, anchor, len(page) >= p.limit || db.full(), err
}

// A mark is what an exported line has beside the event.
type mark struct {
	ID   int64  `json:"id"`
	Prev string `json:"prev,omitempty"`
	Hash string `json:"hash"`
}

// Export writes the whole history as JSON lines: each event as the stream had it, with
// one more member, history, that has its id and hash; the first one's also has the hash before
// it. It returns how many there were.
func (db *DB) Export(ctx context.Context, w io.Writer) (n uint64, err error) {
	out := bufio.NewWriterSize(w, 1<<16)
	encode := new(event.Encoder)
	var line []byte
	var last int64
	var before Hash
	// Nothing is left out: what comes back has to be the same chain.
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
			if err := db.row("SELECT hash FROM anchor WHERE event = ?", func(stmt *sqlite.Stmt) { stmt.ColumnBytes(0, before[:]) }, s.ID-1); err != nil {
				return n, explain(db.path, err)
			}
		} else if s.ID != last+1 {
			return n, fmt.Errorf("%s: events %d to %d went while it was exported: retention dropped them, or history verify says what did", db.path, last+1, s.ID-1)
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

// An ImportError says where an export can't be taken back.
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

// ErrNotEmpty is wrapped by the error for a history that does not end where an
// export begins.
var ErrNotEmpty = errors.New("the history does not end where the export begins")

// Import reads what Export wrote into the history at path, which has to be new, or to end
// with the event before the first of the export. It is all or nothing: with the first line that does not follow
// from the one before, or that is no event, it stops with an *ImportError and has changed
// nothing.
func Import(ctx context.Context, path string, in io.Reader) (n uint64, err error) {
	lock, _, err := lockFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
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

// importError leaves what is wrong with the export as it is.
func importError(path string, err error) error {
	var bad *ImportError
	if errors.As(err, &bad) {
		return bad
	}
	return explain(path, err)
}

// importBatch is how many events are noted as one batch.
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
			bad := func(m mark, at time.Time, format string, args ...any) error {
				return &ImportError{number, m.ID, at, fmt.Sprintf(format, args...)}
			}
			var with struct {
				event.Event
				History *mark `json:"history"`
			}
			// What this nstrace does not know it could not keep.
			decode := json.NewDecoder(bytes.NewReader(text))
			decode.DisallowUnknownFields()
			if err := decode.Decode(&with); err != nil {
				return n, bad(mark{}, time.Time{}, "it is no event: %v", err)
			}
			e := &with.Event
			if err := Check(e); err != nil {
				return n, bad(mark{}, e.Time, "it is no event: %v", err)
			}
			if with.History == nil {
				return n, bad(mark{}, e.Time, "it is of no export: it has no member history")
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
				return n, bad(m, e.Time, "event %d should come here", w.nextEvent)
			}
			if n%importBatch == 0 {
				w.firstTime, w.lastTime = 1<<63-1, -1<<63
			}
			room[0] = pack.pack(e)
			if err := w.add(&room[0]); err != nil {
				return n, err
			}
			if w.head != hash {
				return n, bad(m, e.Time, "it does not follow from the one before: it, or its hash, was changed")
			}
			n++
			if n%importBatch == 0 {
				if err := w.noteImport(importBatch); err != nil {
					return n, err
				}
			}
		}
		if readErr != nil {
			break
		}
	}
	if rest := int64(n % importBatch); rest > 0 {
		if err := w.noteImport(rest); err != nil {
			return n, err
		}
	}
	return n, w.noteWrites()
}

// errLongLine is a line of an export that is too long.
var errLongLine = errors.New("it is longer than any that nstrace writes")

// readLine reads a line, which can end with the input.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxValue {
			return nil, errLongLine
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// noteImport notes the last events as a batch.
func (w *writer) noteImport(events int64) error {
	if err := w.sealSome(events); err != nil {
		return err
	}
	return execute(w.conn, `INSERT INTO batch VALUES (?, ?, ?, ?, 0, ?)`, w.nextEvent-events, w.nextEvent-1, w.firstTime, w.lastTime, time.Now().UnixNano())
}

// startAt has the chain go on with an exported event.
func (w *writer) startAt(m mark) error {
	before, err := parseHash(m.Prev)
	if err != nil {
		return fmt.Errorf("the hash before the first event: %w", err)
	}
	if w.nextEvent == 1 && m.ID > 1 {
		// What was before was dropped where it comes from.
		a := Anchor{ID: m.ID - 1, Hash: before, Events: uint64(m.ID - 1), Reason: "import", Made: time.Now()}
		a.Time = time.Unix(0, 0)
		seal := a.seal(Hash{})
		if err := execute(w.conn, "INSERT INTO anchor VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", a.ID, a.Hash[:], a.Time.UnixNano(), int64(a.Events), a.Reason, a.Made.UnixNano(), seal[:]); err != nil {
			return err
		}
		w.nextEvent, w.head, w.generationEnd, w.sealed = m.ID, before, 0, m.ID-1
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
		return h, fmt.Errorf("%q is no SHA-256", text)
	}
	return Hash(b), nil
}
