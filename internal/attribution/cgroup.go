// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"cmp"
	"strconv"
	"strings"
)

// CgroupOwner is the owner of a cgroup, as far as the path of the cgroup shows it. An empty field is
// unknown.
//
// Containers can be nested: ContainerID and Runtime belong to the innermost container, Outer is
// the outermost one, which the host's runtime knows. The owner of a cgroup chooses the names of
// the cgroups below it. Root in a container that can write to its cgroups can therefore pose as a
// nested container, and a user as anything below the user's service manager. Only the outer names
// come from the host.
type CgroupOwner struct {
	// Runtime is docker, containerd, cri-o, podman, lxc or systemd-nspawn, or, for a container
	// started by hand, runc, crun, runsc or youki. It can be empty although ContainerID is set:
	// in some pods the paths of containerd and Docker look the same.
	Runtime     string
	ContainerID string // the full id; for lxc, systemd-nspawn and containers started by hand the name
	Outer       string // id of the outermost container if ContainerID is nested, else empty

	// PodUID is the UID of a Kubernetes pod: with dashes, or for a static pod the 32
	// digits of its manifest's hash. For a pod of Podman it is the id, 64 digits. It is set for the
	// pod's cgroup and every cgroup below it, also for conmon's, which belongs to no container.
	PodUID string
	PodQoS string // class of a Kubernetes pod: guaranteed, burstable or besteffort

	Unit     string // unit of the host's system manager, as `systemctl status PID` shows it
	UserUnit string // unit of the user's service manager, if Unit is user@UID.service
	UserID   string // UID of user-UID.slice, in digits
	Session  string // ID of session-ID.scope, as loginctl(1) shows it
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
func ParseCgroup(path string) CgroupOwner {
	o, _ := parseCgroup(path)
	return o
}

// A place says where in a path the names of containers and pods are, as indexes of names, -1 for none.
type place struct {
	names    []string
	outer    int  // the outermost container
	inner    int  // the container in it whose id is in the CgroupOwner
	pod      int  // the pod that is in the CgroupOwner
	relative bool // the path begins with ".."
}

// outermost returns the index of the container or pod that is around all others.
func (p *place) outermost() int {
	switch {
	case p.outer < 0:
		return max(p.pod, 0)
	case p.pod < 0:
		return p.outer
	}
	return min(p.outer, p.pod)
}

func parseCgroup(path string) (o CgroupOwner, at place) {
	at = place{outer: -1, inner: -1, pod: -1}
	path = strings.TrimSuffix(path, deleted)
	if !strings.HasPrefix(path, "/") {
		return o, at
	}
	names := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	// In a cgroup namespace, the path of a cgroup outside of it begins with "..". Such a path
	// does not show where systemd's root is.
	if len(names) > 0 && names[0] == ".." {
		at.relative = true
		for len(names) > 0 && names[0] == ".." {
			names = names[1:]
		}
	} else {
		o.units(names)
	}
	at.names = names
	o.containers(&at)
	return o, at
}

// deleted is what /proc/PID/cgroup appends to the path of a removed cgroup that still has a
// zombie.
const deleted = " (deleted)"

// units sets the unit, user and session. It finds the unit of a process as systemd does: the first
// name that is not a slice.
func (o *CgroupOwner) units(names []string) {
	for len(names) > 0 && isSlice(names[0]) {
		if id, ok := between(names[0], "user-", ".slice"); ok && isUID(id) {
			o.UserID = id
		}
		names = names[1:]
	}
	if len(names) == 0 {
		return
	}
	o.Unit = unit(names[0])
	if id, ok := between(o.Unit, "session-", ".scope"); ok && isWord(id, "") {
		o.Session = id
	}
	if id, ok := between(o.Unit, "user@", ".service"); !ok || !isUID(id) {
		return
	}
	for names = names[1:]; len(names) > 0; names = names[1:] {
		if !isSlice(names[0]) {
			o.UserUnit = unit(names[0])
			return
		}
	}
}

// UnitPath returns the unit of the cgroup at a path, of which o is the owner: Unit, and behind it what is
// below a user's service manager, as in user@1000.service/app.slice/foobar.service. The user chooses that
// part.
func (o *CgroupOwner) UnitPath(path string) string {
	if o.UserUnit == "" {
		return o.Unit
	}
	_, below, _ := strings.Cut(path, o.Unit+"/")
	full := o.Unit
	for name := range strings.SplitSeq(below, "/") {
		if full += "/" + name; !isSlice(name) {
			break
		}
	}
	return full
}

// containers sets the container and the pod. It reads names from the outermost to the innermost and
// keeps the last container and pod.
func (o *CgroupOwner) containers(at *place) {
	names := at.names
	root := 0 // index of the first name below the innermost container found so far
	for i := range names {
		if uid, qos := pod(names[:i+1]); uid != "" {
			o.PodUID, o.PodQoS, at.pod = uid, qos, i
		} else if id := podmanPod(names[:i+1]); id != "" {
			o.PodUID, o.PodQoS, at.pod = id, "", i
		}
		runtime, id := container(names, i, root)
		if id == "" {
			continue
		}
		if o.ContainerID == "" {
			at.outer = i
		} else {
			at.inner = i
			o.Outer = cmp.Or(o.Outer, o.ContainerID)
		}
		o.Runtime, o.ContainerID, root = runtime, id, i+1
	}
}

// prefixes are the names that runtimes give to the cgroups of containers, before a
// dash and the id. The cgroups of conmon, libpod-conmon-ID and crio-conmon-ID, do not match: conmon-ID
// is not an id.
var prefixes = []struct {
	prefix, runtime string
	dir             bool // also a directory without .scope, if systemd does not manage the cgroups
	named           bool // the user chose the id
}{
	{prefix: "docker", runtime: "docker"},
	{prefix: "cri-containerd", runtime: "containerd"},
	{prefix: "nerdctl", runtime: "containerd"},
	{prefix: "crio", runtime: "cri-o", dir: true},
	{prefix: "libpod", runtime: "podman", dir: true},
	{prefix: "libpod-payload", runtime: "podman", dir: true}, // --cgroups=split, also Quadlet
	// Started by hand, without a cgroupsPath.
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
	// A runtime passes slice:prefix:id to systemd to get prefix-id.scope. Without its systemd
	// driver, the runtime creates a directory of that name instead.
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
			return "", name // the paths of containerd and Docker look the same
		}
		// Amazon ECS gives Docker the parent /ecs/TASK.
		if parent == "docker" || i == root+2 && names[root] == "ecs" {
			return "docker", name
		}
	case name == "payload" && i > root: // at the root it is a directory in a container
		if m := machine(names[:i]); m != "" {
			return "systemd-nspawn", m
		}
	}

	// LXC appends -1 and so on to the name if the cgroup of a previous run still exists. This
	// looks the same as a container with that name.
	if id, ok := strings.CutPrefix(name, "lxc.payload."); ok {
		return "lxc", id
	}
	atRoot := i == root+1 // the parent is a top directory, of the host or a container
	switch {
	case parent == "lxc.payload": // LXC 3.1
		return "lxc", name
	// LXC before 3.1, and Proxmox. With the pattern lxc/%n the monitor's cgroup is below the name.
	case parent == "lxc" && atRoot && (i+1 == len(names) || names[i+1] != "monitor"):
		return "lxc", name
	// containerd's namespaces are directories: ctr and nerdctl use default, Kubernetes uses
	// k8s.io. A directory with another name can belong to any program.
	case (parent == "default" || parent == "k8s.io") && atRoot && isWord(name, "_.-") && unit(name) == "" && !isSlice(name):
		return "containerd", name
	}
	return "", ""
}

