// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/history"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/output"
)

// A BlameQuery selects last writes.
type BlameQuery struct {
	Query          // without Filter, Parameter, Limit and Reverse
	Globs []string // of parameters, each also with those below it; none: all parameters
	// AllNets selects the parameters of all network namespaces, not only those of the hosts. NetID and NetName, if
	// they are not zero, select those of one.
	AllNets bool
	NetID   uint32
	NetName string
}

// maxRows is the maximum number of rows of a blame, and maxRowBytes that of the bytes of their lines.
const (
	maxRows     = 1_000_000
	maxRowBytes = 2 << 30
)

// ErrTooManyRows says that a blame selects too much.
var ErrTooManyRows = errors.New("more than a million parameters: select hosts, parameters or a time")

// Blame returns a row for the last stored write to each selected parameter of each host. The rows have no current value: the
// store does not know it.
func (c *Client) Blame(ctx context.Context, q BlameQuery) (rows []*output.Blame, err error) {
	size := 0
	err = c.query(ctx, q.logsQL(), func(line []byte) error {
		if size += len(line); len(rows) == maxRows || size > maxRowBytes {
			return ErrTooManyRows
		}
		row, err := c.blameRow(&q, line)
		if row != nil {
			rows = append(rows, row)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b *output.Blame) int {
		return cmp.Or(strings.Compare(a.Parameter, b.Parameter), strings.Compare(a.Last.Host, b.Last.Host), b.SetAt().Compare(a.SetAt()))
	})
	return rows, nil
}

// Of the writes with an unknown outcome that left the old value in place of another one, only the event says whether they
// count: most do not.
var doubtful = both(absent(outcomeField), equal("nstrace.sysctl.after", "nstrace.sysctl.old"), not(equal("nstrace.sysctl.new", "nstrace.sysctl.old")))

func equal(field, other string) clause {
	return clause(quote(field) + ":eq_field(" + quote(other) + ")")
}

func (q *BlameQuery) logsQL() string {
	all := between(q.Since, q.Until)
	q.Types = map[event.Type]bool{event.SysctlWrite: true}
	all = append(all, q.filter()...)
	all = append(all, not(is(outcomeField, string(event.Failure))))
	if len(q.Globs) > 0 {
		all = append(all, matches(parameterField, globs(q.Globs, `(?:\..*)?`)))
	}
	switch {
	case q.NetID != 0:
		all = append(all, is(ownerField+"id", strconv.FormatUint(uint64(q.NetID), 10)), is(ownerField+"type", string(event.NSTypeNet)))
	case q.NetName != "":
		all = append(all, is(ownerField+"name", q.NetName), is(ownerField+"type", string(event.NSTypeNet)))
	case !q.AllNets:
		all = append(all, either(absent(ownerField+"type"), matches(bodyField, regexp.QuoteMeta(`"host":true`))))
	}
	// Namespaces have unique ids only within a boot. The copy of the host is one parameter, whatever the boot.
	by := []string{otelmap.Host, "host.id", parameterField}
	if q.NetID != 0 || q.NetName != "" || q.AllNets {
		by = append(by, otelmap.BootID, ownerField+"type", ownerField+"id", ownerField+"uid")
	}
	for i, field := range by {
		by[i] = quote(field)
	}
	last := "row_max(" + timeField + ", " + bodyField + ")"
	return string(join(all, " ") + clause(" | stats by ("+strings.Join(by, ", ")+") count_uniq_hash("+quote(otelmap.UID)+") writes, "+
		last+" if ("+string(not(doubtful))+") sure, "+last+" if "+string(doubtful)+" doubtful"))
}

// blameRow returns the row of a line, nil if no write of it counts.
func (c *Client) blameRow(q *BlameQuery, line []byte) (*output.Blame, error) {
	var answer struct {
		Writes         string `json:"writes"`
		Sure, Doubtful string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, errNotRecord
	}
	var last *event.Event
	for _, text := range []string{answer.Sure, answer.Doubtful} {
		if text == "" || text == "{}" {
			continue
		}
		var r record
		if json.Unmarshal([]byte(text), &r) != nil {
			return nil, errNotRecord
		}
		e, err := parse(r.Body)
		if err != nil {
			c.skip(err)
			continue
		}
		if history.IsLastWrite(e) && q.wants(e) && (last == nil || e.Time.After(last.Time)) {
			last = e
		}
	}
	if last == nil {
		return nil, nil
	}
	n, _ := strconv.ParseUint(answer.Writes, 10, 64)
	s := last.Sysctl
	row := &output.Blame{Parameter: s.Name, Namespace: s.Namespace, Recorded: s.After, Writes: max(n, 1), State: output.Stored, Last: last}
	if row.Recorded == nil {
		row.Recorded = s.New
	}
	return row, nil
}

// wants checks what the store selected.
func (q *BlameQuery) wants(e *event.Event) bool {
	s, ns := e.Sysctl, e.Sysctl.Namespace
	switch {
	case !q.Query.matches(e):
		return false
	case !q.Since.IsZero() && e.Time.Before(q.Since), !q.Until.IsZero() && e.Time.After(q.Until):
		return false
	case q.NetID != 0 && (ns == nil || ns.Type != event.NSTypeNet || ns.ID != q.NetID):
		return false
	case q.NetName != "" && (ns == nil || ns.Type != event.NSTypeNet || ns.Name != q.NetName):
		return false
	case q.NetID == 0 && q.NetName == "" && !q.AllNets && ns != nil && !ns.Host:
		return false
	}
	return len(q.Globs) == 0 || slices.ContainsFunc(q.Globs, func(g string) bool {
		return event.MatchSysctl(g, s.Name) || strings.HasPrefix(s.Name, strings.TrimSuffix(g, ".")+".")
	})
}
