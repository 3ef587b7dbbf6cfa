// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

// Defaults of Options.
const (
	DefaultBatch  = 1000
	DefaultDelay  = time.Second
	DefaultBuffer = 1_000_000
)

// Options configure a Recorder.
type Options struct {
	Path     string        // of the database; its folder is made if it is missing
	Keep     time.Duration // how long events are kept; 0 for ever
	KeepSize int64         // how large the database may get, in bytes; 0 for any size

	Batch int           // events are written when there are so many; 0 is DefaultBatch
	Delay time.Duration // or when the first of them is so old; 0 is DefaultDelay
	// Buffer is how many events wait at most while the database can't take them; 0 is
	// DefaultBuffer.
	Buffer int

	Version string // of nstrace, for Run
	Host    string // for Run; "" is this host's
	BootID  string // for Run; "" is this boot's

	// Report, if not nil, is told in one line what is wrong with the database and what
	// was done about it, once when it begins and once when it is over. It is called from
	// another goroutine.
	Report func(message string)
}

// errRecorded is that another recorder writes to a database.
var errRecorded = errors.New("another nstrace records to it")

// chunkSize is how many events are gathered in one piece.
const chunkSize = 1024

// maxTransaction is how many chunks are written at once.
const maxTransaction = 32

// A Recorder writes events to a database. Its methods can be called from several
// goroutines. What Append has taken is on the disk once Sync has returned nil.
type Recorder struct {
	o        Options
	lock     *os.File // nil until it could be had
	first    bool     // nobody had it before: no recorder knows the database
	previous *Run
	before   map[string]Snapshot
	stoodBy  bool
	opened   chan struct{} // closed once the three above are known

	beat time.Time // when the run was last noted to go on; only of run

	w     *writer // nil while the database can't be opened; only of run
	runID int64
	heir  bool // another recorder had the database, and may have written what waits; only of run

	mu      sync.Mutex
	pack    *packer
	chunks  [][]pending
	waiting int       // events in chunks, and those that are being written
	oldest  time.Time // when the first of chunks came
	loss    map[event.Type]uint64
	from    time.Time // of the first in loss
	to      time.Time
	fault   error // why the database takes nothing now
	written uint64
	taken   uint64
	synced  *sync.Cond
	jobs    []job
	closing bool

	wake chan struct{}
	done chan struct{}
}

// A job is something that the goroutine that writes does between batches.
type job struct {
	do   func(*writer) error
	done chan error
}

// Create opens the database at o.Path, or makes it, and notes that a run begins. A database
// that is corrupt is set aside, under another name, and a new one begun. Where it can't be
// opened for a reason that can pass (the disk is full, another program has it locked), that
// is reported, and tried again until it is: events wait meanwhile, and Opened tells. So it is
// where another recorder writes to it: this one then writes what that one did not, once it
// ended. The error wraps ErrNewer or ErrNotHistory where it is one of these.
func Create(o Options) (*Recorder, error) {
	if o.Batch <= 0 {
		o.Batch = DefaultBatch
	}
	if o.Delay <= 0 {
		o.Delay = DefaultDelay
	}
	if o.Buffer <= 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Host == "" {
		o.Host, _ = os.Hostname()
	}
	if o.BootID == "" {
		o.BootID = procfs.BootID()
	}
	if o.Report == nil {
		o.Report = func(string) {}
	}
	r := &Recorder{o: o, pack: newPacker(), opened: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{})}
	r.synced = sync.NewCond(&r.mu)
	if err := r.open(); err != nil {
		if !passing(err) {
			if r.first {
				err = errors.Join(err, os.Remove(r.lock.Name()))
			}
			return nil, errors.Join(err, r.unlock())
		}
		r.fail(err)
	}
	go r.run()
	return r, nil
}

// passing says whether what keeps a database from being opened can go away by itself, and
// is no mistake in what was asked for.
func passing(err error) bool {
	return errors.Is(err, errFull) || errors.Is(err, errLocked) || errors.Is(err, ErrCorrupt) || standsBy(err) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EIO) || sqlite.ErrCode(err).ToPrimary() == sqlite.ResultIOErr
}

func (r *Recorder) unlock() error {
	if r.lock == nil {
		return nil
	}
	return r.lock.Close()
}

// fileMode keeps what processes did between root and itself. That of a database that is
// there is left as it is.
const fileMode = 0o600

