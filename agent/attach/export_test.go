// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
)

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

// Pick is pick.
func Pick(d hypervisor.Domain, name DiskName, shown []hypervisor.Disk, uses []journal.Use) (hypervisor.DiskID, journal.Use, error) {
	return pick(d, name, shown, uses)
}
