// SPDX-License-Identifier: Apache-2.0

// Package store reads events from a log store: VictoriaLogs, to which nstrace or an OpenTelemetry Collector sends them as
// package otelmap maps them.
//
// The store selects by the attributes of the records. What is not exactly in an attribute, the caller checks again. An event
// is the body of its record. A store can answer anything: lines and pages have limits, waiting has a deadline, and each event
// has passed history.Check.
package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
)

const (
	maxLine    = 16 << 20         // bytes of a line; VictoriaLogs has records of up to 2 MiB, which JSON can escape
	maxMessage = 4 << 10          // bytes of an error that a store gives
	silence    = 60 * time.Second // how long a store may send nothing
)

// A Client sends queries to a store. Only one goroutine may use it at a time.
type Client struct {
	url     string
	header  http.Header
	client  *http.Client
	silence time.Duration

	leftOut uint64
	first   error
}

// Environment variables that NewClient reads. Their values are as those of the exporters of OpenTelemetry.
const (
	envHeaders     = "NSTRACE_STORE_HEADERS"
	envCertificate = "NSTRACE_STORE_CERTIFICATE"
	envClientCert  = "NSTRACE_STORE_CLIENT_CERTIFICATE"
	envClientKey   = "NSTRACE_STORE_CLIENT_KEY"
)

// NewClient returns a client of the store at a URL. headers is a file with a line NAME: VALUE for each header to send, ""
// for none.
func NewClient(text, headers string) (*Client, error) { return newClient(text, headers, os.Getenv) }

func newClient(text, headers string, getenv func(string) string) (*Client, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("invalid URL: %w", errors.Unwrap(err)) // without the URL, which can have a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("invalid URL %q: want for example http://localhost:9428", u.Redacted())
	case u.User != nil:
		return nil, errors.New("invalid URL: all users can see a password there: use " + envHeaders + " or --store-headers")
	}
	header, err := parseHeaders(getenv(envHeaders))
	if err != nil {
		return nil, err
	}
	if headers != "" {
		b, err := os.ReadFile(headers)
		if err != nil {
			return nil, err
		}
		more, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(bytes.TrimSpace(b), "\n\n"...)))).ReadMIMEHeader()
		if err != nil {
			return nil, fmt.Errorf("%q has no headers: want lines of NAME: VALUE", headers)
		}
		for name, values := range more {
			header[name] = values
		}
	}
	config, err := tlsConfig(getenv)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxy of the environment
	transport.MaxResponseHeaderBytes = 64 << 10
	transport.TLSClientConfig = config
	return &Client{
		url: strings.TrimSuffix(u.String(), "/"), header: header, silence: silence,
		client: &http.Client{
			Transport: transport,
			// It would send the headers there.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// parseHeaders parses pairs NAME=VALUE. Errors do not have the values, which can be secret.
func parseHeaders(pairs string) (http.Header, error) {
	header := http.Header{}
	for pair := range strings.SplitSeq(pairs, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			return nil, errors.New(envHeaders + ": want NAME=VALUE, with commas between them, and escapes as in a URL")
		}
		header.Add(name, value)
	}
	return header, nil
}

func tlsConfig(getenv func(string) string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if path := getenv(envCertificate); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envCertificate, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %q has no certificate in PEM", envCertificate, path)
		}
	}
	cert, key := getenv(envClientCert), getenv(envClientKey)
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("%s and %s need each other", envClientCert, envClientKey)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envClientCert, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// LeftOut returns the number of records that were skipped because no nstrace sends such records, and the error of the first
// one.
func (c *Client) LeftOut() (records uint64, first error) { return c.leftOut, c.first }

// Close closes the connections.
func (c *Client) Close() { c.client.CloseIdleConnections() }

// query calls row for each line of the answer to a query of LogsQL. The line is valid until row returns.
func (c *Client) query(ctx context.Context, logsQL string, row func(line []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("%s: no answer for %s", c.url, c.silence)
	timer := time.AfterFunc(c.silence, func() { cancel(silent) })
	defer timer.Stop()
	form := url.Values{"query": {logsQL}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/select/logsql/query", strings.NewReader(form))
	if err != nil {
		return err
	}
	request.Header = c.header.Clone()
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	failed := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return failed(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxMessage))
		return fmt.Errorf("%s: %d %s: %.300q", c.url, response.StatusCode, http.StatusText(response.StatusCode), bytes.TrimSpace(text))
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		timer.Reset(c.silence)
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if err := row(lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return failed(fmt.Errorf("%s: %w", c.url, err))
	}
	return nil
}

// skip counts a record that no nstrace sends.
func (c *Client) skip(err error) {
	c.leftOut++
	c.first = cmp.Or(c.first, err)
}

// parse returns the event of a body.
func parse(body string) (*event.Event, error) {
	e := new(event.Event)
	if err := json.Unmarshal([]byte(body), e); err != nil {
		return nil, err
	}
	e.RestoreBytes()
	return e, history.Check(e)
}
