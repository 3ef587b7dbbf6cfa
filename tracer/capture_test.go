// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/nstrace/nstrace/event"
)

var (
	capture = flag.String("capture", "", "write the records of a real run to this file (root)")
	set     = flag.String("capture-set", "", "what to run for -capture: nothing, or netdev")
	backend = flag.String("capture-backend", "auto", "how to attach for -capture")
	update  = flag.Bool("update", false, "write the golden files from what the code gives now")
)

// captured are the commands whose records are in testdata: one for each shape
// that a record can have.
var captured = []string{
	"unshare --net sysctl -w net.ipv4.tcp_keepalive_time=600",
	"unshare --net sysctl -w 'net.ipv4.tcp_rmem=4096 131072 6291457'",
	"unshare --uts sh -c 'echo web > /proc/sys/kernel/hostname'",
	"unshare --ipc sysctl -w kernel.shmmax=1048576",
	"unshare --user --map-root-user --net --mount --pid --fork --cgroup --time true",
	"setpriv --reuid 1000 --clear-groups unshare --uts --ipc true || :",
	"nsenter --target $$ --net --uts true",
	"nsenter --net=/proc/self/ns/uts true || :",
	"sh -c 'echo 4294967296 > /proc/sys/vm/swappiness' || :",
	"sysctl -w kernel.core_pattern=core",
	"sh -c 'head -c 2000 /dev/zero | tr \"\\0\" x > /proc/sys/kernel/core_pattern'; sysctl -w kernel.core_pattern=core",
	"ip netns add web; ip netns delete web",
	"touch f; mount --bind /proc/self/ns/mnt f || :; umount f || :",
	"mkdir d; mount -t tmpfs none d; touch d/f; unshare --uts=d/f true; umount --lazy d; rmdir d",
	"unshare --net bash -c 'exec -a \"$(printf \"a\\033[31m\\377\")\" sysctl -w net.ipv4.ip_forward=1'",
}

// capturedSets has more of these, in files of their own: RELEASE-SET.records.
var capturedSets = map[string][]string{
	"": captured,
	"netdev": { // with a network card eth0, as guests have one
		"ip netns add web",
		"ip link add veth0 type veth peer name eth1 netns web",
		"ip link set veth0 netns web name uplink",
		"ip -n web link set uplink netns 1",
		"ip link set lo netns web || :",
		"ip link add dummy0 type dummy; ip -n web link add dummy0 type dummy; ip link set dummy0 netns web || :",
		"ip link add dummy1 type veth peer name eth1 netns web || :",
		"ip link set eth0 netns web name card0",
		"ip netns del web",
	},
}

// TestCapture makes testdata's records; run it in a virtual machine, as root:
//
//	go test -c ./tracer && nsvm -kernel 6.1 -copy tracer.test:/t -- /t -test.run Capture -capture /dev/stdout
func TestCapture(t *testing.T) {
	if *capture == "" {
		t.Skip("no -capture FILE")
	}
	tr, err := New(Options{Backend: Backend(*backend)})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	commands, ok := capturedSets[*set]
	if !ok {
		t.Fatalf("there is no set %q", *set)
	}
	for _, c := range commands {
		if out, err := exec.Command("bash", "-c", c).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
	f, err := os.Create(*capture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Destroy records come until the kernel has freed what the commands made.
	tr.ring.SetDeadline(time.Now().Add(2 * time.Second))
	var rec ringbuf.Record
	for {
		if err := tr.ring.ReadInto(&rec); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		var size [4]byte
		binary.LittleEndian.PutUint32(size[:], uint32(len(rec.RawSample)))
		if _, err := f.Write(append(size[:], rec.RawSample...)); err != nil {
			t.Fatal(err)
		}
	}
}

// records reads a file of TestCapture's.
func records(tb testing.TB, file string) [][]byte {
	tb.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var all [][]byte
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		all = append(all, b[4:4+n])
		b = b[4+n:]
	}
	return all
}

// guestUsers are those of a guest.
type guestUsers map[uint32]string

func (u guestUsers) Name(uid uint32) string { return u[uid] }

// offline is a Tracer that has no kernel behind it.
func offline() *Tracer {
	boot := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano()
	return &Tracer{
		host:  hostInfo{host: "guest", bootID: "00000000-0000-0000-0000-000000000000"},
		clock: clock{offset: boot, first: boot, synced: math.MaxInt64},
		users: guestUsers{0: "root", 1000: "tester"},
		reg:   newRegistry(),
		pins:  map[uint32]*pin{},
	}
}

// collect is a Handler that keeps what it is given.
type collect []*event.Event

func (c *collect) Event(e *event.Event) error { *c = append(*c, e.Clone()); return nil }
func (c *collect) Idle() error                { return nil }
