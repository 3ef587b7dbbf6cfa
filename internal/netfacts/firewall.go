// SPDX-License-Identifier: Apache-2.0

package netfacts

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of a table, from include/uapi/linux/netfilter/nf_tables.h.
const (
	nftaTableName = 1
	nftaTableUse  = 3
)

var nftFamilies = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_ARP: "arp",
	unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_IPV6: "ip6",
}

// readNftables reads the tables of nftables in the thread's namespace.
func readNftables(ctx context.Context, deadline time.Time, n *Namespace) error {
	if !hasNftables() {
		return nil
	}
	s, err := dial(ctx, unix.NETLINK_NETFILTER, deadline)
	if err != nil {
		return err
	}
	defer s.Close()
	const subsystem = unix.NFNL_SUBSYS_NFTABLES << 8
	before := len(n.Tables)
	err = s.ask(subsystem|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, subsystem|unix.NFT_MSG_NEWTABLE,
		[]nl.NetlinkRequestData{&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_UNSPEC, Version: nl.NFNETLINK_V0}},
		func() { n.Tables = n.Tables[:before] },
		func(m []byte) bool {
			if len(m) < nl.SizeofNfgenmsg {
				return true
			}
			if len(n.Tables) >= maxTables {
				return false
			}
			family := m[0]
			t := Table{Firewall: "nftables", Family: nftFamilies[family]}
			if t.Family == "" {
				t.Family = fmt.Sprint(family)
			}
			for _, a := range attributes(m, nl.SizeofNfgenmsg) {
				switch a.Attr.Type {
				case nftaTableName:
					t.Name = unix.ByteSliceToString(a.Value)
				case nftaTableUse:
					if len(a.Value) >= 4 {
						t.Chains = int(binary.BigEndian.Uint32(a.Value))
					}
				}
			}
			n.Tables = append(n.Tables, t)
			return true
		})
	if errors.Is(err, errTooMany) {
		n.incomplete("tables of nftables: only the first %d", maxTables)
		return nil
	}
	return err
}

// hasNftables reports whether the kernel has nftables already. A question about tables makes it load
// the module otherwise, and nstrace changes nothing.
var hasNftables = sync.OnceValue(func() bool {
	if _, err := os.Stat("/sys/module/nf_tables"); err == nil {
		return true
	}
	// A part of the kernel that is no module is not there.
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasSuffix(lines.Text(), " nf_tables_gettable") {
			return true
		}
	}
	return false
})

// readIptables reads the tables of the legacy iptables in the thread's namespace, which /proc/net names.
func readIptables(n *Namespace) error {
	for _, family := range []string{"ip", "ip6"} {
		f, err := os.Open("/proc/thread-self/net/" + family + "_tables_names")
		if errors.Is(err, os.ErrNotExist) {
			continue // no table was ever used
		}
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(f, 4096))
		f.Close()
		if err != nil {
			return err
		}
		for _, name := range strings.Fields(string(text)) {
			n.Tables = append(n.Tables, Table{Firewall: "iptables", Family: family, Name: name})
		}
	}
	return nil
}
