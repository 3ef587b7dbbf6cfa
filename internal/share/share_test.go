// SPDX-License-Identifier: Apache-2.0

package share_test

import (
	"context"
	"testing"
	"time"

	"github.com/nstrace/nstrace/internal/share"
)

type item struct {
	user  uint32
	takes bool // all the time that it gets
}

// each returns how many items of each user were done, and how many of them had no time left.
func each(ctx context.Context, limits share.Limits, items []item) (done, cut map[uint32]int) {
	done, cut = map[uint32]int{}, map[uint32]int{}
	share.Each(ctx, limits, items, func(i item) uint32 { return i.user }, func(ctx context.Context, i item) {
		if i.takes {
			<-ctx.Done()
		}
		done[i.user]++
		if ctx.Err() != nil {
			cut[i.user]++
		}
	})
	return done, cut
}

// TestEach has a user whose thousands of items take all the time that they get. Everything of all
// others is done, wherever it is in the list.
func TestEach(t *testing.T) {
	var items []item
	for range 5000 {
		items = append(items, item{user: 1000, takes: true})
	}
	items = append(items, item{user: 1001}, item{user: 0}, item{user: 0, takes: true}, item{user: 0}, item{user: 1001}, item{user: 999})
	start := time.Now()
	done, cut := each(t.Context(), share.Limits{Total: time.Hour, User: 20 * time.Millisecond, Item: time.Millisecond}, items)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if done[0] != 3 || cut[0] != 1 || done[999] != 1 || done[1001] != 2 || cut[999]+cut[1001] != 0 {
		t.Errorf("done %v, cut %v", done, cut)
	}
	if n := done[1000]; n == 0 || n > 20 || cut[1000] != n {
		t.Errorf("%d items of the user were done, %d cut", n, cut[1000])
	}
}

// TestEachTotal checks that the users share the time in total.
func TestEachTotal(t *testing.T) {
	var items []item
	for user := range uint32(10) {
		items = append(items, item{user: 1000 + user, takes: true}, item{user: 1000 + user, takes: true})
	}
	limits := share.Limits{Total: 200 * time.Millisecond, User: time.Hour, Item: time.Hour}
	start := time.Now()
	done, _ := each(t.Context(), limits, items)
	if took := time.Since(start); took < limits.Total/2 || took > 10*limits.Total {
		t.Errorf("it took %v, want %v", took, limits.Total)
	}
	if len(done) != 10 {
		t.Errorf("done %v, want something of each user", done)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if done, _ := each(ended, limits, items); len(done) > 0 {
		t.Errorf("done %v after the end", done)
	}
}
