// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"slices"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// hostBefore is what a host was before a step.
type hostBefore struct {
	stamp maintenance.Stamp
	gate  maintenance.Gate
	phase maintenance.HostPhase
	fence maintenance.FenceState
}

// checkStep looks at what one event did to a host: I3, I7, I9.
func (w *world) checkStep(a *agent, before hostBefore, e maintenance.HostEvent) {
	h := &a.h
	if h.Order.Stamp.Compare(before.stamp) < 0 {
		w.fail("I3: the stamp of", hostNames[a.host], "decreased from", before.stamp.String(), "to", h.Order.Stamp.String())
	}
	if before.gate == maintenance.GateOpen && h.Gate != maintenance.GateOpen {
		a.closedAt = h.Order.Stamp
		if h.Lapsed {
			a.closedAt = maintenance.Stamp{Term: ^uint64(0)}
		}
	}
	if before.gate != maintenance.GateOpen && h.Gate == maintenance.GateOpen {
		a.closedAt = maintenance.Stamp{}
		switch e.(type) {
		case maintenance.Ordered, maintenance.Verified:
		default:
			w.fail("I9:", hostNames[a.host], "opened without an order")
		}
		if h.Order.Gate != maintenance.GateOpen {
			w.fail("I9:", hostNames[a.host], "opened though it is told", h.Order.Gate.String())
		}
		if a.fence {
			w.fail("I9:", hostNames[a.host], "opened while its storage is fenced")
		}
	}
	waiting := 0
	drained := h.Phase != before.phase && (h.Phase == maintenance.HostDrained || h.Phase == maintenance.HostFencing && before.phase == maintenance.HostDraining)
	for i := range h.Outcomes {
		o := &h.Outcomes[i]
		if o.Waits {
			waiting++
		}
		if drained && o.State == maintenance.UseObjected && !slices.ContainsFunc(h.Order.Overridden, func(by maintenance.Override) bool { return by.Subject == o.ID }) {
			w.fail("I7:", o.ID, "objects, and", hostNames[a.host], "calls itself", h.Phase.String())
		}
	}
	if waiting != h.Waiting {
		w.fail("the count of uses that are waited for is wrong on", hostNames[a.host])
	}
}

// checkCut looks at a forced action: I11.
func (w *world) checkCut(d *device, a *agent, act maintenance.CutOff) {
	for _, line := range a.audited {
		if line.Subject == act.Use && line.Permission == act.Permission && slices.Contains(d.permissions, line.Permission) {
			return
		}
	}
	if act.Permission == "lease" && slices.ContainsFunc(a.audited, func(l maintenance.Audit) bool { return l.Subject == act.Use }) {
		return
	}
	w.fail("I11:", act.Use, "is cut off with no line about who allowed it")
}

// check looks at one device as a whole: I1, I2, I3, I4, I6.
func (w *world) check(d *device) {
	m := d.m
	for _, a := range d.agents {
		h := &a.h
		if h.Order.Stamp.Compare(m.Stamp()) > 0 {
			w.fail("I3:", hostNames[a.host], "is ahead of management")
		}
		if h.Phase == maintenance.HostFenced && a.fencedFor != maintenance.IOStall && holders(a) > 0 {
			w.fail("I2:", hostNames[a.host], "is fenced with a live use")
		}
		if h.Phase == maintenance.HostFenced && !a.fence {
			w.fail("I2:", hostNames[a.host], "says it is fenced, and is not")
		}
		if a.closedAt != (maintenance.Stamp{}) {
			w.checkAdmitted(a)
		}
		if !a.joined {
			continue
		}
		switch m.Phase {
		case maintenance.InMaintenance:
			w.checkMaintained(d, a)
		case maintenance.InService:
			if h.Order.Stamp.SameEpoch(m.Stamp()) && h.Phase == maintenance.HostFenced && !h.Lapsed && !m.Covered(h.ID) {
				w.fail("I4: the device is in service, and", h.ID, "is fenced at that epoch")
			}
		default:
		}
	}
}

