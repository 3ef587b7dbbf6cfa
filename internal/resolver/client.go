// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/attribution"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/internal/runtimes"
)

const (
	// A child that ended is replaced at once, and again and again less often.
	restartFirst, restartLast = 50 * time.Millisecond, 30 * time.Second
	// calmTime is how long a child has to live for the next restart to be at once again.
	calmTime = time.Minute
	// notifyEvery is the minimum time between two messages.
	notifyEvery = time.Minute
	// userTime limits the wait for a name that nobody waits for any more.
	userTime = 15 * time.Second
	// A child of which maxStuck reads of command lines are stuck for stuckTime is replaced, at most once
	// in unstickEvery: no more command lines can be read until then.
	maxStuck                = 4
	stuckTime, unstickEvery = answerPatience, time.Minute
	// maxCalls limits the requests in progress.
	maxCalls = 1024
	// maxChanges limits the messages that wait for the one who asked.
	maxChanges = 1024
	// maxDials limits the connections that are being made.
	maxDials = 16
)

// ErrGone is the error of a request without an answer: the child ended, or does not read.
var ErrGone = errors.New("the process that looks up names does not answer")

// Options configure a Client.
type Options struct {
	// Notify takes a sentence about a child that ended or cannot be started.
	Notify func(message string)
	// User is the user and the group of the child, see [FreeUser]. 0 is the caller's user.
	User uint32
	// Command is the program with its arguments, nil for this one with Name.
	Command []string
}

// A Client asks a child. It starts the child, and another one when that ends. Its methods are safe for
// concurrent use.
type Client struct {
	opts Options
	stop chan struct{}
	done chan struct{}

	mu       sync.Mutex
	process  *process // nil while there is none
	calls    map[uint64]*call
	lastID   uint64
	sockets  map[string]runtimes.Candidate // by path: what the child may have connections to
	unstuck  time.Time                     // when a child was replaced because it was stuck
	dialing  chan struct{}
	notified time.Time
}

// A call is a request in progress.
type call struct {
	id      uint64
	op      op
	since   time.Time
	answers chan *message // closed after the last one
}

// Start starts a child. It does not wait until that is ready. Without one, and without an answer in time,
// what was asked stays unknown.
func Start(o Options) *Client {
	if o.Command == nil {
		o.Command = []string{"/proc/self/exe", Name}
	}
	c := &Client{
		opts: o, stop: make(chan struct{}), done: make(chan struct{}), calls: map[uint64]*call{},
		sockets: map[string]runtimes.Candidate{}, dialing: make(chan struct{}, maxDials),
	}
	started := make(chan struct{})
	go c.supervise(started)
	<-started
	return c
}

// Close ends the child.
func (c *Client) Close() error {
	close(c.stop)
	<-c.done
	return nil
}

// supervise keeps a child running. It closes started after the first attempt.
func (c *Client) supervise(started chan struct{}) {
	defer close(c.done)
	// Never unlocked: the kernel kills the child when the thread that started it ends.
	runtime.LockOSThread()
	pause := restartFirst
	for {
		begin := time.Now()
		p, err := c.startProcess()
		if err == nil {
			c.mu.Lock()
			c.process = p
			c.mu.Unlock()
		}
		if started != nil {
			close(started)
			started = nil
		}
		why := ""
		if err == nil {
			why = c.follow(p)
		}
		select {
		case <-c.stop:
			return
		default:
		}
		if time.Since(begin) > calmTime {
			pause = restartFirst
		}
		switch {
		case err != nil:
			c.notify(fmt.Sprintf("cannot start the process that looks up names of users and containers: %v; events lack them until it can", err))
		default:
			c.notify(fmt.Sprintf("the process that looks up names of users and containers is replaced: %s; events can lack names meanwhile", why))
		}
		select {
		case <-c.stop:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, restartLast)
	}
}

