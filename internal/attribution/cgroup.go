// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"strconv"
	"strings"
)

// Place is the owner of a cgroup, as far as the path of the cgroup shows it. An empty field is
// unknown.
//
// Containers can be nested: ContainerID and Runtime belong to the innermost container, Outer is
// the outermost one, which the host's runtime knows. The owner of a cgroup chooses the names of
// the cgroups below it. Root in a container that can write to its cgroups can therefore pose as a
// nested container, and a user as anything below the user's service manager. Only the outer names
// come from the host.
type Place struct {
	// Runtime is docker, containerd, cri-o, podman, lxc or systemd-nspawn, or, for a container
	// started by hand, runc, crun, runsc or youki. It can be empty beside an id: in some pods
	// the paths of containerd and Docker look the same.
	Runtime     string
	ContainerID string // as the runtime prints it in full; the name for lxc, systemd-nspawn and those by hand
	Outer       string // id of the outermost container, where ContainerID is nested in another one

	// PodUID is the UID of a Kubernetes pod: with dashes, or for static pods the 32
	// digits of their manifest's hash. It is set for whatever is accounted to the
	// pod, so also for conmon, which is in no container.
	PodUID string
	PodQoS string // class of the pod: guaranteed, burstable or besteffort

	Unit     string // unit of the system manager, what `systemctl status PID` names first; around a container, the host's
	UserUnit string // unit of a person's service manager, where Unit is user@UID.service
	UserID   string // of user-UID.slice, in digits
	Session  string // of session-ID.scope, as loginctl(1) shows it
}

// ParseCgroup returns the owner of the cgroup at a path. The path is from cgroup v2 or any hierarchy
// of v1, as the kernel prints it: absolute from the root of the hierarchy or of the reader's cgroup
// namespace.
//
//	path                                belongs to
//	a name that only a runtime gives    the container: docker-ID.scope
//	an id below a runtime's directory   the container: /docker/ID
//	any other id of 64 hex digits       no container: other programs use such names, for example
//	                                    hashes. Containers at a chosen path (docker run
//	                                    --cgroup-parent, runc's /ID) are missed rather than guessed.
//	conmon, lxc monitor, nspawn         no container: supervisors have cgroups beside the container
//	cgroups below that of a container   the container, for example systemd's slices in it
func ParseCgroup(path string) Place {
	var p Place
	path = strings.TrimSuffix(path, deleted)
	if !strings.HasPrefix(path, "/") {
		return p
	}
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	// From within a cgroup namespace, what lies outside of it begins with "..", and
	// how far below the manager's root that is cannot be known.
	if len(names) > 0 && names[0] == ".." {
		for len(names) > 0 && names[0] == ".." {
			names = names[1:]
		}
	} else {
		p.units(names)
	}
	p.containers(names)
	return p
}

// deleted is what /proc/PID/cgroup appends to the path of a removed cgroup that still has a
// zombie.
const deleted = " (deleted)"

// units follows the rules by which systemd finds the unit of a process: skip slices,
// and the first name that is left is the unit, whatever is below.
func (p *Place) units(names []string) {
	for len(names) > 0 && isSlice(names[0]) {
		if id, ok := between(names[0], "user-", ".slice"); ok && isUID(id) {
			p.UserID = id
		}
		names = names[1:]
	}
	if len(names) == 0 {
		return
	}
	p.Unit = unit(names[0])
	if id, ok := between(p.Unit, "session-", ".scope"); ok && isWord(id, "") {
		p.Session = id
	}
	if id, ok := between(p.Unit, "user@", ".service"); !ok || !isUID(id) {
		return
	}
	for names = names[1:]; len(names) > 0; names = names[1:] {
		if !isSlice(names[0]) {
			p.UserUnit = unit(names[0])
			return
		}
	}
}

// containers goes from the outside in and keeps the last container and pod.
func (p *Place) containers(names []string) {
	root := 0 // where the root of the innermost container so far is, or the host's
	for i := range names {
		if uid, qos := pod(names[:i+1]); uid != "" {
			p.PodUID, p.PodQoS = uid, qos
		}
		runtime, id := container(names, i, root)
		if id == "" {
			continue
		}
		if p.ContainerID != "" && p.Outer == "" {
			p.Outer = p.ContainerID
		}
		p.Runtime, p.ContainerID, root = runtime, id, i+1
	}
}

