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

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/procfs"
)

var (
	capture = flag.String("capture", "", "write the records of a real run to this file (root)")
	set     = flag.String("capture-set", "", "what to run for -capture: nothing, netdev or refusal")
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
	"refusal": { // only what fails is captured
		"unshare --user --map-root-user sh -c 'echo 0 >/proc/sys/user/max_net_namespaces; unshare --net --ipc true' || :",
		"unshare --user --map-root-user sh -c 'echo 1 >/proc/sys/user/max_user_namespaces; unshare --user --map-root-user unshare --user true' || :",
		"export S='unshare --user --map-root-user sh -c \"$S\"'; sh -c \"$S\" || :",
		"export S='unshare --pid --fork sh -c \"$S\"'; sh -c \"$S\" || :",
		"setpriv --reuid 1000 --clear-groups unshare --net --uts true || :",
		"unshare --user unshare --user true || :",
		"setpriv --reuid 1000 --clear-groups --bounding-set -all unshare --user unshare --user --net true || :",
		"mkdir d; mount --bind / d; chroot d unshare --user true || :; umount d; rmdir d",
		"mkdir d; mount --bind /usr d; mount --bind / d; chroot d unshare --user true || :; umount d d; rmdir d",
		"chroot / unshare --user true",
	},
}

// TestCapture makes testdata's records; run it in a virtual machine, as root:
//
//	go test -c ./tracer && nsvm -kernel 6.1 -copy tracer.test:/t -- /t -test.run Capture -capture /dev/stdout
func TestCapture(t *testing.T) {
	if *capture == "" {
		t.Skip("no -capture FILE")
	}
	o := Options{Backend: Backend(*backend)}
	if *set == "refusal" {
		o.Filter.Failed = true
	}
	tr, err := New(o)
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
	tr.attached.ring.SetDeadline(time.Now().Add(2 * time.Second))
	var rec ringbuf.Record
	for {
		if err := tr.attached.ring.ReadInto(&rec); errors.Is(err, os.ErrDeadlineExceeded) {
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

// A fakeHost is a lookups without a kernel. Its zero value knows users only.
type fakeHost struct {
	inventory []bpf.NstraceTaskNs
	cgroups   map[uint32]string // paths by pid
	names     map[uint32]string // of network namespaces
	sysctls   map[string]string // values by name
	devices   map[string]uint32 // indexes by name
	handles   bool              // the kernel has handles of namespaces
	alive     map[uint32]bool   // by handle
	held      map[uint32]bool   // by files
	searching bool              // what held is
	tasksErr  error
	mounted   map[string]uint64 // ids by path
	slots     map[uint32]bpf.NstraceFold
	walks     int    // calls of tasks
	exe       string // the file of the host that users run
}

func (f *fakeHost) tasks() ([]bpf.NstraceTaskNs, error) {
	f.walks++
	return f.inventory, f.tasksErr
}
func (f *fakeHost) fold(slot uint32) (bpf.NstraceFold, error) { return f.slots[slot], nil }
func (f *fakeHost) takeFold(slot uint32, taken uint64) error {
	k := f.slots[slot]
	k.Reported = taken
	f.slots[slot] = k
	return nil
}
func (f *fakeHost) missedExits() uint64                { return 0 }
func (f *fakeHost) knowsEnds() bool                    { return true }
func (f *fakeHost) ownObject(bpf.NstraceOwnKey) string { return "" }
func (f *fakeHost) userName(uid uint32) string {
	return map[uint32]string{0: "root", 1000: "tester"}[uid]
}
func (f *fakeHost) commandLine(uint32, uint64, string) []byte            { return nil }
func (f *fakeHost) runsHostFile(_ uint32, _ uint64, path string) bool    { return path == f.exe }
func (f *fakeHost) cgroupPath(pid uint32, id uint64) string              { return f.cgroups[pid] }
func (f *fakeHost) netnsName(id uint32, at uint64) string                { return f.names[id] }
func (f *fakeHost) hostSysctl(name string, at uint64) string             { return f.sysctls[name] }
func (f *fakeHost) deviceIndex(net uint32, name string, _ uint64) uint32 { return f.devices[name] }
func (f *fakeHost) mountedID(path string) uint64                         { return f.mounted[path] }
func (f *fakeHost) heldByFiles(time.Time, bool) (map[uint32]bool, bool)  { return f.held, !f.searching }
func (f *fakeHost) ended(ns procfs.Namespace) (ended, known bool) {
	return f.handles && !f.alive[ns.ID], f.handles
}

// offline returns an interpreter that has no kernel behind it. Its clock stands at 0, so that
// it looks for no owners by itself.
func offline(host *fakeHost, out emitter) *interpreter {
	boot := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano()
	in := newInterpreter(&event.Filter{}, false, 0, host, out)
	in.clock = clock{now: func() uint64 { return 0 }, offset: boot, first: boot, synced: math.MaxInt64}
	return in
}

// collect is an emitter that keeps and numbers the events, as a pipeline does.
type collect struct {
	stream
	events []*event.Event
}

func newCollect() *collect {
	c := &collect{}
	c.handler, c.host, c.bootID = c, "guest", "00000000-0000-0000-0000-000000000000"
	return c
}

func (c *collect) Event(e *event.Event) error {
	e = e.Clone()
	e.V, e.Seq = event.SchemaVersion, uint64(len(c.events)+1)
	if s := e.Sysctl; s != nil && s.Cause != nil {
		s.Cause.Seq = s.Cause.Ref // no step drops events
	}
	c.events = append(c.events, e)
	return nil
}

func (c *collect) Idle() error { return nil }
