// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is one child.
type process struct {
	cmd   *exec.Cmd
	conn  *net.UnixConn
	kick  chan struct{} // something was asked: find out whether it answers
	heard atomic.Uint64 // how many messages came
	gone  chan struct{} // closed when the connection has ended
	cause atomic.Pointer[string]
}

// kept are the variables of the environment that the child gets.
var kept = []string{"GOCOVERDIR"}

// startProcess starts the child, as a user or, if user is 0, as the caller's. Call it on a locked thread: the
// child ends with the thread.
func startProcess(command []string, user uint32) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "resolver")
	defer theirs.Close()
	conn, err := newConn(pair[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Stdin = theirs // without one, Cmd opens /dev/null, which need not be there
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = []string{}
	for _, name := range kept {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if user != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user} // and no other groups
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, err
	}
	return &process{cmd: cmd, conn: conn, kick: make(chan struct{}, 1), gone: make(chan struct{})}, nil
}

// end kills the child, for a cause of which the first counts.
func (p *process) end(cause string) {
	p.cause.CompareAndSwap(nil, &cause)
	_ = p.cmd.Process.Kill() // it can have ended
}

// reapTime is how long reap waits for the end of a child that was killed.
const reapTime = 2 * time.Second

// reap waits for the end of the child, and returns why it ended.
func (p *process) reap() string {
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	why := ""
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			why = exit.String()
		} else {
			why = "it ended"
		}
	case <-time.After(reapTime): // the kernel holds it up; it is left to the goroutine
		why = "it cannot be killed"
	}
	if cause := p.cause.Load(); cause != nil {
		why = *cause
	}
	return why
}

const (
	// startPatience is how long a child may take to start.
	startPatience = 30 * time.Second
	// answerPatience is how long a child may be silent that was asked something: it answers a ping at once.
	answerPatience = 5 * time.Second
	// idlePing is how often a child is asked without cause.
	idlePing = 10 * time.Second
)

// watch ends the child if it does not answer. It counts the time in ticks of a clock that does not go on
// while this process is stopped. idle is called at least once in idlePing.
func (p *process) watch(idle func()) {
	const tick = 500 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	// answers waits until the child says something.
	answers := func(patience time.Duration, before uint64) bool {
		for left := patience; left > 0; left -= tick {
			if p.heard.Load() != before {
				return true
			}
			select {
			case <-ticker.C:
			case <-p.gone:
				return true
			}
		}
		return p.heard.Load() != before
	}
	if !answers(startPatience, 0) {
		p.end("it did not start in time")
		return
	}
	for {
		ticker.Stop()
		select {
		case <-p.kick:
		case <-time.After(idlePing):
		case <-p.gone:
			return
		}
		idle()
		before := p.heard.Load()
		// EAGAIN: it has not read for long.
		_ = sendNow(p.conn, &message{Op: opPing}, -1)
		ticker.Reset(tick)
		if !answers(answerPatience, before) {
			p.end("it did not answer")
			return
		}
		select { // no more than one ping in a tick
		case <-ticker.C:
		case <-p.gone:
			return
		}
	}
}
