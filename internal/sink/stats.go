// SPDX-License-Identifier: Apache-2.0

package sink

// Stats are the numbers of a sink at one moment.
type Stats struct {
	QueueEvents int    // events in memory
	QueueBytes  int    // their memory
	Delivered   uint64 // events that the destination took
	Lost        uint64 // events that the destination will never get
	Failing     bool   // the last delivery failed
	Spool       *SpoolStats
}

// SpoolStats are the numbers of the events of a sink that wait on the disk.
type SpoolStats struct {
	Events uint64
	Bytes  uint64
}

// Stats returns the numbers of the sinks, in the order of NewSet. It is safe for concurrent use, and never waits for a
// destination.
func (s *Set) Stats() []Stats {
	all := make([]Stats, len(s.sinks))
	for i, sink := range s.sinks {
		all[i] = sink.stats()
	}
	return all
}

func (s *Sink) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{QueueEvents: len(s.queue), QueueBytes: s.size, Delivered: s.taken, Lost: s.total, Failing: s.failed}
}

// stats returns the sums of the readers. What a reader that has gone got is still in them.
func (l *Listener) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := l.gone
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
	var n uint64
	for i := range items {
		if it := &items[i]; it.loss == nil {
			n += it.count
			if s.o.Took != nil {
				s.o.Took(it.time)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken += n
	s.failed = err != nil
}
