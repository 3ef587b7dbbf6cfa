// SPDX-License-Identifier: Apache-2.0

package event

// Netdev is a network device that went, or was to go, from one network namespace to
// another.
type Netdev struct {
	Name       string     `json:"name"`                  // before
	NewName    string     `json:"new_name,omitempty"`    // if it has another one now
	Ifindex    uint32     `json:"ifindex,omitempty"`     // before; 0 for one that could not be made
	NewIfindex uint32     `json:"new_ifindex,omitempty"` // if it has another one now
	Created    bool       `json:"created,omitempty"`     // it was made in To by a request in From
	From       *Namespace `json:"from,omitempty"`
	To         *Namespace `json:"to,omitempty"`
}
