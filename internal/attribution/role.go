// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"path"
	"strings"

	"github.com/nstrace/nstrace/event"
)

// Roles that Role returns.
const (
	RoleRuntime        = "runtime"
	RoleShim           = "shim"
	RoleEngine         = "engine"
	RoleCNI            = "cni"
	RoleSystemd        = "systemd"
	RolePackageManager = "package-manager"
	RoleConfigTool     = "config-tool"
)

// roles are the programs that Role knows. A name is that of an executable or of a script. A name that
// ends with * matches all names with that prefix.
var roles = []struct {
	role  string
	names []string
	dirs  []string // all programs directly in these directories have the role
	// children reports whether the descendants of such a program have its role too, unless
	// they have a role of their own.
	children bool
}{
	{role: RoleRuntime, names: []string{
		"runc", "docker-runc", "crun", "krun", "youki", "runsc", "kata-runtime", "nvidia-container-runtime*",
	}},
	{role: RoleShim, names: []string{
		"containerd-shim*", "docker-containerd-shim", "conmon", "conmonrs", "conmon-rs",
		"docker-proxy", "rootlesskit-docker-proxy", "rootlessport",
	}},
	{role: RoleEngine, names: []string{
		"dockerd", "dockerd-*", "cri-dockerd", "containerd", "docker-containerd", "buildkitd", "nerdctl",
		"podman", "buildah", "crio", "kubelet", "kube-proxy", "k3s", "rke2", "k0s",
		"lxc-start", "lxc-attach", "lxc-execute", "lxcfs", "lxd", "incusd", "systemd-nspawn",
	}},
	{role: RoleCNI, dirs: []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}, names: []string{
		"netavark", "aardvark-dns", "slirp4netns", "passt", "passt.avx2", "pasta", "pasta.avx2",
		"calico", "calico-*", "cilium-cni", "cilium-agent", "flannel", "flanneld", "multus*",
	}},
	{role: RoleSystemd, names: []string{"systemd", "systemd-*", "udevadm", "elogind", "elogind-*"}},
	{role: RolePackageManager, children: true, names: []string{
		"dpkg", "dpkg-preconfigure", "dpkg-reconfigure", "apt", "apt-get", "aptitude", "unattended-upgrade", "unattended-upgrades",
		"rpm", "dnf", "dnf-3", "dnf5", "dnf5daemon-server", "microdnf", "yum", "tdnf", "rpm-ostree", "rpm-ostreed",
		"zypper", "pacman", "apk", "packagekitd",
	}},
	{role: RoleConfigTool, children: true, names: []string{
		"ansible", "ansible-playbook", "ansible-pull", "AnsiballZ_*", "puppet", "chef-client", "chef-solo", "cinc-client",
		"salt-minion", "salt-call", "cloud-init", "cf-agent", "cf-execd", "tuned",
	}},
}

// systemDirs are the directories in which only root and packages install programs. A program called
// runc in a home directory or in /tmp can be anything.
var systemDirs = []string{
	"/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/opt/", "/snap/",
	"/nix/store/", "/gnu/store/",
	"/var/lib/rancher/",     // k3s and RKE2 unpack themselves there
	"/var/lib/k0s/bin/",     // and k0s there
	"/home/kubernetes/bin/", // Kubernetes on Google's Container-Optimized OS
}

// memfds maps the names of the in-memory copies of runtimes to their roles. Runtimes execute such a
// copy so that a container cannot overwrite the host's binary.
var memfds = map[string]string{
	"runc_cloned:/proc/self/exe": RoleRuntime,
	"crun_cloned:/proc/self/exe": RoleRuntime,
	"lxc-attach":                 RoleEngine,
	"liblxc":                     RoleEngine,
}

