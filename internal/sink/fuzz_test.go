// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/event"
)

// FuzzSpoolRow decodes rows of a spool that somebody changed. Each line becomes at most one item, with the line as it is.
func FuzzSpoolRow(f *testing.F) {
	f.Add([]byte(`{"v":1,"type":"sysctl.write","seq":7,"skipped":3,"sysctl":{"name":"a"}}` + "\nnull\n{}\n"))
	f.Add([]byte(`{"type":"trace.loss","loss":{"reason":"sink","count":3}}`))
	f.Add([]byte(`{"type":"trace.loss","loss":null,"process":{},"labels":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, row []byte) {
		reports := 0
		s := &spool{o: Options{Events: true, Report: func(string) { reports++ }}}
		items := s.decode(row)
		lines := 0
		for range bytes.Lines(row) {
			lines++
		}
		if len(items)+reports != lines {
			t.Errorf("%d items and %d reports of %d lines", len(items), reports, lines)
		}
		for _, it := range items {
			if it.Event == nil || !bytes.Contains(row, it.Line) {
				t.Errorf("%+v", it)
			}
		}
	})
}

// FuzzRetryAfter has headers of a hostile server. It never makes nstrace wait longer than maxRetryAfter.
func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT")
	f.Add("-1")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(text, now); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %v", text, d)
		}
	})
}

// An answer is a server that always answers the same.
type answer struct {
	status int
	after  string
	body   []byte
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: http.Header{"Retry-After": {a.after}}, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

// FuzzOTLPAnswer has answers of a hostile collector. It can take or refuse events, but not more than there are.
func FuzzOTLPAnswer(f *testing.F) {
	refused, err := proto.Marshal(&collectorpb.ExportLogsServiceResponse{PartialSuccess: &collectorpb.ExportLogsPartialSuccess{
		RejectedLogRecords: 1 << 40, ErrorMessage: "no room",
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, "", refused)
	f.Add(200, "", []byte("OK"))
	f.Add(503, "10", []byte("{}"))
	f.Add(413, "", []byte{})
	f.Add(429, "Fri, 31 Dec 9999 23:59:59 GMT", []byte{})
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		if status < 200 || status > 599 {
			return // net/http refuses these
		}
		o := &otlp{
			OTLP: &OTLP{url: "http://localhost/v1/logs", header: http.Header{}}, most: batchEvents,
			client: &http.Client{Transport: answer{status, after, body}},
		}
		items := []Item{{Event: &event.Event{Type: event.SysctlWrite}, Line: []byte("{}")}, {Event: &event.Event{Type: event.SysctlWrite}, Line: []byte("{}")}}
		n, err := o.Deliver(t.Context(), items)
		var rejected *Rejected
		var later *Later
		switch {
		case n < 0 || n > len(items):
			t.Errorf("%d of %d are done", n, len(items))
		case errors.As(err, &rejected) && (rejected.N == 0 || rejected.N > uint64(len(items))):
			t.Errorf("%d of %d are rejected", rejected.N, len(items))
		case errors.As(err, &later) && (later.After <= 0 || later.After > maxRetryAfter):
			t.Errorf("later: %v", later.After)
		case status/100 == 2 && rejected == nil && (err != nil || n != len(items)):
			t.Errorf("%d: %d, %v", status, n, err)
		}
	})
}