// startProcess starts a child. If that may not be another user, for example because a security module refuses
// it, it is nstrace's: one without capabilities is better than none. Any other error, as of a host that has no
// process id left for a moment, changes nothing about the user.
func (c *Client) startProcess() (*process, error) {
	p, err := startProcess(c.opts.Command, c.opts.User)
	refused := errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EINVAL) // EINVAL: no such user in this user namespace
	if c.opts.User == 0 || !refused {
		return p, err
	}
	p, again := startProcess(c.opts.Command, 0)
	if again != nil {
		return nil, again // which does not depend on the user
	}
	c.notify(fmt.Sprintf("the process that looks up names of users and containers has no user of its own: %v", err))
	return p, nil
}

// follow takes the messages of a child until it ends, and returns why it did.
func (c *Client) follow(p *process) string {
	var parts sync.WaitGroup
	parts.Go(func() { p.watch(func() { c.unstick(p) }) })
	parts.Go(func() {
		defer close(p.gone)
		if err := c.read(p); err != nil {
			p.end(err.Error())
		}
	})
	select {
	case <-p.gone:
	case <-c.stop:
		_ = p.conn.Close() // it ends by itself
		<-p.gone
	}
	parts.Wait()
	c.mu.Lock()
	c.process = nil
	for id, call := range c.calls {
		delete(c.calls, id)
		close(call.answers)
	}
	c.mu.Unlock()
	_ = p.conn.Close()
	select {
	case <-c.stop:
		time.AfterFunc(reapTime/2, func() { _ = p.cmd.Process.Kill() })
	default:
		_ = p.cmd.Process.Kill() // it may only have closed the socket
	}
	return p.reap()
}

// notify passes a message on, unless there was one not long ago.
func (c *Client) notify(message string) {
	if now := time.Now(); c.opts.Notify != nil && (c.notified.IsZero() || now.Sub(c.notified) > notifyEvery) {
		c.notified = now
		c.opts.Notify(message)
	}
}

// read takes the messages of a child until its end. An error means that it sent what no child sends.
func (c *Client) read(p *process) error {
	buf := make([]byte, maxMessage+1)
	for {
		n, err := p.conn.Read(buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, unix.ECONNRESET):
			return nil
		case err != nil:
			return err
		case n > maxMessage:
			return fmt.Errorf("%w: it is longer than %d bytes", errMessage, maxMessage)
		}
		m, err := decode(buf[:n])
		if err != nil {
			return err
		}
		p.heard.Add(1)
		if err := c.take(p, m); err != nil {
			return err
		}
	}
}

