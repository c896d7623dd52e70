// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"slices"
)

// Keys lists every key of the file by its full name.
func Keys() []string { return slices.Sorted(maps.Keys(settings(new(Config)))) }
