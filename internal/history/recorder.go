// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/safefile"
)

// Defaults of Options.
const (
	DefaultBatch  = 1000
	DefaultDelay  = time.Second
	DefaultBuffer = 1_000_000
)

// Options configure a Recorder.
type Options struct {
	Path     string        // of the database; Create makes missing folders
	Keep     time.Duration // how long to keep events; 0: forever
	KeepSize int64         // how much of the file may be in use, in bytes; 0: no limit

	Batch int           // write when this many events wait; 0: DefaultBatch
	Delay time.Duration // or when the oldest of them has waited this long; 0: DefaultDelay
	// Buffer is the maximum number of events that wait while the database cannot be written; 0:
	// DefaultBuffer. Fewer wait if they need more than eventBytes each.
	Buffer int
	// WaitForFolder makes Create wait in the background while the folder of the database is missing or its file system
	// is read-only, as early in a boot. Create then makes no folder.
	WaitForFolder bool

	Version string // nstrace's, for Run
	Host    string // for Run; "": this host's name
	BootID  string // for Run; "": this boot's id

	// Report, if not nil, receives one line when a problem with the database begins and one when it
	// ends. Another goroutine calls it.
	Report func(message string)
}

// eventBytes is the memory for a waiting event. Most need half of that.
const eventBytes = 512

// errRecorded reports that another recorder writes to the database.
var errRecorded = errors.New("another nstrace records to it")

// chunkSize is the number of events for which memory is allocated at once.
const chunkSize = 1024

// maxTransaction is the maximum number of chunks in a transaction.
const maxTransaction = 32

// A Recorder writes events to a database. Its methods are safe for concurrent use. An event that
// Append took is on the disk once a later Sync returns nil.
type Recorder struct {
	options   Options
	lock      *os.File // nil until it was taken
	locked    atomic.Bool
	visitors  visitors
	newLock   bool // the lock file is new: no recorder has used this path
	previous  *Run
	snapshots map[string]Snapshot
	stoodBy   bool
	opened    chan struct{} // closed once previous, snapshots and stoodBy are known

	started  time.Time // when Create was called
	refused  error     // why the database can never be opened, after WaitForFolder
	lastBeat time.Time // the last heartbeat; used only by run

	w         *writer // nil while the database is not open; used only by run
	runID     int64
	successor bool // another recorder may have written the waiting events; used only by run

	mu      sync.Mutex
	pack    *packer
	chunks  [][]pending
	waiting int   // events in chunks and in the current transaction
	bytes   int64 // their memory
	quota   quota
	used    int64     // bytes of the database that were in use after the last write
	wasFull bool      // see databaseFull
	oldest  time.Time // when the first event of chunks came
	loss    map[event.Type]uint64
	from    time.Time // time of the first event in loss
	to      time.Time
	fault   error // why the database cannot be written; nil if it can
	written uint64
	head    *event.Head // see Head
	taken   uint64
	synced  *sync.Cond
	jobs    []job
	closing bool

	wake chan struct{}
	done chan struct{}
}

// A job is a function that the writing goroutine runs between batches.
type job struct {
	run  func(*writer) error
	done chan error
}

// Create opens the database at o.Path, or creates it, and begins a run.
// Its reaction to a problem with the database depends on the problem:
//
//   - Another recorder writes to it: Create stands by. When that recorder ends, this one writes
//     the events that are missing and continues.
//   - The folder of the database is not ready, and o.WaitForFolder is set: Create buffers events and tries again after
//     each change of the mounts, and every few seconds.
//   - The disk is full, the database is locked, or I/O fails: Create buffers events and tries again.
//   - The database is corrupt: Create renames it and starts a new one.
//   - Any other problem: Create returns the error. It wraps ErrNewer or ErrNotHistory if one of
//     them applies.
//
// Report receives all problems but the last. In the first three, Opened is closed later.
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
	r := &Recorder{options: o, started: time.Now(), pack: newPacker(), opened: make(chan struct{}), wake: make(chan struct{}, 1), done: make(chan struct{})}
	r.synced = sync.NewCond(&r.mu)
	r.quota = quota{size: o.KeepSize / quotaOf, report: o.Report}
	if info, err := os.Stat(o.Path); err == nil {
		r.used = info.Size() // until the first write
	}
	err := r.open()
	r.noteHead()
	if err != nil {
		if !isTemporary(err) {
			if r.newLock {
				err = errors.Join(err, os.Remove(r.lock.Name()))
			}
			return nil, errors.Join(err, r.unlock())
		}
		r.fail(err)
	}
	go r.run()
	return r, nil
}

