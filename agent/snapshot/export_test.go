// SPDX-License-Identifier: Apache-2.0

package snapshot

import "github.com/tenon-storage/tenon/primitives"

// Planning is looked at from outside by its table test.
type (
	Planned = group
	Subject = subject
)

const (
	Direct = direct
	Remap  = remap
)

// Plan is plan, LevelOf is level.
func Plan(s []Subject) []Planned     { return plan(s) }
func LevelOf(groups []Planned) Level { return level(groups) }

// Snapshottable is snapshottable for a volume that nobody uses.
func Snapshottable(f primitives.Facets, o primitives.Object) error {
	return snapshottable(f, o, subject{URI: o.URI})
}
