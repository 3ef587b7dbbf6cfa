// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/otelmap"
)

// pageRows is how many records a request asks for, and maxPageRows how many of one moment.
const (
	pageRows    = 5000
	maxPageRows = 16 * pageRows
	pageBytes   = 256 << 20 // of the lines of a page
)

var (
	errTooMany   = errors.New("the store has too many records of one moment, or they are too large")
	errDisorder  = errors.New("the store gives records that the query does not select")
	errNotRecord = errors.New("the store gives lines that are not records")
)

// A record is a line of an answer.
type record struct {
	Time time.Time `json:"_time"`
	Body string    `json:"_msg"`
}

// Events returns the events that q selects, in the order of their times. Of the copies of an event it returns one.
func (c *Client) Events(ctx context.Context, q Query) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		if err := c.pages(ctx, &q, func(e *event.Event) bool { return yield(e, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// pages asks for page after page. A page ends before the records of its last moment, with which the next one begins.
func (c *Client) pages(ctx context.Context, q *Query, use func(*event.Event) bool) error {
	since, until, rows, left := q.Since, q.Until, pageRows, q.Limit
	if left > 0 { // Match can leave out some
		rows = min(rows, max(100, 2*left))
	}
	seen := map[string]bool{} // records of the moment at
	var at time.Time
	for {
		page, err := c.page(ctx, q, since, until, rows)
		if err != nil {
			return err
		}
		whole := len(page) < rows
		last := len(page)
		if !whole {
			for last > 0 && page[last-1].Time.Equal(page[len(page)-1].Time) {
				last--
			}
		}
		for _, r := range page[:last] {
			if !r.Time.Equal(at) {
				at = r.Time
				clear(seen)
			}
			e, err := parse(r.Body)
			if err != nil {
				c.skip(err)
				continue
			}
			if uid := otelmap.RecordUID(e); uid != "" {
				if seen[uid] {
					continue
				}
				seen[uid] = true
			}
			if !q.matches(e) {
				continue
			}
			if !use(e) {
				return nil
			}
			if left--; left == 0 {
				return nil
			}
		}
		switch {
		case whole:
			return nil
		case last == 0: // all of one moment
			if rows *= 2; rows > maxPageRows {
				return errTooMany
			}
			continue
		}
		rows = min(4*rows, pageRows)
		if q.Reverse {
			until = page[len(page)-1].Time
		} else {
			since = page[len(page)-1].Time
		}
	}
}

// page returns the first records of a time span. They are in order, and in the span.
func (c *Client) page(ctx context.Context, q *Query, since, until time.Time, rows int) (page []record, err error) {
	direction := ""
	if q.Reverse {
		direction = " desc"
	}
	query := join(append(between(since, until), q.filter()...), " ") +
		clause(" | sort by ("+timeField+direction+", "+quote(otelmap.RunID)+direction+", "+quote(otelmap.Seq)+direction+") limit "+strconv.Itoa(rows)+
			" | fields "+timeField+", "+bodyField)
	size := 0
	err = c.query(ctx, string(query), func(line []byte) error {
		var r record
		if json.Unmarshal(line, &r) != nil || r.Time.IsZero() {
			return errNotRecord
		}
		if size += len(line); len(page) == rows || size > pageBytes {
			return errTooMany
		}
		if !since.IsZero() && r.Time.Before(since) || !until.IsZero() && r.Time.After(until) {
			return errDisorder
		}
		if n := len(page); n > 0 && (q.Reverse && r.Time.After(page[n-1].Time) || !q.Reverse && r.Time.Before(page[n-1].Time)) {
			return errDisorder
		}
		page = append(page, r)
		return nil
	})
	return page, err
}

// matches checks what the store selected, as far as its fields are exact, and asks Match.
func (q *Query) matches(e *event.Event) bool {
	return MatchHost(q.Hosts, e.Host) && (q.BootID == "" || e.BootID == q.BootID) && (q.Types == nil || q.Types[e.Type]) &&
		(q.Parameter == "" || e.Sysctl != nil && e.Sysctl.Name == q.Parameter) && (q.Match == nil || q.Match(e))
}

// MatchHost reports whether one of the globs matches a host name. No globs match each one.
func MatchHost(globs []string, host string) bool {
	return len(globs) == 0 || slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := path.Match(glob, host)
		return ok
	})
}

// CheckHosts returns an error if a glob of hosts is malformed.
func CheckHosts(globs []string) error {
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			return fmt.Errorf("invalid host %q: want a name or a glob of names", glob)
		}
	}
	return nil
}
