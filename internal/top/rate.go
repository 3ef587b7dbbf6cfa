// SPDX-License-Identifier: Apache-2.0

package top

import "time"

// rateSeconds is over how many seconds rates are averaged.
const rateSeconds = 5

// A rate counts events by the second.
type rate struct {
	n    [rateSeconds]uint64 // by second modulo rateSeconds
	last int64               // the second of the last event, Unix time
}

// forward forgets the seconds that are too old at a time.
func (r *rate) forward(now int64) {
	for s := max(r.last+1, now-rateSeconds+1); s <= now; s++ {
		r.n[s%rateSeconds] = 0
	}
	r.last = max(r.last, now)
}

func (r *rate) add(at time.Time, n uint64) {
	now := at.Unix()
	r.forward(now)
	r.n[now%rateSeconds] += n
}

// perSecond returns the events per second.
func (r *rate) perSecond(at time.Time) float64 {
	now := at.Unix()
	if now-r.last >= rateSeconds {
		return 0
	}
	r.forward(now)
	var sum uint64
	for _, n := range r.n {
		sum += n
	}
	return float64(sum) / rateSeconds
}
