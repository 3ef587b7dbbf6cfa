// SPDX-License-Identifier: Apache-2.0

package sink

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/internal/otelmap"
)

// OTLP is a URL for logs of OpenTelemetry, with what the environment says about it.
type OTLP struct {
	url         string
	grpc        bool
	compress    bool
	timeout     time.Duration
	header      http.Header
	certificate string // file with the authorities to trust, "" for those of the system
	clientCert  string // file, "" for none
	clientKey   string
}

// exportMethod is the method of the service for logs.
const exportMethod = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

// otlpTimeout is the default of OTEL_EXPORTER_OTLP_TIMEOUT.
const otlpTimeout = 10 * time.Second

// ParseOTLP checks a URL for OpenOTLP, and reads the environment variables of the OpenTelemetry specification. An empty
// text means the endpoint that they name.
func ParseOTLP(text string) (*OTLP, error) { return parseOTLP(text, os.Getenv) }

func parseOTLP(text string, getenv func(string) string) (*OTLP, error) {
	env := func(name string) string {
		return cmp.Or(getenv("OTEL_EXPORTER_OTLP_LOGS_"+name), getenv("OTEL_EXPORTER_OTLP_"+name))
	}
	o := &OTLP{timeout: otlpTimeout, header: http.Header{}}
	protocol := env("PROTOCOL")
	complete := true // the path is part of the URL, whatever it is
	if text == "" {
		if text = getenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"); text == "" {
			text, complete = getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), false
		}
		if text == "" {
			return nil, errors.New("want a URL, or OTEL_EXPORTER_OTLP_ENDPOINT in the environment")
		}
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("invalid URL: %w", errors.Unwrap(err)) // without the URL, which can have a password
	}
	switch {
	case u.Host == "":
		return nil, errBadOTLP(text)
	case u.User != nil:
		return nil, errors.New("invalid URL: all users can see a password there: use the option headers")
	case u.Scheme == "grpc":
		o.grpc, u.Scheme = true, "http"
	case u.Scheme == "grpcs":
		o.grpc, u.Scheme = true, "https"
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errBadOTLP(text)
	case protocol == "grpc":
		o.grpc = true
	case protocol != "" && protocol != "http/protobuf":
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: invalid protocol %q: want grpc or http/protobuf", protocol)
	}
	if o.grpc {
		if u.Path = strings.TrimSuffix(u.Path, "/"); u.Path != "" {
			return nil, fmt.Errorf("invalid URL %q: gRPC has no path", text)
		}
		u.Path = exportMethod
	} else if !complete || u.Path == "" {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/logs"
	}
	o.url = u.String()
	switch compression := env("COMPRESSION"); compression {
	case "gzip":
		o.compress = true
	case "", "none":
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_COMPRESSION: invalid value %q: want gzip or none", compression)
	}
	if value := env("TIMEOUT"); value != "" {
		ms, err := strconv.ParseUint(value, 10, 31)
		if err != nil || ms == 0 {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_TIMEOUT: invalid value %q: want milliseconds", value)
		}
		o.timeout = time.Duration(ms) * time.Millisecond
	}
	if err := o.addHeaders(env("HEADERS")); err != nil {
		return nil, err
	}
	o.certificate, o.clientCert, o.clientKey = env("CERTIFICATE"), env("CLIENT_CERTIFICATE"), env("CLIENT_KEY")
	if (o.clientCert == "") != (o.clientKey == "") {
		return nil, errors.New("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY need each other")
	}
	return o, nil
}

func errBadOTLP(text string) error {
	return fmt.Errorf("invalid URL %q: want for example http://localhost:4318, or grpc://localhost:4317 (https and grpcs with TLS)", text)
}

// addHeaders adds the pairs of OTEL_EXPORTER_OTLP_HEADERS. Errors do not have the values, which can be secret.
func (o *OTLP) addHeaders(pairs string) error {
	for pair := range strings.SplitSeq(pairs, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			return errors.New("OTEL_EXPORTER_OTLP_HEADERS: want NAME=VALUE, with commas between them, and escapes as in a URL")
		}
		o.header.Add(name, value)
	}
	return nil
}

// otlp is a destination that sends log records.
type otlp struct {
	*OTLP
	mapper otelmap.Mapper
	client *http.Client
	call   *connect.Client[collectorpb.ExportLogsServiceRequest, collectorpb.ExportLogsServiceResponse] // nil for HTTP
	most   int                                                                                          // events for the next request
	items  []otelmap.Item
}

