// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

const (
	lookEvery   = 5 * time.Second  // while a device drains, and between attempts to fence
	verifyEvery = 15 * time.Second // after a device was not what it was
	stepTime    = 30 * time.Second // for each further step of a policy once the drain deadline passed, at least
)

// elapsed lets time go by.
func (t *hostTurn) elapsed(by time.Duration) {
	if by <= 0 {
		return // a clock that runs backwards brings no deadline nearer
	}
	t.runLease(by)
	if t.told() {
		t.silence(by)
	}
	if t.closing() {
		t.drainTime(by)
	}
	t.Quiet += by
	switch {
	case t.Phase == HostReturnFailed && t.Quiet >= verifyEvery:
		t.Quiet = 0
		t.do(t.verify()) // somebody may have brought the device back
	case t.Phase == HostFencing && t.Quiet >= lookEvery:
		t.Quiet = 0
		t.do(t.raise())
	case t.Phase == HostDraining && t.Quiet >= lookEvery:
		t.look()
	}
}

// silence finds the uses that did not answer, or went silent. Who is acted on
// by the host itself may be silent: its action ends by itself.
func (t *hostTurn) silence(by time.Duration) {
	for i := range t.Outcomes {
		o := &t.Outcomes[i]
		was := o.Silent
		o.Silent += by
		waits := o.State == UseNotified || o.State == UseAccepted || o.State == UseWorking
		if t.Order.Respond <= 0 || o.Silent < t.Order.Respond || !waits || o.Acting || o.Cut != "" {
			continue
		}
		o.State = UseLost
		o.Reason = &Reason{Code: "silent", Text: "nothing was heard of it for " + o.Silent.String(), Retryable: true}
		if was < t.Order.Respond && t.Order.OnRespond != OnDeadlineHold {
			t.escalate(o)
		}
		t.report = true
	}
}

// drainTime lets the time to drain run.
func (t *hostTurn) drainTime(by time.Duration) {
	if t.Drain <= 0 || t.Phase != HostDraining {
		return
	}
	t.Drain -= by
	if t.Drain > 0 {
		return
	}
	t.Overdue, t.report = true, true
	t.Drain = 0
	if t.Order.OnDrain == OnDeadlineHold {
		return
	}
	t.Drain = max(stepTime, t.Order.Respond)
	for i := range t.Outcomes {
		t.escalate(&t.Outcomes[i])
	}
}

// escalate goes on to the next step of a use's policy. Who objects is let be,
// unless it may be cut off.
func (t *hostTurn) escalate(o *Outcome) {
	defer t.count(o)
	switch {
	case !t.closing() || !o.Waits || o.Cut != "" || o.Residue || o.State == UseRollingBack:
	case o.State == UseObjected:
		if t.mayForce(o) {
			t.cut(o, t.Order.Permission, "its time to drain is over")
		}
	case o.Acting:
		t.takeBack(o) // the next step follows when that ended
	default:
		o.Index++
		t.act(o)
	}
}

// renewLease lets the lease run anew from the report that the order answers.
func (t *hostTurn) renewLease(o *Order) {
	if o.Lease <= 0 {
		t.Lease = Lease{}
		return
	}
	if t.Lease.Probe == 0 || o.HeardFrom != t.AgentStart || o.Heard < t.Lease.Probe {
		return
	}
	left := o.Lease - t.Lease.Age
	t.Lease.Probe, t.Lease.Age = 0, 0
	if left > 0 {
		t.Lease.Left = left
	}
}

// unleased says whether the order asks for a lease that this host does not have.
// It opens no sooner: management counts on every host that is open to close in time.
func (h *Host) unleased() bool { return h.Order.Lease > 0 && h.Lease.Left <= 0 }

// runLease lets the lease run, and closes the device when it ran out.
func (t *hostTurn) runLease(by time.Duration) {
	if t.Lease.Probe > 0 {
		t.Lease.Age += by
	}
	if t.Order.Lease > 0 {
		if t.Lease.Beat += by; t.Lease.Beat >= t.Order.Lease/4 {
			t.Lease.Beat, t.report = 0, true
		}
	}
	if t.Lease.Left <= 0 {
		return
	}
	t.Lease.Left -= by
	if t.Lease.Left > 0 {
		return
	}
	t.Lease.Left = 0
	t.Lapsed = true
	if t.Fence.Intended && t.Phase != HostVerifying && t.Phase != HostReturnFailed {
		return // closed already, or about to be
	}
	t.Fence, t.Gate = FenceState{}, GateClosed
	t.enter(HostDraining, "the lease ran out", "")
	for i := range t.Outcomes {
		t.start(&t.Outcomes[i])
	}
	t.look()
}
