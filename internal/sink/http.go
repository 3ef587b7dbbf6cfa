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
	header, err := readHeaders(headers)
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/x-ndjson")
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxy of the environment
	transport.MaxResponseHeaderBytes = maxAnswer
	return &poster{url: text, header: header, client: newClient(transport, requestTime), most: batchEvents}, nil
}

// readHeaders reads a file of headers, "" for none.
func readHeaders(path string) (http.Header, error) {
	if path == "" {
		return http.Header{}, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parsed, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(bytes.TrimSpace(b), "\n\n"...)))).ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf("%q has no headers: want lines of NAME: VALUE", path)
	}
	return http.Header(parsed), nil
}

// Deliver posts the lines.
func (p *poster) Deliver(ctx context.Context, items []Item) (int, error) {
	return inParts(&p.most, items, func(part []Item) error {
		p.body = p.body[:0]
		for _, it := range part {
			p.body = append(p.body, it.Line...)
		}
		_, err := post(ctx, p.client, p.url, p.header.Clone(), p.body)
		return err
	})
}

// inParts sends items in requests of at most most items. If the server refuses a request for what it has, inParts halves
// the request until it has found the event that is refused.
func inParts(most *int, items []Item, send func([]Item) error) (done int, err error) {
	for done < len(items) {
		part := items[done:min(done+*most, len(items))]
		err := send(part)
		var refused *Refused
		if errors.As(err, &refused) && len(part) > 1 {
			*most = len(part) / 2
			continue
		}
		var rejected *Rejected
		if errors.As(err, &rejected) {
			rejected.Of = len(part)
			return done + len(part), err
		}
		if err != nil {
			return done, err
		}
		done += len(part)
		*most = min(2**most, batchEvents)
	}
	return done, nil
}

// post sends a request, and returns the answer if it is a success.
func post(ctx context.Context, client *http.Client, url string, header http.Header, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // so that the connection can be used again
	response.Body.Close()
	if response.StatusCode/100 == 2 {
		return answer, nil
	}
	err = fmt.Errorf("POST %s: %d %s", url, response.StatusCode, http.StatusText(response.StatusCode))
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return nil, &Refused{N: 1, Err: err}
	}
	if after := retryAfter(response.Header.Get("Retry-After"), time.Now()); after > 0 {
		return nil, &Later{After: after, Err: err}
	}
	return nil, err
}

// newClient returns a client that follows no redirects: it would send the headers there.
func newClient(transport *http.Transport, timeout time.Duration) *http.Client {
	return &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
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
