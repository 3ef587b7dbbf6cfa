// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // what a client can send
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/otelmap"
)

// An answerOTLP is what a server of a test says to a request.
type answerOTLP struct {
	code     codes.Code // of gRPC
	status   int        // of HTTP
	after    time.Duration
	rejected int64
}

// An otlpServer takes log records by gRPC, with the official server, and by HTTP.
type otlpServer struct {
	mu       sync.Mutex
	lines    []string
	requests int
	header   http.Header
	answer   func(n, records int) answerOTLP // to request n, from 1 on
}

func (s *otlpServer) take(header http.Header, request *collectorpb.ExportLogsServiceRequest) answerOTLP {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.header = header
	var lines []string
	for _, r := range request.ResourceLogs {
		for _, l := range r.ScopeLogs[0].LogRecords {
			lines = append(lines, l.Body.GetStringValue()+"\n")
		}
	}
	var a answerOTLP
	if s.answer != nil {
		a = s.answer(s.requests, len(lines))
	}
	if a.code == codes.OK && a.status == 0 {
		s.lines = append(s.lines, lines[a.rejected:]...)
	}
	return a
}

func response(a answerOTLP) *collectorpb.ExportLogsServiceResponse {
	r := new(collectorpb.ExportLogsServiceResponse)
	if a.rejected > 0 {
		r.PartialSuccess = &collectorpb.ExportLogsPartialSuccess{RejectedLogRecords: a.rejected, ErrorMessage: "too old"}
	}
	return r
}

func (s *otlpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	b, err := io.ReadAll(body)
	request := new(collectorpb.ExportLogsServiceRequest)
	if err != nil || proto.Unmarshal(b, request) != nil || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	a := s.take(r.Header, request)
	if a.after > 0 {
		w.Header().Set("Retry-After", "1")
	}
	if a.status != 0 {
		w.WriteHeader(a.status)
		return
	}
	b, _ = proto.Marshal(response(a))
	w.Write(b)
}

func (s *otlpServer) export(ctx context.Context, request *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	header := http.Header{}
	for name, values := range md {
		header[http.CanonicalHeaderKey(name)] = values
	}
	a := s.take(header, request)
	if a.code != codes.OK {
		failed := status.New(a.code, "no")
		if a.after > 0 {
			failed, _ = failed.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(a.after)})
		}
		return nil, failed.Err()
	}
	return response(a), nil
}

// start returns the URL of the server, and the environment that a client needs.
func (s *otlpServer) start(t *testing.T, byGRPC, withTLS bool) (string, map[string]string) {
	t.Helper()
	server := httptest.NewUnstartedServer(s)
	env := map[string]string{}
	server.StartTLS() // for its certificate
	t.Cleanup(server.Close)
	if withTLS {
		env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = filepath.Join(t.TempDir(), "ca.pem")
		b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		if err := os.WriteFile(env["OTEL_EXPORTER_OTLP_CERTIFICATE"], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	switch {
	case byGRPC:
		var options []grpc.ServerOption
		scheme := "grpc://"
		if withTLS {
			scheme = "grpcs://"
			options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: server.TLS.Certificates})))
		}
		g := grpc.NewServer(options...)
		g.RegisterService(&grpc.ServiceDesc{
			ServiceName: "opentelemetry.proto.collector.logs.v1.LogsService", HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := new(collectorpb.ExportLogsServiceRequest)
				if err := decode(request); err != nil {
					return nil, err
				}
				return s.export(ctx, request)
			}}},
		}, s)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go g.Serve(l)
		t.Cleanup(g.Stop)
		return scheme + l.Addr().String(), env
	case withTLS:
		return server.URL, env
	}
	plain := httptest.NewServer(s)
	t.Cleanup(plain.Close)
	return plain.URL, env
}

