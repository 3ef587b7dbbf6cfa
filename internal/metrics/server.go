// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nstrace/nstrace/tracer"
)

// Limits of what clients can make the server do.
const (
	maxConns    = 32
	maxScrapes  = 2 // at once
	maxHeader   = 4 << 10
	readTime    = 2 * time.Second
	writeTime   = 5 * time.Second
	acceptEvery = 5 * time.Millisecond // at most one connection in that time
)

// ParseAddr returns the address that a value of --metrics means. Without a host it is that of the loopback device.
func ParseAddr(text string) (netip.AddrPort, error) {
	host, port := "", text
	if strings.Contains(text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return netip.AddrPort{}, fmt.Errorf("invalid address %q: want PORT or IP:PORT, for example 9464 or 0.0.0.0:9464", text)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("invalid port %q in %q: want a number from 0 to 65535, for example 9464", port, text)
	}
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if host != "" && host != "localhost" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("invalid host %q in %q: want an IP address, for example 0.0.0.0:9464", host, text)
		}
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

// Listen opens the socket. Nothing is answered before Serve.
func Listen(at netip.AddrPort) (net.Listener, error) {
	network := "tcp4"
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		network = "tcp"
	}
	return net.Listen(network, at.String())
}

// A Server answers /metrics, /healthz and /readyz.
type Server struct {
	m    *Metrics
	http *http.Server
	done chan struct{}
	// Ready returns why the run is not ready yet, nil if it is.
	ready func() error
}

// Serve answers on a listener until Close. ready returns why the run is not ready yet, nil if it is.
func (m *Metrics) Serve(l net.Listener, ready func() error) *Server {
	s := &Server{m: m, ready: ready, done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, DisableCompression: true, ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("GET /healthz", s.answer(s.healthy))
	mux.HandleFunc("GET /readyz", s.answer(func(ctx context.Context) error {
		if err := s.ready(); err != nil {
			return err
		}
		return s.healthy(ctx)
	}))
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			connOf(r).serving.Store(true)
			mux.ServeHTTP(w, r)
		}),
		ReadTimeout: readTime, WriteTimeout: writeTime, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), // clients choose what is in it
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	s.http.SetKeepAlivesEnabled(false)
	go func() {
		defer close(s.done)
		_ = s.http.Serve(&listener{Listener: l})
	}()
	return s
}

// Close ends the server and all its connections.
func (s *Server) Close() {
	_ = s.http.Close()
	<-s.done
}

// answer returns a handler that says "ok", or with the status 503 what is wrong.
func (s *Server) answer(check func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTime)
		defer cancel()
		if err := check(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// healthy returns what is wrong with the run.
func (s *Server) healthy(ctx context.Context) error {
	st, err := s.m.o.Ask(ctx)
	if err != nil {
		return errors.New("the run does not answer")
	}
	return unproven(&st, time.Now())
}

// proofTime is how long a proof of the hooks can take on a busy host.
const proofTime = 30 * time.Second

// unproven returns an error if it is too long ago that the hooks were known to work.
func unproven(st *tracer.State, now time.Time) error {
	// Between two proofs, events of others prove the hooks of that time when it ends.
	if age := now.Sub(st.Proven); st.ProveEvery > 0 && age > 2*st.ProveEvery+proofTime {
		return fmt.Errorf("for %v, no call came back from all hooks", age.Round(time.Second))
	}
	return nil
}

type connKey struct{}

func connOf(r *http.Request) *conn { return r.Context().Value(connKey{}).(*conn) }

// A listener has at most maxConns connections, and takes at most one every acceptEvery. Of too many, it closes the
// oldest one that has not sent its request yet. So clients that send nothing do not keep others out.
type listener struct {
	net.Listener

	mu    sync.Mutex
	conns []*conn // from the oldest to the newest
}

type conn struct {
	net.Conn
	of      *listener
	serving atomic.Bool // it has sent its request
}

// Accept returns the next connection.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		time.Sleep(acceptEvery)
		if err != nil {
			continue // for example, no descriptor is left
		}
		if c := l.add(c); c != nil {
			return c, nil
		}
	}
}

// add returns the connection with its place, or nil if there is none.
func (l *listener) add(c net.Conn) net.Conn {
	l.mu.Lock()
	var oldest *conn
	if len(l.conns) >= maxConns {
		for _, other := range l.conns {
			if !other.serving.Load() {
				oldest = other
				break
			}
		}
		if oldest == nil {
			l.mu.Unlock()
			c.Close()
			return nil
		}
		l.remove(oldest)
	}
	added := &conn{Conn: c, of: l}
	l.conns = append(l.conns, added)
	l.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
	return added
}

// remove removes a connection. The caller holds l.mu.
func (l *listener) remove(c *conn) {
	for i := range l.conns {
		if l.conns[i] == c {
			l.conns = append(l.conns[:i], l.conns[i+1:]...)
			return
		}
	}
}

// Close closes the connection and gives its place to others.
func (c *conn) Close() error {
	c.of.mu.Lock()
	c.of.remove(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