// lockFile takes the lock that says that path is being recorded to. It is a file of its
// own: to close the database's, other than by SQLite, would give up SQLite's locks.
func lockFile(path string) (f *os.File, first bool, err error) {
	name := path + "-lock"
	f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if first = err == nil; first {
		err = f.Chmod(fileMode) // whatever the umask is
	} else if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
	}
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %w", path, errRecorded)
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, first, nil
}

// isSQLite says whether a file begins as a database does.
func isSQLite(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	var head [len(magic)]byte
	_, err = io.ReadFull(f, head[:])
	return err == nil && string(head[:]) == magic
}

// open opens the database and begins a run in it.
func (r *Recorder) open() (err error) {
	if r.lock == nil {
		if err := os.MkdirAll(filepath.Dir(r.o.Path), 0o755); err != nil {
			return err
		}
		if r.lock, r.first, err = lockFile(r.o.Path); err != nil {
			if standsBy(err) && r.runID == 0 {
				r.heir, r.stoodBy = true, true
			}
			return err
		}
	}
	w, err := openWriter(context.Background(), r.o.Path)
	if errors.Is(err, ErrCorrupt) {
		if r.first && !isSQLite(r.o.Path) {
			return fmt.Errorf("%s: %w", r.o.Path, ErrNotHistory) // somebody's file
		}
		var aside string
		if aside, err = setAside(r.o.Path, time.Now()); err != nil {
			return err
		}
		r.o.Report(fmt.Sprintf("history: %s: the database is corrupt: it is now %s, and a new one begins", r.o.Path, aside))
		w, err = openWriter(context.Background(), r.o.Path)
	}
	if err != nil {
		return err
	}
	r.w = w
	if r.runID != 0 { // again, in this run
		w.run = r.runID
		if n, err := number(w.conn, "SELECT count(*) FROM run WHERE id = ?", w.run); err != nil || n > 0 {
			return err
		}
	} else if r.previous, r.before, err = w.previous(); err != nil {
		r.w = nil
		return errors.Join(explain(r.o.Path, err), w.close())
	}
	if err := w.begin(&r.o); err != nil {
		r.w = nil
		return errors.Join(explain(r.o.Path, err), w.close())
	}
	r.runID = w.run
	select {
	case <-r.opened:
	default:
		close(r.opened)
	}
	return nil
}

// setAside gives a database another name.
func setAside(path string, now time.Time) (string, error) {
	aside := path + ".corrupt-" + now.UTC().Format("20060102T150405Z")
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return aside, nil
}

// Opened is closed once the database was opened, which is before Create returns if nothing
// is wrong with it.
func (r *Recorder) Opened() <-chan struct{} { return r.opened }

// Previous returns the last run before this one, nil if there was none. It is known once
// Opened is closed, as what Snapshot returns.
func (r *Recorder) Previous() *Run { return r.previous }

// StoodBy says whether another recorder wrote to the database when this one began. Then
// Previous is that one's run, and if it ended after this one's tracer began, one of them
// watched at any time. It is known once Opened is closed.
func (r *Recorder) StoodBy() bool { return r.stoodBy }

// Snapshot returns what the last run before this one, or an earlier one, left under a name
// with PutSnapshot.
func (r *Recorder) Snapshot(name string) (Snapshot, bool) {
	s, ok := r.before[name]
	return s, ok
}

// PutSnapshot leaves something under a name for the next run, in place of what is there
// under it. It returns once it is on the disk.
func (r *Recorder) PutSnapshot(name string, version int, data []byte) error {
	if len(data) >= maxValue {
		return fmt.Errorf("history: a snapshot of %d bytes is too long", len(data))
	}
	return r.ask(func(w *writer) error {
		return execute(w.conn, "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?)", name, version, w.run, time.Now().UnixNano(), data)
	})
}

// Append takes an event to write, and never waits for the disk. It keeps nothing of e but
// what is never changed. Where the buffer is full the event is lost, and counted: see
// TakeLoss. It has an error only after Close.
func (r *Recorder) Append(e *event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return os.ErrClosed
	}
	if standsBy(r.fault) {
		r.forgetOld(e.Time)
	}
	if r.waiting >= r.o.Buffer {
		if r.loss == nil {
			r.loss, r.from = map[event.Type]uint64{}, e.Time
		}
		r.loss[e.Type] += max(1, e.Count)
		r.to = e.Time
		return nil
	}
	last := len(r.chunks) - 1
	if last < 0 || len(r.chunks[last]) == chunkSize {
		r.chunks = append(r.chunks, make([]pending, 0, chunkSize))
		last++
	}
	if last == 0 && len(r.chunks[0]) == 0 {
		r.oldest = time.Now()
		r.poke()
	}
	r.chunks[last] = append(r.chunks[last], r.pack.pack(e))
	r.waiting++
	r.taken++
	if r.waiting == r.o.Batch {
		r.poke()
	}
	return nil
}

