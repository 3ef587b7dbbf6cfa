// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// A dockerSource speaks the API of Docker, which Podman has as well.
type dockerSource struct {
	Candidate
	client    *client.Client
	transport *http.Transport
	runtime   atomic.Value // string, once it was asked
}

func newDocker(kind, path string) (*dockerSource, error) {
	d := &dockerSource{Candidate: Candidate{Kind: kind, Path: path}}
	d.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialSocket(ctx, path)
		},
		DisableCompression: true,
		MaxIdleConns:       2,
		IdleConnTimeout:    30 * time.Second,
	}
	var err error
	d.client, err = client.New(client.WithHost("unix://"+path),
		client.WithHTTPClient(&http.Client{Transport: limitedTransport{d.transport}, CheckRedirect: client.CheckRedirect}))
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
	if errdefs.IsNotFound(err) {
		err = ErrNotFound
	}
	return &sourceError{d, err}
}

// name returns Docker or Podman: a socket of one can have the name of the other's.
func (d *dockerSource) name(ctx context.Context) (string, error) {
	if name, ok := d.runtime.Load().(string); ok {
		return name, nil
	}
	v, err := d.client.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", d.fail(err)
	}
	if v.APIVersion == "" {
		return "", d.fail(fmt.Errorf("no version of the Docker API: %w", errors.ErrUnsupported))
	}
	name := Docker
	for _, c := range v.Components {
		if c.Name == "Podman Engine" {
			name = Podman
		}
	}
	d.runtime.Store(name)
	return name, nil
}

func (d *dockerSource) Inspect(ctx context.Context, id string) (*Info, error) {
	if !mayBeID(id) {
		return nil, d.fail(ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	name, err := d.name(ctx)
	if err != nil {
		return nil, err
	}
	r, err := d.client.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, d.fail(err)
	}
	c := &r.Container
	if !strings.HasPrefix(c.ID, id) {
		return nil, d.fail(ErrNotFound) // it is the name of another
	}
	i := &Info{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Runtime: name}
	if c.Config != nil {
		i.Image = c.Config.Image
		i.pod(c.Config.Labels)
	}
	if c.State != nil {
		i.PID = c.State.Pid
	}
	if c.HostConfig != nil {
		d.network(ctx, i, c.HostConfig.NetworkMode)
	}
	return i, nil
}

// network sets whose network a container uses.
func (d *dockerSource) network(ctx context.Context, i *Info, mode container.NetworkMode) {
	i.HostNetwork = mode.IsHost()
	if !mode.IsContainer() {
		return
	}
	i.NetworkOf = mode.ConnectedContainer()
	if len(i.NetworkOf) == len(i.ID) && mayBeID(i.NetworkOf) {
		return
	}
	// As the user wrote it. If it is gone, so is its id.
	r, err := d.client.ContainerInspect(ctx, i.NetworkOf, client.ContainerInspectOptions{})
	if err != nil {
		i.NetworkOf = ""
		return
	}
	i.NetworkOf = r.Container.ID
}

// List asks for each container: what Docker lists has no process ids.
func (d *dockerSource) List(ctx context.Context) ([]*Info, error) {
	few, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	name, err := d.name(few)
	if err != nil {
		return nil, err
	}
	all, err := d.client.ContainerList(few, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, d.fail(err)
	}
	infos := make([]*Info, 0, len(all.Items))
	for _, c := range all.Items {
		i, err := d.Inspect(ctx, c.ID)
		switch {
		case err == nil:
		case errors.Is(err, ErrNotFound):
			continue
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			// A container that the daemon itself waits for, such as one whose
			// process does not die, does not hide the others.
			i = &Info{ID: c.ID, Image: c.Image, Runtime: name}
			for _, n := range c.Names {
				// Further names, of links, are /OTHER/NAME.
				if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
					i.Name = n
				}
			}
			i.pod(c.Labels)
		default:
			return nil, err
		}
		infos = append(infos, i)
	}
	return infos, nil
}

func (d *dockerSource) Watch(ctx context.Context, changed func(id string)) error {
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
				changed("")
			}
		}
		select {
		case e := <-stream.Messages:
			switch e.Action {
			case events.ActionCreate, events.ActionStart, events.ActionRename, events.ActionDie, events.ActionDestroy,
				"died", events.ActionRemove: // as older Podmans say it
				changed(e.Actor.ID)
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
// answerSize.
type limitedTransport struct{ http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, answerSize)
	}
	return resp, err
}

var _ io.Closer = (*dockerSource)(nil)
