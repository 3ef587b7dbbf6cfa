// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadCommands reads this test's own command line, and none of a process that started at another
// time.
func TestReadCommands(t *testing.T) {
	inv, err := Take(t.Context(), Options{Source: Proc})
	if err != nil {
		t.Fatal(err)
	}
	self := inv.Process(uint32(os.Getpid()))
	if self == nil {
		t.Fatal("the inventory lacks this process")
	}
	other := *self
	other.Start += tick
	ReadCommands(t.Context(), []*Process{self, &other})
	if len(self.Args) == 0 || self.Args[0] != os.Args[0] {
		t.Errorf("got %q, want %q", self.Args, os.Args)
	}
	if other.Args != nil {
		t.Errorf("another process: %q", other.Args)
	}
}

// TestStuckCommand has a process whose command line cannot be read: the others have theirs.
func TestStuckCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, stuck = 200, 70
		held := make(chan struct{})
		var all []*Process
		for i := range uint32(n) {
			all = append(all, &Process{PID: i})
		}
		rest := all
		tries := 0
		for ; len(rest) > 0; tries++ {
			rest = readCommands(t.Context(), rest, time.Now().Add(commandTime), func(pid uint32, _ uint64) []byte {
				if pid == stuck {
					<-held
				}
				return []byte(strconv.Itoa(int(pid)) + "\x00")
			})
		}
		if tries != 2 {
			t.Errorf("%d tries", tries)
		}
		for _, p := range all {
			if p.PID == stuck && p.Args != nil || p.PID != stuck && (len(p.Args) != 1 || p.Args[0] != strconv.Itoa(int(p.PID))) {
				t.Errorf("process %d has %q", p.PID, p.Args)
			}
		}
		close(held)
	})
}

// TestStuckForever has reads that take too long together.
func TestStuckForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*Process{{PID: 1}, {PID: 2}, {PID: 3}}
		start := time.Now()
		rest := readCommands(t.Context(), all, start.Add(commandTime), func(uint32, uint64) []byte {
			time.Sleep(commandTime)
			return nil
		})
		if took := time.Since(start); len(rest) != 2 || took > 3*commandWait {
			t.Errorf("after %v, %d are left", took, len(rest))
		}
		time.Sleep(commandTime) // until the stuck read ends
	})
}
