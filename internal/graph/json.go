// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/netfacts"
)

// text is a string that JSON has in the form that nstrace's events have.
type text string

// MarshalJSON implements json.Marshaler.
func (t text) MarshalJSON() ([]byte, error) { return event.AppendString(nil, string(t)), nil }

type jsonGraph struct {
	V          int             `json:"v"`
	Time       time.Time       `json:"time"`
	Host       text            `json:"host,omitempty"`
	Namespaces []jsonNamespace `json:"namespaces"`
	Links      []jsonLink      `json:"links"`
	Incomplete []text          `json:"incomplete,omitempty"`
}

type jsonNamespace struct {
	ID         uint32       `json:"id"`
	KernelID   uint64       `json:"uid,omitempty"`
	Host       bool         `json:"host,omitempty"`
	Name       text         `json:"name,omitempty"`
	Owner      *jsonOwner   `json:"owner,omitempty"`
	Processes  int          `json:"processes"`
	Oldest     *jsonProcess `json:"oldest,omitempty"`
	Error      text         `json:"error,omitempty"`
	Devices    []jsonDevice `json:"devices"`
	Incomplete []text       `json:"incomplete,omitempty"`
}

// jsonOwner is an event.Owner.
type jsonOwner struct {
	Container *jsonContainer `json:"container,omitempty"`
	Pod       *jsonPod       `json:"pod,omitempty"`
	Unit      text           `json:"unit,omitempty"`
	Source    event.Source   `json:"source"`
}

type jsonContainer struct {
	ID      text         `json:"id"`
	Name    text         `json:"name,omitempty"`
	Image   text         `json:"image,omitempty"`
	Runtime text         `json:"runtime,omitempty"`
	Source  event.Source `json:"source"`
}

type jsonPod struct {
	Name      text         `json:"name,omitempty"`
	Namespace text         `json:"namespace,omitempty"`
	UID       text         `json:"uid,omitempty"`
	Source    event.Source `json:"source"`
}

func newJSONOwner(o *event.Owner) *jsonOwner {
	if o == nil {
		return nil
	}
	j := &jsonOwner{Unit: text(o.Unit), Source: o.Source}
	if c := o.Container; c != nil {
		j.Container = &jsonContainer{text(c.ID), text(c.Name), text(c.Image), text(c.Runtime), c.Source}
	}
	if p := o.Pod; p != nil {
		j.Pod = &jsonPod{text(p.Name), text(p.Namespace), text(p.UID), p.Source}
	}
	return j
}

type jsonProcess struct {
	PID  uint32 `json:"pid"`
	Comm text   `json:"comm"`
}

type jsonDevice struct {
	Index     int            `json:"ifindex"`
	Name      text           `json:"name"`
	Alias     text           `json:"alias,omitempty"`
	Kind      text           `json:"kind,omitempty"`
	Loopback  bool           `json:"loopback,omitempty"`
	Physical  bool           `json:"physical,omitempty"`
	Bus       text           `json:"bus,omitempty"`
	MAC       string         `json:"mac,omitempty"`
	MTU       int            `json:"mtu"`
	Up        bool           `json:"up"`
	Carrier   bool           `json:"carrier"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Master    int            `json:"master,omitempty"`
	VLAN      int            `json:"vlan,omitempty"`
	VNI       int            `json:"vni,omitempty"`
	Table     int            `json:"table,omitempty"`
	Mode      string         `json:"mode,omitempty"`
}

type jsonLink struct {
	Kind Kind    `json:"kind"`
	From jsonEnd `json:"from"`
	To   jsonEnd `json:"to"`
}

type jsonEnd struct {
	Namespace uint32 `json:"namespace,omitempty"`
	Index     int    `json:"ifindex,omitempty"`
	Name      text   `json:"name,omitempty"`
}

// WriteJSON writes the graph as one JSON object. Nothing in it is folded.
func (g *Graph) WriteJSON(w io.Writer) error {
	out := jsonGraph{V: 1, Time: g.Time.UTC(), Host: text(g.Host), Namespaces: []jsonNamespace{}, Links: []jsonLink{}, Incomplete: texts(g.Incomplete)}
	for _, n := range g.Namespaces {
		j := jsonNamespace{
			ID: n.ID, KernelID: n.KernelID, Host: n.host, Name: text(n.Name), Owner: newJSONOwner(n.Owner), Processes: n.Processes,
			Devices: []jsonDevice{}, Incomplete: texts(n.Network.Incomplete),
		}
		if n.Oldest != nil {
			j.Oldest = &jsonProcess{n.Oldest.PID, text(n.Oldest.Comm)}
		}
		if n.Network.Err != nil {
			j.Error = text(n.Network.Err.Error())
		}
		for i := range n.Devices() {
			j.Devices = append(j.Devices, newJSONDevice(&n.Devices()[i]))
		}
		out.Namespaces = append(out.Namespaces, j)
	}
	for _, l := range g.Links {
		out.Links = append(out.Links, jsonLink{l.Kind, newJSONEnd(l.From), newJSONEnd(l.To)})
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

func newJSONDevice(d *netfacts.Device) jsonDevice {
	return jsonDevice{
		Index: d.Index, Name: text(d.Name), Alias: text(d.Alias), Kind: text(d.Kind), Loopback: d.Loopback, Physical: d.Physical(),
		Bus: text(d.Bus), MAC: d.MAC, MTU: d.MTU, Up: d.Up, Carrier: d.Carrier, Addresses: d.Addresses, Master: d.Master,
		VLAN: d.VLAN, VNI: d.VNI, Table: d.Table, Mode: d.Mode,
	}
}

func newJSONEnd(e End) (j jsonEnd) {
	if e.NS != nil {
		j.Namespace = e.NS.ID
	}
	if e.Device != nil {
		j.Index, j.Name = e.Device.Index, text(e.Device.Name)
	}
	return j
}

func texts(lines []string) []text {
	var all []text
	for _, l := range lines {
		all = append(all, text(l))
	}
	return all
}
