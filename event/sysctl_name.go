// SPDX-License-Identifier: Apache-2.0

package event

import "strings"

// SysctlDir is the directory of the kernel parameters.
const SysctlDir = "/proc/sys"

// dotsAndSlashes exchanges dots and slashes. A component of a path can have a dot, such as
// the name of the device eth0.100; sysctl(8) writes that dot as a slash.
var dotsAndSlashes = strings.NewReplacer(".", "/", "/", ".")

// SysctlName returns the name, as sysctl(8) writes it, of the parameter whose file is at a
// path below SysctlDir: net.ipv4.conf.eth0/100.forwarding for
// /proc/sys/net/ipv4/conf/eth0.100/forwarding. It reports false for a path that is not
// below SysctlDir.
func SysctlName(path string) (name string, ok bool) {
	below, ok := strings.CutPrefix(path, SysctlDir+"/")
	if !ok || below == "" {
		return "", false
	}
	return dotsAndSlashes.Replace(below), true
}

// SysctlPath returns the path of the file of a parameter. It is the inverse of SysctlName,
// and does not say whether there is such a parameter.
func SysctlPath(name string) string { return SysctlDir + "/" + dotsAndSlashes.Replace(name) }

// SysctlDevice returns the name of the network device that the parameter with a file belongs to, "" if it
// belongs to none that can come and go.
func SysctlDevice(path string) string {
	parts := strings.Split(path, "/") // "", proc, sys, net, ipv4, conf, NAME, PARAMETER
	if len(parts) != 8 || !strings.HasPrefix(path, SysctlDir+"/net/") || parts[5] != "conf" && parts[5] != "neigh" {
		return ""
	}
	if device := parts[6]; device != "all" && device != "default" && device != "lo" {
		return device
	}
	return ""
}
