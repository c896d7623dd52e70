// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// Management is one device, as whoever manages it sees it. What hosts acknowledged
// is not durable: it is asked for again. The rest is made durable before an order is sent.
type Management struct {
	Device    string     `json:"device"` // as orders name it
	Term      uint64     `json:"term"`
	Epoch     uint64     `json:"epoch"`
	Rank      uint8      `json:"rank"`
	Phase     Phase      `json:"phase"`
	Intents   []Planned  `json:"intents,omitempty"`
	Members   []Member   `json:"members,omitempty"` // the roster, by host id
	Overrides []Override `json:"overrides,omitempty"`
	Grants    []Grant    `json:"grants,omitempty"`
	// Alternatives are devices to use instead; the caller sets them.
	Alternatives []string `json:"alternatives,omitempty"`
	// Lease and Skew are the partition policy: a host unheard of for both fenced the
	// device by itself. Without a Lease it is waited for. The caller sets them for
	// good, before the first host joins. A host whose agent is dead fences nothing:
	// this is for hosts that watch over their agent.
	Lease time.Duration `json:"lease,omitempty"`
	Skew  time.Duration `json:"skew,omitempty"`

	resend time.Duration // since orders were repeated
	flaw   flaw
}

// NewManagement returns a device in service, with no host on its roster.
func NewManagement(device string, term uint64) *Management {
	return &Management{Device: device, Term: max(term, 1), Epoch: 1, Rank: RankGate}
}

// Planned is an intent with what is left of its times.
type Planned struct {
	Intent    Intent        `json:"intent"` // with the deadlines that it was given since
	Asked     Intent        `json:"asked"`  // as it came, by which a repeat is known
	NotBefore time.Duration `json:"not_before"`
	Drain     time.Duration `json:"drain"`
	Overdue   bool          `json:"overdue,omitempty"` // its drain deadline passed
}

// Member is a host on the roster.
type Member struct {
	Host       string    `json:"host"`
	Boot       string    `json:"boot"`
	AgentStart string    `json:"agent_start"`
	Past       []string  `json:"past,omitempty"`       // agent starts before this one
	Digest     string    `json:"digest,omitempty"`     // of the uses with which it drained
	Fenced     bool      `json:"fenced,omitempty"`     // said so itself, since the device was last open
	Late       bool      `json:"late,omitempty"`       // joined when the others had drained: it is not counted before it is fenced
	Overridden *Override `json:"overridden,omitempty"` // not waited for
	Storage    bool      `json:"storage,omitempty"`    // the storage itself refuses it
	Leased     bool      `json:"leased,omitempty"`     // follows a lease

	Ack   Ack           `json:"-"`
	Last  *Report       `json:"-"` // for people; nothing is decided by it
	Quiet time.Duration `json:"-"` // since it was last heard of
}

// Ack is what counts of a member's newest report at the current epoch.
type Ack struct {
	Seq     uint64
	Phase   HostPhase
	Seen    Stamp // zero: nothing was heard at this epoch
	Digest  string
	Objects bool // an objection that nobody overruled
	Lost    bool // a silent use that nobody overruled
	Foreign bool
	Ready   bool // every use is ready or overruled
	Lapsed  bool
	Uses    int
}

// Blocker is who keeps a device from going on.
type Blocker struct {
	Host   string
	Use    string // empty: the host itself, or a foreign user
	Name   string // the use's subject, the foreign user's name
	Reason string
}
