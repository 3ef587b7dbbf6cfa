// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The verdict answers the questions that people ask about parameters of devices and modules that come after
// systemd-sysctl has run.
func TestExplainCases(t *testing.T) {
	if !guestHasModules() {
		t.Skip("not in a guest, and the host needs its parameters")
	}
	const (
		systemd = "/usr/lib/systemd/systemd-sysctl"
		folder  = "/etc/sysctl.d"
		file    = folder + "/60-cases.conf"
		conf    = "/proc/sys/net/ipv4/conf/"
		module  = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"
	)
	if _, err := os.Stat(systemd); err != nil {
		t.Skip("systemd-sysctl is missing: install systemd")
	}
	if _, err := os.Stat(module); err == nil {
		t.Skip("nf_conntrack is loaded already")
	}
	for _, name := range []string{"all", "default"} {
		path := conf + name + "/rp_filter"
		before := readFile(t, path)
		t.Cleanup(func() { writeFile(t, path, before) })
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, `net.ipv4.ip_default_ttl = 65
net.ipv4.conf.case0/100.rp_filter = 0
net.netfilter.nf_conntrack_tcp_loose = 0
net.ipv4.conf.case1.rp_filter = 0
`)
	t.Cleanup(func() { os.Remove(file) })
	writeFile(t, conf+"all/rp_filter", "0")
	writeFile(t, conf+"default/rp_filter", "1")

	db := filepath.Join(t.TempDir(), "history.db")
	rec := startStream(t, "record", "--db", db, "--runtime-socket", "none")
	rec.awaitStart(t)
	ttl := readFile(t, "/proc/sys/net/ipv4/ip_default_ttl")
	t.Cleanup(func() { writeFile(t, "/proc/sys/net/ipv4/ip_default_ttl", ttl) })
	output(t, systemd)

	const (
		at      = `\[\d+\] at [-0-9: ]+`
		noWrite = `no write is recorded since [0-9: -]+, when the history of this boot begins`
		skipped = `systemd-sysctl` + at + ` wrote other lines of this file, but not this one; `
		applied = `applied by systemd-sysctl` + at + `; `
	)
	// nobody says that nobody wrote the parameter since it came.
	nobody := func(who string) string {
		return `(` + noWrite + `|the parameter appeared with ` + who + at + `, and no write is recorded since); `
	}
	verdict := func(name, want string) {
		t.Helper()
		var x explained
		text := output(t, nstraceBin, "explain", name, "-o", "json", "--rules", "systemd", "--runtime-socket", "none", "--db", db)
		if err := json.Unmarshal([]byte(text), &x); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if !regexp.MustCompile("^" + want + "$").MatchString(x.Verdict) {
			t.Errorf("%s: %s\nwant %s", name, x.Verdict, want)
		}
	}

	// A module that is loaded late.
	const loose = "net.netfilter.nf_conntrack_tcp_loose"
	verdict(loose, `declared 0 in `+file+`:3; `+skipped+noWrite+`; the parameter does not exist now`)
	output(t, "modprobe", "nf_conntrack")
	t.Cleanup(func() { output(t, "modprobe", "-r", "nf_conntrack") })
	verdict(loose, `declared 0 in `+file+`:3; `+skipped+nobody("modprobe")+`is 1, differs`)
	output(t, systemd, "--prefix=/net/netfilter")
	verdict(loose, `declared 0 in `+file+`:3; (the parameter appeared with modprobe`+at+`; )?`+applied+`is as declared`)

	// A VLAN that is made late.
	const vlan = "net.ipv4.conf.case0/100.rp_filter"
	output(t, "ip", "link", "add", "case0", "type", "dummy")
	t.Cleanup(func() { output(t, "ip", "link", "del", "case0") })
	output(t, "ip", "link", "add", "link", "case0", "name", "case0.100", "type", "vlan", "id", "100")
	verdict(vlan, `declared 0 in `+file+`:2; `+skipped+nobody("ip")+`is 1, as net\.ipv4\.conf\.default\.rp_filter, which the kernel copies for a new device, differs`)
	output(t, systemd, "--prefix=/net/ipv4/conf/case0.100") // as a rule of udev does
	verdict(vlan, `declared 0 in `+file+`:2; (the parameter appeared with ip`+at+`; )?`+applied+`is as declared`)

	// The greater of the device's value and that of all devices counts.
	verdict("net.ipv4.conf.all.rp_filter", `declared nowhere; .*is 0; for each device, the greater of this and its own counts`)
	output(t, "ip", "link", "add", "case1", "type", "dummy")
	t.Cleanup(func() { output(t, "ip", "link", "del", "case1") })
	output(t, systemd, "--prefix=/net/ipv4/conf/case1")
	writeFile(t, conf+"all/rp_filter", "2")
	verdict("net.ipv4.conf.case1.rp_filter", `declared 0 in `+file+`:4; (the parameter appeared with ip`+at+`; )?`+applied+`is as declared; in effect 2: the greater of this and net\.ipv4\.conf\.all\.rp_filter = 2 counts`)
}

// TestExplainTuned has tuned, which does not apply files of sysctl.d again, override a declared value.
func TestExplainTuned(t *testing.T) {
	anyKernel(t)
	long(t)
	if _, err := exec.LookPath("tuned"); err != nil {
		t.Skip("tuned is missing: apt-get install tuned")
	}
	const parameter = "vm.stat_interval"
	before := readFile(t, "/proc/sys/vm/stat_interval")
	t.Cleanup(func() { writeFile(t, "/proc/sys/vm/stat_interval", before) })
	dir := t.TempDir()
	db := filepath.Join(dir, "history.db")
	s := startStream(t, "record", "--db", db, "--runtime-socket", "none", "-e", "sysctl")
	s.awaitStart(t)
	const script = `
sed 's/^reapply_sysctl *=.*/reapply_sysctl = 0/' /etc/tuned/tuned-main.conf >"$1/main.conf"
for d in /etc/sysctl.d /etc/tuned /run; do mount -t tmpfs -o mode=755 none $d; done
cp "$1/main.conf" /etc/tuned/tuned-main.conf
mkdir /etc/tuned/case
printf '[sysctl]\nvm.stat_interval=17\n' >/etc/tuned/case/tuned.conf
printf 'vm.stat_interval = 7\n' >/etc/sysctl.d/60-case.conf
sysctl -q --system >/dev/null 2>&1
tuned --no-dbus --no-socket --profile case --log "$1/tuned.log" & tuned=$!
trap 'kill $tuned; wait $tuned' EXIT
n=0; until [ "$(cat /proc/sys/vm/stat_interval)" = 17 ]; do sleep 0.1; n=$((n+1)); [ $n -lt 300 ]; done
"$2" explain vm.stat_interval --db "$3"
`
	out := output(t, "unshare", "--mount", "sh", "-ec", script, "sh", dir, nstraceBin, db)
	want := regexp.MustCompile(`(?m)^Verdict: declared 7 in /etc/sysctl\.d/60-case\.conf:1; applied by sysctl\[\d+\] at [0-9:]+; set to 17 by tuned\[\d+\] at [0-9:]+; is 17, still differs$`)
	if !want.MatchString(out) {
		t.Errorf("%s of\n%s", parameter, out)
	}
	s.interrupt(t)
}
