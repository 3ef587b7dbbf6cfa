// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"

	"github.com/nstrace/nstrace/internal/runtimes"
)

// maxContainers is how many containers of one runtime the Client accepts at once.
const maxContainers = maxChanges * maxInfos

// Open returns the runtime at a socket, which the child asks. It does not connect yet.
func (c *Client) Open(candidate runtimes.Candidate) (runtimes.Source, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sockets[candidate.Path] = candidate
	return &source{candidate, c}, nil
}

// Detect returns which API the socket at a path speaks.
func (c *Client) Detect(ctx context.Context, path string) (string, error) {
	candidate := runtimes.Candidate{Path: path}
	if _, err := c.Open(candidate); err != nil {
		return "", err
	}
	a, err := c.query(ctx, &message{Op: opDetect, Source: candidate})
	if err != nil {
		return "", err
	}
	return a.Text, nil
}

// A source is a runtime that the child asks.
type source struct {
	runtimes.Candidate
	c *Client
}

func (s *source) Close() error { return nil } // the child's connections end with it

func (s *source) Inspect(ctx context.Context, id string) (*runtimes.Info, error) {
	a, err := s.c.query(ctx, &message{Op: opInspect, Source: s.Candidate, Text: id})
	if err != nil {
		return nil, err
	}
	if len(a.Infos) != 1 {
		return nil, runtimes.ErrNotFound
	}
	return a.Infos[0], nil
}

func (s *source) List(ctx context.Context) ([]*runtimes.Info, error) {
	q, err := s.c.ask(&message{Op: opList, Source: s.Candidate}, -1)
	if err != nil {
		return nil, err
	}
	var all []*runtimes.Info
	for {
		a, err := s.c.answer(ctx, q)
		if err != nil {
			return nil, err
		}
		if all = append(all, a.Infos...); !a.More || len(all) > maxContainers {
			s.c.cancel(q)
			return all, nil
		}
	}
}

func (s *source) Watch(ctx context.Context, changed func(*runtimes.Info)) error {
	q, err := s.c.ask(&message{Op: opWatch, Source: s.Candidate}, -1)
	if err != nil {
		return err
	}
	for {
		a, err := s.c.answer(ctx, q)
		if err != nil {
			return err
		}
		if a.Begun {
			changed(nil)
		}
		for _, info := range a.Infos {
			changed(info)
		}
		if !a.More {
			return ErrGone
		}
	}
}
