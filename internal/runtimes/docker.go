// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/events"
)

// A dockerSource uses the API of Docker, which Podman also implements. Three requests are all that it
// needs. Docker's own client would take more memory and a longer start than all the rest of nstrace.
type dockerSource struct {
	Candidate
	transport *http.Transport
	engine    atomic.Pointer[engine] // set by the first answer
}

// An engine is who answers.
type engine struct {
	runtime string // Docker or Podman: the name of the socket does not tell
	version string // of the API
}

func newDocker(c Candidate, dial Dialer) *dockerSource {
	return &dockerSource{Candidate: c, transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, c.Path) },
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    30 * time.Second,
	}}
}

func (d *dockerSource) Close() error {
	d.transport.CloseIdleConnections()
	return nil
}

func (d *dockerSource) fail(err error) error { return &sourceError{d, err} }

// get sends a request. The answer is an error if its status is not 200, and its size is limited, also
// that of a stream. A redirection is no answer.
func (d *dockerSource) get(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	// The name of the host means nothing.
	u := url.URL{Scheme: "http", Host: "localhost", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, int64(d.answerSize()))
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, ErrNotFound
	}
	var failure struct{ Message string }
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err == nil && json.Unmarshal(text, &failure) == nil && failure.Message != "" {
		return nil, errors.New(failure.Message)
	}
	return nil, fmt.Errorf("%s: %s", path, resp.Status)
}

// getJSON decodes what get returns, and reads to the end, so that the next request uses the same connection.
func (d *dockerSource) getJSON(ctx context.Context, path string, query url.Values, to any) error {
	resp, err := d.get(ctx, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, resp.Body, maxMessage)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// maxMessage bounds the message of an error, and what may follow an answer.
const maxMessage = 64 << 10

// ping asks once who answers. It is cheap. For the version Podman would run several programs.
func (d *dockerSource) ping(ctx context.Context) (*engine, error) {
	if e := d.engine.Load(); e != nil {
		return e, nil
	}
	resp, err := d.get(ctx, "/_ping", nil)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	e := &engine{runtime: Docker, version: resp.Header.Get("Api-Version")}
	if resp.Header.Get("Libpod-Api-Version") != "" {
		e.runtime = Podman
	}
	if e.version == "" || strings.Trim(e.version, "0123456789.") != "" {
		return nil, fmt.Errorf("no version of the Docker API: %w", errors.ErrUnsupported)
	}
	d.engine.Store(e)
	return e, nil
}

// filter is the query for what has a value.
func filter(name, value string) url.Values {
	text, _ := json.Marshal(map[string][]string{name: {value}}) // strings have no error
	return url.Values{"filters": {string(text)}}
}

// Inspect lists one container, because the inspect call of Docker blocks while the container
// starts.
func (d *dockerSource) Inspect(ctx context.Context, id string) (*Info, error) {
	if !mayBeID(id) {
		return nil, d.fail(ErrNotFound)
	}
	all, err := d.list(ctx, filter("id", id))
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if strings.HasPrefix(i.ID, id) {
			return i, nil
		}
	}
	return nil, d.fail(ErrNotFound)
}

func (d *dockerSource) List(ctx context.Context) ([]*Info, error) { return d.list(ctx, url.Values{}) }

// A dockerContainer is a container as the API lists it, in part.
type dockerContainer struct {
	ID     string `json:"Id"`
	Names  []string
	Image  string
	Labels map[string]string
}

func (d *dockerSource) list(ctx context.Context, query url.Values) ([]*Info, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	e, err := d.ping(ctx)
	if err != nil {
		return nil, d.fail(err)
	}
	pods := make(chan map[string]podmanPod, 1)
	go func() { pods <- d.pods(ctx, e) }()
	query.Set("all", "1")
	var all []dockerContainer
	if err := d.getJSON(ctx, "/v"+e.version+"/containers/json", query, &all); err != nil {
		return nil, d.fail(err)
	}
	of := <-pods
	infos := make([]*Info, 0, len(all))
	for _, c := range all {
		i := &Info{ID: c.ID, Image: c.Image, Runtime: e.runtime}
		for _, n := range c.Names {
			// Further names, of links, are /OTHER/NAME.
			if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
				i.Name = n
			}
		}
		i.pod(c.Labels)
		if p, ok := of[c.ID]; ok {
			i.PodName, i.PodNamespace, i.PodUID = p.Name, "", p.ID
		}
		infos = append(infos, i)
	}
	return infos, nil
}

// A podmanPod is a pod as Podman's own API lists it, in part.
type podmanPod struct {
	ID         string `json:"Id"`
	Name       string
	Containers []struct {
		ID string `json:"Id"`
	}
}

// pods returns the pods of Podman by their containers. What Podman has in common with the API of Docker
// knows no pods. Without an answer there are none.
func (d *dockerSource) pods(ctx context.Context, e *engine) map[string]podmanPod {
	if e.runtime != Podman {
		return nil
	}
	// All versions of Podman since 4 have this version.
	var all []podmanPod
	if d.getJSON(ctx, "/v4.0.0/libpod/pods/json", nil, &all) != nil {
		return nil
	}
	of := map[string]podmanPod{}
	for _, p := range all {
		for _, c := range p.Containers {
			of[c.ID] = p
		}
	}
	return of
}

func (d *dockerSource) Watch(ctx context.Context, changed func(*Info)) error {
	defer d.engine.Store(nil) // another one, or another version, can answer next
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(answerTime, func() { cancel(context.DeadlineExceeded) })
	defer late.Stop()
	e, err := d.ping(ctx)
	if err != nil {
		return d.ended(ctx, err)
	}
	// Docker answers before it subscribes to its own events. Since makes it send what happened
	// in between from its log.
	now := time.Now()
	query := filter("type", string(events.ContainerEventType))
	query.Set("since", fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond()))
	resp, err := d.get(ctx, "/v"+e.version+"/events", query)
	if err != nil {
		return d.ended(ctx, err)
	}
	defer resp.Body.Close()
	late.Stop()
	changed(nil)
	for stream := json.NewDecoder(resp.Body); ; {
		var m events.Message
		if err := stream.Decode(&m); err != nil {
			return d.ended(ctx, err)
		}
		switch m.Action {
		case events.ActionCreate, events.ActionStart, events.ActionRename, events.ActionDie, events.ActionDestroy,
			"died", events.ActionRemove: // the last two from older versions of Podman
			// The event has all fields, and a query can take long: see Inspect.
			attrs := m.Actor.Attributes
			i := &Info{ID: m.Actor.ID, Name: attrs["name"], Image: attrs["image"], Runtime: e.runtime}
			i.pod(attrs)
			changed(i)
		}
	}
}

// ended returns the error of a stream of events that ended.
func (d *dockerSource) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return d.fail(err)
}
