// SPDX-License-Identifier: Apache-2.0

package event_test

import (
	"strings"
	"testing"

	"github.com/nstrace/nstrace/event"
)

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		tables, want string
	}{
		{"net.netfilter:a,b", "net.netfilter.*"},
		{"net.netfilter:a", "net.netfilter.a"},
		{"net.netfilter:a,b net.netfilter:c", "net.netfilter.{*,c}"},
		{"net.netfilter:a,b net:nf_conntrack_max", "net.{netfilter.*,nf_conntrack_max}"},
		{"sunrpc:a,b fs.nfs:a", "{fs.nfs.a,sunrpc.*}"},
		{":a,b", "*"},
		{"a.b.1:x,y a.b.2:x,y a.b.3:x,y a.b.4:x,y a.b.5:x,y", "a.b.*"},
		{"net.ipv4.conf.eth0/100:a,b net.ipv6.neigh.eth0/100:a", "net.*.{conf,neigh}.eth0/100.*"},
		{"net.ipv4.conf.eth0:a,b net.ipv4.neigh.eth0:a,b", "net.ipv4.{conf,neigh}.eth0.*"},
		{"net.ipv6.conf.eth0:a", "net.ipv6.conf.eth0.a"},
		{"net.mpls.conf.eth0:a,b net.mpls.conf.eth1:a,b", "net.mpls.conf.{eth0.*,eth1.*}"},
	} {
		p := &event.Parameters{}
		for table := range strings.FieldsSeq(tt.tables) {
			prefix, names, _ := strings.Cut(table, ":")
			p.Tables = append(p.Tables, event.ParameterTable{Prefix: prefix, Names: strings.Split(names, ",")})
		}
		if got := p.Pattern(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.tables, got, tt.want)
		}
	}
}

// TestFilterParameters selects what appears by the names of its parameters.
func TestFilterParameters(t *testing.T) {
	e := &event.Event{Type: event.SysctlAppear, Sysctl: &event.Sysctl{
		Name:       "net.ipv4.{conf,neigh}.eth0/5.*",
		Parameters: &event.Parameters{Tables: []event.ParameterTable{{Prefix: "net.ipv4.neigh.eth0/5", Names: []string{"delay"}}, {Prefix: "net.ipv4.conf.eth0/5", Names: []string{"tag", "rp_filter"}}}},
	}}
	for glob, want := range map[string]bool{
		"net.ipv4.conf.*.rp_filter": true, "net.ipv4.conf.eth0/5.rp_filter": true, "net.ipv4.*": true,
		"net.ipv4.conf.eth0.rp_filter": false, "net.ipv4.neigh.*.rp_filter": false, "vm.*": false,
	} {
		f := event.Filter{Sysctl: []string{glob}}
		if f.MatchTraced(e, nil) != want || f.MatchStored(e) != want {
			t.Errorf("%s: want %v", glob, want)
		}
	}
	byUser := event.Filter{UIDs: []uint32{0}}
	if byUser.MatchTraced(e, nil) {
		t.Error("a worker of the kernel passes a filter for a user")
	}
}
