// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"
	"strings"
)

// subscriber is the kind of a use that is only a client's word.
const subscriber = "subscriber"

// see brings the outcomes in line with the uses that there are.
func (t *hostTurn) see(uses []Use) {
	known := 0
	for i := range t.Outcomes {
		if !t.Outcomes[i].Residue {
			known++
		}
	}
	met := 0
	for i := range uses {
		if at, found := t.find(uses[i].ID); found && !t.Outcomes[at].Residue {
			met++
		} else if t.told() {
			t.meet(&uses[i])
		}
	}
	if met == known {
		return
	}
	ids := make(map[string]bool, len(uses))
	for i := range uses {
		ids[uses[i].ID] = true
	}
	for i := len(t.Outcomes) - 1; i >= 0; i-- {
		if o := &t.Outcomes[i]; !o.Residue && !ids[o.ID] {
			t.forget(i)
			t.report = true
		}
	}
}

// meet tells a use that was not told before.
func (t *hostTurn) meet(u *Use) {
	o := Outcome{
		ID: u.ID, Kind: u.Kind, Subject: u.Subject, Domain: u.Domain, Disk: u.Disk,
		Owner: u.Owner, Policy: u.Policy, State: UseNotified,
	}
	i, found := t.find(u.ID)
	if found { // its data was left behind, and now it is used again
		o.Waits = t.Outcomes[i].Waits
		t.Outcomes[i] = o
	} else {
		t.Outcomes = slices.Insert(t.Outcomes, i, o)
	}
	t.do(Notify{Use: u.ID, Stamp: t.Order.Stamp})
	t.start(&t.Outcomes[i])
	t.report = true
}

// forget drops the outcome of a use that is gone.
func (t *hostTurn) forget(i int) {
	if t.Outcomes[i].Waits {
		t.Waiting--
	}
	t.Outcomes = slices.Delete(t.Outcomes, i, i+1)
}

// count notes whether the device waits for o.
func (t *hostTurn) count(o *Outcome) {
	waits := t.waits(o)
	if waits == o.Waits {
		return
	}
	o.Waits = waits
	if waits {
		t.Waiting++
	} else {
		t.Waiting--
	}
}

func (t *hostTurn) waits(o *Outcome) bool {
	if o.State == UseReady || t.flaw.has(ignoresObjections) && o.State == UseObjected {
		return false
	}
	if t.overridden(o.ID) == nil {
		return true
	}
	return t.cutsOverridden(o)
}

// cutsOverridden says whether a use that is no longer waited for stands in the
// way of the fence all the same: what it holds open is taken away.
func (t *hostTurn) cutsOverridden(o *Outcome) bool {
	return t.wantsFence() && t.Order.Impact != IOStall && o.Kind != subscriber && !o.Residue
}

// start begins what is to be done about a use, once its device closes.
func (t *hostTurn) start(o *Outcome) {
	defer t.count(o)
	if !t.closing() || o.Cut != "" || o.Residue {
		return
	}
	if t.Lapsed {
		t.cut(o, "lease", "the lease ran out")
		return
	}
	over := t.overridden(o.ID)
	if over != nil && o.State != UseReady && t.cutsOverridden(o) {
		t.cut(o, over.Permission, "overruled by "+over.By)
		return
	}
	if over != nil && o.State == UseObjected {
		o.State = UseNotified
	}
	if o.State == UseNotified && !o.Acting {
		t.act(o)
	}
}

// policy returns the steps that count for a use.
func (h *Host) policy(o *Outcome) Policy {
	switch {
	case o.Kind == subscriber:
		return askOnly()
	case len(h.Order.Policy) > 0 && o.Kind == "disk":
		return h.Order.Policy
	case len(o.Policy) > 0:
		return o.Policy
	case o.Kind == "disk":
		return DefaultPolicy()
	}
	return askOnly()
}

func askOnly() Policy { return Policy{{Action: Ask}} }

// feasible says whether a step can make a use ready under an impact.
func feasible(a Action, i Impact) bool {
	switch i {
	case IOStall:
		return true
	case Disconnect:
		return a != Pause && a != Ignore
	default:
		return a == Move || a == Ask
	}
}

// act takes the first feasible step from where the use stands.
func (t *hostTurn) act(o *Outcome) {
	policy := t.policy(o)
	for ; o.Index < len(policy); o.Index++ {
		step := policy[o.Index]
		switch {
		case !feasible(step.Action, t.Order.Impact):
			continue
		case step.Action == Ask:
		case step.Action == Ignore:
			o.State, o.How, o.Evidence, o.Reason = UseReady, Tolerates, "its policy is to be ignored", nil
		default:
			o.Acting, o.Step, o.State = true, step, UseWorking
			t.do(ActOn{Use: o.ID, Index: o.Index, Step: step, Stamp: t.Order.Stamp})
		}
		return
	}
	t.exhausted(o)
}

