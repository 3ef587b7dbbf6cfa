// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/nstrace/nstrace/pipeline"
)

// newSelection parses --container and --netns.
func newSelection(containers, netns []string) (pipeline.Selection, error) {
	s := pipeline.Selection{Containers: containers}
	if slices.Contains(containers, "") {
		return s, usagef("--container: empty value: want a container name, an id or NAMESPACE/POD")
	}
	for _, text := range netns {
		n, err := pipeline.ParseNetSelector(text)
		if err != nil {
			return s, usagef("--netns: %w", err)
		}
		s.Nets = append(s.Nets, n)
	}
	return s, nil
}
