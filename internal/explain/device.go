// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/params"
	"github.com/nstrace/nstrace/output"
)

// combined says how the kernel combines the IPv4 settings of a device with those of conf.all, as
// Documentation/networking/ip-sysctl.rst and the macros IN_DEV_* in include/linux/inetdevice.h say. Settings that not
// all supported kernels combine in the same way are missing.
var combined = map[string]output.Rule{
	"arp_announce": output.Greater, "arp_ignore": output.Greater, "rp_filter": output.Greater,
	"arp_filter": output.Either, "log_martians": output.Either, "proxy_arp": output.Either, "secure_redirects": output.Either,
	"send_redirects": output.Either, "shared_media": output.Either,
	"accept_source_route": output.Both, "bootp_relay": output.Both, "mc_forwarding": output.Both,
}

// setting splits the path of a device's setting into its folder, the device and the key.
func setting(name string) (folder, device, key string, ok bool) {
	parts := strings.Split(event.SysctlPath(name), "/") // "", proc, sys, net, ipv4, conf, DEVICE, KEY
	if len(parts) != 8 || parts[3] != "net" || parts[5] != "conf" || parts[4] != "ipv4" && parts[4] != "ipv6" {
		return "", "", "", false
	}
	return strings.Join(parts[:6], "/"), parts[6], parts[7], true
}

// device finds out how the setting of a device depends on those of conf.all and conf.default.
func (o *Options) device(x *output.Explanation, net *netns) {
	folder, device, key, ok := setting(o.Parameter)
	if !ok || device == "default" {
		return
	}
	rule, combines := combined[key]
	if combines = combines && folder == params.Dir+"/net/ipv4/conf"; combines && device == "all" {
		x.Combined = &output.Combined{Rule: rule}
	}
	if device == "all" || x.Value == nil {
		return
	}
	_ = net.in(func(root *params.Root) error { // what cannot be read is left out
		read := func(device string) (name, value string) {
			path := folder + "/" + device + "/" + key
			name, err := params.Name(path)
			if err != nil {
				return "", ""
			}
			v, err := root.Read(path)
			if err != nil || v.Cut {
				return "", ""
			}
			return name, v.Text
		}
		if name, value := read("all"); combines && name != "" {
			x.Combined = combine(rule, *x.Value.Text, name, value)
		}
		if name, value := read("default"); device != "lo" && name != "" && event.SameValue(value, *x.Value.Text) {
			x.Copied = name
		}
		return nil
	})
}

// combine returns what counts for a device, nil if that is unknown.
func combine(rule output.Rule, own, name, all string) *output.Combined {
	a, err := strconv.Atoi(own)
	if err != nil {
		return nil
	}
	b, err := strconv.Atoi(all)
	if err != nil {
		return nil
	}
	c := &output.Combined{Rule: rule, With: name, WithValue: all, Effective: "0", Same: true}
	switch {
	case rule == output.Greater:
		c.Effective, c.Same = strconv.Itoa(max(a, b)), a >= b
		return c
	case rule == output.Either && (a != 0 || b != 0), rule == output.Both && a != 0 && b != 0:
		c.Effective = "1"
	}
	c.Same = (a != 0) == (c.Effective == "1")
	return c
}

// effect is what the verdict says of how the kernel combines a setting with that of all devices, "" for nothing.
func effect(x *output.Explanation) string {
	switch c := x.Combined; {
	case c == nil || x.Value == nil || c.With != "" && c.Same:
		return ""
	case c.With == "":
		return "for each device, " + c.Text()
	default:
		return fmt.Sprintf("in effect %s: %s", c.Effective, c.Text())
	}
}