// isTemporary reports whether an error of opening the database is temporary, and not a mistake of
// the caller.
func isTemporary(err error) bool {
	return errors.Is(err, errFull) || errors.Is(err, errLocked) || errors.Is(err, ErrCorrupt) || isRecorded(err) || isWaiting(err) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EIO) || sqlite.ErrCode(err).ToPrimary() == sqlite.ResultIOErr
}

func (r *Recorder) unlock() error {
	r.locked.Store(false)
	if r.lock == nil {
		return nil
	}
	return r.lock.Close()
}

// lockFile takes the lock of the recorder of path. The lock is a separate file: closing the
// database file outside SQLite would release SQLite's locks.
func lockFile(path string) (f *os.File, first bool, err error) {
	name := path + "-lock"
	f, err = safefile.Open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if first = err == nil; errors.Is(err, os.ErrExist) {
		f, err = safefile.Open(name, os.O_RDWR|os.O_CREATE)
	}
	if err != nil {
		return nil, false, err
	}
	err = lockAlone(f)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %w", path, errRecorded)
	}
	if err != nil {
		return nil, false, errors.Join(err, f.Close())
	}
	return f, first, nil
}

// lockAlone locks the file of a recorder, although Sync can have it for a moment, with others (LOCK_SH).
func lockAlone(f *os.File) (err error) {
	for range 100 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if sharedErr := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); sharedErr != nil {
			return err // another recorder has it
		}
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		time.Sleep(time.Millisecond)
	}
	return err
}

// isSQLite reports whether a file begins like a database.
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
		if r.options.WaitForFolder && r.runID == 0 {
			err = folderReady(r.options.Path)
		} else {
			err = safefile.MkdirAll(r.options.Path)
		}
		if err != nil {
			return err
		}
		if r.lock, r.newLock, err = lockFile(r.options.Path); err != nil {
			if isRecorded(err) && r.runID == 0 {
				r.successor, r.stoodBy = true, true
			}
			return err
		}
		r.locked.Store(true)
	}
	w, err := openWriter(context.Background(), r.options.Path)
	if errors.Is(err, ErrCorrupt) {
		if r.newLock && !isSQLite(r.options.Path) {
			return fmt.Errorf("%s: %w", r.options.Path, ErrNotHistory) // not ours to rename
		}
		var aside string
		if aside, err = setAside(r.options.Path, time.Now()); err != nil {
			return err
		}
		r.options.Report(fmt.Sprintf("history: %s: the database is corrupt: renamed to %s, starting a new one", r.options.Path, aside))
		w, err = openWriter(context.Background(), r.options.Path)
	}
	if err != nil {
		return err
	}
	w.setLimit(r.options.KeepSize)
	r.w = w
	if r.runID != 0 { // this run began in it
		w.run = r.runID
		if n, err := number(w.conn, "SELECT count(*) FROM run WHERE id = ?", w.run); err != nil || n > 0 {
			return err
		}
	} else if r.previous, r.snapshots, err = w.previous(); err != nil {
		r.w = nil
		return errors.Join(explain(r.options.Path, err), w.close())
	}
	if err := w.beginRun(&r.options, r.started); err != nil {
		r.w = nil
		return errors.Join(explain(r.options.Path, err), w.close())
	}
	r.runID = w.run
	select {
	case <-r.opened:
	default:
		close(r.opened)
	}
	return nil
}

// setAside renames a database and its log.
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

