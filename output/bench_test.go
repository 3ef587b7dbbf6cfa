// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"io"
	"testing"

	"github.com/nstrace/nstrace/output"
)

func BenchmarkSinks(b *testing.B) {
	for _, name := range []string{"json", "table", "wide"} {
		for _, ev := range sample()[1:5:5] {
			if ev.Seq == 3 || ev.Seq == 4 {
				continue
			}
			b.Run(name+"/"+string(ev.Type), func(b *testing.B) {
				b.ReportAllocs()
				sink := sinks[name](io.Discard)
				for b.Loop() {
					if err := sink.Write(ev); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
	b.Run("json/hostile", func(b *testing.B) {
		b.ReportAllocs()
		sink := output.NewJSON(io.Discard)
		events := hostile()
		for i := 0; b.Loop(); i++ {
			if err := sink.Write(events[i%len(events)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
