// SPDX-License-Identifier: Apache-2.0

package event

// Netdev is a network device that a call moved, or tried to move, from one network
// namespace to another; or the one whose parameters appeared or vanished. NewName, NewIfindex, From and To then
// say that this happened because the device got another name, or moved.
type Netdev struct {
	Name       string     `json:"name"`                  // before the move
	NewName    string     `json:"new_name,omitempty"`    // after the move, if it differs
	Kind       string     `json:"kind,omitempty"`        // such as vlan and veth, as ip(8) has them; in events of its parameters
	Ifindex    uint32     `json:"ifindex,omitempty"`     // before the move; 0 for a device that could not be created
	NewIfindex uint32     `json:"new_ifindex,omitempty"` // after the move, if it differs
	Created    bool       `json:"created,omitempty"`     // the device was created in To by a request in From
	From       *Namespace `json:"from,omitempty"`
	To         *Namespace `json:"to,omitempty"`
}
