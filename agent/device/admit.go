// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// DoorKeeper decides about the gates of devices that come and go. Its methods run
// in the transaction that adds or forgets the device.
type DoorKeeper interface {
	// Added gives a new device its door.
	// fenced says that its storage was found fenced.
	Added(tx *journal.Tx, d journal.Device, fenced bool) error
	// Removed forgets what is kept of a device's maintenance.
	Removed(tx *journal.Tx, name string) error
}

// KeepDoors names who decides about the gates of new devices. Call it before
// Start; without it they are open from the beginning.
func (r *Registry) KeepDoors(k DoorKeeper) { r.keeper = k }

func (r *Registry) openDoor(tx *journal.Tx, d journal.Device, fenced bool) error {
	if r.keeper == nil {
		return tx.PutDoor(d.Name, maintenance.Door{Gate: maintenance.GateOpen})
	}
	return r.keeper.Added(tx, d, fenced)
}

func (r *Registry) forget(tx *journal.Tx, name string) error {
	err := errors.Join(tx.DeleteDevice(name), tx.DeleteDoor(name))
	if r.keeper != nil {
		err = errors.Join(err, r.keeper.Removed(tx, name))
	}
	return err
}

// Admit records a use of a device, in the transaction that records the
// operation which needs it and before the device is touched: so no use slips in
// beside an order that closes the gate. CodeConflict, naming the maintenance,
// while the gate is closed and no grant names the use or its volume; CodeFenced
// once the device is fenced; CodeNotFound for a device that is not configured.
func Admit(tx *journal.Tx, u journal.Use) error {
	admission, err := Ask(tx, u.URI, u.ID)
	if err != nil {
		return err
	}
	u.Stamp, u.Grant = admission.Stamp, admission.Grant
	return Record(tx, u)
}

// Record writes down a use that is there already, whatever the gate says: what is
// found is not refused by not being known.
func Record(tx *journal.Tx, u journal.Use) error {
	if err := known(tx, u.URI.Device); err != nil {
		return err
	}
	if u.Admitted.IsZero() {
		u.Admitted = time.Now().UTC()
	}
	return tx.PutUse(u)
}

// Enter asks the gate for an operation that needs the device and records no use:
// the operation itself, which claims the device in the same transaction, is what
// a maintenance waits for. It refuses as Admit does.
func Enter(tx *journal.Tx, u primitives.URI) error {
	_, err := Ask(tx, u, "")
	return err
}

// Leave asks for an operation that takes something away from the device, or only
// changes what is written down of it. A closed gate lets it pass; a fenced
// device is CodeFenced.
func Leave(tx *journal.Tx, name string) error {
	if err := known(tx, name); err != nil {
		return err
	}
	door, err := tx.Door(name)
	if err == nil && door.Gate == maintenance.GateFenced {
		tx.Refused()
		err = refused(door, primitives.URI{Device: name})
	}
	return err
}

// Ask asks the gate for a use of u, or with an empty use for anything else that
// needs it, and records nothing. It refuses as Admit does.
func Ask(tx *journal.Tx, u primitives.URI, use string) (maintenance.Admission, error) {
	if err := known(tx, u.Device); err != nil {
		return maintenance.Admission{}, err
	}
	door, err := tx.Door(u.Device)
	if err != nil {
		return maintenance.Admission{}, err
	}
	a, refusal := door.Admit(use, Subject(u))
	if refusal != nil {
		tx.Refused()
		return a, refused(door, u)
	}
	return a, nil
}

// Subject is what a use is of, as grants name it: VOLUME or VOLUME@SNAPSHOT.
func Subject(u primitives.URI) string {
	if u.Snapshot == "" {
		return u.Volume
	}
	return u.Volume + "@" + u.Snapshot
}

func known(tx *journal.Tx, name string) error {
	_, err := tx.Device(name)
	if errors.Is(err, primitives.CodeNotFound) {
		return unknown(name)
	}
	return err
}

// removable refuses to forget a device that a maintenance covers: somebody waits
// for its answer.
func removable(tx *journal.Tx, name string) error {
	door, err := tx.Door(name)
	if err != nil || len(door.IDs) == 0 {
		return err
	}
	return refused(door, primitives.URI{Device: name})
}

// refused says which maintenance closed the gate, how long it is expected to
// take, and what else there is.
func refused(d maintenance.Door, u primitives.URI) error {
	u = primitives.URI{Device: u.Device}
	switch d.Gate {
	case maintenance.GateUnknown:
		return primitives.Errorf(primitives.CodeConflict, "nothing is known of the device's maintenance, so nothing new may use it until its manager sends an order").
			On(u).By(primitives.Blocker{Kind: "maintenance", Name: "unknown"}).Trying("see: tenonctl maintenance status %s", u.Device)
	case maintenance.GateFenced:
		return primitives.Errorf(primitives.CodeFenced, "the device is closed for service by maintenance %s%s", ids(d), eta(d)).
			On(u).By(blockers(d)...).Trying("%s", instead(d, u))
	}
	return primitives.Errorf(primitives.CodeConflict, "the device goes into maintenance %s%s", ids(d), eta(d)).
		On(u).By(blockers(d)...).Trying("%s", instead(d, u))
}

func ids(d maintenance.Door) string {
	if len(d.IDs) == 0 {
		return "of a manager that named none"
	}
	return strings.Join(d.IDs, ", ")
}

func eta(d maintenance.Door) string {
	if d.Expected <= 0 {
		return ""
	}
	return fmt.Sprintf(", which is expected to take %s", d.Expected)
}

func blockers(d maintenance.Door) (by []primitives.Blocker) {
	for _, id := range d.IDs {
		by = append(by, primitives.Blocker{Kind: "maintenance", Name: id})
	}
	return by
}

func instead(d maintenance.Door, u primitives.URI) string {
	if len(d.Alternatives) == 0 {
		return "wait until it is in service again: tenonctl maintenance watch " + u.Device
	}
	return "use " + strings.Join(d.Alternatives, " or ") + " instead, or wait: tenonctl maintenance watch " + u.Device
}