// Opened returns a channel that is closed once the database is open. If there is no problem, that
// is before Create returns.
func (r *Recorder) Opened() <-chan struct{} { return r.opened }

// Previous returns the run before this one, nil if there is none. It is valid once Opened is
// closed.
func (r *Recorder) Previous() *Run { return r.previous }

// StoodBy reports whether another recorder wrote to the database when this one began. Then Previous
// is the other one's run. If that run ended after this one's tracer began, there was no time in
// which neither traced. StoodBy is valid once Opened is closed.
func (r *Recorder) StoodBy() bool { return r.stoodBy }

// Snapshot returns the snapshot with a name that the newest earlier run left, and whether there is
// one. It is valid once Opened is closed.
func (r *Recorder) Snapshot(name string) (Snapshot, bool) {
	s, ok := r.snapshots[name]
	return s, ok
}

// PutSnapshot replaces the snapshot with a name. It returns once the snapshot is on the disk.
func (r *Recorder) PutSnapshot(name string, version int, data []byte) error {
	if len(data) >= maxValue {
		return fmt.Errorf("history: a snapshot of %d bytes is too long", len(data))
	}
	return r.runJob(func(w *writer) error {
		return execute(w.conn, "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?)", name, version, w.run, time.Now().UnixNano(), data)
	})
}

// Append takes an event. It never waits for the disk. It copies what it keeps of e, except for
// values that never change, such as Process. If the buffer is full, it drops the event and counts
// it for TakeLoss. After Close, it returns os.ErrClosed; there is no other error.
func (r *Recorder) Append(e *event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return os.ErrClosed
	}
	if r.refused != nil {
		return r.refused
	}
	if isRecorded(r.fault) {
		r.dropOld(e.Time)
	}
	if r.full() {
		if r.loss == nil {
			r.loss, r.from = map[event.Type]uint64{}, e.Time
		}
		r.loss[e.Type] += max(1, e.Count)
		r.to = e.Time
		return nil
	}
	q := r.pack.pack(e)
	if !isRecorded(r.fault) && !r.quota.add(e, int(q.bytes), r.databaseFull(), time.Now()) {
		return nil
	}
	last := len(r.chunks) - 1
	if last < 0 || len(r.chunks[last]) == chunkSize {
		r.chunks = append(r.chunks, make([]pending, 0, chunkSize))
		last++
	}
	if last == 0 && len(r.chunks[0]) == 0 {
		r.oldest = time.Now()
		r.wakeWriter()
	}
	r.chunks[last] = append(r.chunks[last], q)
	r.waiting++
	r.bytes += int64(q.bytes)
	r.taken++
	if r.waiting == r.options.Batch {
		r.wakeWriter()
	}
	return nil
}

// databaseFull reports whether old events are dropped for new ones: whether the database reached its limit
// and, since then, always used more than half of that. Pruning can leave it an eighth below the limit, or
// more if the events differ in size. The caller holds r.mu.
func (r *Recorder) databaseFull() bool {
	switch used := r.used + r.bytes; {
	case used > r.options.KeepSize:
		r.wasFull = true
	case used < r.options.KeepSize/2:
		r.wasFull = false
	}
	return r.wasFull
}

// full reports whether no more events can wait. The caller holds r.mu.
func (r *Recorder) full() bool {
	return r.waiting >= r.options.Buffer || r.bytes >= int64(r.options.Buffer)*eventBytes
}

// remove removes events from those that wait. The caller holds r.mu.
func (r *Recorder) remove(events []pending) {
	r.waiting -= len(events)
	for i := range events {
		r.bytes -= int64(events[i].bytes)
	}
}

func (r *Recorder) wakeWriter() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// TakeLoss returns the events that were dropped because the buffer was full, since the last call,
// and nil if there are none or the buffer is still full. The caller appends the loss as a
// trace.loss.
func (r *Recorder) TakeLoss() *event.Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loss == nil || (r.full() && !r.closing) {
		return nil
	}
	l := &event.Loss{Records: r.loss, Reason: event.LossHistory, From: r.from, To: r.to}
	r.loss = nil
	return l
}

