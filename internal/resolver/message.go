// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/internal/runtimes"
)

const (
	// maxMessage limits one message in bytes. A socket's buffer holds three of them.
	maxMessage = 64 << 10
	// maxInfos is how many containers one message describes. A longer list has several messages.
	maxInfos = 32
	// maxText limits each text of an answer in bytes. The longest real ones are names of images: 255
	// bytes with a registry of 255 bytes.
	maxText = 1024
	// maxError limits the text of an error in bytes.
	maxError = 512
)

// An op says what a message asks for. An answer has none.
type op string

const (
	opReady      op = "ready"      // the child: it has started
	opPing       op = "ping"       // both: the child sends it back
	opCancel     op = "cancel"     // the request with this id needs no more answers
	opUserInFile op = "userinfile" // the name of UID in the file that comes along
	opUser       op = "user"       // the name that getent has for UID
	opArgs       op = "args"       // the command line in the file that comes along
	opDetect     op = "detect"     // which API the socket Source.Path speaks
	opInspect    op = "inspect"    // the container Text of Source
	opList       op = "list"       // all containers of Source
	opWatch      op = "watch"      // changes of containers of Source
	opConnect    op = "connect"    // the child: connect to the socket Source.Path
	opConnection op = "connection" // the connection comes along, or there is an error
)

// A message is a question or an answer. Nothing in an answer is to be trusted.
type message struct {
	ID     uint64             `json:"id,omitempty"`
	Op     op                 `json:"op,omitempty"`
	UID    uint32             `json:"uid,omitempty"`
	Source runtimes.Candidate `json:"source,omitzero"`
	Text   string             `json:"text,omitempty"`
	Data   []byte             `json:"data,omitempty"`
	Infos  []*runtimes.Info   `json:"infos,omitempty"`
	Begun  bool               `json:"begun,omitempty"` // Watch calls changed with nil
	More   bool               `json:"more,omitempty"`  // this answer is not the last one
	Fault  *fault             `json:"fault,omitempty"`
}

// A fault is an error.
type fault struct {
	Text     string `json:"text"`
	NotFound bool   `json:"notfound,omitempty"` // ErrNotFound
	Never    bool   `json:"never,omitempty"`    // errors.ErrUnsupported
	Late     bool   `json:"late,omitempty"`     // context.DeadlineExceeded
}

func newFault(err error) *fault {
	if err == nil {
		return nil
	}
	text := err.Error()
	return &fault{
		Text: text[:min(len(text), maxError)], NotFound: errors.Is(err, runtimes.ErrNotFound),
		Never: errors.Is(err, errors.ErrUnsupported), Late: errors.Is(err, context.DeadlineExceeded),
	}
}

// A remoteError is an error of the child.
type remoteError struct{ f fault }

func (e *remoteError) Error() string { return e.f.Text }

func (e *remoteError) Is(target error) bool {
	return e.f.NotFound && target == runtimes.ErrNotFound || e.f.Never && target == errors.ErrUnsupported ||
		e.f.Late && target == context.DeadlineExceeded
}

// err returns the error of an answer.
func (m *message) err() error {
	if m.Fault == nil {
		return nil
	}
	return &remoteError{*m.Fault}
}

// errMessage means that the other side sent what it never sends.
var errMessage = errors.New("not a message of the resolver")

// decode parses and checks a message.
func decode(b []byte) (*message, error) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	if len(m.Text) > maxText || len(m.Source.Path) > maxText || len(m.Source.Kind) > maxText ||
		len(m.Infos) > maxInfos || m.Fault != nil && len(m.Fault.Text) > maxError {
		return nil, fmt.Errorf("%w: too long", errMessage)
	}
	for _, i := range m.Infos {
		if i == nil || !short(i) {
			return nil, fmt.Errorf("%w: a text is too long", errMessage)
		}
	}
	return &m, nil
}

// short reports whether no text of an answer is longer than maxText.
func short(i *runtimes.Info) bool {
	for _, text := range [...]string{i.ID, i.Name, i.Image, i.Runtime, i.PodName, i.PodNamespace, i.PodUID} {
		if len(text) > maxText {
			return false
		}
	}
	return true
}

// encode returns the bytes of a message.
func encode(m *message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(b) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes: the limit is %d", len(b), maxMessage)
	}
	return b, nil
}

// newConn takes over the descriptor of a socket.
func newConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "resolver")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a Unix socket")
	}
	return u, nil
}

// sendNow sends a message, with a descriptor unless that is below 0. It never waits: if the other side
// does not read, it returns unix.EAGAIN.
func sendNow(conn *net.UnixConn, m *message, fd int) error {
	b, err := encode(m)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(s uintptr) bool {
		sent = unix.Sendmsg(int(s), b, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, sent)
}
