// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// HostEvent is what can happen to a device on a host.
type HostEvent interface{ hostEvent() }

// Use is one user of the device on this host, as the caller's journal has it.
type Use struct {
	ID       string
	Kind     string // as in UseReport
	Subject  string
	Domain   string
	Disk     string
	Owner    string // who alone may answer for it; empty: anybody whom the caller lets
	Writer   bool
	Admitted Stamp
	Grant    string
	Policy   Policy // its own; empty: DefaultPolicy for a disk, Ask for the rest
}

// Ordered is an order that came in, and the uses from the same transaction.
type Ordered struct {
	Order Order
	Uses  []Use
}

// UsesSeen is the whole set of uses, after one was added or to be sure of them.
type UsesSeen struct{ Uses []Use }

// Looked answers a Look: who has the device open that is no use of it, and the
// uses from the transaction in which the event is stepped. A holder that belongs
// to a recorded use is no foreigner.
type Looked struct {
	Stamp   Stamp  // of the Look
	Serial  uint64 // of the Look
	Uses    []Use
	Foreign []Foreign
	Failure string // why nobody could look; it counts as found open
}

// Answer is what a use says to a notice.
type Answer uint8

// The answers.
const (
	Accept   Answer = iota + 1 // gets ready; ETA
	Progress                   // lives and works; Percent, ETA
	Ready                      // is safe; How, Evidence
	Object                     // refuses; Reason
	Withdraw                   // takes its objection back
)

// Answered is the answer of a use. One for another stamp's epoch, from another boot
// or by somebody else than the owner does not count.
type Answered struct {
	Use      string
	By       string // the client; empty: the host itself, whose word always counts
	Stamp    Stamp  // of the notice that is answered; the rank does not matter
	Boot     string
	Answer   Answer
	How      How
	Evidence string
	ETA      time.Duration
	Percent  float64
	Reason   Reason
}

// Gone is a use that was released: it is in the caller's journal no more. How is
// empty where nobody did it for the maintenance.
type Gone struct {
	Use      string
	How      How
	Evidence string
}

// ActionFailed is the end of an ActOn that did not release its use or make it
// ready: it was not feasible, failed or was cancelled. An action that did is told
// by Gone or Answered.
type ActionFailed struct {
	Use    string
	Index  int // of the ActOn
	Reason Reason
}

// Fenced answers a RaiseFence.
type Fenced struct {
	Stamp     Stamp
	OK        bool
	Unchanged bool // not OK, and surely no fence stands, such as when somebody holds the device
	Method    string
	Evidence  string
	Failure   string
}

// Unfenced says that the fence stands no more, while a Verify is carried out.
type Unfenced struct{ Stamp Stamp }

// Verified answers a Verify: the device is what it was, is not fenced, and works.
type Verified struct {
	Stamp    Stamp
	Uses     []Use // from the same transaction
	OK       bool
	Evidence string
	Failure  string
}

// Restarted says that an agent loaded this host's record. A new boot voids what uses answered.
type Restarted struct {
	Boot       string
	AgentStart string
}

// Elapsed says that time went by on the caller's steady clock, the time in which
// the caller did not run included. It is an event of both sides.
type Elapsed struct{ By time.Duration }

// Settled says that a Restore was carried out, or is pointless by now.
type Settled struct{ Use string }

func (Ordered) hostEvent()      {}
func (UsesSeen) hostEvent()     {}
func (Looked) hostEvent()       {}
func (Answered) hostEvent()     {}
func (Gone) hostEvent()         {}
func (ActionFailed) hostEvent() {}
func (Fenced) hostEvent()       {}
func (Unfenced) hostEvent()     {}
func (Verified) hostEvent()     {}
func (Restarted) hostEvent()    {}
func (Elapsed) hostEvent()      {}
func (Settled) hostEvent()      {}

// HostAction is what the caller does after it made the Host durable. The actions
// of one device are carried out one after another, in order.
type HostAction interface{ hostAction() }

// Notify tells the use's client what Host.Order says.
type Notify struct {
	Use   string
	Stamp Stamp
}

// ActOn carries out one step of a use's policy. It ends with Gone, Answered or
// ActionFailed, and is the same action when it comes again with the same Index.
type ActOn struct {
	Use   string
	Index int
	Step  PolicyStep
	Stamp Stamp
}

// CancelAct takes an ActOn back if it can be, and ends with ActionFailed; one past
// that point ends as it would have.
type CancelAct struct {
	Use   string
	Index int
}

// CutOff takes the device away from a use, whatever that does to it. It ends with Gone.
type CutOff struct {
	Use        string
	Permission string
}

// Look asks who has the device open. Looked answers.
type Look struct {
	Stamp  Stamp
	Serial uint64
}

// RaiseFence asks to fence and verify it, again if it stands already. Fenced answers.
type RaiseFence struct {
	Stamp  Stamp
	Impact Impact // IOStall: closing the gate may do, with a Method that says so
}

// Verify asks to see whether the device is what it was, to end the fence, and to
// see that the device works. Verified answers.
type Verify struct {
	Stamp Stamp
	Found bool // false: nothing was known of the device before
}

// Restore asks to undo for a use what maintenance did to it. Settled answers.
type Restore struct {
	Use string
	// How it became ready. Stopped: start the domain, unless somebody else stopped
	// it since; Paused: let it run, unless somebody else paused it; Moved: bring the disk home.
	How     How
	Subject string
	Domain  string
	Disk    string
}

// SendReport asks to send Host.Report.
type SendReport struct{}

// Rejected says that an event did not count, and why.
type Rejected struct {
	Use string // of an answer
	Err *Error
}

// Audit is one line for the journal, written in the transaction that makes the
// machine durable. It is an action of both sides.
type Audit struct {
	Device     string
	IDs        []string // maintenance ids
	Stamp      Stamp
	Who        string
	What       string
	Before     string
	After      string
	Subject    string // use or host, where it is about one
	Evidence   string
	Permission string // or id of the grant
}

func (Notify) hostAction()     {}
func (ActOn) hostAction()      {}
func (CancelAct) hostAction()  {}
func (CutOff) hostAction()     {}
func (Look) hostAction()       {}
func (RaiseFence) hostAction() {}
func (Verify) hostAction()     {}
func (Restore) hostAction()    {}
func (SendReport) hostAction() {}
func (Rejected) hostAction()   {}
func (Audit) hostAction()      {}
