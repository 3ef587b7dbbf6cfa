// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"testing"

	"github.com/nstrace/nstrace/event"
)

func TestRole(t *testing.T) {
	list := func(s ...string) []string { return s }
	for _, tt := range []struct {
		name      string
		comm, exe string
		args      []string
		ancestors []string
		want      string
	}{
		{"runc on Debian", "runc", "/usr/sbin/runc", list("runc", "--root", "/run/docker/runtime-runc/moby", "create"), list("containerd-shim", "systemd"), "runtime"},
		{"runc that was upgraded while it ran", "runc", "/usr/bin/runc (deleted)", nil, nil, "runtime"},
		{"runc of Docker's static binaries", "runc", "/usr/local/bin/runc", nil, nil, "runtime"},
		{"runc of k3s", "runc", "/var/lib/rancher/k3s/data/0f1a87835be3817408b496b439fddb9ea54cab4298db472792bb1b1cbdc210bc/bin/runc", nil, nil, "runtime"},
		{"runc of MicroK8s", "runc", "/snap/microk8s/6089/bin/runc", nil, nil, "runtime"},
		{"runc of NixOS", "runc", "/nix/store/0a1b-runc-1.2.5/bin/runc", nil, nil, "runtime"},
		{"runc's init, a copy in memory", "runc:[2:INIT]", "/memfd:runc_cloned:/proc/self/exe (deleted)", list("runc", "init"), list("runc", "containerd-shim"), "runtime"},
		{"the same, without a path's slash", "6", "memfd:runc_cloned:/proc/self/exe", list("6", "init"), nil, "runtime"},
		{"runc's init, from an overlay", "runc:[2:INIT]", "/runc", list("runc", "init"), nil, "runtime"},
		{"runc's init, from a bind mount", "runc:[1:CHILD]", "/", list("runc", "init"), nil, "runtime"},
		{"not resolved", "runc:[0:PARENT]", "/proc/self/exe", list("/proc/self/exe", "init"), nil, "runtime"},
		{"another program in memory", "kworker/0:1", "/memfd: (deleted)", nil, nil, ""},
		{"another program in memory with the same prefix", "x", "/memfd:runc_cloned (deleted)", nil, nil, ""},
		{"a program that calls itself runc's init", "runc:[2:INIT]", "/home/u/a.out", nil, nil, ""},
		{"crun", "crun", "/usr/bin/crun", list("/usr/bin/crun", "--systemd-cgroup", "create"), list("conmon", "podman", "bash"), "runtime"},
		{"crun, a copy in memory", "5", "/memfd:crun_cloned:/proc/self/exe (deleted)", nil, nil, "runtime"},
		{"gVisor", "runsc-sandbox", "/usr/local/bin/runsc", nil, nil, "runtime"},
		{"Kata", "kata-runtime", "/opt/kata/bin/kata-runtime", nil, nil, "runtime"},

		{"containerd's shim", "containerd-shim", "/usr/bin/containerd-shim-runc-v2", nil, list("systemd"), "shim"},
		{"Kata's shim", "containerd-shim", "/opt/kata/bin/containerd-shim-kata-v2", nil, nil, "shim"},
		{"conmon on Debian", "conmon", "/usr/bin/conmon", nil, list("systemd"), "shim"},
		{"conmon on openSUSE", "conmon", "/usr/lib/podman/bin/conmon", nil, nil, "shim"},
		{"docker-proxy", "docker-proxy", "/usr/bin/docker-proxy", nil, list("dockerd", "systemd"), "shim"},
		{"rootless podman's ports", "rootlessport", "/usr/lib/podman/rootlessport", nil, nil, "shim"},

		{"dockerd", "dockerd", "/usr/bin/dockerd", nil, list("systemd"), "engine"},
		{"dockerd of the snap", "dockerd", "/snap/docker/2932/bin/dockerd", nil, nil, "engine"},
		{"one of dockerd's threads", "iptables-mon", "/usr/bin/dockerd", nil, nil, "engine"},
		{"containerd", "containerd", "/usr/bin/containerd", nil, nil, "engine"},
		{"podman, started by Ansible: its own role comes first", "podman", "/usr/bin/podman", nil, list("python3", "ansible-playboo"), "engine"},
		{"CRI-O", "crio", "/usr/bin/crio", nil, nil, "engine"},
		{"kubelet on Container-Optimized OS", "kubelet", "/home/kubernetes/bin/kubelet", nil, nil, "engine"},
		{"k3s", "k3s-server", "/var/lib/rancher/k3s/data/current/bin/k3s", nil, nil, "engine"},
		{"lxc-start", "lxc-start", "/usr/bin/lxc-start", nil, nil, "engine"},
		{"lxc-attach, a copy in memory", "lxc-attach", "/memfd:lxc-attach (deleted)", nil, nil, "engine"},
		{"incusd", "incusd", "/opt/incus/bin/incusd", nil, nil, "engine"},

		{"a plugin of Debian's", "tuning", "/usr/lib/cni/tuning", nil, list("containerd"), "cni"},
		{"a plugin that a DaemonSet installed", "aws-cni", "/opt/cni/bin/aws-cni", nil, list("containerd"), "cni"},
		{"a plugin of Fedora's", "bridge", "/usr/libexec/cni/bridge", nil, list("podman"), "cni"},
		{"a program in a subdirectory of the plugins", "x", "/opt/cni/bin/x/bridge", nil, nil, ""},
		{"netavark", "netavark", "/usr/libexec/podman/netavark", nil, list("podman"), "cni"},
		{"aardvark-dns", "aardvark-dns", "/usr/lib/podman/aardvark-dns", nil, list("systemd"), "cni"},
		{"pasta, which is a link to passt", "pasta", "/usr/bin/passt", nil, nil, "cni"},
		{"pasta, with AVX2", "pasta.avx2", "/usr/bin/passt.avx2", nil, nil, "cni"},
		{"cilium in its container", "cilium-agent", "/usr/bin/cilium-agent", nil, nil, "cni"},
		{"flannel in its container", "flanneld", "/opt/bin/flanneld", nil, nil, "cni"},
		{"calico in its container", "calico-node", "/usr/bin/calico-node", nil, nil, "cni"},

		{"pid 1", "systemd", "/usr/lib/systemd/systemd", list("/sbin/init"), nil, "systemd"},
		{"pid 1 without merged /usr", "systemd", "/lib/systemd/systemd", nil, nil, "systemd"},
		{"a service before its program", "(sshd)", "/usr/lib/systemd/systemd-executor", nil, list("systemd"), "systemd"},
		{"systemd-sysctl", "systemd-sysctl", "/usr/lib/systemd/systemd-sysctl", nil, list("systemd"), "systemd"},
		{"systemd-networkd", "systemd-network", "/usr/lib/systemd/systemd-networkd", nil, nil, "systemd"},
		{"systemd-nspawn", "systemd-nspawn", "/usr/bin/systemd-nspawn", nil, nil, "engine"},
		{"udevd on Debian 12", "(udev-worker)", "/usr/bin/udevadm", nil, list("systemd-udevd"), "systemd"},
		{"elogind", "elogind", "/lib/elogind/elogind", nil, nil, "systemd"},
		{"a service does not have the role of systemd", "sshd", "/usr/sbin/sshd", nil, list("systemd"), ""},

		{"dpkg", "dpkg", "/usr/bin/dpkg", nil, list("apt-get", "bash"), "package-manager"},
		{"a package's script", "procps.postinst", "/usr/bin/dash", list("/bin/sh", "/var/lib/dpkg/info/procps.postinst", "configure"), list("dpkg", "apt-get", "bash"), "package-manager"},
		{"what a package's script starts", "sysctl", "/usr/sbin/sysctl", list("sysctl", "-p"), list("procps.postinst", "dpkg", "apt", "sudo"), "package-manager"},
		{"a program with a role that a package's script starts", "systemd-sysctl", "/usr/lib/systemd/systemd-sysctl", nil, list("systemd.postins", "dpkg"), "systemd"},
		{"a scriptlet", "sh", "/usr/bin/bash", list("/bin/sh", "/var/tmp/rpm-tmp.hZZzlV", "1"), list("rpm"), "package-manager"},
		{"dnf, which is a script", "dnf", "/usr/bin/python3.12", list("/usr/bin/python3", "/usr/bin/dnf", "-y", "upgrade"), nil, "package-manager"},
		{"dnf of RHEL 8", "dnf", "/usr/libexec/platform-python3.6", list("/usr/libexec/platform-python", "/usr/bin/dnf", "upgrade"), nil, "package-manager"},
		{"what unattended-upgrades starts: names have 15 bytes", "sh", "/usr/bin/dash", nil, list("unattended-upgr"), "package-manager"},
		{"apk", "apk", "/sbin/apk", nil, nil, "package-manager"},
		{"a script of apk's", "busybox", "/bin/busybox", nil, list("apk", "sh"), "package-manager"},
		{"pacman's hook", "systemd-hook", "/usr/bin/bash", nil, list("pacman", "sudo"), "package-manager"},
		{"a program that builds packages", "make", "/usr/bin/make", nil, list("dpkg-buildpacka", "bash"), ""},
		{"a program whose name begins with apt", "apt-cacher-ng", "/usr/sbin/apt-cacher-ng", nil, list("systemd"), ""},

		{"a module of Ansible's", "python3", "/usr/bin/python3.11", list("/usr/bin/python3", "/root/.ansible/tmp/ansible-tmp-1658621623.8-39769-2712/AnsiballZ_sysctl.py"), list("sh", "sshd"), "config-tool"},
		{"a module of Ansible's on the same host", "sysctl", "/usr/sbin/sysctl", nil, list("python3", "sh", "ansible-playboo", "bash"), "config-tool"},
		{"a package that Ansible installs: the nearest", "postinst", "/usr/bin/dash", nil, list("dpkg", "apt-get", "python3", "ansible-playboo"), "package-manager"},
		{"salt-minion", "salt-minion", "/usr/bin/python3.11", list("/usr/bin/python3", "/usr/bin/salt-minion"), nil, "config-tool"},
		{"tuned", "tuned", "/usr/bin/python3.12", list("/usr/bin/python3", "-Es", "/usr/sbin/tuned", "-l", "-P"), list("systemd"), "config-tool"},
		{"cloud-init", "cloud-init", "/usr/bin/python3.12", list("/usr/bin/python3", "/usr/bin/cloud-init", "modules", "--mode=final"), nil, "config-tool"},
		{"a user's script in cloud-init", "part-001", "/usr/bin/bash", nil, list("cloud-init", "systemd"), "config-tool"},
		{"Puppet", "puppet", "/opt/puppetlabs/puppet/bin/ruby", list("/opt/puppetlabs/puppet/bin/ruby", "/opt/puppetlabs/puppet/bin/puppet", "agent"), nil, "config-tool"},
		{"what Puppet starts", "sysctl", "/usr/sbin/sysctl", nil, list("puppet", "systemd"), "config-tool"},
		{"Chef", "chef-client", "/opt/chef/embedded/bin/ruby", list("/opt/chef/embedded/bin/ruby", "/usr/bin/chef-client", "-i", "1800"), nil, "config-tool"},

		{"a shell", "bash", "/usr/bin/bash", list("-bash"), list("sshd"), ""},
		{"a shell that calls itself runc", "runc", "/usr/bin/bash", list("runc"), nil, ""},
		{"a copy of runc in /tmp", "runc", "/tmp/x/runc", nil, nil, ""},
		{"a copy of runc in a home directory", "runc", "/home/u/bin/runc", nil, nil, ""},
		{"a name that only begins with runc", "runc-evil", "/usr/bin/runc-evil", nil, nil, ""},
		{"nsenter, started by a shim", "nsenter", "/usr/bin/nsenter", nil, list("containerd-shim"), ""},
		{"a container's program", "nginx", "/usr/sbin/nginx", nil, list("containerd-shim", "systemd"), ""},
		{"a user's python", "python3", "/usr/bin/python3.11", list("python3", "-c", "pass", "/usr/bin/dnf"), nil, ""},
		{"a user's script with the name of one", "dnf", "/usr/bin/python3.11", list("python3", "/tmp/dnf"), nil, ""},
		{"a path with .. in it", "dnf", "/usr/bin/python3.11", list("python3", "/usr/../tmp/dnf"), nil, ""},
		{"a user's interpreter", "salt-minion", "/home/u/venv/bin/python3", list("python3", "/usr/bin/salt-minion"), nil, ""},
		{"python without arguments", "python3", "/usr/bin/python3.11", nil, nil, ""},
		{"a script as the argument of an editor", "vim", "/usr/bin/vim", list("vim", "/usr/bin/dnf"), nil, ""},
		{"nothing is known", "", "", nil, nil, ""},
		{"a thread of the kernel", "kworker/0:1", "", nil, list("kthreadd"), ""},
	} {
		if got := Role(tt.comm, tt.exe, tt.args, ofRoot(tt.ancestors)).Role; got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// ofRoot returns processes of root with these names.
func ofRoot(names []string) (all []event.Actor) {
	for _, name := range names {
		all = append(all, event.Actor{Comm: name})
	}
	return all
}

// TestEvidence says what a role follows from.
func TestEvidence(t *testing.T) {
	dpkg := func(uid uint32) []event.Actor {
		return []event.Actor{{Comm: "sh", UID: 1000}, {Comm: "dpkg", UID: uid}}
	}
	for _, tt := range []struct {
		comm, exe string
		args      []string
		ancestors []event.Actor
		want      Claim
	}{
		{exe: "/opt/cni/bin/bridge", want: Claim{RoleCNI, ByFile}},
		{exe: "/usr/bin/dpkg", ancestors: dpkg(0), want: Claim{RolePackageManager, ByFile}},
		{exe: "/memfd:crun_cloned:/proc/self/exe (deleted)", want: Claim{RoleRuntime, BySelf}},
		{comm: "runc:[2:INIT]", exe: "/", want: Claim{RoleRuntime, BySelf}},
		{exe: "/runc", want: Claim{RoleRuntime, BySelf}},
		{exe: "/usr/bin/python3", args: []string{"python3", "/usr/bin/dnf"}, want: Claim{RolePackageManager, BySelf}},
		{exe: "/usr/bin/python3", args: []string{"python3", "/home/u/AnsiballZ_x.py"}, want: Claim{RoleConfigTool, BySelf}},
		{exe: "/usr/bin/unshare", ancestors: dpkg(0), want: Claim{RolePackageManager, ByAncestor}},
		{exe: "/usr/bin/unshare", ancestors: dpkg(1000)}, // any process can call itself dpkg
	} {
		if got := Role(tt.comm, tt.exe, tt.args, tt.ancestors); got != tt.want {
			t.Errorf("%q %s %q: %+v, want %+v", tt.comm, tt.exe, tt.args, got, tt.want)
		}
	}
}
