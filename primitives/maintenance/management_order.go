// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// OrderFor returns what host must do now.
func (m *Management) OrderFor(host string) Order {
	o := Order{
		Device: m.Device, IDs: m.ids(), Stamp: m.Stamp(), Phase: m.Phase, Gate: m.gate(), Lease: m.Lease,
		Grants: m.Grants, Overridden: m.Overrides, Alternatives: m.Alternatives, Impact: m.impact(),
	}
	drain, respond := m.drainBy(), m.respondBy()
	o.Drain, o.OnDrain, o.Permission = drain.left, drain.then, drain.permission
	o.Respond, o.OnRespond = respond.left, respond.then
	if o.Permission == "" {
		o.Permission = respond.permission
	}
	for i := range m.Intents {
		p := &m.Intents[i]
		if i == 0 || p.NotBefore < o.NotBefore {
			o.NotBefore = p.NotBefore
		}
		o.Expected = max(o.Expected, p.Intent.Expected)
		o.Return = o.Return || p.Intent.Return
		if o.Reason == "" {
			o.Reason = p.Intent.Reason
		}
		if len(o.Policy) == 0 {
			o.Policy = p.Intent.Policy
		}
	}
	if at, found := m.member(host); found {
		o.Heard, o.HeardFrom = m.Members[at].Ack.Seq, m.Members[at].AgentStart
	}
	return o
}

// gate returns what the phase wants of the gate.
func (m *Management) gate() Gate {
	switch m.Phase {
	case Preparing, Blocked:
		return GateClosed
	case Fencing, InMaintenance:
		return GateFenced
	default:
		return GateOpen
	}
}

// A due is a deadline with what follows it.
type due struct {
	left       time.Duration // 0: none
	then       OnDeadline
	permission string
}

func (d *due) take(left time.Duration, then OnDeadline, i *Intent) {
	*d = due{left: left, then: then}
	if then == OnDeadlineForce {
		d.permission = i.Permission
	}
}

// drainBy returns the earliest deadline to drain. No intent is done to earlier
// what another one asked for: of those that passed the strongest counts, else the
// next one to come.
func (m *Management) drainBy() due {
	var passed, next due
	closing := m.wish() == wishClosed
	for i := range m.Intents {
		p := &m.Intents[i]
		switch {
		case closing && p.NotBefore > 0:
			// its gate is not to close yet: neither does its time run
		case p.Overdue && p.Intent.OnDrain > passed.then:
			passed.take(1, p.Intent.OnDrain, &p.Intent)
		case !p.Overdue && p.Drain > 0 && (next.left == 0 || p.Drain < next.left):
			next.take(p.Drain, p.Intent.OnDrain, &p.Intent)
		}
	}
	if passed.left > 0 {
		return passed
	}
	return next
}

// respondBy returns the shortest time to answer.
func (m *Management) respondBy() due {
	var d due
	for i := range m.Intents {
		p := &m.Intents[i].Intent
		if p.Respond > 0 && (d.left == 0 || p.Respond < d.left) {
			d.take(p.Respond, p.OnRespond, p)
		}
	}
	return d
}

// Blockers names who keeps the device from the next phase.
func (m *Management) Blockers() []Blocker {
	var all []Blocker
	for i := range m.Members {
		mb := &m.Members[i]
		if m.covered(mb) || mb.Late {
			continue
		}
		all = append(all, m.blockers(mb)...)
	}
	return all
}

// blockers names what one host waits for.
func (m *Management) blockers(mb *Member) []Blocker {
	r := mb.Last
	if r == nil || !m.current(mb.Ack.Seen) {
		return []Blocker{{Host: mb.Host, Reason: "did not report on this order yet"}}
	}
	var all []Blocker
	switch m.Phase {
	case Returning, ReturnFailed:
		if !m.isOpen(mb) {
			all = append(all, Blocker{Host: mb.Host, Reason: "is " + r.Phase.String() + reason(r.Failure)})
		}
		return all
	case InService, InMaintenance:
		return nil
	default:
	}
	for i := range r.Uses {
		u := &r.Uses[i]
		if u.State == UseReady || m.overruled(u.ID) {
			continue
		}
		b := Blocker{Host: mb.Host, Use: u.ID, Name: u.Subject, Reason: u.State.String()}
		if u.Reason != nil {
			b.Reason += reason(u.Reason.Text)
		}
		all = append(all, b)
	}
	for _, f := range r.Foreign {
		all = append(all, Blocker{Host: mb.Host, Name: f.Name, Reason: "has " + f.Path + " open, and nobody registered it"})
	}
	if len(all) == 0 && m.Phase != Announced && !m.isDrained(mb) {
		all = append(all, Blocker{Host: mb.Host, Reason: "is " + r.Phase.String() + reason(r.Failure)})
	}
	return all
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
