// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Door is the gate of a device, with what a refusal says.
type Door struct {
	Seen         maintenance.Stamp
	Gate         maintenance.Gate
	IDs          []string
	Expected     time.Duration
	Alternatives []string
	Grants       []maintenance.Grant
}

// Admission is what let a use in.
type Admission struct {
	Stamp maintenance.Stamp
	Grant string
}

// Refusal says that the door is closed.
type Refusal struct{ Gate maintenance.Gate }

// Admit decides about one new use.
func (d Door) Admit(use, subject string) (Admission, *Refusal) {
	if d.Gate == maintenance.GateOpen {
		return Admission{Stamp: d.Seen}, nil
	}
	i := slices.IndexFunc(d.Grants, func(g maintenance.Grant) bool {
		return g.Subject != "" && (g.Subject == use || g.Subject == subject)
	})
	if d.Gate == maintenance.GateClosed && i >= 0 {
		return Admission{Stamp: d.Seen, Grant: d.Grants[i].ID}, nil
	}
	return Admission{}, &Refusal{Gate: d.Gate}
}