// TakeQuotaLoss returns the events since the last call that accounts added beyond their quota, nil if
// there are none. Unless the run ends, it does so once in a while, because each loss is an event, too.
func (r *Recorder) TakeQuotaLoss(end bool) *event.Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.quota.take(end, time.Now())
}

// Sync returns nil once all events taken so far are on the disk, and an error if the database
// cannot be written.
func (r *Recorder) Sync() error {
	return r.runJob(func(*writer) error { return nil })
}

// runJob runs do in the writing goroutine, after all events taken so far.
func (r *Recorder) runJob(do func(*writer) error) error {
	j := job{do, make(chan error, 1)}
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return os.ErrClosed
	}
	r.jobs = append(r.jobs, j)
	r.wakeWriter()
	r.mu.Unlock()
	return <-j.done
}

// Close writes the waiting events, marks the run as stopped in order, and closes the database. It
// returns an error if it could not write all events.
func (r *Recorder) Close() error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return nil
	}
	r.closing = true
	r.wakeWriter()
	r.mu.Unlock()
	<-r.done

	var errs []error
	if r.waiting > 0 && !isRecorded(r.fault) { // the other recorder writes them
		errs = append(errs, fmt.Errorf("history: %d events were not written: %w", r.waiting, r.fault))
	}
	if r.w != nil {
		if r.waiting == 0 {
			errs = append(errs, explain(r.options.Path, r.w.endRun()))
		}
		errs = append(errs, r.w.close())
	}
	return errors.Join(append(errs, r.unlock())...)
}

// Pauses between tries after an error. Only tests change them.
var (
	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
)

