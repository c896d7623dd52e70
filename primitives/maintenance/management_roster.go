// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"
	"time"
)

// pastStarts is how many earlier agent starts of a host are remembered, so that
// a join that comes late does not bring one of them back.
const pastStarts = 16

// joined puts a host on the roster.
func (t *managementTurn) joined(e HostJoined) *Error {
	if e.Host == "" {
		return &Error{Code: Invalid, Text: "the host has no id"}
	}
	at, found := t.member(e.Host)
	if !found {
		mb := Member{Host: e.Host, Boot: e.Boot, AgentStart: e.AgentStart}
		// One that comes when the others drained is told to fence, but the device
		// does not wait for it: its gate is closed until it knows better.
		mb.Late = t.Phase == Fencing || t.Phase == InMaintenance
		t.Members = slices.Insert(t.Members, at, mb)
		t.who = e.By
		t.audit(Audit{What: "host joined", Subject: e.Host})
	} else if !t.Members[at].startsAt(e.AgentStart, e.Boot) {
		return &Error{Code: Stale, Text: "host " + e.Host + " was started again since"}
	}
	t.to = e.Host
	return nil
}

// startsAt takes over the agent's newest start, and says whether this is it.
func (mb *Member) startsAt(agent, boot string) bool {
	if agent == mb.AgentStart {
		return true
	}
	if slices.Contains(mb.Past, agent) {
		return false
	}
	if mb.AgentStart != "" {
		mb.Past = append(slices.Clone(mb.Past), mb.AgentStart)
		mb.Past = mb.Past[max(0, len(mb.Past)-pastStarts):]
	}
	mb.AgentStart, mb.Boot = agent, boot
	mb.Ack = Ack{}
	return true
}

// left takes a host off the roster.
func (t *managementTurn) left(e HostLeft) *Error {
	at, found := t.member(e.Host)
	if !found {
		return &Error{Code: Unknown, Text: "no host " + e.Host + " is on the roster"}
	}
	t.who = e.By
	t.audit(Audit{What: "host removed", Subject: e.Host})
	t.Members = slices.Delete(t.Members, at, at+1)
	return nil
}

// storageFenced notes what the storage does about a host.
func (t *managementTurn) storageFenced(e StorageFenced) *Error {
	at, found := t.member(e.Host)
	if !found {
		return &Error{Code: Unknown, Text: "no host " + e.Host + " is on the roster"}
	}
	t.who = e.By
	t.Members[at].Storage = !e.Lifted
	t.audit(Audit{What: map[bool]string{false: "storage refuses host", true: "storage admits host"}[e.Lifted], Subject: e.Host, Evidence: e.Evidence})
	return nil
}

// reported takes a report, as far as it is the newest and about this epoch.
func (t *managementTurn) reported(r *Report) *Error {
	if r.Device != t.Device {
		return &Error{Code: Unknown, Text: "the report is about another device, " + r.Device}
	}
	at, found := t.member(r.Host)
	if !found {
		return &Error{Code: Unknown, Text: "no host " + r.Host + " is on the roster"}
	}
	if r.Seen.Compare(t.Stamp()) > 0 {
		return &Error{Code: Stale, Text: "host " + r.Host + " follows somebody who manages later than this", Current: r.Seen}
	}
	mb := &t.Members[at]
	if !t.flaw.has(countsOldBoots) {
		if r.AgentStart != mb.AgentStart || r.Boot != mb.Boot {
			return &Error{Code: Stale, Text: "the report is not of the agent that joined last on host " + r.Host}
		}
		if r.Seq < mb.Ack.Seq || r.Seen.Compare(mb.Ack.Seen) < 0 && !t.flaw.has(countsStaleReports) {
			return &Error{Code: Stale, Text: "host " + r.Host + " reported something newer"}
		}
	}
	mb.Quiet, mb.Last, mb.Leased = 0, r, r.Leased
	mb.Ack = t.acknowledge(r)
	if r.Seen != t.Stamp() || t.Lease > 0 {
		t.to = r.Host
	}
	t.who = r.Host
	if t.Rank == RankFence && mb.Ack.Seen == t.Stamp() && mb.Ack.Phase == HostFenced {
		mb.Fenced, mb.Late = true, mb.Late && !t.isFenced(mb)
	}
	return nil
}

// acknowledge returns what counts of a report.
func (m *Management) acknowledge(r *Report) Ack {
	if !m.current(r.Seen) && !m.flaw.has(countsStaleReports) {
		return Ack{Seq: r.Seq}
	}
	a := Ack{
		Seq: r.Seq, Phase: r.Phase, Seen: r.Seen, Digest: r.UsesDigest, Lapsed: r.Lapsed,
		Ready: len(r.Foreign) == 0, Uses: len(r.Uses), Foreign: len(r.Foreign) > 0,
	}
	if m.flaw.has(countsStaleReports) {
		a.Seen = m.Stamp()
	}
	for i := range r.Uses {
		u := &r.Uses[i]
		if u.State == UseReady || m.overruled(u.ID) {
			continue
		}
		a.Ready = false
		a.Objects = a.Objects || u.State == UseObjected
		a.Lost = a.Lost || u.State == UseLost
	}
	return a
}

