// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
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

// A dockerSource speaks the API of Docker, which Podman has as well.
type dockerSource struct {
	Candidate
	client    *client.Client
	transport *http.Transport
	runtime   atomic.Value          // string, once it was asked
	refused   atomic.Pointer[error] // why there is no connection, nil if there is
}

func newDocker(kind, path string) (*dockerSource, error) {
	d := &dockerSource{Candidate: Candidate{Kind: kind, Path: path}}
	d.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialSocket(ctx, path)
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
	d.client, err = client.New(client.WithHost("unix://"+path),
		client.WithHTTPClient(&http.Client{Transport: limitedTransport{d.transport, &d.runtime}, CheckRedirect: client.CheckRedirect}))
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
		err = request.Err // without an URL that nobody knows
	}
	return &sourceError{d, err}
}

// name returns Docker or Podman: a socket of one can have the name of the other's.
func (d *dockerSource) name(ctx context.Context) (string, error) {
	if name, ok := d.runtime.Load().(string); ok {
		return name, nil
	}
	// Not the version: to tell that, Podman runs several programs.
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

// Inspect asks for a list of one: to describe a container in full, Docker waits for as
// long as it is starting it.
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
	all, err := d.client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, d.fail(err)
	}
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
		infos = append(infos, i)
	}
	return infos, nil
}

func (d *dockerSource) Watch(ctx context.Context, changed func(*Info)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(answerTime, func() { cancel(context.DeadlineExceeded) })
	// Docker answers before it begins to listen to itself: what happens between
	// these is in its log.
	now := time.Now()
	stream := d.client.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(now.Unix(), 10) + fmt.Sprintf(".%09d", now.Nanosecond()),
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)),
	})
	late.Stop()
	begun := false
	for {
		if !begun {
			// Events that could not begin has left its error, or soon will.
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
				"died", events.ActionRemove: // as older Podmans say it
				// It says all that there is to know, and asking can take long: see Inspect.
				said := e.Actor.Attributes
				name, err := d.name(ctx)
				if err != nil {
					return err
				}
				i := &Info{ID: e.Actor.ID, Name: said["name"], Image: said["image"], Runtime: name}
				i.pod(said)
				changed(i)
			}
		case err := <-stream.Err:
			return d.ended(ctx, err)
		}
	}
}

// ended says why events end.
func (d *dockerSource) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return d.fail(err)
}

// A limitedTransport keeps answers, streams included, from being longer than
// answerSize, and takes note of who answers.
type limitedTransport struct {
	http.RoundTripper
	runtime *atomic.Value // string
}

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, answerSize)
		name := Docker
		if resp.Header.Get("Libpod-Api-Version") != "" {
			name = Podman
		}
		t.runtime.Store(name)
	}
	return resp, err
}
