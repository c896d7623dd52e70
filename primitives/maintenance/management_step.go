// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"
	"strings"
	"time"
)

const (
	resendEvery = 5 * time.Second // to a host that did not follow its order yet
	silentFor   = time.Minute     // then a host is asked to report again
)

// Step takes an event. A refusal is an [*Error], and nothing changed. Else the
// caller makes m durable, with the Audit lines among the actions, and then sends.
func (m *Management) Step(e ManagementEvent) ([]ManagementAction, error) {
	t := managementTurn{Management: m}
	if refused := t.take(e); refused != nil {
		refused.Current = cmpStamp(refused.Current, m.Stamp())
		return nil, refused
	}
	t.settle()
	return t.end(), nil
}

func cmpStamp(s, or Stamp) Stamp {
	if s == (Stamp{}) {
		return or
	}
	return s
}

// A managementTurn is one step under way.
type managementTurn struct {
	*Management
	out     []ManagementAction
	renewed bool   // the order changed: everybody is told
	to      string // else only this host is, or nobody
	who     string // whose doing the turn is
	raised  bool   // the impact is higher than before the turn
}

// take changes what the event changes.
func (t *managementTurn) take(e ManagementEvent) *Error {
	switch e := e.(type) {
	case Prepare:
		return t.prepare(e)
	case End:
		return t.endIntent(e)
	case Extend:
		return t.extend(e)
	case Overrule:
		return t.overrule(e.Override)
	case GrantUse:
		return t.grant(e.Grant)
	case Reported:
		return t.reported(&e.Report)
	case HostJoined:
		return t.joined(e)
	case HostLeft:
		return t.left(e)
	case StorageFenced:
		return t.storageFenced(e)
	case Failover:
		return t.failover(e)
	case Reloaded:
		t.forget()
		t.renewed = true
	case Elapsed:
		t.elapsed(e.By)
	}
	return nil
}

// end returns what is to be done.
func (t *managementTurn) end() []ManagementAction {
	if t.renewed {
		t.resend = 0
	}
	for i := range t.Members {
		host := t.Members[i].Host
		if t.renewed || t.to == host {
			t.out = append(t.out, Send{Host: host, Order: t.OrderFor(host)})
		}
	}
	return t.out
}

func (t *managementTurn) audit(a Audit) {
	a.Device, a.Stamp = t.Device, t.Stamp()
	if a.Who == "" {
		a.Who = t.who
	}
	if a.IDs == nil {
		a.IDs = t.ids()
	}
	if a.Before == "" {
		a.Before, a.After = t.Phase.String(), t.Phase.String()
	}
	t.out = append(t.out, a)
}

// enter changes the phase and leaves a line about it.
func (t *managementTurn) enter(p Phase, why string) {
	if t.Phase == p {
		return
	}
	before := t.Phase
	t.Phase = p
	t.renewed = true // hosts tell people the phase, though nothing else of the order may have changed
	t.audit(Audit{What: why, Before: before.String(), After: p.String()})
}

// forget drops what hosts acknowledged.
func (t *managementTurn) forget() {
	for i := range t.Members {
		t.Members[i].Ack = Ack{Seq: t.Members[i].Ack.Seq}
	}
}

// Stamp is what orders carry now.
func (m *Management) Stamp() Stamp { return Stamp{Term: m.Term, Epoch: m.Epoch, Rank: m.Rank} }

// member returns the host's place on the roster, or where it belongs.
func (m *Management) member(host string) (int, bool) {
	return slices.BinarySearchFunc(m.Members, host, func(mb Member, id string) int { return strings.Compare(mb.Host, id) })
}

// settle goes on as far as what hosts reported allows.
func (t *managementTurn) settle() {
	for {
		before, epoch := t.Phase, t.Epoch
		t.onward()
		if t.Phase == before && t.Epoch == epoch {
			return
		}
	}
}

// onward takes at most one step to the next phase.
func (t *managementTurn) onward() {
	switch t.Phase {
	case InService, Announced:
		t.begin()
	case Preparing, Blocked:
		t.drained()
	case Fencing:
		t.fencing()
	case InMaintenance:
		if t.any((*Management).isLoose) {
			t.enter(Fencing, "a host is no longer fenced")
		}
	case Returning, ReturnFailed:
		t.returning()
	}
}

