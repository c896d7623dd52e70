// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"reflect"
	"slices"
	"time"
)

// A wish is what the intents want together: the strictest of them.
type wish uint8

const (
	wishNothing wish = iota
	wishNotice
	wishClosed
)

func (m *Management) wish() wish {
	w := wishNothing
	for i := range m.Intents {
		if m.Intents[i].NotBefore <= 0 {
			return wishClosed
		}
		w = wishNotice
	}
	return w
}

// ids returns the intents' ids.
func (m *Management) ids() []string {
	if len(m.Intents) == 0 {
		return nil
	}
	ids := make([]string, len(m.Intents))
	for i := range m.Intents {
		ids[i] = m.Intents[i].Intent.ID
	}
	return ids
}

// impact returns the highest one.
func (m *Management) impact() Impact {
	var highest Impact
	for i := range m.Intents {
		highest = max(highest, m.Intents[i].Intent.Impact)
	}
	return highest
}

// validate says what is wrong with an intent.
func (m *Management) validate(i *Intent) *Error {
	forces := i.OnRespond == OnDeadlineForce || i.OnDrain == OnDeadlineForce
	switch {
	case i.ID == "":
		return &Error{Code: Invalid, Text: "the maintenance needs an id"}
	case i.Impact < IOStall || i.Impact > DataLoss:
		return &Error{Code: Invalid, Text: "the maintenance must say what it does to I/O", Try: "impact: io stall, disconnect or data loss"}
	case i.NotBefore < 0 || i.Respond < 0 || i.Drain < 0 || i.Expected < 0:
		return &Error{Code: Invalid, Text: "the maintenance names a time in the past"}
	case i.OnRespond > OnDeadlineForce || i.OnDrain > OnDeadlineForce:
		return &Error{Code: Invalid, Text: "nothing such can follow a deadline"}
	case forces && i.Permission == "" && !m.flaw.has(forcesUnasked):
		return &Error{Code: Denied, Text: "cutting uses off needs a permission", Try: "name who allowed it"}
	}
	return nil
}

// prepare adds or changes an intent.
func (t *managementTurn) prepare(e Prepare) *Error {
	if wrong := t.validate(&e.Intent); wrong != nil {
		return wrong
	}
	at := slices.IndexFunc(t.Intents, func(p Planned) bool { return p.Intent.ID == e.Intent.ID })
	if at >= 0 && reflect.DeepEqual(t.Intents[at].Asked, e.Intent) {
		return nil // a repeat; the plan changed by its being carried out
	}
	if want := e.Intent.PlanDigest; want != "" && e.Plan != "" && want != e.Plan {
		return &Error{Code: PlanChanged, Text: "the plan is no longer the one that was agreed to", Try: "look at the plan again"}
	}
	planned := Planned{Intent: e.Intent, Asked: e.Intent, NotBefore: e.Intent.NotBefore, Drain: e.Intent.Drain}
	before := t.impact()
	switch {
	case at < 0:
		t.Intents = append(t.Intents, planned)
	case e.Intent.Revision < t.Intents[at].Intent.Revision:
		return &Error{Code: Stale, Text: "maintenance " + e.Intent.ID + " has a later revision"}
	case e.Intent.Revision > t.Intents[at].Intent.Revision:
		t.Intents[at] = planned
	default:
		return &Error{
			Code: Conflicting, Text: "maintenance " + e.Intent.ID + " says something else at the same revision",
			Try: "give the change a higher revision",
		}
	}
	t.who = e.Intent.Requester
	t.raised = t.impact() > before
	t.replan("prepare " + e.Intent.ID)
	return nil
}

// endIntent takes an intent back.
func (t *managementTurn) endIntent(e End) *Error {
	t.who = e.By
	if e.ID == "" && t.Phase == ReturnFailed && len(t.Intents) == 0 {
		t.replan("try to return again")
		return nil
	}
	at := slices.IndexFunc(t.Intents, func(p Planned) bool { return p.Intent.ID == e.ID })
	if e.ID == "" && len(t.Intents) == 1 {
		at = 0
	}
	switch {
	case at < 0 && e.ID == "" && len(t.Intents) > 1:
		return &Error{Code: Invalid, Text: "several maintenances cover the device", Try: "name one of them"}
	case at < 0:
		return &Error{Code: Unknown, Text: "no such maintenance of the device: " + e.ID}
	}
	what := "cancel "
	if t.Phase == InMaintenance {
		what = "end "
	}
	what += t.Intents[at].Intent.ID
	ids := t.ids()
	t.Intents = slices.Delete(slices.Clone(t.Intents), at, at+1)
	t.audit(Audit{What: what, IDs: ids})
	t.replan(what)
	return nil
}

