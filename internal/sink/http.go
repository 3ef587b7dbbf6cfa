// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	requestTime   = 30 * time.Second // for a request and its answer
	maxRetryAfter = 5 * time.Minute  // a server cannot make nstrace wait longer
	maxAnswer     = 64 << 10         // bytes that nstrace reads of an answer
)

// Later is an error of Deliver that says when to try again.
type Later struct {
	After time.Duration
	Err   error
}

func (l *Later) Error() string { return l.Err.Error() }
func (l *Later) Unwrap() error { return l.Err }

// A poster is a destination that sends lines in POST requests.
type poster struct {
	url    string
	header http.Header
	client *http.Client
	most   int // events for the next request
	body   []byte
}

// ParseURL checks a URL for OpenHTTP.
func ParseURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fmt.Errorf("invalid URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("invalid URL %q: want for example https://logs.example.com/insert", text)
	case u.User != nil:
		return errors.New("invalid URL: all users can see a password there: use the option headers")
	}
	return nil
}

// OpenHTTP returns a destination that posts newline-delimited JSON to a URL. headers is a file with a line NAME: VALUE
// for each header to send, "" for none.
func OpenHTTP(text, headers string) (Destination, error) {
	p := &poster{url: text, header: http.Header{}, most: batchEvents}
	if headers != "" {
		b, err := os.ReadFile(headers)
		if err != nil {
			return nil, err
		}
		parsed, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(bytes.TrimSpace(b), "\n\n"...)))).ReadMIMEHeader()
		if err != nil {
			return nil, fmt.Errorf("%q has no headers: want lines of NAME: VALUE", headers)
		}
		p.header = http.Header(parsed)
	}
	p.header.Set("Content-Type", "application/x-ndjson")
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxy of the environment
	transport.MaxResponseHeaderBytes = maxAnswer
	p.client = &http.Client{
		Transport:     transport,
		Timeout:       requestTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // with the headers
	}
	return p, nil
}

// Deliver posts the lines. If the server refuses a request for what it has, Deliver halves the request until it has found
// the event that is refused.
func (p *poster) Deliver(ctx context.Context, items []Item) (done int, err error) {
	for done < len(items) {
		batch := items[done:min(done+p.most, len(items))]
		err := p.post(ctx, batch)
		var refused *Refused
		if errors.As(err, &refused) && len(batch) > 1 {
			p.most = len(batch) / 2
			continue
		}
		if err != nil {
			return done, err
		}
		done += len(batch)
		p.most = min(2*p.most, batchEvents)
	}
	return done, nil
}

func (p *poster) post(ctx context.Context, items []Item) error {
	p.body = p.body[:0]
	for _, it := range items {
		p.body = append(p.body, it.Line...)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return err
	}
	request.Header = p.header.Clone()
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer) // so that the connection can be used again
	response.Body.Close()
	err = fmt.Errorf("POST %s: %d %s", p.url, response.StatusCode, http.StatusText(response.StatusCode))
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return &Refused{N: 1, Err: err}
	}
	if response.StatusCode/100 == 2 {
		return nil
	}
	if after := retryAfter(response.Header.Get("Retry-After"), time.Now()); after > 0 {
		return &Later{After: after, Err: err}
	}
	return err
}

// retryAfter parses seconds or a time, 0 for anything else.
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, min(at.Sub(now), maxRetryAfter))
	}
	return 0
}

func (p *poster) Close() error {
	p.client.CloseIdleConnections()
	return nil
}