// prefixes are the names that runtimes give to the cgroups of containers, before a
// dash and the id. conmon's are not among them: what follows libpod- and crio- there
// is no id.
var prefixes = []struct {
	prefix, runtime string
	dir             bool // also without .scope, where systemd does not manage cgroups
	named           bool // the id is what somebody chose
}{
	{prefix: "docker", runtime: "docker"},
	{prefix: "cri-containerd", runtime: "containerd"},
	{prefix: "nerdctl", runtime: "containerd"},
	{prefix: "crio", runtime: "cri-o", dir: true},
	{prefix: "libpod", runtime: "podman", dir: true},
	{prefix: "libpod-payload", runtime: "podman", dir: true}, // --cgroups=split, so Quadlet
	// Without a cgroupsPath, that is by hand.
	{prefix: "runc", runtime: "runc", named: true},
	{prefix: "crun", runtime: "crun", named: true},
	{prefix: "runsc", runtime: "runsc", named: true},
	{prefix: "youki", runtime: "youki", named: true},
}

// container returns the container whose cgroup names[i] is. root is the index of
// the first name below the innermost container around it.
func container(names []string, i, root int) (runtime, id string) {
	name, parent := names[i], ""
	if i > 0 {
		parent = names[i-1]
	}
	scope, isScope := strings.CutSuffix(name, ".scope")
	// slice:prefix:id is how systemd is asked for prefix-id.scope. A runtime that
	// was not told to ask systemd makes a directory of that name.
	asked := strings.SplitN(name, ":", 3)
	for _, p := range prefixes {
		id, ok := strings.CutPrefix(scope, p.prefix+"-")
		ok = ok && (isScope || p.dir)
		if len(asked) == 3 && asked[1] == p.prefix && isSlice(asked[0]) {
			id, ok = asked[2], true
		}
		if ok && (isID(id) || p.named && isWord(id, "_+.-")) {
			return p.runtime, id
		}
	}

	switch {
	case isID(name):
		if uid, _ := pod(names[:i]); uid != "" {
			return "", name // containerd's and Docker's look the same
		}
		// Amazon ECS gives Docker the parent /ecs/TASK.
		if parent == "docker" || i == root+2 && names[root] == "ecs" {
			return "docker", name
		}
	case name == "payload" && i > root: // else a directory in a container
		if m := machine(names[:i]); m != "" {
			return "systemd-nspawn", m
		}
	}

	// LXC adds -1 and so on to a name whose cgroup is still there from last time.
	// That cannot be told from a container called so.
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return "lxc", id
	}
	atRoot := i == root+1 // the parent is a top directory, of the host or a container
	switch {
	case parent == "lxc.payload": // LXC 3.1
		return "lxc", name
	// Before 3.1, and Proxmox. By the pattern lxc/%n the monitor is below the name.
	case parent == "lxc" && atRoot && (i+1 == len(names) || names[i+1] != "monitor"):
		return "lxc", name
	// containerd's namespaces are directories: default is that of ctr and nerdctl,
	// k8s.io that of Kubernetes. Others could be anybody's.
	case (parent == "default" || parent == "k8s.io") && atRoot && isWord(name, "_.-") && unit(name) == "" && !isSlice(name):
		return "containerd", name
	}
	return "", ""
}

// machine returns the name of the systemd-nspawn container whose unit is the last
// of names. Only nspawn has a payload below that: virtual machines, which are in
// machine-NAME.scope too, have not.
func machine(names []string) string {
	if len(names) == 0 {
		return ""
	}
	unit := names[len(names)-1]
	m, ok := between(unit, "systemd-nspawn@", ".service")
	if !ok {
		m, ok = between(unit, "machine-", ".scope")
	}
	if !ok && len(names) > 1 && names[len(names)-2] == "machine.slice" {
		m, ok = strings.CutSuffix(unit, ".scope") // --register=no
	}
	m = unescape(m)
	if !ok || !isWord(m, "_.-") {
		return ""
	}
	return m
}