// exhausted says that no step of a use's policy is left: it blocks, or is cut off
// where that was permitted and its time is over.
func (t *hostTurn) exhausted(o *Outcome) {
	if t.mayForce(o) {
		t.cut(o, t.Order.Permission, "its policy is exhausted")
		return
	}
	text := "no step of its policy is left"
	if o.Reason != nil && o.Reason.Text != "" {
		text += "; the last: " + o.Reason.Text
	}
	o.State, o.Reason = UseObjected, &Reason{Code: "exhausted", Text: text, Retryable: true}
}

// mayForce says whether the order lets a use be cut off now.
func (t *hostTurn) mayForce(o *Outcome) bool {
	if t.Order.Permission == "" && !t.flaw.has(forcesUnasked) {
		return false
	}
	late := t.Order.Respond > 0 && o.Silent >= t.Order.Respond && o.State == UseLost
	return t.Overdue && t.Order.OnDrain == OnDeadlineForce || late && t.Order.OnRespond == OnDeadlineForce
}

// cut has a use cut off, and leaves a line with who allowed it before.
func (t *hostTurn) cut(o *Outcome, permission, why string) {
	o.Cut = permission
	if t.flaw.has(forcesUnasked) && permission == "" {
		o.Cut = "nobody"
	}
	o.State = UseWorking
	subject := o.Subject
	if o.Domain != "" {
		subject = o.Domain + " " + o.Disk + " (" + o.Subject + ")"
	}
	if !t.flaw.has(forcesUnaudited) {
		t.do(Audit{
			Device: t.Device, IDs: t.Order.IDs, Stamp: t.Order.Stamp, Who: t.ID, What: "cut off: " + why,
			Before: t.Phase.String(), After: t.Phase.String(), Subject: o.ID, Evidence: subject, Permission: permission,
		})
	}
	t.do(CutOff{Use: o.ID, Permission: o.Cut})
	t.report = true
}

// takeBack cancels the step that is carried out.
func (t *hostTurn) takeBack(o *Outcome) {
	if o.Taken {
		return
	}
	o.Taken = true
	t.do(CancelAct{Use: o.ID, Index: o.Index})
}

// gone takes note of a released use.
func (t *hostTurn) gone(e Gone) {
	i, found := t.find(e.Use)
	if !found {
		t.report = t.told()
		t.advance()
		return
	}
	o := &t.Outcomes[i]
	t.owe(o, e.How)
	t.report = true
	if t.leavesData(o, e.How) {
		*o = Outcome{
			ID: o.ID, Kind: o.Kind, Subject: o.Subject, Domain: o.Domain, Disk: o.Disk, Owner: o.Owner, Waits: o.Waits,
			State: UseObjected, How: e.How, Evidence: e.Evidence, Residue: true,
			Reason: &Reason{Code: "data", Text: "it was released, but its data is not known to be on another device"},
		}
		t.count(o)
	} else {
		t.forget(i)
	}
	t.advance()
}

// leavesData says whether a use that maintenance released leaves data that would be lost.
func (t *hostTurn) leavesData(o *Outcome, how How) bool {
	return t.closing() && t.Order.Impact == DataLoss && o.Cut == "" && o.Kind != subscriber &&
		how != "" && how != Moved && how != Removed
}

// owe notes what is to be undone for a use when the device is back.
func (t *hostTurn) owe(o *Outcome, how How) {
	if !o.Acting {
		return // others did it: they undo it
	}
	switch {
	case how == Stopped && o.Step.Action == Shutdown && o.Step.Restart:
	case how == Moved && o.Step.Action == Move && t.Order.Return:
	case how == Paused && o.Step.Action == Pause:
	default:
		return
	}
	r := Restore{Use: o.ID, How: how, Subject: o.Subject, Domain: o.Domain, Disk: o.Disk}
	i, found := slices.BinarySearchFunc(t.Owed, o.ID, func(r Restore, id string) int { return strings.Compare(r.Use, id) })
	if found {
		t.Owed[i] = r
		return
	}
	t.Owed = slices.Insert(t.Owed, i, r)
}

// actionFailed goes on to the next step of a use's policy.
func (t *hostTurn) actionFailed(e ActionFailed) {
	i, found := t.find(e.Use)
	if !found || !t.Outcomes[i].Acting || t.Outcomes[i].Index != e.Index {
		t.reject(e.Use, Stale, "that action is not under way")
		return
	}
	o := &t.Outcomes[i]
	o.Acting, o.Taken = false, false
	t.report = true
	switch {
	case o.State == UseRollingBack && !t.told():
		t.forget(i)
		return
	case o.State == UseRollingBack:
		o.State, o.Index, o.Reason = UseNotified, 0, nil
		t.start(o)
	case o.Cut != "" || o.State == UseObjected || !t.closing():
	default:
		o.State, o.Reason = UseNotified, &e.Reason
		o.Index++
		t.start(o)
	}
	t.advance()
}