// take hands a message on to the one who waits for it.
func (c *Client) take(p *process, m *message) error {
	switch m.Op {
	case opReady, opPing:
		return nil
	case opConnect:
		c.connect(p, m)
		return nil
	case "":
	default:
		return fmt.Errorf("%w: %q", errMessage, m.Op)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ID > c.lastID {
		return fmt.Errorf("%w: an answer without a question", errMessage)
	}
	call := c.calls[m.ID]
	if call == nil { // nobody waits any more
		return nil
	}
	select {
	case call.answers <- m:
		if m.More {
			return nil
		}
	default: // more than anybody would wait for
		_ = sendNow(p.conn, &message{ID: m.ID, Op: opCancel}, -1)
	}
	delete(c.calls, m.ID)
	close(call.answers)
	return nil
}

// ask sends a request, with a descriptor unless that is below 0, and returns where the answers come. It
// never waits.
func (c *Client) ask(m *message, fd int) (*call, error) {
	room := 1
	if m.Op == opWatch || m.Op == opList {
		room = maxChanges
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.process
	if p == nil || len(c.calls) >= maxCalls {
		return nil, ErrGone
	}
	c.lastID++
	m.ID = c.lastID
	select { // also if it does not read
	case p.kick <- struct{}{}:
	default:
	}
	if err := sendNow(p.conn, m, fd); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	q := &call{id: m.ID, op: m.Op, since: time.Now(), answers: make(chan *message, room)}
	c.calls[m.ID] = q
	return q, nil
}

// query sends a request that has one answer, and waits for that.
func (c *Client) query(ctx context.Context, m *message) (*message, error) {
	q, err := c.ask(m, -1)
	if err != nil {
		return nil, err
	}
	return c.answer(ctx, q)
}

// cancel ends a request.
func (c *Client) cancel(q *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[q.id] != q {
		return
	}
	delete(c.calls, q.id)
	close(q.answers)
	_ = sendNow(c.process.conn, &message{ID: q.id, Op: opCancel}, -1)
}

// answer waits for the next answer to a request.
func (c *Client) answer(ctx context.Context, q *call) (*message, error) {
	select {
	case m, ok := <-q.answers:
		if !ok {
			return nil, ErrGone
		}
		return m, m.err()
	case <-ctx.Done():
		c.cancel(q)
		return nil, ctx.Err()
	}
}

// unstick replaces a child that reads no more command lines.
func (c *Client) unstick(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, stuck := time.Now(), 0
	for _, q := range c.calls {
		if q.op == opArgs && now.Sub(q.since) > stuckTime {
			stuck++
		}
	}
	if stuck >= maxStuck && now.Sub(c.unstuck) > unstickEvery {
		c.unstuck = now
		p.end(fmt.Sprintf("%d processes let it wait for their command lines", stuck))
	}
}

// connect makes a connection for the child. It connects only to sockets of runtimes that the Client uses.
func (c *Client) connect(p *process, m *message) {
	c.mu.Lock()
	candidate, ok := c.sockets[m.Source.Path]
	c.mu.Unlock()
	reply := func(fd int, err error) {
		_ = sendNow(p.conn, &message{ID: m.ID, Op: opConnection, Fault: newFault(err)}, fd) // without it, it waits in vain
	}
	if !ok {
		reply(-1, os.ErrPermission)
		return
	}
	select {
	case c.dialing <- struct{}{}:
	default:
		reply(-1, errors.New("too many connections are being made"))
		return
	}
	go func() {
		defer func() { <-c.dialing }()
		fd, err := candidate.Connect()
		if err != nil {
			reply(-1, err)
			return
		}
		defer unix.Close(fd)
		reply(fd, nil)
	}()
}

// A userLookup is an attribution.UserLookup.
type userLookup struct{ c *Client }

// Users returns what asks for names of users. One goroutine may use it.
func (c *Client) Users() *attribution.Users { return &attribution.Users{Lookup: userLookup{c}} }

func (u userLookup) InFile(file *os.File, uid uint32) <-chan string {
	return u.name(&message{Op: opUserInFile, UID: uid}, int(file.Fd()))
}

func (u userLookup) Elsewhere(uid uint32) <-chan string {
	return u.name(&message{Op: opUser, UID: uid}, -1)
}

// name asks for a name. The channel is closed without one if there is no answer.
func (u userLookup) name(m *message, fd int) <-chan string {
	name := make(chan string, 1)
	q, err := u.c.ask(m, fd)
	if err != nil {
		close(name)
		return name
	}
	go func() {
		defer close(name)
		ctx, cancel := context.WithTimeout(context.Background(), userTime)
		defer cancel()
		if a, err := u.c.answer(ctx, q); err == nil {
			name <- a.Text
		}
	}()
	return name
}

// CommandLine returns the first bytes of a command line, as procfs.CommandLine does. It waits for as long as
// the process wants, or until the child is replaced: call it by a procfs.BlockingReads.
func (c *Client) CommandLine(pid uint32, start uint64) []byte {
	fd, err := procfs.OpenCommandLine(pid, start)
	if err != nil {
		return nil
	}
	q, err := c.ask(&message{Op: opArgs}, fd)
	unix.Close(fd)
	if err != nil {
		return nil
	}
	a, err := c.answer(context.Background(), q)
	if err != nil || len(a.Data) > procfs.ArgsLen {
		return nil
	}
	return a.Data
}
