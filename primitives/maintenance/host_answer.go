// SPDX-License-Identifier: Apache-2.0

package maintenance

// answered takes what a use says, if it is its to say and about this epoch.
func (t *hostTurn) answered(e Answered) {
	i, found := t.find(e.Use)
	if !found {
		t.reject(e.Use, Unknown, "no such use was told of a maintenance")
		return
	}
	o := &t.Outcomes[i]
	switch {
	case e.By != "" && o.Owner != "" && e.By != o.Owner:
		t.reject(e.Use, Denied, "the use belongs to another client")
		return
	case !e.Stamp.SameEpoch(t.Order.Stamp) && !t.flaw.has(countsStaleAnswers):
		t.reject(e.Use, Stale, "the answer is to an earlier notice; the device's order changed since")
		t.do(Notify{Use: e.Use, Stamp: t.Order.Stamp})
		return
	case e.Boot != t.Boot && !t.flaw.has(countsStaleAnswers):
		t.reject(e.Use, Stale, "the answer is from before the host's last boot")
		return
	case o.Cut != "" || o.State == UseRollingBack:
		t.reject(e.Use, WrongPhase, "the use is being "+map[bool]string{true: "cut off", false: "rolled back"}[o.Cut != ""])
		return
	}
	t.report = true
	o.Silent = 0
	t.hear(o, &e)
	t.count(o)
	t.advance()
}

// hear takes an answer that counts.
func (t *hostTurn) hear(o *Outcome, e *Answered) {
	switch e.Answer {
	case Accept, Progress:
		if o.State == UseObjected {
			t.reject(e.Use, WrongPhase, "the use objected; withdraw first")
			return
		}
		if o.State == UseReady {
			return // said before it was ready, and late: who is no longer ready objects
		}
		o.ETA, o.Percent, o.Reason = e.ETA, e.Percent, nil
		o.State = UseAccepted
		if e.Answer == Progress {
			o.State = UseWorking
		}
	case Ready:
		t.ready(o, e)
	case Object:
		t.object(o, e)
	case Withdraw:
		t.withdraw(o)
	default:
		t.reject(e.Use, Invalid, "no such answer")
	}
}

// ready takes a use's word that it is safe, as far as the impact lets a word do.
func (t *hostTurn) ready(o *Outcome, e *Answered) {
	if o.Residue && e.How != Moved {
		t.reject(e.Use, Invalid, "only data that was moved is safe")
		return
	}
	o.How, o.Evidence, o.Percent, o.ETA = e.How, e.Evidence, 100, 0
	if !t.suffices(o, e) {
		t.reject(e.Use, WrongPhase, "ready is who released the device; the use still has it")
		if o.State != UseWorking {
			o.State, o.Reason = UseAccepted, nil
		}
		return
	}
	t.owe(o, e.How)
	o.State, o.Reason, o.Acting, o.Taken, o.Residue = UseReady, nil, false, false, false
}

// suffices says whether a word makes a use safe. A use that is recorded holds the
// device until it is gone; a subscriber holds nothing that is known of.
func (t *hostTurn) suffices(o *Outcome, e *Answered) bool {
	released := e.How == Moved || e.How == Detached || e.How == Stopped || e.How == Closed || e.How == Removed
	switch {
	case t.Order.Impact == IOStall || o.Residue:
		return true
	case o.Kind != subscriber:
		return false
	case t.Order.Impact == Disconnect:
		return released
	}
	return e.How == Moved || e.How == Removed || released && e.Evidence != ""
}

// object takes a refusal, unless it is too late for one.
func (t *hostTurn) object(o *Outcome, e *Answered) {
	if t.Fence.Intended {
		t.reject(e.Use, WrongPhase, "the device is being fenced already")
		return
	}
	if o.Acting {
		t.takeBack(o)
	}
	reason := e.Reason
	o.State, o.Reason, o.How, o.Percent, o.ETA = UseObjected, &reason, "", 0, 0
}

// withdraw goes on where the objection stopped.
func (t *hostTurn) withdraw(o *Outcome) {
	switch {
	case o.State != UseObjected || o.Residue:
		t.reject(o.ID, WrongPhase, "the use does not object")
		return
	case o.Acting: // still being cancelled
		o.State = UseRollingBack
	default:
		o.State = UseNotified
		if o.Index >= len(t.policy(o)) {
			o.Index = 0
		}
	}
	o.Reason = nil
	t.start(o)
}
