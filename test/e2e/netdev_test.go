// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/tracer"
)

// seesDevices reports whether a backend sees network devices move.
func seesDevices(b tracer.Backend) bool { return b == tracer.Fentry || b == tracer.Kprobe }

// A nic is a device as ip(8) shows it.
type nic struct {
	Index uint32 `json:"ifindex"`
	Name  string `json:"ifname"`
	MAC   string `json:"address"`
	place string // host, or the name of its namespace in ip netns
}

// An end is a network namespace of the tests, by the name that the test gives it.
type end struct {
	name string
	args []string // of ip(8), to get there
	id   uint32
}

// deviceNets are two network namespaces, a and b, and the host's.
func deviceNets(t *testing.T, h *host) map[string]end {
	t.Helper()
	nets := map[string]end{"host": {name: "host", id: h.ns["net"]}}
	for _, name := range []string{"a", "b"} {
		ns := addNetns(t, "nstrace-e2e-"+name)
		nets[name] = end{name: name, args: []string{"-n", ns}, id: mustID(t, "/run/netns/"+ns)}
	}
	return nets
}

func addNetns(t *testing.T, name string) string {
	t.Helper()
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			output(t, "ip", "netns", "del", name)
		}
	})
	return name
}

// nicsIn returns the devices in a network namespace from ip(8), by hardware address, which a device
// keeps.
func nicsIn(t *testing.T, e end) map[string]nic {
	t.Helper()
	var list []nic
	text := output(t, "ip", append(slices.Clone(e.args), "-j", "link")...)
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("ip: %v\n%s", err, text)
	}
	m := map[string]nic{}
	for _, n := range list {
		if n.MAC != "00:00:00:00:00:00" { // loopback devices have no address
			n.place = e.name
			m[n.MAC] = n
		}
	}
	return m
}

// nics returns the devices of all the test's network namespaces.
func nics(t *testing.T, nets map[string]end) map[string]nic {
	t.Helper()
	all := map[string]nic{}
	for _, e := range nets {
		for mac, n := range nicsIn(t, e) {
			all[mac] = n
		}
	}
	return all
}

// change describes what happened to a device between two outputs of ip(8): "eth0 3 host > eth1 2
// a". from is the namespace of the request. before is nil for a new device.
func change(before *nic, after nic, from string) string {
	if before == nil {
		return fmt.Sprintf("new %s %d %s by %s", after.Name, after.Index, after.place, from)
	}
	return fmt.Sprintf("%s %d %s > %s %d %s", before.Name, before.Index, before.place, after.Name, after.Index, after.place)
}

// said describes an event in the same form.
func said(e *emitted, nets map[string]end) string {
	d := e.Netdev
	place := func(ns *event.Namespace) string {
		if ns == nil {
			return "?"
		}
		for name, end := range nets {
			if end.id == ns.ID {
				return name
			}
		}
		return fmt.Sprint(ns.ID)
	}
	before := nic{Name: d.Name, Index: d.Ifindex, place: place(d.From)}
	after := nic{Name: d.Name, Index: d.Ifindex, place: place(d.To)}
	if d.NewName != "" {
		after.Name = d.NewName
	}
	if d.NewIfindex != 0 {
		after.Index = d.NewIfindex
	}
	switch {
	case d.Created && e.Outcome == event.Failure:
		return fmt.Sprintf("new %s %s by %s: %s", d.Name, place(d.To), place(d.From), e.Error)
	case d.Created:
		return change(nil, after, place(d.From))
	case e.Outcome == event.Failure:
		return fmt.Sprintf("%s %s > %s: %s", d.Name, place(d.From), place(d.To), e.Error)
	}
	return change(&before, after, "")
}

// ipAnswer matches what ip(8) prints if the kernel refuses.
var ipAnswer = regexp.MustCompile(`(?m)^(?:RTNETLINK answers|Error): .*$`)

