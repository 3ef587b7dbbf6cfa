// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"path"
	"strings"
)

// Roles, as Role gives them.
const (
	RoleRuntime        = "runtime"
	RoleShim           = "shim"
	RoleEngine         = "engine"
	RoleCNI            = "cni"
	RoleSystemd        = "systemd"
	RolePackageManager = "package-manager"
	RoleConfigTool     = "config-tool"
)

// roles is what Role knows. A name is that of an executable, or of the script that
// an interpreter runs; one with a * at its end stands for all that begin so.
var roles = []struct {
	role  string
	names []string
	dirs  []string // whatever is right in these, whatever its name
	// children says that what such a program starts, directly or not, has its role
	// too, unless it has one of its own.
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
// runc. Do not base trust on it.
//
// The process is described by its name, the path of its executable as
// /proc/PID/exe or the kernel gives it, its arguments and the names of its
// ancestors, nearest first. Its own name, which it sets as it likes, is believed
// only for runc's init, and only where the executable is one that has no path.
// Arguments are looked at only where the executable is an interpreter, to find its
// script. For ancestors there is nothing but names, so a label that comes from them
// is worth less still; they count for package managers and configuration tools.
func Role(comm, exe string, args, ancestors []string) string {
	if r := ownRole(comm, exe, args); r != "" {
		return r
	}
	for _, a := range ancestors {
		for _, row := range roles {
			if row.children && matchComm(row.names, a) {
				return row.role
			}
		}
	}
	return ""
}

func ownRole(comm, exe string, args []string) string {
	exe = strings.TrimSuffix(exe, " (deleted)")
	if name, ok := strings.CutPrefix(strings.TrimPrefix(exe, "/"), "memfd:"); ok {
		if r := memfds[name]; r != "" {
			return r
		}
		return initRole(comm)
	}
	switch exe {
	case "/runc": // run from an overlay of its directory that is mounted nowhere, where the kernel can do that
		return RoleRuntime
	case "/", "/proc/self/exe": // from a bind mount of the file alone, by older ones; not resolved
		return initRole(comm)
	}
	if r := fileRole(exe); r != "" {
		return r
	}
	if script := script(exe, args); script != "" {
		// Ansible puts its modules into the home of whom it logs in as.
		if strings.HasPrefix(path.Base(script), "AnsiballZ_") {
			return RoleConfigTool
		}
		return fileRole(script)
	}
	return ""
}

// initRole knows runc by the names that it gives to its stages.
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

// interpreters are those of the scripts that Role looks for.
var interpreters = []string{"python*", "platform-python*", "ruby*", "perl*", "sh", "bash", "dash"}

// script returns the path of the script that a process runs, "" if it runs none
// or exe is no interpreter.
func script(exe string, args []string) string {
	if !inSystem(exe) || !matchName(interpreters, path.Base(exe)) || len(args) == 0 {
		return ""
	}
	for _, arg := range args[1:] {
		switch {
		case arg == "-c" || arg == "-e" || arg == "-m": // a program in the argument, or one by its module's name
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

// matchComm is matchName for what the kernel keeps of a name: 15 bytes.
func matchComm(names []string, comm string) bool {
	for _, n := range names {
		if len(n) > 15 && n[:15] == comm {
			return true
		}
	}
	return matchName(names, comm)
}
