// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"time"
)

// Stamp orders what management wants of a device: by term, then epoch, then
// rank. The term grows with each change of who manages, the epoch with each
// change of what is wanted, the rank with the steps of one epoch.
type Stamp struct {
	Term  uint64 `json:"term"`
	Epoch uint64 `json:"epoch"`
	Rank  uint8  `json:"rank"`
}

// The ranks within one epoch.
const (
	RankNotice uint8 = 0 // tell what is coming; the gate stays open
	RankGate   uint8 = 1 // open or close the gate
	RankFence  uint8 = 2 // fence; only once every host drained at this epoch
)

// Compare returns -1, 0 or 1.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.Term, o.Term), cmp.Compare(s.Epoch, o.Epoch), cmp.Compare(s.Rank, o.Rank))
}

// SameEpoch reports whether both are of one term and epoch.
func (s Stamp) SameEpoch(o Stamp) bool { return s.Term == o.Term && s.Epoch == o.Epoch }

// Gate is the switch that admits new uses of a device on a host.
type Gate uint8

// The gates. What a host does not know is treated as closed.
const (
	GateUnknown Gate = iota
	GateOpen
	GateClosed // no new use without a grant; those there are drain
	GateFenced // closed, and I/O is refused by the storage itself
)

// Impact is what a maintenance does to I/O. It decides what an acknowledgement means.
type Impact uint8

// The impacts, the mildest first.
const (
	// IOStall: I/O stalls for less than the expected duration. A use is ready when
	// its guest is paused, it was released, or its client tolerates the stall.
	IOStall Impact = iota + 1
	// Disconnect: the device goes away and comes back with the same data. A use is
	// ready when it was released; a paused guest still holds the device open.
	Disconnect
	// DataLoss: the data does not come back. A use is ready when it was released
	// and its data is verified on another device.
	DataLoss
)

// Phase is where a device stands, as management sees it.
type Phase uint8

// The phases of a device.
const (
	InService     Phase = iota
	Announced           // notice given, gate still open
	Preparing           // gate closed, uses drain
	Blocked             // somebody objects, or a deadline passed under OnDeadlineHold; gate closed
	Fencing             // every host drained; each is told to fence
	InMaintenance       // every host fenced, is covered by a fence of the storage, or overridden
	Returning           // hosts verify and unfence
	ReturnFailed        // some host found another device than before
)

// HostPhase is where a device stands on one host.
type HostPhase uint8

// The phases of a device on a host.
const (
	HostUnknown      HostPhase = iota // no trusted record: gated until an order comes
	HostOpen                          // in use as ever
	HostNoticed                       // open, and a maintenance is announced
	HostDraining                      // gate closed, uses are left
	HostDrained                       // gate closed, no use, nothing found open
	HostFencing                       // fence intended, not yet verified
	HostFenced                        // fence verified
	HostVerifying                     // told to open: identity, size, mount and mode are looked at
	HostReturnFailed                  // not what it was; gate stays closed
)

// UseState is what one use has answered.
type UseState uint8

// The states of a use under maintenance.
const (
	UseNotified    UseState = iota
	UseAccepted             // will get ready; gave an ETA
	UseWorking              // getting ready; tells percent, and that it lives
	UseReady                // safe, as the impact asks; released uses are gone from the report
	UseObjected             // refuses, with a reason
	UseLost                 // did not answer, or stopped answering, within its time
	UseRollingBack          // maintenance was cancelled; undoing what it did
)

// OnDeadline says what follows when uses are not ready in time.
type OnDeadline uint8

// What can follow.
const (
	OnDeadlineHold     OnDeadline = iota // the device is Blocked, naming them
	OnDeadlineEscalate                   // each use goes on to the next action of its policy, then hold
	OnDeadlineForce                      // as escalate, and then the uses are cut off; needs a Permission
)

// Intent is one requester's wish for one device. Several may cover it at once:
// the strictest wins, and the device returns when none is left.
type Intent struct {
	ID        string        `json:"id"` // the maintenance id
	Revision  uint64        `json:"revision"`
	Requester string        `json:"requester"`
	Reason    string        `json:"reason"`
	Impact    Impact        `json:"impact"`
	Expected  time.Duration `json:"expected"`   // how long the service is expected to take
	NotBefore time.Duration `json:"not_before"` // the gate stays open that long from now
	Respond   time.Duration `json:"respond"`    // for a first answer of each use; 0: no limit
	Drain     time.Duration `json:"drain"`      // for all uses to be ready, from the closing of the gate; 0: no limit
	OnRespond OnDeadline    `json:"on_respond"`
	OnDrain   OnDeadline    `json:"on_drain"`
	// Permission names who allowed uses to be cut off; empty: nobody did.
	Permission string `json:"permission,omitempty"`
	// Policy overrides the uses' own; empty: it does not.
	Policy     Policy `json:"policy,omitempty"`
	PlanDigest string `json:"plan_digest,omitempty"` // the plan it was made from
	Return     bool   `json:"return,omitempty"`      // moved disks go home afterwards
}

