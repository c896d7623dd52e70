// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"time"

	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Maintenance is where one device stands.
type Maintenance struct {
	Device    string               `json:"device"`
	Phase     protocol.Phase       `json:"phase"`
	Host      protocol.HostPhase   `json:"host"`
	Gate      protocol.Gate        `json:"gate"`
	Stamp     protocol.Stamp       `json:"stamp"`
	Intents   []protocol.Intent    `json:"intents,omitempty"` // managed here: what is wanted; else what the order tells of it
	Since     time.Time            `json:"since,omitzero"`    // of the phase
	Deadline  time.Time            `json:"deadline,omitzero"` // of what the phase waits for; zero: none
	Uses      []protocol.UseReport `json:"uses,omitempty"`
	Foreign   []protocol.Foreign   `json:"foreign,omitempty"`
	Blockers  []primitives.Blocker `json:"blockers,omitempty"` // what keeps it from the next phase
	Fence     protocol.FenceState  `json:"fence"`
	Failure   string               `json:"failure,omitempty"`
	ManagedBy string               `json:"managed_by"` // "this host", or the manager's id
}

// ThisHost is the ManagedBy of a device that no outside manager has.
const ThisHost = "this host"

// PlanRequest asks what a maintenance would do.
type PlanRequest struct {
	Device string
	Intent protocol.Intent
}

// Plan is what a maintenance would do to each use of a device. It changes nothing.
type Plan struct {
	Device string    `json:"device"`
	Digest string    `json:"digest"` // of everything that decides; Prepare can demand it
	Uses   []PlanUse `json:"uses"`
}

// PlanUse is what would happen to one use.
type PlanUse struct {
	ID       string               `json:"id"`
	Kind     string               `json:"kind"`
	Subject  string               `json:"subject"`
	Domain   string               `json:"domain,omitempty"`
	Disk     string               `json:"disk,omitempty"`
	Action   string               `json:"action"` // a protocol.Action, or "wait" for what ends by itself
	Target   string               `json:"target,omitempty"`
	Bytes    int64                `json:"bytes,omitempty"`
	Seconds  float64              `json:"seconds,omitempty"`
	Blockers []primitives.Blocker `json:"blockers,omitempty"`
	Notes    []string             `json:"notes,omitempty"`
}

// PrepareRequest declares an intent: the device is to go into maintenance.
type PrepareRequest struct {
	RequestID string // repeats with it give the same outcome
	Caller    string
	Device    string
	Intent    protocol.Intent // a PlanDigest is refused, with the difference, where the plan changed
}

// ExtendRequest gives a maintenance other deadlines, each counted from now; 0
// leaves one as it is.
type ExtendRequest struct {
	RequestID, Caller, Device string
	ID                        string // of the intent; empty: the only one there is
	Respond, Drain, Expected  time.Duration
}

// OverrideRequest overrules one use or one host that keeps a maintenance waiting.
type OverrideRequest struct {
	RequestID, Caller, Device, ID string
	Subject                       string // a use's id or a host's
	Permission                    string // who allowed it, for the audit; required
	Reason                        string
}

// EndRequest cancels or ends a maintenance.
type EndRequest struct {
	RequestID, Caller, Device string
	ID                        string // of the intent; empty: the only one there is
}

// ObjectRequest objects in the name of a use.
type ObjectRequest struct {
	RequestID, Caller, Use string
	Epoch                  uint64 // that the caller has seen; an older one is not counted. 0: the present one
	Code, Text             string
	Retryable              bool
	Until                  time.Duration // the objection withdraws itself after that; 0: never
}

// AnswerRequest withdraws an objection.
type AnswerRequest struct {
	RequestID, Caller, Use string
	Epoch                  uint64
}

// ReadyRequest says that a use is ready. It is believed only as far as the host
// shows nothing else.
type ReadyRequest struct {
	RequestID, Caller, Use string
	Epoch                  uint64
	How                    protocol.How
	Evidence               string
}

// SubscribeRequest asks to be told of maintenances.
type SubscribeRequest struct {
	ID       string // the client's own and stable: it registers again with it. Required
	Caller   string
	Name     string // for people
	Device   string // empty: every device
	Blocking bool   // the subscription is a use of the device: maintenance waits for its answer
}

// Notice tells a subscriber what is ordered of a device. It is a full state:
// later ones replace it.
type Notice struct {
	Device string         `json:"device"` // its name
	Order  protocol.Order `json:"order"`
	Use    string         `json:"use,omitempty"` // the subscription's own use; empty: it does not block
}

// PolicyRequest sets the policy of one use, or of a device for all uses without one.
type PolicyRequest struct {
	RequestID, Caller string
	Subject           string          // a device's name or a use's id
	Policy            protocol.Policy // empty: forget it, so that the next wider one counts
}

// AuditLine is one entry of the append-only record of maintenances.
type AuditLine struct {
	At          time.Time      `json:"at"`
	Device      string         `json:"device"`
	Maintenance string         `json:"maintenance"` // the intent's id
	Who         string         `json:"who"`
	What        string         `json:"what"`
	Before      string         `json:"before,omitempty"`
	After       string         `json:"after,omitempty"`
	Evidence    string         `json:"evidence,omitempty"`
	Override    string         `json:"override,omitempty"`
	Stamp       protocol.Stamp `json:"stamp"`
}

// AdmitDomainRequest asks whether a domain may start on this host, or come to it.
type AdmitDomainRequest struct {
	Domain   string // its UUID
	Name     string
	Sources  []string // paths and volumes in its definition
	Incoming bool     // it migrates to this host
}
