// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/severity"
)

// sendTime is how long a send, or a connect, can take. After that the sink connects anew.
const sendTime = 10 * time.Second

// facility is LOG_DAEMON, as for other services of the system.
const facility = 3

// A syslog is a destination that sends messages of RFC 5424.
type syslog struct {
	networks []string // to try one after another
	address  string
	tls      *tls.Config // nil without TLS
	conn     net.Conn
	over     chan struct{} // of a stream: closed when the other side has closed it
	buf      []byte
}

// ParseSyslog returns the destination for a place: "" for the socket of the host, a path, udp:HOST:PORT, tcp:HOST:PORT
// or tls:HOST:PORT. network reports whether it uses the network. The destination connects when it has something to
// send. It wants events.
func ParseSyslog(where string) (d Destination, network bool, err error) {
	scheme, address, _ := strings.Cut(where, ":")
	switch {
	case where == "":
		where = "/dev/log"
		fallthrough
	case strings.HasPrefix(where, "/"):
		return &syslog{networks: []string{"unixgram", "unix"}, address: where}, false, nil
	case scheme != "udp" && scheme != "tcp" && scheme != "tls":
		return nil, false, fmt.Errorf("invalid place %q of the syslog: want nothing, a path, udp:HOST:PORT, tcp:HOST:PORT or tls:HOST:PORT", where)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil, false, fmt.Errorf("invalid address %q: want for example %s:logs.example.com:6514", address, scheme)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, false, fmt.Errorf("invalid port %q: want a number from 1 to 65535", port)
	}
	s := &syslog{networks: []string{scheme}, address: address}
	if scheme == "tls" {
		s.networks, s.tls = []string{"tcp"}, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return s, true, nil
}

// Deliver sends a message for each event.
func (s *syslog) Deliver(ctx context.Context, items []Item) (int, error) {
	if s.conn != nil {
		select {
		case <-s.over: // a write would only find out at the next one
			s.hangUp()
		default:
		}
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return 0, err
		}
	}
	for i, it := range items {
		err := ctx.Err()
		if err == nil {
			err = s.send(it)
		}
		if errors.Is(err, unix.EMSGSIZE) {
			return i, &Refused{N: 1, Err: fmt.Errorf("an event of %d bytes does not fit into a message", len(it.Line))}
		}
		if err != nil {
			s.hangUp()
			return i, err
		}
	}
	return len(items), nil
}

func (s *syslog) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	var conn net.Conn
	var err error
	for _, network := range s.networks {
		var dialer net.Dialer
		if s.tls != nil {
			conn, err = (&tls.Dialer{NetDialer: &dialer, Config: s.tls}).DialContext(ctx, network, s.address)
		} else {
			conn, err = dialer.DialContext(ctx, network, s.address)
		}
		if !errors.Is(err, unix.EPROTOTYPE) { // else it is a socket of another type
			break
		}
	}
	if err != nil {
		return err
	}
	over := make(chan struct{})
	s.conn, s.over = conn, over
	if !s.packets() {
		go func() { // until somebody closes the connection
			defer close(over)
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
	return nil
}

// packets reports whether each write is a message.
func (s *syslog) packets() bool {
	network := s.conn.LocalAddr().Network()
	return network == "udp" || network == "unixgram"
}

func (s *syslog) hangUp() {
	s.conn.Close()
	s.conn = nil
}

func (s *syslog) send(it Item) error {
	message := appendSyslog(nil, it.Event, it.Line)
	s.buf = s.buf[:0]
	if s.conn.LocalAddr().Network() == "tcp" { // RFC 6587 counts octets
		s.buf = append(strconv.AppendInt(s.buf, int64(len(message)), 10), ' ')
	}
	s.buf = append(s.buf, message...)
	if s.conn.LocalAddr().Network() == "unix" {
		s.buf = append(s.buf, 0) // as syslog(3) ends messages in a stream
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, err := s.conn.Write(s.buf)
	return err
}

func (s *syslog) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// appendSyslog appends a message of RFC 5424: the line of an event without its newline, with the type of the event as
// its MSGID.
func appendSyslog(b []byte, e *event.Event, line []byte) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facility*8+int(severity.Of(e))), 10)
	b = append(b, ">1 "...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = appendName(append(b, ' '), e.Host, 255)
	b = append(b, " nstrace "...)
	b = strconv.AppendInt(b, int64(os.Getpid()), 10)
	b = appendName(append(b, ' '), string(e.Type), 32)
	b = append(b, " - "...) // no structured data
	return append(b, line[:max(0, len(line)-1)]...)
}

// appendName appends a name of printable ASCII characters, or "-" for none.
func appendName(b []byte, name string, longest int) []byte {
	if name == "" {
		return append(b, '-')
	}
	for i := range min(len(name), longest) {
		c := name[i]
		if c <= ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}
