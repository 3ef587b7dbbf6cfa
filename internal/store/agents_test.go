// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/internal/sink"
	"github.com/nstrace/nstrace/internal/store"
	"github.com/nstrace/nstrace/internal/store/storetest"
)

// maxCollector is how much memory the Collector may need: memory_limiter in deploy/otel allows 512 MiB of heap.
const maxCollector = 700 << 10 // KiB

// TestAgents sends the events of 500 hosts by the code of the sink through the Collector of deploy/otel into a store. The
// Collector is killed twice, and the store is down for a while. Each event comes back, once.
func TestAgents(t *testing.T) {
	s := storetest.Start(t)
	collector := storetest.StartCollector(t, "../../deploy/otel", s)
	const agents, rounds = 500, 3
	var want []string
	var mu sync.Mutex
	var agent sync.WaitGroup
	half := make(chan struct{}, agents)
	for i := range agents {
		agent.Go(func() {
			options, err := sink.ParseOTLP("http://" + collector.Addr)
			if err != nil {
				t.Error(err)
				return
			}
			to, err := options.Open(otelmap.Mapper{Version: "test"}, "")
			if err != nil {
				t.Error(err)
				return
			}
			defer to.Close()
			for round := range rounds {
				var batch []sink.Item
				mu.Lock()
				for _, it := range items(fmt.Sprintf("host-%d-%d", i, round), eventtest.Sample()) {
					want = append(want, string(it.Line))
					batch = append(batch, sink.Item{Event: it.Event, Line: it.Line})
				}
				mu.Unlock()
				for len(batch) > 0 {
					done, err := to.Deliver(t.Context(), batch)
					if batch = batch[done:]; t.Context().Err() != nil {
						return
					}
					if err != nil {
						time.Sleep(100 * time.Millisecond) // the back-off of a sink, shortened
					}
				}
				if round == 0 {
					half <- struct{}{}
				}
			}
		})
	}
	for range agents / 2 {
		<-half
	}
	collector.Kill()
	s.Stop()
	collector.Run() // without a store, it keeps the events
	for range agents / 2 {
		<-half
	}
	checkMemory(t, collector.PID())
	collector.Kill()
	collector.Run()
	s.Run()
	agent.Wait()
	c := client(t, s.URL)
	var got []string
	storetest.Await(t, "all events in the store", func() bool {
		s.Flush()
		got = lines(t, c, store.Query{})
		return len(got) >= len(want)
	})
	check(t, "all", got, want)
	checkMemory(t, collector.PID())
}

func checkMemory(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	if kib, _ := strconv.Atoi(string(found[1])); kib > maxCollector {
		t.Errorf("the Collector needs %d KiB, want at most %d", kib, maxCollector)
	} else {
		t.Logf("the Collector needs %d MiB", kib>>10)
	}
}