// begin closes the gate when it is time, or when everybody is ready for it.
func (t *managementTurn) begin() {
	if t.any(func(_ *Management, mb *Member) bool { return mb.Ack.Lapsed }) {
		t.replan("a host's lease ran out")
		return
	}
	if t.Phase != Announced {
		return
	}
	early := t.uses() > 0 && t.all(func(m *Management, mb *Member) bool { return m.covered(mb) || mb.Ack.Ready })
	if t.wish() != wishClosed && !early {
		return
	}
	if early {
		t.hurry()
	}
	t.Rank, t.renewed = RankGate, true
	t.enter(Preparing, map[bool]string{false: "the announced time came", true: "every use is ready"}[early])
}

// hurry has the earliest intent begin now.
func (t *managementTurn) hurry() {
	first := &t.Intents[0]
	for i := range t.Intents {
		if t.Intents[i].NotBefore < first.NotBefore {
			first = &t.Intents[i]
		}
	}
	first.NotBefore = 0
}

// drained goes on to fencing when every host drained, and says whether somebody is in the way.
func (t *managementTurn) drained() {
	if t.all((*Management).isDrained) {
		for i := range t.Members {
			mb := &t.Members[i]
			mb.Digest = mb.Ack.Digest
			if t.covered(mb) {
				mb.Digest = "" // it did not say that it drained
			}
		}
		if t.flaw.has(skipsFencing) {
			t.enter(InMaintenance, "every host drained")
			return
		}
		t.Rank, t.renewed = RankFence, true
		t.enter(Fencing, "every host drained")
		return
	}
	if t.blocked() {
		t.enter(Blocked, "somebody is in the way")
	} else {
		t.enter(Preparing, "nobody is in the way any more")
	}
}

// fencing goes back when somebody objects or came after all, and on when every host is fenced.
func (t *managementTurn) fencing() {
	objects := func(_ *Management, mb *Member) bool { return mb.Ack.Objects }
	changed := func(m *Management, mb *Member) bool {
		return !mb.Late && mb.Ack.Phase == HostFenced && mb.Ack.Seen == m.Stamp() && mb.Digest != "" &&
			mb.Ack.Digest != mb.Digest && !m.flaw.has(ignoresDigest)
	}
	switch {
	case t.any(objects) && !t.flaw.has(fencesOverObjection):
		t.replan("a use objects")
	case t.any(changed):
		t.replan("uses changed since they drained")
	case t.all((*Management).isFenced):
		t.enter(InMaintenance, "every host is fenced")
	}
}

// returning ends when every host verified the device.
func (t *managementTurn) returning() {
	failed := func(m *Management, mb *Member) bool {
		return m.current(mb.Ack.Seen) && mb.Ack.Phase == HostReturnFailed && !m.excused(mb)
	}
	lapsed := func(_ *Management, mb *Member) bool { return mb.Ack.Lapsed }
	switch {
	case t.any(lapsed):
		t.replan("a host's lease ran out")
	case t.any(failed):
		t.enter(ReturnFailed, "a host found another device than before")
	case t.all((*Management).isOpen):
		t.Overrides, t.Grants = nil, nil
		for i := range t.Members {
			t.Members[i].Overridden, t.Members[i].Digest = nil, ""
		}
		t.enter(InService, "every host verified the device")
		if len(t.Intents) > 0 {
			t.replan("another maintenance is announced")
		}
	}
}

// replan begins a new epoch with what is wanted now. What hosts acknowledged before does not count for it.
func (t *managementTurn) replan(why string) {
	before := t.Phase
	inPlace := t.flaw.has(cancelsInPlace) && t.wish() == wishNothing
	if !inPlace {
		t.Epoch++
	}
	t.forget()
	t.renewed, t.Rank = true, RankGate
	next := Preparing
	switch t.wish() {
	case wishNothing:
		next = Returning
		if before == InService {
			next = InService
		}
	case wishNotice:
		next = Returning
		if before == InService || before == Announced {
			next, t.Rank = Announced, RankNotice
		}
	case wishClosed:
		if before == InMaintenance && !t.raised {
			next, t.Rank = InMaintenance, RankFence
		}
	}
	if next != InMaintenance {
		for i := range t.Members {
			t.Members[i].Late, t.Members[i].Fenced, t.Members[i].Digest = false, false, ""
		}
	}
	t.Phase = next
	t.audit(Audit{What: why, Before: before.String(), After: next.String()})
}
