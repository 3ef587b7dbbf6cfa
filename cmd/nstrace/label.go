// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/nstrace/nstrace/internal/config"
)

// Limits of labels.
const (
	maxLabels     = 32
	maxLabelValue = 256 // bytes
)

// labelKey matches a key of a label. Prometheus and the language of --filter accept it.
var labelKey = regexp.MustCompile("^[a-zA-Z_][a-zA-Z0-9_]{0,62}$")

// registerLabels adds --label.
func registerLabels(fs *pflag.FlagSet, values *[]string) {
	fs.StringArrayVar(values, "label", nil, "give all events this label, KEY=VALUE, for example cluster=north; may be repeated")
	config.SetKey(fs.Lookup("label"), "labels", true)
}

// parseLabels parses the values of --label. A later value of a key replaces an earlier one. It returns nil for none.
func parseLabels(values []string) (map[string]string, error) {
	var labels map[string]string
	for _, text := range values {
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok || value == "":
			return nil, usagef("--label: %q has no value: want KEY=VALUE, for example cluster=north", text)
		case !labelKey.MatchString(key):
			return nil, usagef("--label: invalid key %q: want at most 63 letters, digits and underscores, and no digit first", key)
		case len(value) > maxLabelValue || !utf8.ValidString(value):
			return nil, usagef("--label: invalid value of %q: want at most %d bytes of UTF-8", key, maxLabelValue)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		if labels[key] = value; len(labels) > maxLabels {
			return nil, usagef("--label: more than %d labels", maxLabels)
		}
	}
	return labels, nil
}