func (r *Recorder) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// TakeLoss returns what was lost because the buffer was full, since it was asked for last,
// once there is room in the buffer again; nil for nothing. Whoever asks sees to it that it is told, as
// a tracer.TraceLoss in the stream and here.
func (r *Recorder) TakeLoss() *event.Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loss == nil || (r.waiting >= r.o.Buffer && !r.closing) {
		return nil
	}
	l := &event.Loss{Records: r.loss, Reason: "history", From: r.from, To: r.to}
	r.loss = nil
	return l
}

// Sync returns once everything taken so far is on the disk. It returns an error instead if
// the database takes nothing now.
func (r *Recorder) Sync() error {
	return r.ask(func(*writer) error { return nil })
}

// ask has the goroutine that writes do something, after all that was taken so far.
func (r *Recorder) ask(do func(*writer) error) error {
	j := job{do, make(chan error, 1)}
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return os.ErrClosed
	}
	r.jobs = append(r.jobs, j)
	r.poke()
	r.mu.Unlock()
	return <-j.done
}

// Close writes what was taken, notes that the run ended in good order, and closes the
// database. What could not be written is in the error.
func (r *Recorder) Close() error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return nil
	}
	r.closing = true
	r.poke()
	r.mu.Unlock()
	<-r.done

	var errs []error
	if r.waiting > 0 && !standsBy(r.fault) { // whoever has the database writes them
		errs = append(errs, fmt.Errorf("history: %d events were not written: %w", r.waiting, r.fault))
	}
	if r.w != nil {
		if r.waiting == 0 {
			errs = append(errs, explain(r.o.Path, r.w.end()))
		}
		errs = append(errs, r.w.close())
	}
	return errors.Join(append(errs, r.unlock())...)
}

// How long is waited after a fault before the next try.
const (
	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
)

// run writes until Close.
func (r *Recorder) run() {
	defer close(r.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pause := retryFirst
	tidy := time.Now()
	for {
		chunks, jobs, closing := r.next()
		if chunks == nil && jobs == nil {
			if closing {
				return
			}
			if now := time.Now(); r.w != nil && !now.Before(tidy) {
				tidy = now.Add(r.tidy(now))
			}
			timer.Reset(r.due(tidy))
			select {
			case <-r.wake:
			case <-timer.C:
			}
			continue
		}
		err := r.write(chunks)
		for _, j := range jobs {
			if err != nil {
				j.done <- err
			} else {
				j.done <- explain(r.o.Path, r.w.transaction(func() error { return j.do(r.w) }))
			}
		}
		if err == nil {
			pause = retryFirst
			// As much as came, and some more: else it grows in a storm that does not end.
			for n := 0; n <= len(chunks)*chunkSize; n += pruneStep {
				now := time.Now()
				if now.Before(tidy) {
					break
				}
				tidy = now.Add(r.tidy(now))
			}
			continue
		}
		if closing {
			return
		}
		// Not r.wake: more events do not make the database better. A job or Close does not wait.
		for wait := time.After(pause); wait != nil; {
			select {
			case <-wait:
				wait = nil
			case <-r.wake:
				if r.hurried() {
					wait = nil
				}
			}
		}
		pause = min(2*pause, retryLast)
	}
}

func (r *Recorder) hurried() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing || len(r.jobs) > 0
}

// next returns what is to be done now: events to write, and then jobs.
func (r *Recorder) next() (chunks [][]pending, jobs []job, closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.chunks)
	if n > 0 && (r.closing || len(r.jobs) > 0 || r.waiting >= r.o.Batch || time.Since(r.oldest) >= r.o.Delay) {
		n = min(n, maxTransaction)
		chunks = r.chunks[:n:n]
		if r.chunks = r.chunks[n:]; len(r.chunks) == 0 {
			r.chunks = nil
		}
	}
	if len(r.chunks) == 0 {
		jobs, r.jobs = r.jobs, nil
	}
	return chunks, jobs, r.closing
}

