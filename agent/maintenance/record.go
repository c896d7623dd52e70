// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"maps"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// record is the host's half of one device as the journal keeps it, with what the
// agent did for it.
type record struct {
	Host  protocol.Host
	At    time.Time // when it was brought up to date
	Since time.Time // of its phase
	// Was is what the device has to be again when it returns; nil: it was not fenced.
	Was *device.Remembered `json:",omitempty"`
	// Applied are the newest operations that changed something here: one that is
	// repeated after a crash has done so already.
	Applied []string `json:",omitempty"`
	// Acts are what is being done about uses, written before it is begun.
	Acts map[string]act `json:",omitempty"`
	// Until are the objections, by use, that withdraw themselves, and when.
	Until map[string]time.Time `json:",omitempty"`
	// Last are the ids of the newest maintenance.
	Last []string `json:",omitempty"`
	// Deeds are what was done about uses, by use, until it was undone.
	Deeds map[string]deed `json:",omitempty"`
}

// act is one step of a use's policy that is carried out.
type act struct {
	Index  int
	Stamp  protocol.Stamp
	Action protocol.Action
	Domain string
	Disk   string
	From   primitives.URI
	To     primitives.URI // Move
	Bytes  int64          // Move: that the target has to have room for
	Try    int            `json:",omitempty"` // Move: how often it was begun anew
}

// deed is what maintenance did to a use, as far as it is to be undone.
type deed struct {
	How    protocol.How
	Domain string
	Disk   string
	From   primitives.URI // Moved
	To     primitives.URI // Moved
	Mine   bool           // Paused, Stopped: by tenon; it was running before
	Done   bool           // Stopped: the domain was seen to be off
	Void   bool           // Stopped: somebody else started the domain since
	Tries  int            // of undoing it
}

// clone returns a copy that can be stepped. What its members point to is replaced
// and never changed.
func (r *record) clone() record {
	c := *r
	c.Host.Outcomes, c.Host.Foreign, c.Host.Owed = slices.Clone(r.Host.Outcomes), slices.Clone(r.Host.Foreign), slices.Clone(r.Host.Owed)
	c.Applied, c.Acts, c.Deeds, c.Until = slices.Clone(r.Applied), maps.Clone(r.Acts), maps.Clone(r.Deeds), maps.Clone(r.Until)
	return c
}

// keepApplied is how many operations a record remembers: more than can be under
// way when an agent dies.
const keepApplied = 64

// apply runs f once for an operation, also where that is repeated after a crash.
func (w *ward) apply(id string, f func() error) error {
	if slices.Contains(w.rec.Applied, id) {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	w.rec.Applied = append(w.rec.Applied, id)
	w.rec.Applied = w.rec.Applied[max(0, len(w.rec.Applied)-keepApplied):]
	return nil
}

// management is the managing half of one device as the journal keeps it.
type management struct {
	Device protocol.Management
	Since  time.Time // of its phase
}

// manager says who manages this host. The zero value: the host itself.
type manager struct {
	ID   string
	Term uint64
}

// ackOf is what a managing half counts of one host and does not write down.
type ackOf struct {
	ack   protocol.Ack
	last  *protocol.Report
	quiet time.Duration
}

// phase is how long a device's phase lasts already, on the host.
func (r *record) enter(before protocol.HostPhase, now time.Time) {
	if r.Since.IsZero() || r.Host.Phase != before {
		r.Since = now
	}
}
