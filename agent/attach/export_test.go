// SPDX-License-Identifier: Apache-2.0

package attach

// Deciding leaves the package in deeds only; its table test looks inside.
type (
	Observed = observed
	Deed     = deed
)

const (
	Forget  = forget
	Restore = restore
	Drop    = drop
	Record  = record
)

// Decide is decide.
func Decide(o Observed) []Deed { return decide(o) }
