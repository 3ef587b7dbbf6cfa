// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
)

// rfc5424 is the grammar of a message without structured data (RFC 5424, section 6).
var rfc5424 = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (-|[!-~]{1,255}) nstrace (\d{1,128}) (-|[!-~]{1,32}) - (\{.*\})$`)

// parseMessage parses a message strictly.
func parseMessage(message []byte) (priority int, e *event.Event, err error) {
	m := rfc5424.FindSubmatch(message)
	if m == nil {
		return 0, nil, fmt.Errorf("no message of RFC 5424: %q", message)
	}
	if priority, err = strconv.Atoi(string(m[1])); err != nil || priority > 191 {
		return 0, nil, fmt.Errorf("priority %q", m[1])
	}
	e = &event.Event{}
	if err := json.Unmarshal(m[6], e); err != nil {
		return 0, nil, err
	}
	if at, err := time.Parse(time.RFC3339Nano, string(m[2])); err != nil || !at.Equal(e.Time.Truncate(time.Microsecond)) {
		return 0, nil, fmt.Errorf("time %q, %v", m[2], err)
	}
	if string(m[3]) != e.Host || string(m[5]) != string(e.Type) {
		return 0, nil, fmt.Errorf("%q differs from %+v", message, e)
	}
	return priority, e, nil
}

// readCounted reads a message with its length in front of it.
func readCounted(r *bufio.Reader) ([]byte, error) {
	head, err := r.ReadString(' ')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(head, " "))
	if err != nil || n <= 0 {
		return nil, fmt.Errorf("length %q", head)
	}
	message := make([]byte, n)
	_, err = io.ReadFull(r, message)
	return message, err
}

// samples are events with and without an alert.
func samples() []*event.Event {
	var n numbered
	one, two := n.next(event.NamespaceCreate), n.next(event.SysctlWrite)
	two.Alert = []event.Alert{{Name: "a", Severity: "warning"}, {Name: "b", Severity: "critical"}}
	two.Unit = "a\nb\x00c" // stays on its line
	return []*event.Event{one, two, n.next(event.TraceLoss)}
}

var samplePriorities = []int{3*8 + 6, 3*8 + 2, 3*8 + 4}

// sendSamples sends events to a place and checks what arrives there.
func sendSamples(t *testing.T, where string, config *tls.Config, receive func() ([]byte, error)) *Set {
	t.Helper()
	to, network, err := ParseSyslog(where)
	if err != nil || network != !strings.HasPrefix(where, "/") {
		t.Fatal(err, network)
	}
	if config != nil {
		to.(*syslog).tls = config
	}
	set := NewSet(New(Options{Name: "syslog", Destination: to, Events: true, Report: func(s string) { t.Log(s) }}))
	sendMore(t, set, receive)
	return set
}

func sendMore(t *testing.T, set *Set, receive func() ([]byte, error)) {
	t.Helper()
	for _, e := range samples() {
		set.Write(e)
	}
	set.Flush()
	for i, want := range samples() {
		message, err := receive()
		if err != nil {
			t.Fatal(err)
		}
		priority, e, err := parseMessage(message)
		if err != nil || priority != samplePriorities[i] || e.Seq != want.Seq || e.Type != want.Type {
			t.Errorf("%d, %v: %s", priority, err, message)
		}
	}
}

func end(t *testing.T, set *Set) {
	t.Helper()
	if err := set.Close(); err != nil {
		t.Error(err)
	}
}

func TestSyslogPackets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for network, address := range map[string]string{"unixgram": path, "udp": "127.0.0.1:0"} {
		t.Run(network, func(t *testing.T) {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			where := address
			if network == "udp" {
				where = "udp:" + conn.LocalAddr().String()
			}
			end(t, sendSamples(t, where, nil, func() ([]byte, error) {
				b := make([]byte, 1<<16)
				n, _, err := conn.ReadFrom(b)
				return b[:n], err
			}))
		})
	}
}

// A peer accepts connections one after another.
type peer struct {
	listener net.Listener
	conn     net.Conn
	r        *bufio.Reader
}

func (p *peer) counted() ([]byte, error) {
	if p.conn == nil {
		var err error
		if p.conn, err = p.listener.Accept(); err != nil {
			return nil, err
		}
		p.conn.SetReadDeadline(time.Now().Add(time.Minute))
		p.r = bufio.NewReader(p.conn)
	}
	return readCounted(p.r)
}

// TestSyslogStream also lets the server close the connection and start again.
func TestSyslogStream(t *testing.T) {
	for _, scheme := range []string{"tcp", "tls"} {
		t.Run(scheme, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var config *tls.Config
			if scheme == "tls" {
				server := httptest.NewTLSServer(nil) // for its certificate
				defer server.Close()
				listener = tls.NewListener(listener, &tls.Config{Certificates: server.TLS.Certificates})
				pool := x509.NewCertPool()
				pool.AddCert(server.Certificate())
				config = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
			}
			defer listener.Close()
			p := &peer{listener: listener}
			set := sendSamples(t, scheme+":"+listener.Addr().String(), config, p.counted)
			to := set.sinks[0].(*Sink).o.Destination.(*syslog)
			over := to.over // the sink waits for more and does not use it
			p.conn.Close()
			<-over
			p.conn = nil
			sendMore(t, set, p.counted)
			end(t, set)
		})
	}
}

// TestSyslogUnixStream has a /dev/log of the other type.
func TestSyslogUnixStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := &peer{listener: listener}
	end(t, sendSamples(t, path, nil, func() ([]byte, error) {
		if p.conn == nil {
			if p.conn, err = listener.Accept(); err != nil {
				return nil, err
			}
			p.r = bufio.NewReader(p.conn)
		}
		message, err := p.r.ReadBytes(0)
		return bytes.TrimSuffix(message, []byte{0}), err
	}))
}

// TestSyslogUntrusted has a server whose certificate nobody signed.
func TestSyslogUntrusted(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	to, _, err := ParseSyslog("tls:" + server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := to.Deliver(t.Context(), []Item{{Line: []byte("{}\n"), Event: samples()[0]}})
	if n != 0 || err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(n, err)
	}
}

func TestParseSyslog(t *testing.T) {
	for _, where := range []string{"x", "udp", "udp:", "udp:host", "tcp::514", "tcp:host:0", "tcp:host:http", "tls:host:65536", "ftp:host:1"} {
		if _, _, err := ParseSyslog(where); err == nil {
			t.Errorf("%q is valid", where)
		}
	}
	if to, _, err := ParseSyslog(""); err != nil || to.(*syslog).address != "/dev/log" {
		t.Error(to, err)
	}
}

// TestSyslogHost has a host name that a header cannot have.
func TestSyslogHost(t *testing.T) {
	for host, want := range map[string]string{"": "-", "a b\n\xff": "a?b??", strings.Repeat("x", 300): strings.Repeat("x", 255)} {
		message := string(appendSyslog(nil, &event.Event{Host: host, Type: event.TraceStart}, []byte("{}\n")))
		if fields := strings.Split(message, " "); len(fields) != 8 || fields[2] != want || fields[7] != "{}" {
			t.Errorf("%q", message)
		}
	}
}

// TestSyslogTalks has a server that sends data without end, which nobody wants.
func TestSyslogTalks(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := &peer{listener: listener}
	talked, talks := make(chan struct{}), false
	end(t, sendSamples(t, "tcp:"+listener.Addr().String(), nil, func() ([]byte, error) {
		message, err := p.counted()
		if err == nil && !talks {
			talks = true
			go func() {
				defer close(talked)
				for err := error(nil); err == nil; {
					_, err = p.conn.Write(make([]byte, 1<<16))
				}
			}()
		}
		return message, err
	}))
	<-talked // the sink has closed the connection
}
