// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"os"
	"slices"
	"strconv"
	"sync/atomic"
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
	inv.ReadCommands(t.Context(), []*Process{self, &other})
	if len(self.Args) == 0 || self.Args[0] != os.Args[0] {
		t.Errorf("got %q, want %q", self.Args, os.Args)
	}
	if other.Args != nil {
		t.Errorf("another process: %q", other.Args)
	}
}

// TestManyCommands reads more command lines than it compares start times one by one: that of a process
// that is gone, and whose pid another one has, is left out.
func TestManyCommands(t *testing.T) {
	inv, err := Take(t.Context(), Options{Source: Iterators})
	if err != nil {
		t.Skip(err)
	}
	self := inv.Process(uint32(os.Getpid()))
	if self == nil {
		t.Fatal("the inventory lacks this process")
	}
	other := *self
	other.PID, other.Start = uint32(os.Getppid()), other.Start+1
	all := []*Process{self, &other}
	for len(all) < manyCommands {
		all = append(all, &Process{PID: 1<<31 + uint32(len(all))})
	}
	if err := readMany(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(self.Args, os.Args) {
		t.Errorf("got %q, want %q", self.Args, os.Args)
	}
	for _, p := range all[1:] {
		if p.Args != nil {
			t.Errorf("process %d: %q", p.PID, p.Args)
		}
	}
	inv.ReadCommands(t.Context(), inv.Processes())
	if !slices.Equal(self.Args, os.Args) {
		t.Errorf("of all processes: got %q, want %q", self.Args, os.Args)
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
		var reading atomic.Int32
		for ; len(rest) > 0; tries++ {
			_, rest = readCommands(t.Context(), rest, time.Now().Add(commandTime), func(k processKey) []byte {
				if k.pid == stuck {
					<-held
				}
				return []byte(strconv.Itoa(int(k.pid)) + "\x00")
			}, &reading)
		}
		if tries != 2 {
			t.Errorf("%d tries", tries)
		}
		for _, p := range all {
			if p.PID == stuck && p.Args != nil || p.PID != stuck && (len(p.Args) != 1 || p.Args[0] != strconv.Itoa(int(p.PID))) {
				t.Errorf("process %d has %q", p.PID, p.Args)
			}
		}
		if n := reading.Load(); n != 1 {
			t.Errorf("%d reads are stuck", n)
		}
		close(held)
		synctest.Wait()
		if n := reading.Load(); n != 0 {
			t.Errorf("%d reads are stuck after the end", n)
		}
	})
}

// TestStuckForever has reads that take too long together.
func TestStuckForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*Process{{PID: 1}, {PID: 2}, {PID: 3}}
		start := time.Now()
		var reading atomic.Int32
		late, rest := readCommands(t.Context(), all, start.Add(commandTime), func(processKey) []byte {
			time.Sleep(commandTime)
			return nil
		}, &reading)
		if took := time.Since(start); late != all[0] || len(rest) != 2 || took > 3*commandWait {
			t.Errorf("after %v, %d are left", took, len(rest))
		}
		time.Sleep(commandTime) // until the stuck read ends
	})
}

// TestLateCommand has a process whose command line takes too long once: it is read again.
func TestLateCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*Process{{PID: 1}, {PID: 2}, {PID: 3}}
		var slow atomic.Bool
		slow.Store(true)
		readAll(t.Context(), all, func(bool) commandLine {
			return func(k processKey) []byte {
				if k.pid == 2 && slow.Swap(false) {
					time.Sleep(3 * commandWait)
				}
				return []byte(strconv.Itoa(int(k.pid)) + "\x00")
			}
		})
		for _, p := range all {
			if len(p.Args) != 1 || p.Args[0] != strconv.Itoa(int(p.PID)) {
				t.Errorf("process %d has %q", p.PID, p.Args)
			}
		}
		time.Sleep(3 * commandWait) // until the slow read ends
	})
}

// TestStuckMemory has processes whose memory cannot be read: all have their command lines from /proc.
func TestStuckMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan struct{})
		var all []*Process
		for i := range uint32(10 * manyCommands) {
			all = append(all, &Process{PID: i})
		}
		readAll(t.Context(), all, func(late bool) commandLine {
			return func(k processKey) []byte {
				if !late && k.pid%50 == 7 {
					<-held
				}
				return []byte(strconv.Itoa(int(k.pid)) + "\x00")
			}
		})
		for _, p := range all {
			if len(p.Args) != 1 || p.Args[0] != strconv.Itoa(int(p.PID)) {
				t.Errorf("process %d has %q", p.PID, p.Args)
			}
		}
		close(held)
	})
}
