// SPDX-License-Identifier: Apache-2.0

package output

import "fmt"

// A Rule says how the kernel combines the setting of a device with that of all devices.
type Rule string

// The rules.
const (
	Greater Rule = "greater" // the greater value counts
	Either  Rule = "either"  // it is on if one of them is
	Both    Rule = "both"    // it is on if both are
)

// A Combined says how the kernel combines the setting of a device with that of all devices. For the setting of all
// devices it has only the rule.
type Combined struct {
	Rule      Rule   `json:"rule"`
	With      string `json:"with,omitempty"` // the parameter of all devices
	WithValue string `json:"with_value,omitempty"`
	Effective string `json:"effective,omitempty"` // what counts: for Either and Both 0 or 1
	Same      bool   `json:"-"`                   // the setting of all devices makes no difference
}

// Text says which values count.
func (c *Combined) Text() string {
	first, second := "this", "its own"
	if c.With != "" {
		second = fmt.Sprintf("%s = %s", c.With, Short(c.WithValue))
	}
	switch c.Rule {
	case Greater:
		return fmt.Sprintf("the greater of %s and %s counts", first, second)
	case Either:
		return fmt.Sprintf("one of %s and %s is enough", first, second)
	}
	return fmt.Sprintf("both %s and %s are needed", first, second)
}
