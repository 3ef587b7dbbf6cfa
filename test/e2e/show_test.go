// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A shownPage is the output of nstrace show -o json, in part.
type shownPage struct {
	Namespaces []struct {
		listed
		All []struct {
			PID uint32 `json:"pid"`
		} `json:"all_processes"`
		Devices []struct {
			Name      string   `json:"name"`
			MTU       int      `json:"mtu"`
			Up        bool     `json:"up"`
			Addresses []string `json:"addresses"`
			Peer      *struct {
				Device string `json:"device"`
				ID     uint32 `json:"namespace_id"`
			} `json:"peer"`
		} `json:"devices"`
		Routes []struct {
			Destination string `json:"destination"`
		} `json:"routes"`
		Listening []struct {
			Protocol string   `json:"protocol"`
			Local    string   `json:"local"`
			PIDs     []uint32 `json:"pids"`
		} `json:"listening"`
		Differences []struct {
			Parameter string `json:"parameter"`
			A         struct {
				Value string `json:"value"`
			} `json:"a"`
		} `json:"differences"`
	} `json:"namespaces"`
}

// show runs nstrace show -o json.
func show(t *testing.T, args ...string) (page shownPage) {
	t.Helper()
	text := output(t, nstraceBin, append([]string{"show", "-o", "json", "--runtime-socket", "none"}, args...)...)
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return page
}

// TestShowNetwork shows a network namespace, and compares its devices with those of ip(8).
func TestShowNetwork(t *testing.T) {
	if os.Getenv("NSTRACE_GUEST_NO_MODULES") != "" {
		t.Skip("the kernel has no veth")
	}
	const a, b = "nstrace-e2e-sa", "nstrace-e2e-sb"
	for _, name := range []string{a, b} {
		output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
	}
	output(t, "ip", "link", "add", "veth-a", "netns", a, "type", "veth", "peer", "name", "veth-b", "netns", b)
	output(t, "ip", "-n", a, "addr", "add", "192.0.2.1/24", "dev", "veth-a")
	output(t, "ip", "-n", a, "link", "set", "veth-a", "mtu", "1400", "up")
	output(t, "ip", "netns", "exec", a, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=655")
	page := show(t, a)
	if len(page.Namespaces) != 1 {
		t.Fatalf("%+v", page)
	}
	ns := page.Namespaces[0]
	if ns.Namespace.ID != mustID(t, "/run/netns/"+a) || ns.Namespace.Name != a || len(ns.All) != 0 {
		t.Errorf("%+v", ns.Namespace)
	}
	var links []struct {
		Name string `json:"ifname"`
		MTU  int    `json:"mtu"`
	}
	if err := json.Unmarshal([]byte(output(t, "ip", "-n", a, "-j", "link")), &links); err != nil {
		t.Fatal(err)
	}
	if len(links) != len(ns.Devices) {
		t.Errorf("ip has %+v, nstrace %+v", links, ns.Devices)
	}
	for _, dev := range ns.Devices {
		if !slices.ContainsFunc(links, func(l struct {
			Name string `json:"ifname"`
			MTU  int    `json:"mtu"`
		}) bool {
			return l.Name == dev.Name && l.MTU == dev.MTU
		}) {
			t.Errorf("ip has no %+v", dev)
		}
		if dev.Name == "veth-a" && (dev.Peer == nil || dev.Peer.Device != "veth-b" || dev.Peer.ID != mustID(t, "/run/netns/"+b) || !slices.Contains(dev.Addresses, "192.0.2.1/24") || !dev.Up) {
			t.Errorf("%+v, peer %+v", dev, dev.Peer)
		}
	}
	if len(ns.Routes) == 0 || ns.Routes[0].Destination != "192.0.2.0/24" {
		t.Errorf("routes: %+v", ns.Routes)
	}
	if i := slices.IndexFunc(ns.Differences, func(d struct {
		Parameter string `json:"parameter"`
		A         struct {
			Value string `json:"value"`
		} `json:"a"`
	}) bool {
		return d.Parameter == "net.ipv4.tcp_keepalive_time"
	}); i < 0 || ns.Differences[i].A.Value != "655" {
		t.Errorf("differences: %+v", ns.Differences)
	}
	text := output(t, nstraceBin, "show", "--runtime-socket", "none", a)
	for _, want := range []string{"you run ip netns delete " + a, "veth-b in " + fmt.Sprint(mustID(t, "/run/netns/"+b)), "655"} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
}

// makesNamespace matches a call that makes a namespace, as strace(1) prints it.
var makesNamespace = regexp.MustCompile(`(?:unshare|clone3?)\(.*CLONE_NEW`)

// TestShowMakesNothing shows a namespace whose parameters differ from the host's, and has strace(1) watch
// that nstrace makes no namespace for that.
func TestShowMakesNothing(t *testing.T) {
	anyKernel(t)
	const name = "nstrace-e2e-sn"
	output(t, "ip", "netns", "add", name)
	t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
	output(t, "ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_keepalive_time=656")
	log := filepath.Join(t.TempDir(), "strace")
	// strace stops only these calls, and not the signals by which Go interrupts a goroutine: otherwise
	// an emulated processor does not compare the parameters in time.
	text := output(t, "env", "GODEBUG=asyncpreemptoff=1",
		"strace", "-f", "--seccomp-bpf", "-e", "signal=none", "-o", log, "-e", "trace=unshare,clone,clone3,setns", nstraceBin, "show", "--runtime-socket", "none", name)
	calls := readFile(t, log)
	if !strings.Contains(text, "656") || !strings.Contains(calls, "setns(") || makesNamespace.MatchString(calls) {
		t.Errorf("%s\n%s", text, calls)
	}
}

// TestShowProcess shows the namespaces of a process, and compares them with /proc.
func TestShowProcess(t *testing.T) {
	h := &host{}
	w := h.start(t, "unshare", []string{"--uts", "--ipc", "sh", "-c", "echo ready=yes; read x || exit 0"})
	w.value(t, "ready")
	want, err := namespacesOf(w.pid)
	if err != nil {
		t.Fatal(err)
	}
	page := show(t, strconv.Itoa(w.pid))
	if len(page.Namespaces) != len(want) {
		t.Errorf("%d namespaces, want %d", len(page.Namespaces), len(want))
	}
	for _, ns := range page.Namespaces {
		if want[ns.Namespace.Type] != ns.Namespace.ID {
			t.Errorf("%s: %d, want %d", ns.Namespace.Type, ns.Namespace.ID, want[ns.Namespace.Type])
		}
	}
	w.stdin.Close()
	w.end(t)
	for _, row := range []struct{ args, want string }{
		{"show", "nstrace: show: 0 arguments: want one"},
		{"show a b", "nstrace: show: 2 arguments: want one"},
		{"show nstrace-e2e-none", `nstrace: show: "nstrace-e2e-none": not found`},
		{"show 4294967295", `nstrace: show: "4294967295": not found`},
		{"show --events -1 1", "nstrace: --events: invalid number -1: want 0 or more"},
	} {
		status, stdout, stderr := nstrace(t, strings.Fields(row.args))
		if status != 2 || stdout != "" || !strings.HasPrefix(stderr, row.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %s%s", row.args, status, stdout, stderr)
		}
	}
}
