// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"slices"

	"github.com/tenon-storage/tenon/agent/journal"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// inServiceBefore is why a device of an older journal needs no verification.
const inServiceBefore = "it was in service before its maintenance was recorded"

// reapply brings gates and fences back as they were, before anybody is served:
// doors are in the journal already, fenced devices are shut, and every device
// learns that the agent started anew.
func (s *Service) reapply() error {
	var devices []journal.Device
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		s.manager, _, err = journal.Find[manager](tx, journal.Manager, managerKey)
		if err != nil {
			return err
		}
		devices, err = tx.Devices()
		return err
	})
	if err != nil || len(devices) == 0 {
		return err
	}
	_, err = s.update(func(t *turn) error {
		for _, d := range devices {
			if err := t.reapply(d); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// reapply does it for one device. What it has to do is kept for Start.
func (t *turn) reapply(d journal.Device) error {
	door, err := t.tx.Door(d.Name)
	if err != nil {
		return err
	}
	w, err := t.ward(d.Name)
	if err != nil {
		return err
	}
	here := t.s.manager.ID == "" && t.s.options.Manager == ""
	switch {
	case w.fresh && here:
		if err := t.manageHere(w); err != nil {
			return err
		}
		if door.Gate == protocol.GateOpen {
			if err := t.vouch(w, inServiceBefore); err != nil {
				return err
			}
		}
	case w.fresh && door.Gate == protocol.GateOpen:
		// Recorded by a version that knew no maintenance: in service, until the
		// manager says otherwise.
		t.host(w, protocol.Ordered{Order: protocol.Order{
			Device: w.rec.Host.Device, Stamp: protocol.Stamp{Epoch: 1, Rank: protocol.RankGate}, Gate: protocol.GateOpen,
		}})
		if err := t.vouch(w, inServiceBefore); err != nil {
			return err
		}
	default:
		if w.man != nil {
			t.manage(w, protocol.Reloaded{})
			t.manage(w, protocol.HostJoined{Host: w.rec.Host.ID, Boot: t.s.boot, AgentStart: t.s.start, By: ThisHost})
		}
		t.host(w, protocol.Restarted{Boot: t.s.boot, AgentStart: t.s.start})
	}
	if err := t.run(w); err != nil {
		return err
	}
	if w.rec.Host.Fence.Intended && w.rec.Host.Order.Impact != protocol.IOStall || w.shutAtStart() {
		t.s.devices.Shut(d.Name)
	}
	return nil
}

// shutAtStart reports whether the device must not be opened at the start because
// it has not been seen to be what it was.
func (w *ward) shutAtStart() bool {
	switch w.rec.Host.Phase {
	case protocol.HostVerifying, protocol.HostReturnFailed:
		return true
	}
	return false
}

// manageHere gives a device the managing half that this host has of it.
func (t *turn) manageHere(w *ward) error {
	w.man = &management{Device: protocol.Management{Device: w.rec.Host.Device, Term: 1, Epoch: 1}}
	t.manage(w, protocol.HostJoined{Host: w.rec.Host.ID, Boot: t.s.boot, AgentStart: t.s.start, By: ThisHost})
	return t.run(w)
}

// vouch opens a device that was told to open, on what is known of it already.
func (t *turn) vouch(w *ward, evidence string) error {
	if err := t.run(w); err != nil || w.rec.Host.Phase != protocol.HostVerifying {
		return err
	}
	w.todo = slices.DeleteFunc(w.todo, func(a protocol.HostAction) bool { _, is := a.(protocol.Verify); return is })
	uses, err := t.uses(w.name)
	if err != nil {
		return err
	}
	t.host(w, protocol.Verified{Stamp: w.rec.Host.Order.Stamp, OK: true, Evidence: evidence, Uses: uses})
	return t.run(w)
}