// extend gives an intent other deadlines.
func (t *managementTurn) extend(e Extend) *Error {
	at := slices.IndexFunc(t.Intents, func(p Planned) bool { return p.Intent.ID == e.ID })
	if e.ID == "" && len(t.Intents) == 1 {
		at = 0
	}
	switch {
	case at < 0:
		return &Error{Code: Unknown, Text: "no such maintenance of the device: " + e.ID}
	case t.Phase == Returning || t.Phase == ReturnFailed:
		return &Error{Code: WrongPhase, Text: "the device returns already"}
	}
	t.who = e.By
	p := &t.Intents[at]
	deadline(&p.Intent.Respond, e.Respond)
	deadline(&p.Intent.Expected, e.Expected)
	if e.Drain != 0 {
		deadline(&p.Intent.Drain, e.Drain)
		p.Drain, p.Overdue = p.Intent.Drain, false
	}
	t.replan("extend " + p.Intent.ID)
	return nil
}

// deadline sets d; 0 leaves it, less takes it away.
func deadline(d *time.Duration, to time.Duration) {
	if to != 0 {
		*d = max(to, 0)
	}
}

// overrule stops waiting for a use or a host.
func (t *managementTurn) overrule(o Override) *Error {
	switch {
	case o.Permission == "":
		return &Error{Code: Denied, Text: "overruling needs a permission", Try: "name who allowed it"}
	case o.Subject == "":
		return &Error{Code: Invalid, Text: "name the use or the host to overrule"}
	case t.Phase == InService:
		return &Error{Code: WrongPhase, Text: "the device is in service"}
	}
	t.who = o.By
	if at, found := t.member(o.Subject); found {
		t.Members[at].Overridden = &o
		t.audit(Audit{What: "overrule host", Subject: o.Subject, Evidence: o.Reason, Permission: o.Permission})
		return nil
	}
	switch {
	case t.Phase == InMaintenance || t.Phase == Returning || t.Phase == ReturnFailed:
		return &Error{Code: WrongPhase, Text: "no use is waited for now"}
	case !t.reports(o.Subject):
		return &Error{Code: Unknown, Text: "no host and no use of this device is called " + o.Subject}
	case slices.ContainsFunc(t.Overrides, func(was Override) bool { return was.Subject == o.Subject }):
		return nil // a repeat
	}
	t.Overrides = append(slices.Clone(t.Overrides), o)
	t.audit(Audit{What: "overrule use", Subject: o.Subject, Evidence: o.Reason, Permission: o.Permission})
	t.replan("overrule " + o.Subject)
	return nil
}

// reports says whether some host reported a use.
func (m *Management) reports(use string) bool {
	for i := range m.Members {
		if r := m.Members[i].Last; r != nil && slices.ContainsFunc(r.Uses, func(u UseReport) bool { return u.ID == use }) {
			return true
		}
	}
	return false
}

// grant lets one use in.
func (t *managementTurn) grant(g Grant) *Error {
	switch {
	case g.ID == "" || g.Subject == "":
		return &Error{Code: Invalid, Text: "a grant needs an id, and a use or a volume"}
	case t.Phase != Preparing && t.Phase != Blocked:
		return &Error{Code: WrongPhase, Text: "nobody is let in while the device is " + t.Phase.String()}
	case slices.Contains(t.Grants, g):
		return nil // a repeat
	case slices.ContainsFunc(t.Grants, func(was Grant) bool { return was.ID == g.ID }):
		return &Error{Code: Conflicting, Text: "grant " + g.ID + " is for something else"}
	}
	t.who = g.By
	t.Grants = append(slices.Clone(t.Grants), g)
	t.audit(Audit{What: "grant", Subject: g.Subject, Permission: g.ID})
	t.replan("grant " + g.ID)
	return nil
}

// failover begins a new term.
func (t *managementTurn) failover(e Failover) *Error {
	if e.Term <= t.Term {
		return &Error{Code: Stale, Text: "somebody manages the device in a later term, or in this one"}
	}
	t.who = e.By
	t.Term = e.Term
	t.replan("another manager took over")
	return nil
}