// Role returns which part of the infrastructure a process belongs to, "" for none that is known:
//
//	runtime          creates containers: runc, crun
//	shim             supervises one container: containerd-shim, conmon
//	engine           manages containers: dockerd, podman, and a Kubernetes node's kubelet and kube-proxy
//	cni              connects them: CNI plugins, netavark, pasta
//	systemd          any of systemd's programs but systemd-nspawn, which is an engine
//	package-manager  dpkg, dnf and what they run, such as a package's scripts
//	config-tool      Ansible, Puppet and what they run
//
// The role is a label for sorting events, not a proof: root, even in a container, can name a program
// runc. Do not base trust on it. Of other users, believe a Claim only as its Evidence says.
//
// comm is the name of the process, exe the path of its executable as /proc/PID/exe shows it or the
// kernel sends it, and ancestors are its ancestors, nearest first. A process can set its
// own name, so Role uses comm only for runc's init, and only if the executable has no path. Role uses
// the arguments only to find the script of an interpreter. It uses the ancestors for package managers
// and configuration tools. Only their names are known, so it leaves out those of users other than root.
func Role(comm, exe string, args []string, ancestors []event.Actor) Claim {
	if c := ownRole(comm, exe, args); c.Role != "" {
		return c
	}
	for _, a := range ancestors {
		for _, row := range roles {
			if row.children && a.UID == 0 && matchComm(row.names, a.Comm) {
				return Claim{row.role, ByAncestor}
			}
		}
	}
	return Claim{}
}

// A Claim is what a process seems to be.
type Claim struct {
	Role     string
	Evidence Evidence
}

// Evidence is what a role follows from.
type Evidence uint8

const (
	// BySelf: from what any process can make up, such as its name, or the name of a copy in memory.
	BySelf Evidence = iota
	// ByFile: from the path of the executable. Users have other files at that path in their own mount
	// namespaces.
	ByFile
	// ByAncestor: from a process of root that started it.
	ByAncestor
)

func ownRole(comm, exe string, args []string) Claim {
	exe = strings.TrimSuffix(exe, " (deleted)")
	if name, ok := strings.CutPrefix(strings.TrimPrefix(exe, "/"), "memfd:"); ok {
		if r := memfds[name]; r != "" {
			return Claim{r, BySelf}
		}
		return Claim{initRole(comm), BySelf}
	}
	switch exe {
	case "/runc": // newer runc executes itself from an overlay mount that is attached nowhere
		return Claim{RoleRuntime, BySelf}
	case "/", "/proc/self/exe": // older runc executes itself from a bind mount of the file, or the link is not resolved
		return Claim{initRole(comm), BySelf}
	}
	if r := fileRole(exe); r != "" {
		return Claim{r, ByFile}
	}
	if script := script(exe, args); script != "" {
		// Ansible copies its modules to the home directory of the user that it logs in as.
		if strings.HasPrefix(path.Base(script), "AnsiballZ_") {
			return Claim{RoleConfigTool, BySelf}
		}
		return Claim{fileRole(script), BySelf}
	}
	return Claim{}
}

// initRole returns the role of runc's init, which has a name for each of its stages.
func initRole(comm string) string {
	switch comm {
	case "runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]":
		return RoleRuntime
	}
	return ""
}

// fileRole returns the role of the program at a path.
func fileRole(file string) string {
	dir, base := path.Split(file)
	system := inSystem(file)
	for _, row := range roles {
		if system && matchName(row.names, base) {
			return row.role
		}
		for _, d := range row.dirs {
			if dir == d+"/" {
				return row.role
			}
		}
	}
	return ""
}

func inSystem(file string) bool {
	if path.Clean(file) != file {
		return false // an argument can be /usr/../tmp/dnf
	}
	for _, dir := range systemDirs {
		if strings.HasPrefix(file, dir) {
			return true
		}
	}
	return false
}

// interpreters are the programs whose scripts Role looks for.
var interpreters = []string{"python*", "platform-python*", "ruby*", "perl*", "sh", "bash", "dash"}

// script returns the path of the script that a process runs, "" if it runs none or exe is not an
// interpreter.
func script(exe string, args []string) string {
	if !inSystem(exe) || !matchName(interpreters, path.Base(exe)) || len(args) == 0 {
		return ""
	}
	for _, arg := range args[1:] {
		switch {
		case arg == "-c" || arg == "-e" || arg == "-m": // the next argument is program text or the name of a module
			return ""
		case !strings.HasPrefix(arg, "-"):
			return arg
		}
	}
	return ""
}

func matchName(names []string, name string) bool {
	for _, n := range names {
		if prefix, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(name, prefix) || n == name {
			return true
		}
	}
	return false
}

// matchComm is matchName for a name of which the kernel keeps only 15 bytes.
func matchComm(names []string, comm string) bool {
	for _, n := range names {
		if len(n) > 15 && n[:15] == comm {
			return true
		}
	}
	return matchName(names, comm)
}