// Open returns a destination. headers is a file as that of OpenHTTP.
func (o *OTLP) Open(mapper otelmap.Mapper, headers string) (Destination, error) {
	more, err := readHeaders(headers)
	if err != nil {
		return nil, err
	}
	for name, values := range more {
		o.header[name] = values
	}
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxy of the environment
	transport.MaxResponseHeaderBytes = maxAnswer
	transport.TLSClientConfig = config
	to := &otlp{OTLP: o, mapper: mapper, client: newClient(transport, o.timeout), most: batchEvents}
	if o.grpc {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP2(true)
		transport.Protocols.SetUnencryptedHTTP2(true)
		options := []connect.ClientOption{connect.WithGRPC(), connect.WithReadMaxBytes(maxAnswer)}
		if o.compress {
			options = append(options, connect.WithSendGzip())
		}
		to.call = connect.NewClient[collectorpb.ExportLogsServiceRequest, collectorpb.ExportLogsServiceResponse](to.client, o.url, options...)
	}
	return to, nil
}

// tls returns the authorities to trust and the certificate to show.
func (o *OTLP) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.certificate != "" {
		pem, err := os.ReadFile(o.certificate)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %q has no certificate in PEM", o.certificate)
		}
	}
	if o.clientCert != "" {
		pair, err := tls.LoadX509KeyPair(o.clientCert, o.clientKey)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Deliver sends the events as log records.
func (o *otlp) Deliver(ctx context.Context, items []Item) (int, error) {
	return inParts(&o.most, items, func(part []Item) error { return o.export(ctx, part) })
}

func (o *otlp) export(ctx context.Context, items []Item) error {
	o.items = o.items[:0]
	for _, it := range items {
		o.items = append(o.items, otelmap.Item{Event: it.Event, Line: it.Line})
	}
	request := o.mapper.Request(o.items, time.Now())
	var response *collectorpb.ExportLogsServiceResponse
	var err error
	if o.call != nil {
		response, err = o.exportGRPC(ctx, request)
	} else {
		response, err = o.exportHTTP(ctx, request)
	}
	if err != nil {
		return err
	}
	if partial := response.GetPartialSuccess(); partial.GetRejectedLogRecords() > 0 {
		n := min(uint64(partial.GetRejectedLogRecords()), uint64(len(items)))
		return &Rejected{N: n, Err: fmt.Errorf("%s rejected %d of %d events: %q", o.url, n, len(items), limited(partial.GetErrorMessage()))}
	}
	return nil
}

// limited returns the beginning of a text of a server.
func limited(s string) string { return s[:min(len(s), 200)] }

func (o *otlp) exportGRPC(ctx context.Context, request *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	call := connect.NewRequest(request)
	for name, values := range o.header {
		call.Header()[name] = values
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	response, err := o.call.CallUnary(ctx, call)
	if err == nil {
		return response.Msg, nil
	}
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return nil, err
	}
	after, known := time.Duration(0), false
	for _, detail := range failed.Details() {
		v, err := detail.Value()
		if info, ok := v.(*errdetails.RetryInfo); ok && err == nil {
			after, known = max(0, min(info.GetRetryDelay().AsDuration(), maxRetryAfter)), true
		}
	}
	err = fmt.Errorf("%s: %s: %q", o.url, failed.Code(), limited(failed.Message()))
	switch {
	case known:
		return nil, &Later{After: after, Err: err}
	case failed.Code() == connect.CodeInvalidArgument || failed.Code() == connect.CodeResourceExhausted: // the latter without RetryInfo: too large
		return nil, &Refused{N: 1, Err: err}
	}
	return nil, err
}

func (o *otlp) exportHTTP(ctx context.Context, request *collectorpb.ExportLogsServiceRequest) (*collectorpb.ExportLogsServiceResponse, error) {
	body, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	header := o.header.Clone()
	header.Set("Content-Type", "application/x-protobuf")
	if o.compress {
		var compressed bytes.Buffer
		w := gzip.NewWriter(&compressed)
		_, err := w.Write(body)
		if err = errors.Join(err, w.Close()); err != nil {
			return nil, err
		}
		body = compressed.Bytes()
		header.Set("Content-Encoding", "gzip")
	}
	answer, err := post(ctx, o.client, o.url, header, body)
	if err != nil {
		return nil, err
	}
	response := new(collectorpb.ExportLogsServiceResponse)
	if proto.Unmarshal(answer, response) != nil {
		return nil, nil // the server took it, and some answer with another text
	}
	return response, nil
}

func (o *otlp) Close() error {
	o.client.CloseIdleConnections()
	return nil
}
