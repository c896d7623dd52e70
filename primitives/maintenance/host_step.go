// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"
	"strings"
)

// Step takes an event. The caller makes h durable, with the Audit lines among the
// actions, and carries out the others afterwards.
func (h *Host) Step(e HostEvent) []HostAction {
	t := hostTurn{Host: h}
	switch e := e.(type) {
	case Ordered:
		t.ordered(e)
	case UsesSeen:
		t.see(e.Uses)
		t.advance()
		t.report = t.report || h.told()
	case Looked:
		t.looked(e)
	case Answered:
		t.answered(e)
	case Gone:
		t.gone(e)
	case ActionFailed:
		t.actionFailed(e)
	case Fenced:
		t.fenced(e)
	case Unfenced:
		t.unfenced(e)
	case Verified:
		t.verified(e)
	case Restarted:
		t.restarted(e)
	case Elapsed:
		t.elapsed(e.By)
	case Settled:
		h.Owed = slices.DeleteFunc(h.Owed, func(r Restore) bool { return r.Use == e.Use })
	}
	return t.end()
}

// A hostTurn is one step under way.
type hostTurn struct {
	*Host
	out    []HostAction
	report bool
}

func (t *hostTurn) do(a HostAction) { t.out = append(t.out, a) }

// end returns what is to be done, the report last.
func (t *hostTurn) end() []HostAction {
	if !t.report {
		return t.out
	}
	t.Seq++
	if t.Order.Lease > 0 && t.Lease.Probe == 0 {
		t.Lease.Probe, t.Lease.Age = t.Seq, 0
	}
	return append(t.out, SendReport{})
}

// reject says that an event did not count.
func (t *hostTurn) reject(use string, code ErrorCode, text string) {
	t.do(Rejected{Use: use, Err: &Error{Code: code, Text: text, Current: t.Order.Stamp}})
}

// enter changes the phase and leaves a line about it.
func (t *hostTurn) enter(p HostPhase, why, evidence string) {
	if t.Phase == p {
		return
	}
	t.do(Audit{
		Device: t.Device, IDs: t.Order.IDs, Stamp: t.Order.Stamp, Who: t.ID, What: why,
		Before: t.Phase.String(), After: p.String(), Evidence: evidence,
	})
	t.Phase = p
	t.report = true
}

// told says whether uses have something to answer to.
func (h *Host) told() bool { return h.closing() || h.Order.Phase == Announced }

// closing says whether uses must go.
func (h *Host) closing() bool {
	return h.Lapsed || h.Order.Gate != GateOpen && h.Order.Stamp != Stamp{}
}

// wantsFence says whether the fence is due once the device is drained.
func (h *Host) wantsFence() bool { return h.Lapsed || h.Order.Gate == GateFenced }

// find returns where the use's outcome is or belongs.
func (h *Host) find(use string) (int, bool) {
	return slices.BinarySearchFunc(h.Outcomes, use, func(o Outcome, id string) int { return strings.Compare(o.ID, id) })
}

// Outcome returns how far a use has come; none, where it was told of no maintenance.
func (h *Host) Outcome(use string) (Outcome, bool) {
	if i, found := h.find(use); found {
		return h.Outcomes[i], true
	}
	return Outcome{}, false
}

// overridden returns the override of a use, or nil.
func (h *Host) overridden(use string) *Override {
	for i := range h.Order.Overridden {
		if h.Order.Overridden[i].Subject == use {
			return &h.Order.Overridden[i]
		}
	}
	return nil
}

// Resume returns the actions that were under way, to be carried out after a
// restart; those that ended meanwhile are told by their events.
func (h *Host) Resume() []HostAction {
	var out []HostAction
	for i := range h.Outcomes {
		o := &h.Outcomes[i]
		switch {
		case o.Cut != "":
			out = append(out, CutOff{Use: o.ID, Permission: o.Cut})
		case o.Acting && o.Taken:
			out = append(out, CancelAct{Use: o.ID, Index: o.Index})
		case o.Acting:
			out = append(out, ActOn{Use: o.ID, Index: o.Index, Step: o.Step, Stamp: h.Order.Stamp})
		case !o.Residue && o.State != UseReady:
			out = append(out, Notify{Use: o.ID, Stamp: h.Order.Stamp})
		}
	}
	switch h.Phase {
	case HostDraining:
		if h.Looking {
			out = append(out, Look{Stamp: h.Order.Stamp, Serial: h.Looks})
		}
	case HostFencing:
		out = append(out, h.raise())
	case HostVerifying, HostReturnFailed:
		out = append(out, h.verify())
	case HostOpen, HostNoticed:
		for _, r := range h.Owed {
			out = append(out, r)
		}
	default:
	}
	return out
}

func (h *Host) verify() Verify { return Verify{Stamp: h.Order.Stamp, Found: !h.Blank} }

func (h *Host) raise() RaiseFence {
	return RaiseFence{Stamp: h.Order.Stamp, Impact: h.FencedFor}
}

// Door returns what admission needs to know, for the caller's journal.
func (h *Host) Door() Door {
	d := Door{
		Seen: h.Order.Stamp, Gate: h.Gate, IDs: h.Order.IDs,
		Expected: h.Order.Expected, Alternatives: h.Order.Alternatives,
	}
	if h.Order.Gate == GateClosed && !h.Fence.Intended && !h.Lapsed || h.flaw.has(keepsGrants) {
		d.Grants = h.Order.Grants // not once a fence is due
	}
	return d
}