// run is the writing goroutine. It ends after Close.
func (r *Recorder) run() {
	defer close(r.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pause := retryFirst
	tidy := time.Now()
	waits := r.options.WaitForFolder && r.w == nil // also tries without events
	var mounts <-chan struct{}                     // changed; nil once the database was open
	endMounts := func() {}
	if waits {
		mounts, endMounts = procfs.MountChanges()
	}
	defer func() { endMounts() }()
	for {
		chunks, jobs, closing := r.next()
		if chunks == nil && jobs == nil && (closing || !waits) {
			if closing {
				return
			}
			if now := time.Now(); r.w != nil && !now.Before(tidy) {
				tidy = now.Add(r.tidy(now))
			}
			timer.Reset(r.untilNext(tidy))
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
				j.done <- explain(r.options.Path, r.w.transaction(func() error { return j.run(r.w) }))
			}
		}
		if err == nil {
			pause = retryFirst
			if waits {
				endMounts()
				waits, mounts, endMounts = false, nil, func() {}
			}
			if used, err := r.w.used(); err == nil && r.options.KeepSize > 0 {
				if used > r.options.KeepSize {
					tidy = time.Now()
				}
				r.mu.Lock()
				r.used = used
				r.mu.Unlock()
			}
			// Drop a few more events than were written, or the database grows in a storm that does
			// not end.
			for enough := r.w.dropped + int64(len(chunks)*chunkSize+pruneStep); r.w.dropped < enough; {
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
		// More events do not hurry the next try. A job or Close does.
		for wait := time.After(pause); wait != nil; {
			select {
			case <-wait:
				wait = nil
			case <-mounts:
				wait = nil
			case <-r.wake:
				if r.isUrgent() {
					wait = nil
				}
			}
		}
		pause = min(2*pause, retryLast)
	}
}

func (r *Recorder) isUrgent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing || len(r.jobs) > 0
}

// next takes what to do now: events to write, then jobs.
func (r *Recorder) next() (chunks [][]pending, jobs []job, closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.chunks)
	if n > 0 && (r.closing || len(r.jobs) > 0 || r.waiting >= r.options.Batch || time.Since(r.oldest) >= r.options.Delay) {
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

// untilNext returns how long the goroutine can sleep unless another goroutine wakes it.
func (r *Recorder) untilNext(tidy time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := time.Until(tidy)
	if len(r.chunks) > 0 {
		first = min(first, r.options.Delay-time.Since(r.oldest))
	}
	return max(first, 0)
}

// write writes events. If it fails, they wait again, before all others.
func (r *Recorder) write(chunks [][]pending) error {
	err := r.writeOnce(chunks)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		for _, c := range chunks { // without the events that another recorder wrote
			r.remove(c)
			r.written += uint64(len(c))
		}
		r.noteHead()
		switch {
		case isRecorded(r.fault):
			r.options.Report(fmt.Sprintf("history: %s: recording continues where the other nstrace ended", r.options.Path))
		case isWaiting(r.fault):
			r.options.Report(fmt.Sprintf("history: %s: recording, including the buffered events", r.options.Path))
		case r.fault != nil:
			r.options.Report(fmt.Sprintf("history: %s: recording again, including the buffered events", r.options.Path))
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

// fail notes that the database cannot be written. It reports this the first time.
func (r *Recorder) fail(err error) {
	switch {
	case isRecorded(err):
		if r.fault == nil || isWaiting(r.fault) {
			r.options.Report(fmt.Sprintf("history: %v: streaming, and standing by to record when it ends", err))
		}
	case isWaiting(err):
		if r.fault == nil {
			r.options.Report(fmt.Sprintf("history: %v: keeping up to %d events in memory until the database can be there", err, r.options.Buffer))
		}
	case r.options.WaitForFolder && r.runID == 0 && !isTemporary(err):
		r.refused = err
	case r.fault == nil || isRecorded(r.fault) || isWaiting(r.fault):
		r.options.Report(fmt.Sprintf("history: %v: buffering up to %d events in memory until it is writable again", err, r.options.Buffer))
	}
	r.fault = err
}

func (r *Recorder) writeOnce(chunks [][]pending) error {
	if r.w != nil && r.w.moved() {
		if err := r.leaveMoved(); err != nil {
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
	err := explain(r.options.Path, r.w.batch(chunks))
	if err == nil {
		return nil
	}
	// Reopen the database before the next try.
	err = errors.Join(err, r.w.close())
	r.w = nil
	if errors.Is(err, ErrCorrupt) {
		return r.replace(chunks)
	}
	return err
}

// leaveMoved gives up a database that somebody moved, removed or replaced. It also gives up the
// lock, whose file may be gone as well.
func (r *Recorder) leaveMoved() error {
	r.options.Report(fmt.Sprintf("history: %s: somebody moved, removed or replaced the database: recording continues in the one that is there now, or in a new one", r.options.Path))
	err := errors.Join(explain(r.options.Path, r.w.closeMoved()), r.unlock())
	r.w, r.lock, r.runID = nil, nil, unknownRun
	return err
}

// unknownRun is the runID while the database at the path does not contain this run.
const unknownRun = -1

// replace renames a corrupt database and writes to a new one.
func (r *Recorder) replace(chunks [][]pending) error {
	aside, err := setAside(r.options.Path, time.Now())
	if err != nil {
		return err
	}
	r.options.Report(fmt.Sprintf("history: %s: the database is corrupt: renamed to %s, starting a new one", r.options.Path, aside))
	if err := r.open(); err != nil {
		return err
	}
	return explain(r.options.Path, r.w.batch(chunks))
}

// previous returns the last run and all snapshots.
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

// beginRun adds a row for this run.
func (w *writer) beginRun(o *Options, started time.Time) error {
	return w.transaction(func() error {
		id, err := w.originID(newOrigin(originKey{host: o.Host, bootID: o.BootID}))
		if err != nil {
			return err
		}
		if err := execute(w.conn, "INSERT INTO run VALUES (NULL, ?, ?, ?, ?, NULL)", id, o.Version, started.UnixNano(), time.Now().UnixNano()); err != nil {
			return err
		}
		w.run = w.conn.LastInsertRowID()
		return nil
	})
}

// endRun marks the run as stopped in order.
func (w *writer) endRun() error {
	now := time.Now().UnixNano()
	return execute(w.conn, "UPDATE run SET last = ?1, stopped = ?1 WHERE id = ?2", now, w.run)
}