// due is how long there is nothing to do if nobody wakes the goroutine.
func (r *Recorder) due(tidy time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := time.Until(tidy)
	if len(r.chunks) > 0 {
		first = min(first, r.o.Delay-time.Since(r.oldest))
	}
	return max(first, 0)
}

// write writes events. What could not be written is the next to be written again.
func (r *Recorder) write(chunks [][]pending) error {
	err := r.try(chunks)
	n := 0 // now, since try may have found some to be written
	for _, c := range chunks {
		n += len(c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.waiting -= n
		r.written += uint64(n)
		switch {
		case standsBy(r.fault):
			r.o.Report(fmt.Sprintf("history: %s: recording, from where the other nstrace ended", r.o.Path))
		case r.fault != nil:
			r.o.Report(fmt.Sprintf("history: %s: recording again, with what was buffered", r.o.Path))
		}
		r.fault = nil
		return nil
	}
	if chunks != nil {
		r.chunks = append(chunks, r.chunks...)
	}
	r.fail(err)
	return err
}

// fail notes that the database takes nothing now, and says so the first time.
func (r *Recorder) fail(err error) {
	switch {
	case standsBy(err):
		if r.fault == nil {
			r.o.Report(fmt.Sprintf("history: %v: the stream goes on, and is recorded there from where that one ends", err))
		}
	case r.fault == nil || standsBy(r.fault):
		r.o.Report(fmt.Sprintf("history: %v: recording goes on in memory, for up to %d events, until it is writable again", err, r.o.Buffer))
	}
	r.fault = err
}

func (r *Recorder) try(chunks [][]pending) error {
	if r.w != nil && r.w.moved() {
		if err := r.leave(); err != nil {
			return err
		}
	}
	if r.w == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	if err := r.takeOver(chunks); err != nil {
		return err
	}
	if chunks == nil {
		return nil
	}
	err := explain(r.o.Path, r.w.batch(chunks))
	if err == nil {
		return nil
	}
	// Begin with nothing that is left of it.
	err = errors.Join(err, r.w.close())
	r.w = nil
	if errors.Is(err, ErrCorrupt) {
		return r.replace(chunks)
	}
	return err
}

// leave gives up a database that somebody moved, removed or replaced, and its lock, which may
// be gone as well.
func (r *Recorder) leave() error {
	r.o.Report(fmt.Sprintf("history: %s: somebody moved, removed or replaced the database: recording goes on in a new one, or in what is there now", r.o.Path))
	err := errors.Join(explain(r.o.Path, r.w.leave()), r.unlock())
	r.w, r.lock, r.runID = nil, nil, elsewhere
	return err
}

// elsewhere is the runID of a run that the database at the path does not know.
const elsewhere = -1

// replace sets a database aside that turned out to be corrupt, and writes to a new one.
func (r *Recorder) replace(chunks [][]pending) error {
	aside, err := setAside(r.o.Path, time.Now())
	if err != nil {
		return err
	}
	r.o.Report(fmt.Sprintf("history: %s: the database is corrupt: it is now %s, and a new one begins", r.o.Path, aside))
	if err := r.open(); err != nil {
		return err
	}
	return explain(r.o.Path, r.w.batch(chunks))
}

// previous finds the last run, and what was left for the next.
func (w *writer) previous() (*Run, map[string]Snapshot, error) {
	runs, err := runs(w.conn, "ORDER BY run.id DESC LIMIT 1")
	if err != nil {
		return nil, nil, err
	}
	before, err := snapshots(w.conn, "")
	if err != nil || len(runs) == 0 {
		return nil, before, err
	}
	return &runs[0], before, nil
}

// begin notes that a run begins.
func (w *writer) begin(o *Options) error {
	return w.transaction(func() error {
		id, err := w.originID(&origin{host: o.Host, bootID: o.BootID})
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		if err := execute(w.conn, "INSERT INTO run VALUES (NULL, ?, ?, ?, ?, NULL)", id, o.Version, now, now); err != nil {
			return err
		}
		w.run = w.conn.LastInsertRowID()
		return nil
	})
}

// end notes that the run ends in good order.
func (w *writer) end() error {
	now := time.Now().UnixNano()
	return execute(w.conn, "UPDATE run SET last = ?1, stopped = ?1 WHERE id = ?2", now, w.run)
}