// sink returns a set with a sink for the server, and what it reports.
func (s *otlpServer) sink(t *testing.T, url string, env map[string]string) (*Set, *bytes.Buffer) {
	t.Helper()
	o, err := parseOTLP(url, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	to, err := o.Open(otelmap.Mapper{Version: "1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	said := new(bytes.Buffer) // of the goroutine of the sink, until Close
	return NewSet(New(Options{Name: "otlp", Destination: to, Events: true, Report: func(m string) { said.WriteString(m + "\n") }})), said
}

// eachTransport runs a test with gRPC and HTTP.
func eachTransport(t *testing.T, test func(t *testing.T, byGRPC bool)) {
	for name, byGRPC := range map[string]bool{"grpc": true, "http": false} {
		t.Run(name, func(t *testing.T) { test(t, byGRPC) })
	}
}

// TestOTLP sends events to servers with and without TLS, with headers and compression.
func TestOTLP(t *testing.T) {
	eachTransport(t, func(t *testing.T, byGRPC bool) {
		for _, withTLS := range []bool{false, true} {
			s := &otlpServer{}
			url, env := s.start(t, byGRPC, withTLS)
			env["OTEL_EXPORTER_OTLP_HEADERS"] = "authorization=Bearer%20secret, x-tenant = 7"
			if withTLS {
				env["OTEL_EXPORTER_OTLP_COMPRESSION"] = "gzip"
			}
			set, said := s.sink(t, url, env)
			var n numbered
			for range 3000 {
				set.Write(n.next(event.SysctlWrite))
			}
			end(t, set)
			to := &fake{lines: s.lines}
			if has, _, _ := check(t, to.events(t)); has != 3000 || said.Len() > 0 {
				t.Errorf("TLS %v: %d events; %s", withTLS, has, said)
			}
			if s.header.Get("Authorization") != "Bearer secret" || s.header.Get("X-Tenant") != "7" {
				t.Errorf("headers: %v", s.header)
			}
		}
		// A server whose authority is not trusted.
		s := &otlpServer{}
		url, _ := s.start(t, byGRPC, true)
		set, said := s.sink(t, url, nil)
		set.Write(new(numbered).next(event.SysctlWrite))
		set.Flush()
		s2 := set.sinks[0].(*Sink)
		s2.stop() // instead of waiting for more tries
		if err := set.Close(); err == nil || s.requests > 0 {
			t.Errorf("%v; %s", err, said)
		}
	})
}

// TestOTLPAgain has a server that is not ready at first, and says when it will be.
func TestOTLPAgain(t *testing.T) {
	eachTransport(t, func(t *testing.T, byGRPC bool) {
		s := &otlpServer{answer: func(n, _ int) answerOTLP {
			switch {
			case n > 1:
				return answerOTLP{}
			case byGRPC:
				return answerOTLP{code: codes.ResourceExhausted, after: time.Second}
			}
			return answerOTLP{status: http.StatusServiceUnavailable, after: time.Second}
		}}
		url, env := s.start(t, byGRPC, false)
		set, said := s.sink(t, url, env)
		start := time.Now()
		var n numbered
		for range 3 {
			set.Write(n.next(event.SysctlWrite))
		}
		end(t, set)
		if len(s.lines) != 3 || s.requests != 2 || time.Since(start) < time.Second || !strings.Contains(said.String(), "works again") {
			t.Errorf("%d events, %d requests, %v: %s", len(s.lines), s.requests, time.Since(start), said)
		}
	})
}

// TestOTLPTooLarge has a server that takes ten records at once.
func TestOTLPTooLarge(t *testing.T) {
	eachTransport(t, func(t *testing.T, byGRPC bool) {
		s := &otlpServer{answer: func(_, records int) answerOTLP {
			switch {
			case records <= 10:
				return answerOTLP{}
			case byGRPC:
				return answerOTLP{code: codes.ResourceExhausted}
			}
			return answerOTLP{status: http.StatusRequestEntityTooLarge}
		}}
		url, env := s.start(t, byGRPC, false)
		set, _ := s.sink(t, url, env)
		var n numbered
		for range 100 {
			set.Write(n.next(event.SysctlWrite))
		}
		end(t, set)
		to := &fake{lines: s.lines}
		if has, _, lost := check(t, to.events(t)); has != 100 || lost != 0 {
			t.Errorf("%d events, %d lost", has, lost)
		}
	})
}

// TestOTLPPartly has a server that rejects two records of a request. A trace.loss says so.
func TestOTLPPartly(t *testing.T) {
	eachTransport(t, func(t *testing.T, byGRPC bool) {
		s := &otlpServer{answer: func(n, _ int) answerOTLP {
			if n == 1 {
				return answerOTLP{rejected: 2}
			}
			return answerOTLP{}
		}}
		url, env := s.start(t, byGRPC, false)
		set, said := s.sink(t, url, env)
		var n numbered
		for range 10 {
			set.Write(n.next(event.SysctlWrite))
		}
		if err := set.Close(); err == nil || err.Error() != "otlp lacks up to 2 events" {
			t.Error(err)
		}
		events := (&fake{lines: s.lines}).events(t)
		last := events[len(events)-1]
		if len(events) != 9 || last.Type != event.TraceLoss || last.Loss.Reason != event.LossRejected || last.Loss.FirstSeq != 1 || last.Loss.LastSeq != 10 ||
			!strings.Contains(last.Trace.Notes[0], `rejected 2 of 10 events: "too old"`) || !strings.Contains(said.String(), "rejected 2 of 10") {
			t.Errorf("%d events, %s\n%s", len(events), s.lines[len(s.lines)-1], said)
		}
	})
}

// TestParseOTLP compares URLs and variables with what becomes of them.
func TestParseOTLP(t *testing.T) {
	env := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m["OTEL_EXPORTER_OTLP_"+pairs[i]] = pairs[i+1]
		}
		return m
	}
	for _, c := range []struct {
		text string
		env  map[string]string
		want string
	}{
		{"http://h:4318", nil, "http://h:4318/v1/logs"},
		{"https://h/insert/opentelemetry/v1/logs", nil, "https://h/insert/opentelemetry/v1/logs"},
		{"http://h/", nil, "http://h/"},
		{"grpc://h:4317", nil, "http://h:4317" + exportMethod},
		{"grpcs://h:4317/", nil, "https://h:4317" + exportMethod},
		{"http://h:4317", env("PROTOCOL", "grpc"), "http://h:4317" + exportMethod},
		{"http://h:4318", env("LOGS_PROTOCOL", "http/protobuf", "PROTOCOL", "grpc"), "http://h:4318/v1/logs"},
		{"", env("ENDPOINT", "http://h:4318/x/"), "http://h:4318/x/v1/logs"},
		{"", env("ENDPOINT", "http://h", "LOGS_ENDPOINT", "https://l/y"), "https://l/y"},
	} {
		o, err := parseOTLP(c.text, func(name string) string { return c.env[name] })
		if err != nil || o.url != c.want {
			t.Errorf("%q, %v: %+v, %v", c.text, c.env, o, err)
		}
	}
	for _, c := range []struct {
		text string
		env  map[string]string
	}{
		{"", nil}, {"h:4318", nil}, {"ftp://h", nil}, {"http://", nil}, {"http://u:secret@h", nil}, {"http://secret h/", nil}, {"grpc://h/path", nil},
		{"http://h", env("PROTOCOL", "http/json")}, {"http://h", env("TIMEOUT", "1s")}, {"http://h", env("COMPRESSION", "zstd")},
		{"http://h", env("HEADERS", "secret")}, {"http://h", env("HEADERS", "a=secret%x")}, {"http://h", env("CLIENT_KEY", "k")},
	} {
		if o, err := parseOTLP(c.text, func(name string) string { return c.env[name] }); err == nil || strings.Contains(err.Error(), "secret") && !strings.Contains(c.text, "secret h") {
			t.Errorf("%q, %v: %+v, %v", c.text, c.env, o, err)
		}
	}
}
