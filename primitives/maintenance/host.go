// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// Host is one device on one host. Its zero value, with Device and ID set, is a
// device of which nothing is known: gated until an order comes. All of it is
// durable. The uses are not in it: the caller's journal has them, and gives them
// with the events that need them.
type Host struct {
	Device     string        `json:"device"` // as orders name it
	ID         string        `json:"id"`     // of the host
	Boot       string        `json:"boot"`
	AgentStart string        `json:"agent_start"`
	Seq        uint64        `json:"seq"`   // of the newest report
	Order      Order         `json:"order"` // the newest that was accepted
	Phase      HostPhase     `json:"phase"`
	Gate       Gate          `json:"gate"`
	Fence      FenceState    `json:"fence"`
	FencedFor  Impact        `json:"fenced_for,omitempty"` // the impact that the fence was made for
	Outcomes   []Outcome     `json:"outcomes,omitempty"`   // by use id; of the uses that were told of a maintenance
	Waiting    int           `json:"waiting,omitempty"`    // how many outcomes keep the device from being drained
	Foreign    []Foreign     `json:"foreign,omitempty"`
	Owed       []Restore     `json:"owed,omitempty"` // to be done once the device is back
	Failure    string        `json:"failure,omitempty"`
	Doubt      bool          `json:"doubt,omitempty"`   // the device must be verified before it opens
	Blank      bool          `json:"blank,omitempty"`   // and nothing is known of what it was
	Looks      uint64        `json:"looks,omitempty"`   // serial of the newest Look
	Looking    bool          `json:"looking,omitempty"` // it is not answered yet
	Drain      time.Duration `json:"drain,omitempty"`   // what is left of it
	Overdue    bool          `json:"overdue,omitempty"` // the drain deadline passed
	Quiet      time.Duration `json:"quiet,omitempty"`   // since the last look or attempt to fence
	Lapsed     bool          `json:"lapsed,omitempty"`
	Lease      Lease         `json:"lease,omitzero"`

	flaw flaw
}

// Outcome is how far one use has come.
type Outcome struct {
	ID       string        `json:"id"`
	State    UseState      `json:"state"`
	Kind     string        `json:"kind,omitempty"`
	Subject  string        `json:"subject,omitempty"`
	Domain   string        `json:"domain,omitempty"`
	Disk     string        `json:"disk,omitempty"`
	Owner    string        `json:"owner,omitempty"`
	Policy   Policy        `json:"policy,omitempty"`
	Index    int           `json:"index,omitempty"` // the step of the policy
	Step     PolicyStep    `json:"step,omitzero"`
	Acting   bool          `json:"acting,omitempty"`  // that step is being carried out
	Taken    bool          `json:"taken,omitempty"`   // back: that step is being cancelled
	Cut      string        `json:"cut,omitempty"`     // the permission by which it is cut off
	Residue  bool          `json:"residue,omitempty"` // it was released, but its data is not known to be elsewhere
	Waits    bool          `json:"waits,omitempty"`   // counted in Host.Waiting
	Percent  float64       `json:"percent,omitempty"`
	ETA      time.Duration `json:"eta,omitempty"`
	Silent   time.Duration `json:"silent,omitempty"`
	How      How           `json:"how,omitempty"`
	Evidence string        `json:"evidence,omitempty"`
	Reason   *Reason       `json:"reason,omitempty"`
}

// Lease is what is left of the time for which this host may use the device unheard.
type Lease struct {
	Left  time.Duration `json:"left,omitempty"`
	Probe uint64        `json:"probe,omitempty"` // the report whose answer renews it
	Age   time.Duration `json:"age,omitempty"`   // since that report
	Beat  time.Duration `json:"beat,omitempty"`  // since a report was sent for the lease's sake
}
