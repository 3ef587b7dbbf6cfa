// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/event/eventtest"
	"github.com/nstrace/nstrace/internal/otelmap"
	"github.com/nstrace/nstrace/internal/store"
)

// BenchmarkBlame asks the store at NSTRACE_BENCH_STORE, into which it sends NSTRACE_BENCH_EVENTS events of 1,000 hosts first
// if that is set.
func BenchmarkBlame(b *testing.B) {
	url := os.Getenv("NSTRACE_BENCH_STORE")
	if url == "" {
		b.Skip("NSTRACE_BENCH_STORE is not set")
	}
	if n, _ := strconv.Atoi(os.Getenv("NSTRACE_BENCH_EVENTS")); n > 0 {
		fill(b, url, n)
	}
	c, err := store.NewClient(url, "")
	if err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]store.BlameQuery{
		"since":    {Globs: []string{"net.ipv4.ip_forward"}, Query: store.Query{Since: time.Now().Add(-24 * time.Hour)}},
		"ever":     {Globs: []string{"net.ipv4.ip_forward"}},
		"one-host": {Query: store.Query{Hosts: []string{"host-7"}}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				rows, err := c.Blame(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(rows)), "rows")
			}
		})
	}
}

// fill sends events of the last two days. One of 97 is a write to net.ipv4.ip_forward.
func fill(b *testing.B, url string, n int) {
	const hosts, batch = 1000, 5000
	names := []string{"kernel.printk", "net.core.somaxconn", "net.ipv4.tcp_keepalive_time", "vm.swappiness"}
	host := &event.Namespace{Type: event.NSTypeNet, ID: 4026531840, Host: true}
	mapper := otelmap.Mapper{Version: "bench"}
	enc := new(event.Encoder)
	start, step := time.Now().Add(-48*time.Hour).UTC(), 48*time.Hour/time.Duration(n)
	var items []otelmap.Item
	for i := range n {
		at := (i / 50) % hosts // an agent sends several events at once
		e := &event.Event{
			V: event.SchemaVersion, Type: event.SysctlWrite, Time: start.Add(time.Duration(i) * step), Outcome: event.Success, Via: "write",
			RunID: fmt.Sprintf("run-%d", at), Seq: uint64(i), Host: fmt.Sprintf("host-%d", at), BootID: fmt.Sprintf("boot-%d", at),
			Process: eventtest.ViaSSH(uint32(i%30000), "sysctl", "-w"),
			Sysctl:  &event.Sysctl{Name: names[i%len(names)], Old: eventtest.Ptr("0"), New: eventtest.Ptr("1"), After: eventtest.Ptr("1")},
		}
		if i%97 == 0 {
			e.Sysctl.Name, e.Sysctl.Namespace = "net.ipv4.ip_forward", host
		}
		items = append(items, otelmap.Item{Event: e, Line: enc.Append(nil, e)})
		if len(items) < batch && i+1 < n {
			continue
		}
		body, err := proto.Marshal(mapper.Request(items, time.Now()))
		if err != nil {
			b.Fatal(err)
		}
		response, err := http.Post(url+"/insert/opentelemetry/v1/logs", "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			b.Fatal(response.Status)
		}
		items = items[:0]
	}
}
