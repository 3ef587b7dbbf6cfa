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

type jsonGraph struct {
	V          int                `json:"v"`
	Time       time.Time          `json:"time"`
	Host       event.JSONString   `json:"host,omitempty"`
	Namespaces []jsonNamespace    `json:"namespaces"`
	Links      []jsonLink         `json:"links"`
	Incomplete []event.JSONString `json:"incomplete,omitempty"`
}

type jsonNamespace struct {
	ID         uint32             `json:"id"`
	UID        event.JSONString   `json:"uid,omitempty"` // as in events
	Host       bool               `json:"host,omitempty"`
	Name       event.JSONString   `json:"name,omitempty"`
	Owner      json.RawMessage    `json:"owner,omitempty"`
	Processes  int                `json:"processes"`
	Oldest     *jsonProcess       `json:"oldest,omitempty"`
	Error      event.JSONString   `json:"error,omitempty"`
	Devices    []jsonDevice       `json:"devices"`
	Incomplete []event.JSONString `json:"incomplete,omitempty"`
}

type jsonProcess struct {
	PID  uint32           `json:"pid"`
	Comm event.JSONString `json:"comm"`
}

type jsonDevice struct {
	Index     int              `json:"ifindex"`
	Name      event.JSONString `json:"name"`
	Alias     event.JSONString `json:"alias,omitempty"`
	Kind      event.JSONString `json:"kind,omitempty"`
	Loopback  bool             `json:"loopback,omitempty"`
	Physical  bool             `json:"physical,omitempty"`
	Bus       event.JSONString `json:"bus,omitempty"`
	MAC       string           `json:"mac,omitempty"`
	MTU       int              `json:"mtu"`
	Up        bool             `json:"up"`
	Carrier   bool             `json:"carrier"`
	Addresses []netip.Prefix   `json:"addresses,omitempty"`
	Master    int              `json:"master,omitempty"`
	VLAN      int              `json:"vlan,omitempty"`
	VNI       int              `json:"vni,omitempty"`
	Table     int              `json:"table,omitempty"`
	Mode      string           `json:"mode,omitempty"`
}

type jsonLink struct {
	Kind Kind    `json:"kind"`
	From jsonEnd `json:"from"`
	To   jsonEnd `json:"to"`
}

type jsonEnd struct {
	Namespace uint32           `json:"namespace,omitempty"`
	Index     int              `json:"ifindex,omitempty"`
	Name      event.JSONString `json:"name,omitempty"`
}

// WriteJSON writes the graph as one JSON object. Nothing in it is folded.
func (g *Graph) WriteJSON(w io.Writer) error {
	out := jsonGraph{V: 1, Time: g.Time.UTC(), Host: event.JSONString(g.Host), Namespaces: []jsonNamespace{}, Links: []jsonLink{}, Incomplete: texts(g.Incomplete)}
	for _, n := range g.Namespaces {
		j := jsonNamespace{
			ID: n.ID, UID: event.JSONString(n.UID), Host: n.host, Name: event.JSONString(n.Name), Processes: n.Processes,
			Devices: []jsonDevice{}, Incomplete: texts(n.Network.Incomplete),
		}
		if n.Owner != nil {
			j.Owner = event.AppendOwner(nil, n.Owner)
		}
		if n.Oldest != nil {
			j.Oldest = &jsonProcess{n.Oldest.PID, event.JSONString(n.Oldest.Comm)}
		}
		if n.Network.Err != nil {
			j.Error = event.JSONString(n.Network.Err.Error())
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
		Index: d.Index, Name: event.JSONString(d.Name), Alias: event.JSONString(d.Alias), Kind: event.JSONString(d.Kind), Loopback: d.Loopback, Physical: d.Physical(),
		Bus: event.JSONString(d.Bus), MAC: d.MAC, MTU: d.MTU, Up: d.Up, Carrier: d.Carrier, Addresses: d.Addresses, Master: d.Master,
		VLAN: d.VLAN, VNI: d.VNI, Table: d.Table, Mode: d.Mode,
	}
}

func newJSONEnd(e End) (j jsonEnd) {
	if e.NS != nil {
		j.Namespace = e.NS.ID
	}
	if e.Device != nil {
		j.Index, j.Name = e.Device.Index, event.JSONString(e.Device.Name)
	}
	return j
}

func texts(lines []string) []event.JSONString {
	var all []event.JSONString
	for _, l := range lines {
		all = append(all, event.JSONString(l))
	}
	return all
}
