// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"fmt"
	"strings"
	"time"
)

// Door is what decides about a new use. The caller keeps it where it records uses,
// and asks it in the transaction that records one. Its zero value is closed.
type Door struct {
	Seen         Stamp         `json:"seen"`
	Gate         Gate          `json:"gate"`
	IDs          []string      `json:"ids,omitempty"`
	Expected     time.Duration `json:"expected,omitempty"`
	Alternatives []string      `json:"alternatives,omitempty"`
	Grants       []Grant       `json:"grants,omitempty"`
}

// Admission is what is recorded with a use that was let in.
type Admission struct {
	Stamp Stamp
	Grant string // the id of the grant by which it came in, if any
}

// Refusal says why a use was not let in.
type Refusal struct {
	Gate         Gate
	IDs          []string
	Expected     time.Duration
	Alternatives []string
}

// Error says it in words.
func (r *Refusal) Error() string {
	switch {
	case r.Gate == GateUnknown:
		return "nothing is known of the device's maintenance: it is closed until an order comes"
	case len(r.IDs) == 0:
		return "the device is closed, and returns from maintenance"
	}
	text := "the device goes into maintenance " + strings.Join(r.IDs, ", ")
	if r.Gate == GateFenced {
		text = "the device is in maintenance " + strings.Join(r.IDs, ", ")
	}
	if r.Expected > 0 {
		text += fmt.Sprintf(", expected to take %s", r.Expected)
	}
	if len(r.Alternatives) > 0 {
		text += "; use " + strings.Join(r.Alternatives, ", ") + " instead"
	}
	return text
}

// Admit decides about a use by its id or its subject.
func (d Door) Admit(use, subject string) (Admission, *Refusal) {
	if d.Gate == GateOpen {
		return Admission{Stamp: d.Seen}, nil
	}
	if d.Gate == GateClosed {
		for _, g := range d.Grants {
			if g.Subject == use || g.Subject == subject {
				return Admission{Stamp: d.Seen, Grant: g.ID}, nil
			}
		}
	}
	return Admission{}, &Refusal{Gate: d.Gate, IDs: d.IDs, Expected: d.Expected, Alternatives: d.Alternatives}
}
