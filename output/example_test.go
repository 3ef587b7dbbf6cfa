// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"fmt"
	"os"
	"time"

	"github.com/nstrace/nstrace/output"
)

func ExampleTable() {
	table := output.NewTable(os.Stdout, output.TableOptions{
		Width:    100,
		Location: time.UTC,
		HostNS:   hostNS,
	})
	for _, ev := range sample() {
		if err := table.Write(ev); err != nil {
			fmt.Println(err)
		}
	}
	if err := table.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// TIME          EVENT    TARGET                       CHANGE            WHO
	// 12:04:31.123  sysctl   net.ipv4.tcp_keepalive_time  7200 → 600        sshd > bash > sudo >
	//                                                                       sysctl[4712] alice as root
	// 12:04:31.333  sysctl   net.core.netdev_budget       600 → 100000      sshd > bash > sudo >
	//                                                     (now 32767)       sysctl[4719] alice as root
	// 12:04:31.543  create   mnt 4026532279               unshare           containerd-shim > runc >
	//                                                                       runc:[1:CHILD][90311]
	// 12:04:31.544  create   net 4026532281 web           clone3            containerd-shim > runc >
	//                                                     child 90312       runc:[1:CHILD][90311]
	// 12:04:31.578  sysctl   net.ipv4.                    1024 → 0          containerd-shim > runc >
	//                        ip_unprivileged_port_start                     runc:[1:CHILD][90312]
	//                        in net 4026532281 web
	// 12:04:31.593  netdev   veth9c1f0a2 → eth0           from host         sshd > bash > sudo > ip[90320]
	//                        to net 4026532281 web                          alice as root
	// 12:04:33.424  enter    net 4026532281 web           from host         sshd > bash > sudo >
	//                                                                       nsenter[4803] alice as root
	// 12:04:33.833  sysctl   net.ipv4.tcp_rmem            4096 131072       systemd > tuned[1207]
	//                                                     6291456
	//                                                     → 4096 87380
	//                                                     16777216
	// 12:04:33.835  sysctl   vm.dirty_expire_centisecs    31 → 31, ignored  systemd > tuned[1207]
	//                                                     "00" at byte 2
	// 12:04:34.225  create   user                         FAILED EPERM      tmux: server > zsh >
	//                                                     unshare           unshare[51877] bob
	// 12:04:35.113  sysctl   kernel.core_pattern          FAILED EROFS      containerd-shim > nginx >
	//                                                                       sh[90355]
	// 12:04:35.138  sysctl   vm.overcommit_memory         1 → 1 ×250        systemd > kubelet[1544/1551]
	//                                                     in 3.2s
	// 12:04:39.143  !! LOST  1234 EVENTS NOT SHOWN        ring full         34 namespace.create,
	//                                                                       1200 sysctl.write
	//                                                                       12:04:38.424 to 12:04:39.134
	// 12:04:39.144  !! LOST  1234 EVENTS NOT SHOWN        user share        of uid 1000:
	//                                                                       34 namespace.create,
	//                                                                       1200 sysctl.write
	//                                                                       12:04:38.424 to 12:04:39.134
	// 12:04:39.224  enter    ?                            FAILED EBADF      zsh > \x1b[2Kls\u202e[60114]
	//                                                     of process 812    bob
	//                                                     /run/netns/web
	// 12:04:39.323  pin      net 4026532281 web           /run/netns/web    sshd > bash > sudo > ip[4720]
	//                                                                       alice as root
	// 12:04:39.423  !! SELF  nstrace                      SIGKILL           sshd > bash > sudo >
	//                                                                       bash[4805] alice as root
	//               !! critical tamper: bash sent SIGKILL
	// 12:04:39.145  !! LOST  12 EVENTS NOT SHOWN          sink              12 sysctl.write
	//                                                                       12:04:38.424 to 12:04:39.134
	// 12:04:39.923  !! LOST  EVENTS NOT SHOWN             ftrace off        12:04:39.523 to 12:04:39.913
	//                        (number unknown)
	// 12:04:40.123  sysctl   net.ipv4.conf.eth0.          0 → 1 cascade of  sshd > bash > sudo >
	//                        forwarding                   net.ipv4.         sysctl[4806] alice as root
	//                                                     ip_forward
	// 12:04:40.223  sysctl   kernel.kptr_restrict         2 → 0             sshd > bash > sudo >
	//                                                     (expected one of  sysctl[4809] alice as root
	//                                                     1, 2)
	// 12:04:40.273  sysctl   kernel.kptr_restrict         0 → 1             sshd > bash > sudo >
	//                                                     (as expected)     sysctl[4810] alice as root
	// 12:04:40.473  unpin    net 4026532281 web           /run/netns/web    sshd > bash > sudo >
	//                                                     copy              umount[4807] alice as root
	//                                                     in mnt
	//                                                     4026532500
	// 12:04:40.523  unpin    net 4026532281 web           /run/netns/web    no process: unmounted along
	//                                                                       with other mounts
	// 12:04:40.622  netdev   eth1 to host                 from 4026532281   its namespace ended
	//                                                     web
	// 12:04:40.623  destroy  net 4026532281 web           lived 9.0s        made by runc:[1:CHILD][90311]
	// 12:04:40.723  gap      not traced for 1m39s                           since 2026-11-23 12:03:01
	//                                                                       nstrace was killed
	// 12:04:40.724  drift    vm.swappiness                60 → 1            not traced
	//                                                                       between 2026-11-23 12:03:01
	//                                                                       and 12:04:40
	// 12:04:40.725  drift    net.ipv4.ip_forward          0 → 1             not traced
	//                        in net 4026532281 web                          between 2026-11-22 12:04:31
	//                                                                       and 2026-11-23 12:04:40
	//                                                                       (rebooted since)
	// 12:04:40.725  drift    vm.dirty_ratio               20 → 0            no traced write
	//                                                                       between 2026-11-23 12:03:40
	//                                                                       and 12:04:40
	// 12:04:40.725  appear   net.{netfilter.              3 parameters      sshd > bash > sudo >
	//                        *,nf_conntrack_max}          in 2 namespaces   modprobe[4808] alice as root
	//               unmet: net.nf_conntrack_max = 65536 (expected 262144 in /etc/sysctl.d/60-a.conf:3)
	// 12:04:40.725  vanish   net.ipv4.conf.eth0/100.*     2 parameters      sshd > bash > sudo > ip[4809]
	//                                                     device eth0.100   alice as root
	//                                                     → lan0
	// 12:04:40.725  appear   sunrpc.*                     2 parameters      found by scan
	//                                                                       between 2026-11-23 12:03:40
	//                                                                       and 12:04:40
	// 12:04:40.726  appear   net 4026532281 web                             not traced
	//                                                                       between 2026-11-23 12:03:01
	//                                                                       and 12:04:40
	// 12:04:40.727  gone     net 4026532281 web                             not traced
	//                                                                       between 2026-11-23 12:03:01
	//                                                                       and 12:04:40
	// 12:04:40.823  create   net                          FAILED ENOSPC     zsh > bwrap[70114] bob
	//                                                     unshare
	//               because: user.max_net_namespaces = 4 (bob has 4)
	//                 in the host's user namespace, 1 level up set by sysctl[4700] alice as root
	//                 at 2026-11-23 12:04:28
	// 12:04:40.824  create   user                         FAILED EPERM      zsh > chrome[70115] bob
	//                                                     clone
	//               because: in a chroot
	//               because: kernel.unprivileged_userns_clone = 0 (read later)
}
