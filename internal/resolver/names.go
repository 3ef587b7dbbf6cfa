// SPDX-License-Identifier: Apache-2.0

package resolver

import "github.com/nstrace/nstrace/internal/attribution"

// Names is a tracer.Resolver. One goroutine may call UserName.
type Names struct {
	*Client
	users *attribution.Users
}

// Names returns what a Tracer asks.
func (c *Client) Names() *Names { return &Names{c, c.Users()} }

// UserName returns the name of a user, see attribution.Users.
func (n *Names) UserName(uid uint32) string { return n.users.Name(uid) }
