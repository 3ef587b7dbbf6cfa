// SPDX-License-Identifier: Apache-2.0

// Package share divides a limited time among users, so that one of them, who makes a million of
// something, does not take the time of all others.
package share

import (
	"context"
	"math"
	"slices"
	"time"
)

// Unknown is the user of items of which the user is unknown. No user has this id.
const Unknown = math.MaxUint32

// Limits say how long Each may take.
type Limits struct {
	Total time.Duration // for everything
	User  time.Duration // for all items of a user other than root
	Item  time.Duration // for each item
}

// Each calls do for each item, with a context that ends when the time for the item is over. root, who
// is user 0, comes first. The other users follow, and share what is left of the time equally. Each does
// not call do any more for a user whose time is over, and for nobody once ctx has ended.
func Each[T any](ctx context.Context, limits Limits, items []T, user func(T) uint32, do func(context.Context, T)) {
	ctx, cancel := context.WithTimeout(ctx, limits.Total)
	defer cancel()
	of := map[uint32][]T{}
	var users []uint32
	for _, item := range items {
		u := user(item)
		if of[u] == nil {
			users = append(users, u)
		}
		of[u] = append(of[u], item)
	}
	slices.Sort(users)
	for i, u := range users {
		end, _ := ctx.Deadline()
		if u != 0 {
			left := time.Until(end) / time.Duration(len(users)-i)
			end = time.Now().Add(min(left, limits.User))
		}
		eachUntil(ctx, end, limits.Item, of[u], do)
	}
}

func eachUntil[T any](ctx context.Context, end time.Time, each time.Duration, items []T, do func(context.Context, T)) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for _, item := range items {
		if ctx.Err() != nil {
			return
		}
		one, done := context.WithTimeout(ctx, each)
		do(one, item)
		done()
	}
}