// current says whether a stamp is of this epoch.
func (m *Management) current(s Stamp) bool { return s.Term == m.Term && s.Epoch == m.Epoch }

// overruled says whether a use is no longer waited for.
func (m *Management) overruled(use string) bool {
	for i := range m.Overrides {
		if m.Overrides[i].Subject == use {
			return true
		}
	}
	return false
}

// excused says whether a host is not waited for at all.
func (m *Management) excused(mb *Member) bool { return mb.Overridden != nil || mb.Storage }

// covered says whether a host is as good as fenced.
func (m *Management) covered(mb *Member) bool {
	return m.excused(mb) || m.Lease > 0 && mb.Leased && mb.Quiet >= m.Lease+m.Skew
}

func (m *Management) isDrained(mb *Member) bool {
	drained := mb.Ack.Phase == HostDrained || mb.Ack.Phase == HostFenced
	return m.covered(mb) || m.current(mb.Ack.Seen) && drained && mb.Ack.Ready && !mb.Ack.Objects
}

// isFenced leaves out who is late: its gate is closed, and nothing waits for it.
func (m *Management) isFenced(mb *Member) bool {
	return m.covered(mb) || mb.Ack.Seen == m.Stamp() && mb.Ack.Phase == HostFenced && (mb.Ack.Ready || m.flaw.has(ignoresDigest)) &&
		(mb.Digest == "" || mb.Digest == mb.Ack.Digest || m.flaw.has(ignoresDigest))
}

func (m *Management) isOpen(mb *Member) bool {
	return m.excused(mb) || m.current(mb.Ack.Seen) && !mb.Ack.Lapsed && (mb.Ack.Phase == HostOpen || mb.Ack.Phase == HostNoticed)
}

// isLoose says whether a host of a device in maintenance is fenced no more: it
// tells so, or what covered it does not cover it any longer.
func (m *Management) isLoose(mb *Member) bool {
	if mb.Late || m.flaw.has(skipsFencing) || m.covered(mb) || m.isFenced(mb) {
		return false
	}
	return !mb.Fenced || mb.Ack.Seen == m.Stamp() && mb.Ack.Phase == HostDraining
}

// all says whether something holds for every host that is waited for.
func (m *Management) all(holds func(*Management, *Member) bool) bool {
	for i := range m.Members {
		if mb := &m.Members[i]; !mb.Late && !holds(m, mb) {
			return false
		}
	}
	return true
}

func (m *Management) any(holds func(*Management, *Member) bool) bool {
	for i := range m.Members {
		if holds(m, &m.Members[i]) {
			return true
		}
	}
	return false
}

// uses counts what hosts reported at this epoch.
func (m *Management) uses() int {
	sum := 0
	for i := range m.Members {
		sum += m.Members[i].Ack.Uses
	}
	return sum
}

// blocked says whether somebody must do something before the device can go on.
func (m *Management) blocked() bool {
	for i := range m.Intents {
		if m.Intents[i].Overdue && m.Intents[i].Intent.OnDrain == OnDeadlineHold {
			return true
		}
	}
	return m.any(func(m *Management, mb *Member) bool {
		return !m.covered(mb) && (mb.Ack.Objects || mb.Ack.Lost || mb.Ack.Foreign)
	})
}

// elapsed lets time go by.
func (t *managementTurn) elapsed(by time.Duration) {
	if by <= 0 {
		return
	}
	before := t.drainBy()
	for i := range t.Intents {
		p := &t.Intents[i]
		p.NotBefore = max(0, p.NotBefore-by)
		if (t.Phase == Preparing || t.Phase == Blocked) && p.NotBefore == 0 && p.Drain > 0 {
			p.Drain = max(0, p.Drain-by)
			p.Overdue = p.Drain == 0
		}
	}
	for i := range t.Members {
		t.Members[i].Quiet += by
	}
	if after := t.drainBy(); after.then != before.then || after.permission != before.permission {
		t.replan("a deadline passed")
	}
	if (t.Phase == Returning || t.Phase == ReturnFailed) && t.wish() == wishClosed {
		t.replan("the announced time came")
	}
	t.repeat(by)
}

// awaited says whether the device waits for what a host reports.
func (m *Management) awaited(mb *Member) bool {
	switch m.Phase {
	case Preparing, Blocked:
		return !m.isDrained(mb)
	case Fencing:
		return !m.isFenced(mb)
	case Returning, ReturnFailed:
		return !m.isOpen(mb)
	default:
		return false
	}
}

// repeat sends orders again, once in a while, to who did not follow them, is
// waited for or was silent: any order and any report may have been lost.
func (t *managementTurn) repeat(by time.Duration) {
	every := resendEvery
	if t.Lease > 0 {
		every = min(every, t.Lease/3)
	}
	if t.resend += by; t.resend < every || t.renewed || t.flaw.has(repeatsNothing) {
		return
	}
	t.resend = 0
	for i := range t.Members {
		mb := &t.Members[i]
		if t.Lease > 0 || mb.Ack.Seen != t.Stamp() || mb.Quiet >= silentFor || t.awaited(mb) {
			t.out = append(t.out, Send{Host: mb.Host, Order: t.OrderFor(mb.Host)})
		}
	}
}
