// SPDX-License-Identifier: Apache-2.0

package sink

// Stats are the numbers of a sink at one moment.
type Stats struct {
	Label       string // of Options
	QueueEvents int    // events in memory
	QueueBytes  int    // their memory
	Delivered   uint64 // events that the destination took
	Lost        uint64 // events that the destination will never get
	Failing     bool   // the last delivery failed
	Spool       *SpoolStats
}

// SpoolStats are the numbers of the events of a sink that wait on the disk.
type SpoolStats struct {
	Bytes uint64 // of their lines
}

// Stats returns the numbers of the sinks. It is safe for concurrent use, and never waits for a destination.
func (s *Set) Stats() []Stats {
	s.mu.Lock()
	sinks := s.sinks
	s.mu.Unlock()
	all := make([]Stats, len(sinks))
	for i, sink := range sinks {
		all[i] = sink.stats()
	}
	return all
}

func (s *Sink) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := Stats{Label: s.o.Label, QueueEvents: len(s.queue), QueueBytes: s.size, Delivered: s.taken, Lost: s.total, Failing: s.failed}
	if to, ok := s.o.Destination.(*spool); ok {
		to.addStats(&all)
	}
	return all
}

// stats returns the sums of the readers. What a reader that has gone got is still in them.
func (l *Listener) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := l.gone
	sum.Label = l.o.Label
	for _, r := range l.readers {
		sum.add(r.stats())
	}
	return sum
}

func (s *Stats) add(o Stats) {
	s.QueueEvents += o.QueueEvents
	s.QueueBytes += o.QueueBytes
	s.Delivered += o.Delivered
	s.Lost += o.Lost
	s.Failing = s.Failing || o.Failing
}

// leave keeps the totals of a reader that has gone. The caller holds l.mu.
func (l *Listener) leave(r *reader) {
	s := r.stats()
	l.gone.add(Stats{Delivered: s.Delivered, Lost: s.Lost})
}

// took counts the items that the destination took. err is the error of the delivery.
func (s *Sink) took(items []Item, err error) {
	n := s.o.count(items)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += n
	s.failed = err != nil
}

// count calls Took for events that a destination took, and returns how many these are.
func (o *Options) count(items []Item) (n uint64) {
	for i := range items {
		if it := &items[i]; it.loss == nil {
			n += it.count
			if o.Took != nil {
				o.Took(it.time)
			}
		}
	}
	return n
}

// took counts the items that the destination behind the spool took.
func (s *spool) took(items []Item, err error) {
	n := s.o.count(items)
	s.failed.Store(err != nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += n
}

// addStats makes the numbers of the queue before a spool those of the whole sink.
func (s *spool) addStats(all *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all.Delivered = s.taken
	all.Lost += s.lost
	all.Failing = all.Failing || s.failed.Load()
	all.Spool = &SpoolStats{Bytes: uint64(max(0, s.size))}
}