// Order is all that one host must know of one device: a full state, so that any
// may be lost, repeated or reordered. Times are remaining durations, so that the
// clocks of two hosts need not agree.
type Order struct {
	Device       string        `json:"device"` // the identity that the storage reports (Description.Backend), or the name
	IDs          []string      `json:"maintenance_ids,omitempty"`
	Stamp        Stamp         `json:"stamp"`
	Phase        Phase         `json:"phase"` // for people; only Announced asks something of a host
	Gate         Gate          `json:"gate"`
	Impact       Impact        `json:"impact,omitempty"`
	Expected     time.Duration `json:"expected,omitempty"`
	NotBefore    time.Duration `json:"not_before,omitempty"`
	Respond      time.Duration `json:"respond,omitempty"` // 0: no limit
	Drain        time.Duration `json:"drain,omitempty"`
	OnRespond    OnDeadline    `json:"on_respond,omitempty"`
	OnDrain      OnDeadline    `json:"on_drain,omitempty"`
	Permission   string        `json:"permission,omitempty"`
	Policy       Policy        `json:"policy,omitempty"`
	Reason       string        `json:"reason,omitempty"`
	Alternatives []string      `json:"alternatives,omitempty"` // devices to use instead
	Return       bool          `json:"return,omitempty"`
	Grants       []Grant       `json:"grants,omitempty"`
	Overridden   []Override    `json:"overridden,omitempty"` // of uses whose objection or absence is overruled
	// Lease is how long the host may go without an order that answers one of its
	// reports before it fences the device by itself; 0: for ever.
	Lease     time.Duration `json:"lease,omitempty"`
	Heard     uint64        `json:"heard,omitempty"`      // the newest report that management has, by its Seq; what a lease counts from
	HeardFrom string        `json:"heard_from,omitempty"` // the agent start of that report
}

// Override says that a use, or a whole host, is no longer waited for. A use that
// is still there when the fence is due is cut off, if the impact takes its device away.
type Override struct {
	Subject    string `json:"subject"` // id of the use or of the host
	Permission string `json:"permission"`
	By         string `json:"by"`
	Reason     string `json:"reason,omitempty"`
}

// Grant lets one named use in though the gate is closed. It makes the use one of
// those that block the device.
type Grant struct {
	ID      string `json:"id"`      // of the grant, for the audit
	Subject string `json:"subject"` // the use id or volume (VOLUME or VOLUME@SNAPSHOT) that may come in
	By      string `json:"by"`
}

// Report is all that management must know of one device on one host.
type Report struct {
	Device     string      `json:"device"`
	Host       string      `json:"host"`
	Boot       string      `json:"boot"`
	AgentStart string      `json:"agent_start"`
	Seq        uint64      `json:"seq"` // grows with each report of one agent start
	Seen       Stamp       `json:"seen"`
	Gate       Gate        `json:"gate"`
	Phase      HostPhase   `json:"phase"`
	Fence      FenceState  `json:"fence"`
	Uses       []UseReport `json:"uses,omitempty"`
	UsesDigest string      `json:"uses_digest"` // of the Foreign, and of the ids and epochs of Uses that nobody overruled
	Foreign    []Foreign   `json:"foreign,omitempty"`
	Failure    string      `json:"failure,omitempty"` // why the last step did not succeed
	Lapsed     bool        `json:"lapsed,omitempty"`  // the lease ran out: the host closes the device by itself
	Leased     bool        `json:"leased,omitempty"`  // the host follows a lease
}

// FenceState says how a host is fenced.
type FenceState struct {
	Intended bool   `json:"intended,omitempty"`
	Verified bool   `json:"verified,omitempty"`
	Method   string `json:"method,omitempty"`
	Evidence string `json:"evidence,omitempty"`
}

// UseReport is one use in a report.
type UseReport struct {
	ID       string        `json:"id"`
	Kind     string        `json:"kind"` // "disk", "transfer", "snapshot", "stream", "operation", "subscriber"
	Subject  string        `json:"subject"`
	Domain   string        `json:"domain,omitempty"`
	Disk     string        `json:"disk,omitempty"`
	Writer   bool          `json:"writer,omitempty"`
	Admitted Stamp         `json:"admitted"`
	Grant    string        `json:"grant,omitempty"`
	State    UseState      `json:"state"`
	Action   string        `json:"action,omitempty"` // what is being done about it
	How      How           `json:"how,omitempty"`    // UseReady: how it became so
	Percent  float64       `json:"percent,omitempty"`
	ETA      time.Duration `json:"eta,omitempty"`
	Silent   time.Duration `json:"silent,omitempty"` // since it last said anything
	Reason   *Reason       `json:"reason,omitempty"` // UseObjected, UseLost
}

// How says in which way a use became ready.
type How string

// The ways of becoming ready.
const (
	Moved     How = "moved"
	Detached  How = "detached"
	Paused    How = "paused"
	Stopped   How = "stopped" // the domain was shut down
	Closed    How = "closed"
	Tolerates How = "tolerates" // the client lives with the stall
	Removed   How = "removed"   // its data was deleted on purpose
)

// Reason says why a use objects or was lost.
type Reason struct {
	Code      string        `json:"code"`
	Text      string        `json:"text"`
	Retryable bool          `json:"retryable,omitempty"`
	RetryIn   time.Duration `json:"retry_in,omitempty"`
}

// Foreign is a user of the device that nobody registered.
type Foreign struct {
	Name string `json:"name"` // such as "qemu-img (pid 812)"
	PID  int    `json:"pid,omitempty"`
	Path string `json:"path"`
}
