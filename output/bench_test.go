// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"io"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
)

func BenchmarkSinks(b *testing.B) {
	for _, name := range []string{"json", "table", "wide"} {
		for _, ev := range eventtest.Storm() {
			b.Run(name+"/"+string(ev.Type), func(b *testing.B) { benchmark(b, name, ev) })
		}
		b.Run(name+"/hostile", func(b *testing.B) { benchmark(b, name, hostile()...) })
	}
	// The process cache never contains the process, because its address differs each time.
	first, second := sample()[1], sample()[1]
	b.Run("json/processes", func(b *testing.B) { benchmark(b, "json", first, second) })
}

// benchmark writes events over and over, a microsecond apart.
func benchmark(b *testing.B, name string, events ...*event.Event) {
	b.ReportAllocs()
	sink := sinks[name](io.Discard)
	for i := 0; b.Loop(); i++ {
		ev := events[i%len(events)]
		ev.Seq = uint64(i)
		ev.Time = eventtest.Start.Add(time.Duration(i) * time.Microsecond)
		if err := sink.Write(ev); err != nil {
			b.Fatal(err)
		}
	}
}