// testNetdev moves devices, and compares the events with what ip(8) shows before and after.
func testNetdev(t *testing.T, h *host) {
	if !slices.ContainsFunc(h.streams, func(s *stream) bool { return seesDevices(s.backend) }) {
		t.Skip("no backend of this kernel sees devices, as nstrace check says; TestBackends")
	}
	if os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("no modules, so no devices")
	}
	nets := deviceNets(t, h)
	const a, b = "nstrace-e2e-a", "nstrace-e2e-b"
	sitter := h.start(t, "ip", []string{"netns", "exec", b, "sh", "-c", "echo ready=yes; exec cat"})
	sitter.value(t, "ready")

	for _, tt := range []struct {
		name   string
		setup  string // run first, in a separate process
		script string
		nmoved int      // how many devices ip(8) sees in another namespace, including new ones
		failed []string // refused requests, which ip(8) cannot show
		from   string   // the namespace of a request that makes a device; empty for the host
		asks   string   // the network namespace of the process; empty for the host, - for another one
	}{
		{name: "by name", setup: "ip link add nse0 type dummy",
			script: "ip link set dev nse0 netns " + a, nmoved: 1},
		{name: "back", script: "ip -n " + a + " link set dev nse0 netns 1", nmoved: 1, asks: "a"},
		{name: "by pid", script: fmt.Sprintf("ip link set nse0 netns %d", sitter.pid), nmoved: 1},
		{name: "on", script: "ip -n " + b + " link set nse0 netns " + a, nmoved: 1, asks: "b"},
		{name: "renamed", setup: "ip link add nse1 type dummy; ip link set nse1 up",
			script: "ip link set nse1 netns " + a + " name uplink", nmoved: 1},
		{name: "named by the kernel", setup: "ip link add nse2 type dummy",
			script: "ip link set nse2 netns " + b + " name port%d", nmoved: 1},
		{name: "number taken", setup: "ip link add nse3 index 7001 type dummy; ip -n " + a + " link add nse4 index 7001 type dummy",
			script: "ip link set nse3 netns " + a, nmoved: 1},
		{name: "by RTM_SETLINK", setup: "ip link add nse5 type dummy",
			script: helper("nslink") + " move nse5 /run/netns/" + a, nmoved: 1},
		{name: "asked for from elsewhere", setup: "ip link add nse6 type dummy",
			script: helper("nslink") + " -u move nse6 /run/netns/" + a, nmoved: 1, asks: "-"},
		{name: "a group", setup: "for i in 0 1 2 3; do ip link add nsg$i type dummy; ip link set nsg$i group 77; done",
			script: "ip link set group 77 netns " + b, nmoved: 4},
		{name: "moved, and the rest refused", setup: "ip link add nse7 type dummy",
			script: "! ip link set nse7 netns " + a + " address 01:00:00:00:00:00", nmoved: 1},
		{name: "moved, and the name refused", setup: "ip link add nse8 type dummy",
			script: "! ip link set nse8 netns " + a + " name uplink", nmoved: 1},

		{name: "peer", script: "ip link add nsv0 type veth peer name eth0 netns " + a, nmoved: 1},
		{name: "both", script: "ip link add nsv1 netns " + a + " type veth peer name nsv2 netns " + b, nmoved: 2},
		{name: "made there", script: "ip link add nsd0 netns " + a + " type dummy", nmoved: 1},
		{name: "made by another", script: "ip -n " + a + " link add nsv3 type veth peer name nsv4 netns " + b, nmoved: 1, from: "a", asks: "a"},
		{name: "peer back", script: "ip -n " + a + " link add nsv5 type veth peer name nsv6 netns 1", nmoved: 1, from: "a", asks: "a"},

		{name: "name taken", setup: "ip link add nst0 type dummy; ip -n " + a + " link add nst0 type dummy",
			script: "! ip link set nst0 netns " + a, failed: []string{"nst0 host > a: EEXIST"}},
		{name: "loopback", script: "! ip link set lo netns " + a, failed: []string{"lo host > a: EINVAL"}},
		{name: "peer's name taken", setup: "ip -n " + a + " link add nst1 type dummy",
			script: "! ip link add nst2 type veth peer name nst1 netns " + a, failed: []string{"new nst1 a by host: EEXIST"}},
		{name: "made, and taken back",
			script: "! ip link add nst3 master lo type veth peer name nst4 netns " + a, failed: []string{"new nst4 a by host: EOPNOTSUPP"}},

		// Requests that move nothing.
		{name: "where it is", setup: "ip link add nsn0 type dummy", script: "ip link set nsn0 netns 1; ip link set nsn0 up; ip link set nsn0 down; ip link set nsn0 name nsn1"},
		{name: "made here", script: "ip link add nsn2 type dummy; ip link add nsn3 type veth peer name nsn4; ip link add nsn5 type bridge; unshare --net true"},
		{name: "made there from there", script: "ip -n " + a + " link add nsn6 type dummy", from: "a", asks: "a"},
		{name: "made for another", script: helper("nslink") + " -u make nsn7", asks: "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.setup != "" {
				output(t, "sh", "-e", "-c", tt.setup)
			}
			before := nics(t, nets)
			w := h.sh(t, tt.script)
			if refused := ipAnswer.FindAllString(w.stderr.String(), -1); (len(refused) > 0) != strings.HasPrefix(tt.script, "!") {
				t.Fatalf("ip prints %q", w.stderr.String())
			}
			if answers := w.printed("answer"); strings.Contains(tt.script, "nslink") && !slices.Equal(answers, []string{"0"}) {
				t.Fatalf("the kernel answers %q", answers)
			}
			var want []string
			from := tt.from
			if from == "" {
				from = "host"
			}
			for mac, n := range nics(t, nets) {
				was, there := before[mac]
				switch {
				case !there && n.place != from:
					want = append(want, change(nil, n, from))
				case there && n.place != was.place:
					want = append(want, change(&was, n, ""))
				}
			}
			if len(want) != tt.nmoved {
				t.Fatalf("ip sees the changes %q, want %d", want, tt.nmoved)
			}
			w.each(t, func(t *testing.T, s *stream, events []*emitted) {
				var got []string
				for _, e := range only(events, event.NetdevMove) {
					got = append(got, said(e, nets))
					asks := tt.asks
					if asks == "" {
						asks = "host"
					}
					if e.Via != "netlink" || asks != "-" && e.Process.NS["net"] != nets[asks].id {
						t.Errorf("%s", e.line)
					}
				}
				want := slices.Concat(want, tt.failed)
				if !seesDevices(s.backend) {
					want = nil // as nstrace check says
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
	sitter.stop(t)
	t.Run("strace", func(t *testing.T) { testStraceLink(t, h, nets) })
	t.Run("namespace ends", func(t *testing.T) { testDeviceReturns(t, h) })
	output(t, "sh", "-c", "for d in /sys/class/net/ns[a-z][0-9]; do ip link del ${d##*/}; done 2>/dev/null; :")
}

// From include/uapi/linux/rtnetlink.h and if_link.h, for a request to rtnetlink.
const (
	rtmNewlink   = 16
	iflaIfname   = 3
	iflaNetNSFD  = 28
	nlHeader     = 16 // struct nlmsghdr
	ifinfoHeader = 16 // struct ifinfomsg
)

// linkRequest finds in strace's log, which has dumps of the sent data, the request that moves a
// device. It returns the sender and the new name.
func linkRequest(t *testing.T, log string) (pid int, name string) {
	t.Helper()
	var sender int
	var sent []byte
	look := func() {
		if len(sent) < nlHeader+ifinfoHeader || binary.NativeEndian.Uint16(sent[4:]) != rtmNewlink {
			return
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&syscall.NetlinkMessage{
			Header: syscall.NlMsghdr{Type: rtmNewlink}, Data: sent[nlHeader:],
		})
		if err != nil {
			t.Fatal(err)
		}
		var to bool
		for _, a := range attrs {
			switch a.Attr.Type {
			case iflaNetNSFD:
				to = true
			case iflaIfname:
				name = strings.TrimRight(string(a.Value), "\x00")
			}
		}
		if to {
			pid = sender
		}
	}
	for line := range strings.Lines(log) {
		if m := straceDump.FindStringSubmatch(line); m != nil {
			b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
			if err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			sent = append(sent, b...)
		} else if next := 0; strings.Contains(line, " sendmsg(") {
			if _, err := fmt.Sscan(line, &next); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			look()
			sender, sent = next, nil
		}
	}
	look()
	return pid, name
}

var straceDump = regexp.MustCompile(`^ \| [0-9a-f]{5} ((?: {1,2}[0-9a-f]{2}){1,16}) `)

// testStraceLink checks that strace(1) sees the request that the event is about.
func testStraceLink(t *testing.T, h *host, nets map[string]end) {
	output(t, "ip", "link", "add", "nss0", "type", "dummy")
	log := filepath.Join(t.TempDir(), "strace")
	w := h.run(t, "strace", []string{"-f", "-q", "-o", log, "-e", "trace=sendmsg", "-e", "write=all", "-e", "signal=none",
		"ip", "link", "set", "nss0", "netns", "nstrace-e2e-a", "name", "nss1"})
	pid, name := linkRequest(t, readFile(t, log))
	if pid == 0 || name != "nss1" {
		t.Fatalf("strace has a request by %d with the name %q:\n%s", pid, name, readFile(t, log))
	}
	w.each(t, func(t *testing.T, s *stream, events []*emitted) {
		moves := only(events, event.NetdevMove)
		if !seesDevices(s.backend) {
			if len(moves) > 0 {
				t.Errorf("%s", dump(moves))
			}
			return
		}
		if len(moves) != 1 {
			t.Fatalf("%d moves", len(moves))
		}
		e := moves[0]
		if int(e.Process.PID) != pid || e.Netdev.Name != "nss0" || e.Netdev.NewName != "nss1" || e.Netdev.To.ID != nets["a"].id ||
			e.Netdev.To.Name != "nstrace-e2e-a" || !e.Netdev.From.Host || e.Outcome != event.Success {
			t.Errorf("strace saw process %d: %s", pid, e.line)
		}
	})
}

// physical returns a device that the kernel does not delete with its network namespace, because no
// program has made it (no rtnl_link_ops, default_device_exit_batch()): a guest's network card.
func physical(t *testing.T) string {
	t.Helper()
	cards, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range cards {
		if driver, err := os.Readlink(link); err == nil && filepath.Base(driver) == "virtio_net" {
			return strings.Split(link, "/")[4]
		}
	}
	return ""
}

// testDeviceReturns ends a network namespace with a device that returns to the host. No process
// does that.
func testDeviceReturns(t *testing.T, h *host) {
	if os.Getenv("NSTRACE_BIN") == "" {
		t.Skip("not in a guest, and the host uses its network card")
	}
	card := physical(t)
	if card == "" {
		t.Fatal("this guest has no network card")
	}
	const name = "nstrace-e2e-end"
	addNetns(t, name)
	id := mustID(t, "/run/netns/"+name)
	before := nicsIn(t, end{name: "host"})
	from := map[*stream]int{}
	for _, s := range h.streams {
		from[s] = s.len()
	}
	monitor := exec.Command("ip", "monitor", "link")
	var heard buffer
	monitor.Stdout = &heard
	if err := monitor.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		monitor.Process.Kill()
		monitor.Wait()
	}()
	// ip monitor listens once it has reported something.
	output(t, "ip", "link", "add", "nsm0", "type", "dummy")
	for !strings.Contains(heard.String(), "nsm1") {
		output(t, "sh", "-c", "ip link set nsm0 name nsm1; ip link set nsm1 name nsm0")
	}
	output(t, "ip", "link", "set", card, "netns", name, "name", "card0")
	inside := nicsIn(t, end{name: name, args: []string{"-n", name}})
	output(t, "ip", "-n", name, "link", "add", "nse9", "type", "dummy") // which ends with the namespace
	output(t, "ip", "netns", "del", name)

	for _, s := range h.streams {
		if !seesDevices(s.backend) {
			continue
		}
		var back *emitted
		s.awaitFrom(t, from[s], "return of "+card, func(events []*emitted) bool {
			for _, e := range only(events, event.NetdevMove) {
				if e.Process == nil {
					back = e
				}
			}
			return back != nil
		})
		if e, d := back, back.Netdev; e.Via != "exit" || e.Outcome != event.Success || d.Name != "card0" || d.NewName != "" || d.Created ||
			d.From.ID != id || d.From.Name != name || !d.To.Host || d.To.ID != h.ns["net"] {
			t.Errorf("%s", e.line)
		}
	}
	// The card is back, and in between it was where nstrace reports.
	for mac, was := range before {
		if was.Name != card {
			continue
		}
		in, after := inside[mac], nicsIn(t, end{name: "host"})[mac]
		if in.Name != "card0" || after.Name != "card0" {
			t.Errorf("ip saw the name %q, and then %q", in.Name, after.Name)
		}
		for _, s := range h.streams {
			for _, e := range only(s.since(from[s]), event.NetdevMove) {
				d := e.Netdev
				index := d.Ifindex
				if d.NewIfindex != 0 {
					index = d.NewIfindex
				}
				if e.Process == nil && (d.Ifindex != in.Index || index != after.Index) {
					t.Errorf("ip saw the index %d, and then %d: %s", in.Index, after.Index, e.line)
				}
			}
		}
	}
	for deadline := time.Now().Add(patience); !strings.Contains(heard.String(), "card0"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("ip monitor does not report its return:\n%s", heard.String())
		}
	}
	output(t, "sh", "-c", "ip link set card0 name "+card+"; ip link del nsm0")
}

// TestNetdevRun has a command that leaves a network card behind in a namespace. What the kernel
// then does still belongs to the command.
func TestNetdevRun(t *testing.T) {
	if !seesDevices(backends[0]) {
		t.Skip("no backend of this kernel sees devices, as nstrace check says; TestBackends")
	}
	if os.Getenv("NSTRACE_BIN") == "" || os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("not in a guest with a free network card")
	}
	card := physical(t)
	for _, b := range backends {
		if !seesDevices(b) {
			continue
		}
		t.Run(string(b), func(t *testing.T) {
			status, _, stderr := complete(t, []string{"run", "--backend", string(b), "-o", "json", "-e", "netdev", "--",
				"sh", "-e", "-c", "ip netns add nstrace-e2e-r; ip link set " + card + " netns nstrace-e2e-r; ip netns del nstrace-e2e-r"})
			if status != 0 {
				t.Fatalf("status %d: %s", status, stderr)
			}
			var got []string
			for line := range strings.Lines(stderr) {
				if !strings.HasPrefix(line, "{") {
					continue
				}
				e, err := parseEvent([]byte(line))
				if err != nil {
					t.Fatal(err)
				}
				if e.Type != event.NetdevMove {
					continue
				}
				got = append(got, fmt.Sprintf("%s %s %v", e.Via, e.Netdev.Name, e.Process != nil))
			}
			if want := []string{"netlink " + card + " true", "exit " + card + " false"}; !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// TestNetdevLoss stops nstrace from reading while more moves are tried than its ring holds. The
// totals must include all of them.
func TestNetdevLoss(t *testing.T) {
	if !seesDevices(backends[0]) {
		t.Skip("no backend of this kernel sees devices, as nstrace check says; TestBackends")
	}
	const tries = 1000
	addNetns(t, "nstrace-e2e-l")
	batch := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(batch, []byte(strings.Repeat("link set lo netns nstrace-e2e-l\n", tries)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range backends {
		if !seesDevices(b) {
			continue
		}
		t.Run(string(b), func(t *testing.T) {
			s := startStream(t, "--backend", string(b), "--ring-size", "64KiB", "--event", "netdev")
			s.pause(t)
			// The kernel refuses each one, and nstrace reports that at the end.
			if out, err := exec.Command("ip", "-force", "-batch", batch).CombinedOutput(); err == nil || strings.Count(string(out), "Command failed") != tries {
				t.Fatalf("ip: %v\n%s", err, out)
			}
			if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			s.awaitLoss(t, event.NetdevMove, tries)
			s.interrupt(t)
			sum := s.checkEnd(t, false)
			var written, lost uint64
			for _, e := range s.since(0) {
				switch e.Type {
				case event.NetdevMove:
					if e.Outcome != event.Failure || e.Error != "EINVAL" || e.Netdev.Name != "lo" {
						t.Errorf("%s", e.line)
					}
					written++
				case event.TraceLoss:
					if e.Loss.Reason != event.LossRingFull && e.Loss.Reason != event.LossUserShare && !canMiss(event.NetdevMove) {
						t.Errorf("%s", e.line)
					}
					lost += e.Loss.Records[event.NetdevMove]
				}
			}
			if written == 0 || lost == 0 || written+lost != tries || sum.Lost != lost {
				t.Errorf("%d written + %d lost of %d; the totals say %d lost", written, lost, tries, sum.Lost)
			}
		})
	}
}

// TestNetdevFilter runs one nstrace without a filter, and one for each filter about devices.
func TestNetdevFilter(t *testing.T) {
	if !seesDevices(backends[0]) {
		t.Skip("no backend of this kernel sees devices, as nstrace check says; TestBackends")
	}
	if os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("no modules, so no devices")
	}
	h := watch(t, backends[0])
	all := h.streams[0]
	nets := deviceNets(t, h)
	rows := []struct {
		args []string
		pass func(e *emitted) bool
		s    *stream
	}{
		{args: []string{"-e", "netdev"}, pass: func(*emitted) bool { return true }},
		{args: []string{"-e", "sysctl,netdev.move", "-t", "net"}, pass: func(*emitted) bool { return true }},
		{args: []string{"-e", "netdev", "-t", "uts,mnt"}, pass: func(*emitted) bool { return false }},
		{args: []string{"-e", "netdev", "--failed"}, pass: func(e *emitted) bool { return e.Outcome == event.Failure }},
		{args: []string{"-e", "netdev", "-c", "nslink"}, pass: func(e *emitted) bool { return e.Process.Comm == "nslink" }},
		{args: []string{"-e", "netdev", "--netns", "nstrace-e2e-b"}, pass: func(e *emitted) bool {
			return e.Netdev.From.ID == nets["b"].id || e.Netdev.To.ID == nets["b"].id
		}},
		{args: []string{"-e", "netdev", "--filter", `netdev.new_name == "eth7" and netdev.from.host`}, pass: func(e *emitted) bool { return e.Netdev.NewName == "eth7" }},
	}
	if testing.Short() { // one filter is enough; the host runs all
		rows = rows[1:2]
	}
	for i := range rows {
		rows[i].s = startStream(t, append([]string{"--backend", string(all.backend)}, rows[i].args...)...)
		rows[i].s.awaitStart(t)
	}
	const a, b = "nstrace-e2e-a", "nstrace-e2e-b"
	w := h.sh(t, `
		ip link add nsf0 type dummy; ip link add nsf1 type dummy; ip link add nsf2 type dummy
		ip link set nsf0 netns `+a+` name eth7
		ip -n `+a+` link set eth7 netns `+b+`
		ip -n `+b+` link set eth7 netns 1
		`+helper("nslink")+` move nsf1 /run/netns/`+a+`
		ip link set nsf2 netns `+b+`
		! ip link set lo netns `+a+`
		ip link add nsf3 type veth peer name nsf4 netns `+b)
	defer output(t, "sh", "-c", "ip link del eth7; ip link del nsf3")
	mine := only(w.all(all), event.NetdevMove)
	if len(mine) != 7 && !canMiss(event.NetdevMove) {
		t.Fatalf("%d events:\n%s", len(mine), dump(mine))
	}
	for _, r := range rows {
		t.Run(strings.Join(r.args, " "), func(t *testing.T) {
			r.s.interrupt(t)
			var got, want []*emitted
			for _, e := range mine {
				if r.pass(e) {
					want = append(want, e)
				}
			}
			for _, e := range only(r.s.since(0), event.NetdevMove) {
				if e.of(w.pid) {
					got = append(got, e)
				}
			}
			lack, unfiltered := r.s.lacking(got, want), all.lacking(want, got)
			r.s.excuse(t, lack...)
			all.excuse(t, unfiltered...)
			r.s.checkEnd(t, true)
			if len(lack)+len(unfiltered) > 0 {
				return
			}
			var g, w []string
			for _, e := range got {
				g = append(g, said(e, nets))
			}
			for _, e := range want {
				w = append(w, said(e, nets))
			}
			if !slices.Equal(g, w) {
				t.Errorf("%q, want %q", g, w)
			}
		})
	}
	h.close(t)
}
