// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// A dockerSource uses the API of Docker, which Podman also implements.
type dockerSource struct {
	Candidate
	client    *client.Client
	transport *http.Transport
	runtime   atomic.Value          // string, set by the first answer
	refused   atomic.Pointer[error] // why there is no connection, nil if there is
}

func newDocker(c Candidate, dial Dialer) (*dockerSource, error) {
	d := &dockerSource{Candidate: c}
	d.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx, c.Path)
			if err != nil {
				d.refused.Store(&err)
				return nil, err
			}
			d.refused.Store(nil)
			return conn, nil
		},
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    30 * time.Second,
	}
	var err error
	d.client, err = client.New(client.WithHost("unix://"+c.Path),
		client.WithHTTPClient(&http.Client{Transport: limitedTransport{d.transport, &d.runtime, c.answerSize()}, CheckRedirect: client.CheckRedirect}))
	if err != nil {
		return nil, d.fail(err)
	}
	return d, nil
}

func (d *dockerSource) Close() error {
	d.transport.CloseIdleConnections()
	return nil
}

func (d *dockerSource) fail(err error) error {
	var request *url.Error
	switch refused := d.refused.Load(); {
	case errdefs.IsNotFound(err):
		err = ErrNotFound
	case client.IsErrConnectionFailed(err) && refused != nil:
		err = *refused // the client keeps only some reasons
	case errors.As(err, &request):
		err = request.Err // without the URL, which is made up
	}
	return &sourceError{d, err}
}

// name returns Docker or Podman. The name of the socket does not tell which one listens.
func (d *dockerSource) name(ctx context.Context) (string, error) {
	if name, ok := d.runtime.Load().(string); ok {
		return name, nil
	}
	// Ping is cheap. For the version Podman runs several programs.
	p, err := d.client.Ping(ctx, client.PingOptions{})
	if err != nil {
		return "", d.fail(err)
	}
	name, ok := d.runtime.Load().(string)
	if p.APIVersion == "" || !ok {
		return "", d.fail(fmt.Errorf("no version of the Docker API: %w", errors.ErrUnsupported))
	}
	return name, nil
}

// Inspect lists one container, because the inspect call of Docker blocks while the container
// starts.
func (d *dockerSource) Inspect(ctx context.Context, id string) (*Info, error) {
	if !mayBeID(id) {
		return nil, d.fail(ErrNotFound)
	}
	all, err := d.list(ctx, make(client.Filters).Add("id", id))
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

func (d *dockerSource) List(ctx context.Context) ([]*Info, error) { return d.list(ctx, nil) }

func (d *dockerSource) list(ctx context.Context, filters client.Filters) ([]*Info, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	name, err := d.name(ctx)
	if err != nil {
		return nil, err
	}
	pods := make(chan map[string]podmanPod, 1)
	go func() { pods <- d.pods(ctx, name) }()
	all, err := d.client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, d.fail(err)
	}
	of := <-pods
	infos := make([]*Info, 0, len(all.Items))
	for _, c := range all.Items {
		i := &Info{ID: c.ID, Image: c.Image, Runtime: name}
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
func (d *dockerSource) pods(ctx context.Context, runtime string) map[string]podmanPod {
	if runtime != Podman {
		return nil
	}
	// The name of the host means nothing. All versions of Podman since 4 have this version.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/v4.0.0/libpod/pods/json", nil)
	if err != nil {
		return nil
	}
	resp, err := limitedTransport{d.transport, &d.runtime, d.answerSize()}.RoundTrip(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var all []podmanPod
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&all) != nil {
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(answerTime, func() { cancel(context.DeadlineExceeded) })
	// Docker answers before it subscribes to its own events. Since makes it send what happened
	// in between from its log.
	now := time.Now()
	stream := d.client.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(now.Unix(), 10) + fmt.Sprintf(".%09d", now.Nanosecond()),
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)),
	})
	late.Stop()
	begun := false
	for {
		if !begun {
			// If the stream could not start, the error is there or comes soon.
			select {
			case err := <-stream.Err:
				return d.ended(ctx, err)
			default:
				begun = true
				changed(nil)
			}
		}
		select {
		case e := <-stream.Messages:
			switch e.Action {
			case events.ActionCreate, events.ActionStart, events.ActionRename, events.ActionDie, events.ActionDestroy,
				"died", events.ActionRemove: // the last two from older versions of Podman
				// The event has all fields, and a query can take long: see Inspect.
				attrs := e.Actor.Attributes
				name, err := d.name(ctx)
				if err != nil {
					return err
				}
				i := &Info{ID: e.Actor.ID, Name: attrs["name"], Image: attrs["image"], Runtime: name}
				i.pod(attrs)
				changed(i)
			}
		case err := <-stream.Err:
			return d.ended(ctx, err)
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

// A limitedTransport limits the size of answers, including streams, and notes which runtime answers.
type limitedTransport struct {
	http.RoundTripper
	runtime *atomic.Value // string
	size    int
}

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, int64(t.size))
		name := Docker
		if resp.Header.Get("Libpod-Api-Version") != "" {
			name = Podman
		}
		t.runtime.Store(name)
	}
	return resp, err
}