// pod returns the UID and the class of the pod whose cgroup is the last of names,
// "" if it is none's.
func pod(names []string) (uid, qos string) {
	if len(names) == 0 {
		return "", ""
	}
	name, _, _ := strings.Cut(names[len(names)-1], ":") // see container
	if slice, ok := strings.CutSuffix(name, ".slice"); ok {
		// [PARENT-]kubepods[-CLASS]-podUID, where dashes of the UID would have a meaning.
		path, uid, ok := cutLast(slice, "-pod")
		if !ok {
			return "", ""
		}
		uid, qos = strings.ReplaceAll(uid, "_", "-"), "guaranteed"
		for _, class := range []string{"burstable", "besteffort"} {
			if p, ok := strings.CutSuffix(path, "-"+class); ok {
				path, qos = p, class
			}
		}
		if path != "kubepods" && !strings.HasSuffix(path, "-kubepods") || !isPodUID(uid) {
			return "", ""
		}
		return uid, qos
	}
	uid, ok := strings.CutPrefix(name, "pod")
	if !ok || !isPodUID(uid) {
		return "", ""
	}
	names, qos = names[:len(names)-1], "guaranteed"
	if n := len(names); n > 0 && (names[n-1] == "burstable" || names[n-1] == "besteffort") {
		names, qos = names[:n-1], names[n-1]
	}
	if len(names) == 0 || names[len(names)-1] != "kubepods" {
		return "", ""
	}
	return uid, qos
}

// between returns what of s is between prefix and suffix.
func between(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// unit returns the unit that a directory's name stands for, "" for none. Only
// units of these types hold processes, besides slices.
func unit(name string) string {
	// lxc.payload.a.service is a container called a.service.
	if strings.HasPrefix(name, "lxc.payload.") || strings.HasPrefix(name, "lxc.monitor.") {
		return ""
	}
	// What could be taken for a file of the kernel has an underscore put before it.
	name = strings.TrimPrefix(name, "_")
	for _, kind := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		base, ok := strings.CutSuffix(name, kind)
		// A template, which ends with the @, is no unit that runs.
		if ok && len(name) <= 255 && isWord(base, ":-_.\\@") && base[0] != '@' && base[len(base)-1] != '@' {
			return name
		}
	}
	return ""
}

func isSlice(name string) bool {
	base, ok := strings.CutSuffix(name, ".slice")
	return ok && isWord(base, ":-_.\\")
}

// isID reports whether s is the id of a container as OCI runtimes' managers make them.
func isID(s string) bool { return len(s) == 64 && isHex(s) }

// isPodUID reports whether s is a UUID, or the hash that static pods have instead.
func isPodUID(s string) bool {
	if len(s) == 32 {
		return isHex(s)
	}
	if len(s) != 36 {
		return false
	}
	for _, i := range []int{8, 13, 18, 23} {
		if s[i] != '-' {
			return false
		}
	}
	digits := strings.ReplaceAll(s, "-", "")
	return len(digits) == 32 && isHex(digits)
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isUID(s string) bool {
	id, err := strconv.ParseUint(s, 10, 32)
	return err == nil && strconv.FormatUint(id, 10) == s
}

// isWord reports whether s has letters and digits, and besides them only what is in
// others.
func isWord(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != ""
}

// unescape undoes systemd's \x2d. A dash stays a dash, although systemd escapes
// slashes so: names of machines have none.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[:2] == `\x` {
			if c, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// hierarchies are the hierarchies of a host with cgroup v1, by priority: first v2, which has no name,
// then those that every runtime uses.
var hierarchies = []string{"", "name=systemd", "pids", "memory", "cpu", "cpuset", "devices", "freezer"}

// ParseProcCgroup returns the path for ParseCgroup from the text of /proc/PID/cgroup, "" if there is
// none.
//
// If only v2 is mounted there is one path. Otherwise a process can have a different path in each
// hierarchy: v2 can be unused, with all processes at "/", or a runtime that knows only v1 can leave
// its containers in the service that started it. ParseProcCgroup prefers the first path that names a
// container, then the first that is not "/".
func ParseProcCgroup(text string) string {
	best, bestRank := "", 0
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // a path can have colons
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "/") {
			continue
		}
		path := strings.TrimSuffix(fields[2], deleted)
		r := rank(fields[1])
		switch {
		case path == "/":
			r += 2 * unranked
		case ParseCgroup(path).ContainerID == "":
			r += unranked
		}
		if best == "" || r < bestRank {
			best, bestRank = path, r
		}
	}
	return best
}

// unranked is the rank of a hierarchy that is none of hierarchies.
var unranked = len(hierarchies) + 1

// rank returns the place in hierarchies of the first of controllers that is there.
func rank(controllers string) int {
	for i, h := range hierarchies {
		for c := range strings.SplitSeq(controllers, ",") {
			if c == h {
				return i
			}
		}
	}
	return unranked - 1
}
