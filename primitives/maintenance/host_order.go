// SPDX-License-Identifier: Apache-2.0

package maintenance

import "slices"

// ordered takes an order if it is a newer one.
func (t *hostTurn) ordered(e Ordered) {
	o := e.Order
	if o.Device != t.Device {
		t.reject("", Unknown, "the order is for another device, "+o.Device)
		return
	}
	t.report = true
	switch newer := o.Stamp.Compare(t.Order.Stamp); {
	case newer == 0 && !sameWish(&o, &t.Order):
		t.reject("", Conflicting, "the order says something else than the one of the same stamp before")
	case newer == 0:
		t.Order.Phase = o.Phase // for people: within one stamp the phase asks nothing else of a host
		waited := t.unleased()
		t.renewLease(&o)
		if waited && !t.unleased() && t.Phase == HostVerifying {
			t.do(t.verify())
		}
		t.reject("", Duplicate, "the order was taken before")
	case newer < 0 && !t.flaw.has(followsAnyStamp):
		t.reject("", Stale, "the order is older than the one that counts")
	default:
		t.accept(&o, e.Uses)
	}
}

// sameWish says whether two orders of one stamp want the same. What is left of
// times differs, and so do the words.
func sameWish(a, b *Order) bool {
	return a.Gate == b.Gate && a.Impact == b.Impact && a.Permission == b.Permission &&
		slices.Equal(a.IDs, b.IDs) && slices.Equal(a.Grants, b.Grants) && slices.Equal(a.Overridden, b.Overridden)
}

// accept makes o the order that counts.
func (t *hostTurn) accept(o *Order, uses []Use) {
	again := t.Order.Stamp.SameEpoch(o.Stamp)
	if t.Phase == HostUnknown {
		t.Doubt, t.Blank = true, t.Order.Stamp == Stamp{}
	}
	t.Order = *o
	t.Failure, t.Lapsed, t.Overdue, t.Drain, t.Looking = "", false, false, o.Drain, false
	t.renewLease(o)
	if !again && t.told() {
		t.askAgain()
	}
	if o.Gate == GateOpen {
		t.open(uses)
	} else {
		t.close(uses)
	}
}

// askAgain voids what uses answered to earlier epochs. What is being done about
// them goes on: it is not an answer.
func (t *hostTurn) askAgain() {
	for i := range t.Outcomes {
		o := &t.Outcomes[i]
		if o.Cut != "" || o.Residue || o.State == UseRollingBack {
			continue
		}
		o.How, o.Evidence, o.Reason, o.Silent = "", "", nil, 0
		switch {
		case o.Acting && (o.Taken || !t.stillRight(o)):
			t.takeBack(o)
			o.State = UseRollingBack
		case o.Acting:
			o.State = UseWorking
		default:
			o.State, o.Index = UseNotified, 0
		}
		t.do(Notify{Use: o.ID, Stamp: t.Order.Stamp})
	}
}

// stillRight says whether the step that is carried out is one of the policy that counts now.
func (t *hostTurn) stillRight(o *Outcome) bool {
	policy := t.policy(o)
	return o.Index < len(policy) && policy[o.Index] == o.Step && feasible(o.Step.Action, t.Order.Impact)
}

// open lets uses in, once the device is known to be what it was.
func (t *hostTurn) open(uses []Use) {
	t.giveUp()
	if t.Doubt || t.unleased() {
		t.enter(HostVerifying, "told to open", "")
		t.do(t.verify())
		return
	}
	t.opened(uses, "")
}

// opened opens the gate.
func (t *hostTurn) opened(uses []Use, evidence string) {
	t.Gate, t.Fence, t.Foreign, t.Failure, t.Doubt, t.Blank = GateOpen, FenceState{}, nil, "", false, false
	phase := HostOpen
	if t.Order.Phase == Announced {
		phase = HostNoticed
	}
	t.enter(phase, "gate opened", evidence)
	t.see(uses)
	for _, r := range t.Owed {
		t.do(r)
	}
}

// giveUp takes back what is being done about uses, and forgets the others.
func (t *hostTurn) giveUp() {
	kept := t.Outcomes[:0]
	t.Waiting = 0
	for _, o := range t.Outcomes {
		o.Waits = false
		switch {
		case o.Acting:
			t.takeBack(&o)
			o.State, o.Cut = UseRollingBack, ""
		case t.Order.Phase == Announced && o.Cut == "" && !o.Residue:
			o.State = UseNotified // askAgain told it
		default:
			t.do(Notify{Use: o.ID, Stamp: t.Order.Stamp})
			continue
		}
		kept = append(kept, o)
	}
	clear(t.Outcomes[len(kept):])
	t.Outcomes = kept
	for i := range t.Outcomes {
		t.count(&t.Outcomes[i])
	}
}

// close keeps uses out, and has those that are in go.
func (t *hostTurn) close(uses []Use) {
	stronger := t.wantsFence() && t.Order.Impact > t.FencedFor
	switch {
	case t.Phase == HostFenced && !stronger:
		// Fenced is closed too. It counts as drained once nobody has anything to answer.
	case t.Phase == HostFencing && !stronger:
		t.do(t.raise()) // a fence once begun is finished: only an order to open ends it
	case t.Phase == HostFenced || t.Phase == HostFencing:
		// It was made for less, and may have spared who has the device open.
		t.Fence = FenceState{}
		t.enter(HostDraining, "a stronger fence is due", "")
	default:
		// A Verify may be under way. Its answer will not count, and what it did to the
		// fence is not known: the device stays in doubt.
		t.Fence, t.Gate = FenceState{}, GateClosed
		t.enter(HostDraining, "gate closed", "")
	}
	t.see(uses)
	for i := range t.Outcomes {
		t.start(&t.Outcomes[i])
	}
	t.look()
}