// checkAdmitted looks at who came in past a closed gate: I6.
func (w *world) checkAdmitted(a *agent) {
	for i := range a.uses {
		u := &a.uses[i]
		if u.Grant == "" && u.Admitted.Compare(a.closedAt) >= 0 {
			w.fail("I6:", u.ID, "came in on", hostNames[a.host], "past the gate that was closed at", a.closedAt.String())
		}
	}
}

// checkMaintained looks at a host while the device is in maintenance: I1.
func (w *world) checkMaintained(d *device, a *agent) {
	at := slices.IndexFunc(d.m.Members, func(mb maintenance.Member) bool { return mb.Host == a.h.ID })
	if at < 0 || d.m.Members[at].Late || d.m.Members[at].Overridden != nil || d.m.Members[at].Storage {
		return
	}
	if a.h.Gate == maintenance.GateOpen {
		w.fail("I1: the device is in maintenance, and the gate of", a.h.ID, "is open")
	}
	if d.m.Covered(a.h.ID) {
		return // by its lease: it closed, and is about to be fenced
	}
	if a.fencedFor != maintenance.IOStall && holders(a) > 0 {
		w.fail("I1: the device is in maintenance, and", a.h.ID, "has a use")
	}
	if !a.fence && !a.h.Doubt && a.h.Phase != maintenance.HostUnknown {
		w.fail("I1: the device is in maintenance, and", a.h.ID, "is not fenced")
	}
}

// heard looks at a report that management took: I5, I7.
func (w *world) heard(d *device, m message, epoch uint64, err error) {
	known := &d.heard[m.host]
	newest := m.start > known.start || m.start == known.start && (known.report == nil || m.report.Seq >= known.report.Seq)
	if err != nil {
		return
	}
	if !newest {
		w.fail("I5: management took a report of", hostNames[m.host], "that is older than one it knows")
		return
	}
	known.start, known.report = m.start, m.report
	if d.m.Phase != maintenance.Fencing || d.m.Epoch != epoch || m.report.Seen.Epoch != epoch || m.report.Seen.Term != d.m.Term {
		return
	}
	for i := range m.report.Uses {
		u := &m.report.Uses[i]
		overruled := slices.ContainsFunc(d.m.Overrides, func(o maintenance.Override) bool { return o.Subject == u.ID })
		if u.State == maintenance.UseObjected && !overruled {
			w.fail("I7:", u.ID, "objects, and the device is fencing at that epoch")
		}
	}
}

// transition looks at what management counted when it went on: I5, I7.
func (w *world) transition(d *device, before maintenance.Phase) {
	m := d.m
	if m.Phase == before || m.Phase != maintenance.Fencing && m.Phase != maintenance.InMaintenance {
		return
	}
	if m.Phase == maintenance.Fencing && before == maintenance.InMaintenance {
		return // back: a host is no longer fenced
	}
	for i := range m.Members {
		mb := &m.Members[i]
		known := &d.heard[int(mb.Host[1]-'0')]
		if mb.Late || m.Covered(mb.Host) {
			known.digest = ""
			continue
		}
		// The report that brought the transition about is noted after it; the machine has it already.
		r := mb.Last
		switch {
		case r == nil:
			w.fail("I5: management went on without a report of", mb.Host)
			continue
		case !r.Seen.SameEpoch(m.Stamp()):
			w.fail("I5: what", mb.Host, "said at", r.Seen.String(), "counted at", m.Stamp().String())
		case r.Boot != mb.Boot:
			w.fail("I5: what", mb.Host, "said before it booted counted")
		}
		if m.Phase == maintenance.Fencing {
			known.digest = r.UsesDigest
		} else if known.digest != "" && r.UsesDigest != known.digest {
			w.fail("I5: the uses of", mb.Host, "changed between drained and fenced")
		}
		for j := range r.Uses {
			u := &r.Uses[j]
			overruled := slices.ContainsFunc(m.Overrides, func(o maintenance.Override) bool { return o.Subject == u.ID })
			if u.State == maintenance.UseObjected && !overruled {
				w.fail("I7:", u.ID, "objects, and the device goes on")
			}
		}
	}
}