// machine returns the name of the systemd-nspawn container whose unit is the last
// of names. The caller has found a cgroup "payload" below it: only nspawn makes one. Virtual machines
// are in machine-NAME.scope too.
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

// podmanPod returns the id of the pod of Podman whose cgroup is the last of names, "" if that is not the
// cgroup of one: PARENT-libpod_pod_ID.slice, or libpod_parent/ID if systemd does not manage the cgroups.
func podmanPod(names []string) string {
	name := names[len(names)-1]
	if slice, ok := strings.CutSuffix(name, ".slice"); ok {
		if _, id, ok := cutLast(slice, "-libpod_pod_"); ok && isID(id) {
			return id
		}
		return ""
	}
	if len(names) > 1 && names[len(names)-2] == "libpod_parent" && isID(name) {
		return name
	}
	return ""
}

// pod returns the UID and the class of the Kubernetes pod whose cgroup is the last of names, "" if that
// is not the cgroup of one.
func pod(names []string) (uid, qos string) {
	if len(names) == 0 {
		return "", ""
	}
	name, _, _ := strings.Cut(names[len(names)-1], ":") // see container
	if slice, ok := strings.CutSuffix(name, ".slice"); ok {
		// [PARENT-]kubepods[-CLASS]-podUID. The UID has underscores: a dash would start a
		// new level of slices.
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

// between returns the part of s between prefix and suffix.
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

// unit returns the unit that a directory belongs to, "" for none. Only slices and units of the types
// below contain processes.
func unit(name string) string {
	// lxc.payload.a.service is a container called a.service.
	if strings.HasPrefix(name, "lxc.payload.") || strings.HasPrefix(name, "lxc.monitor.") {
		return ""
	}
	// systemd puts an underscore before a name that looks like one of the kernel's files.
	name = strings.TrimPrefix(name, "_")
	for _, kind := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		base, ok := strings.CutSuffix(name, kind)
		// A name that ends with @ is a template, which does not run.
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

// isID reports whether s is the id of a container in the form that Docker, containerd, CRI-O and
// Podman use.
func isID(s string) bool { return len(s) == 64 && isHex(s) }

// isPodUID reports whether s is a UUID, or a hash as static pods have.
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

// isWord reports whether s is not empty and has only letters, digits and the characters in others.
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

// unescape reverses systemd's escapes such as \x2d. It keeps dashes, although systemd writes a slash
// as a dash: names of machines have no slashes.
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

// unranked is greater than the rank of any hierarchy.
var unranked = len(hierarchies) + 1

// rank returns the lowest index in hierarchies of one of controllers, unranked-1 if none is in it.
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
