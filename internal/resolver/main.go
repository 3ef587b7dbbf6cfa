// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/confine"
	"github.com/nstrace/nstrace/internal/osmemory"
	"github.com/nstrace/nstrace/internal/osthread"
)

// Name is the first argument of the process that a [Client] starts.
const Name = "resolver"

// socketFD is the descriptor of the socket in the child.
const socketFD = 3

// ErrByHand means that no Client started the process.
var ErrByHand = errors.New("nstrace starts this process itself: want another command")

// Threads that the child needs at once: reads that are stuck, getent, and connections.
const spareThreads = 12

// confined is called once the process is confined. A test sets it, see attempt.go.
var confined = func() {}

// Wanted reports whether the arguments of the program ask for Main.
func Wanted(args []string) bool { return len(args) > 1 && args[1] == Name }

// Main is the program of the child. It returns when the process that started it is gone. It returns
// ErrByHand if that is not a Client.
func Main() error {
	parent, err := peer()
	if err != nil || parent != os.Getppid() {
		return ErrByHand
	}
	if err := closeInherited(); err != nil {
		return fmt.Errorf("close the descriptors of others: %w", err)
	}
	if !confine.Forsaken() {
		return restartConfined()
	}
	unix.CloseOnExec(socketFD)
	// Signals of the terminal and of a service manager go to all processes. Only the end of the parent
	// ends this one: the last events need names too.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP)
	// A stopped process does not notice the end of its parent by the socket.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask for a signal at the end of the parent: %w", err)
	}
	if os.Getppid() != parent {
		return nil
	}
	_ = os.WriteFile("/proc/self/comm", []byte("nstrace"), 0) // instead of "exe"
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	osthread.Reserve(spareThreads)
	if err := confine.ReadOnly(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	// It starts getent.
	if err := confine.Filter(&confine.Profile{Exec: true}); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	confined()
	conn, err := newConn(socketFD)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50)
	osmemory.GiveBack()
	return newServer(conn).serve()
}

// restartArg marks the second start, so that there is no third.
const restartArg = "confined"

// restartConfined executes the program again without privileges. All of its threads then have none, and
// nothing that was read with privileges is left. The process that started it opens what needs a
// capability, and sends the descriptor.
func restartConfined() error {
	if len(os.Args) > 2 {
		return errors.New("cannot drop the capabilities")
	}
	runtime.LockOSThread()
	if err := confine.Forsake(); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", append(os.Args[:2:2], restartArg), os.Environ())
}

// peer returns the process that made the socket.
func peer() (int, error) {
	kind, err := unix.GetsockoptInt(socketFD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, err
	}
	cred, err := unix.GetsockoptUcred(socketFD, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if kind != unix.SOCK_SEQPACKET {
		return 0, ErrByHand
	}
	return int(cred.Pid), nil
}

// closeInherited closes the descriptors that the caller of nstrace left open for all of its children.
// Go's own are closed by an exec.
func closeInherited() error {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= socketFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}
