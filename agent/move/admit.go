// SPDX-License-Identifier: Apache-2.0

package move

import (
	"errors"
	"fmt"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

// toID is the use that holds the target until the disk's own use names it.
func toID(r *run, i int) string { return fmt.Sprintf("%s/to/%d", r.ID, i) }

// fromID is the use that holds the source from then on, until it is let go.
func fromID(r *run, i int) string { return fmt.Sprintf("%s/from/%d", r.ID, i) }

// part names the part of the operation that concerns one disk, for Run.Op.
func part(what string, i int) string { return fmt.Sprintf("%s/%d", what, i) }

// admit holds everything that takes part, and asks the gate of the targets. The
// sources have none to pass: a device that is being emptied is what moves are for.
func admit(tx *journal.Tx, r *run) error {
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		r.Claim(operation.OnDisk(string(d.ID)), false)
		for _, u := range []primitives.URI{d.Use.URI, d.To} {
			r.Claim(operation.OnDevice(u.Device), true)
			r.Claim(operation.OnVolume(u), false)
		}
		now, err := tx.Use(d.Use.ID)
		if err != nil && !errors.Is(err, primitives.CodeNotFound) {
			return err
		}
		if err != nil || now.URI != d.Use.URI {
			return primitives.Errorf(primitives.CodeConflict, "the disk was detached or moved at this moment").On(d.Use.URI).Trying("repeat the request")
		}
		if err := device.Leave(tx, d.Use.URI.Device); err != nil {
			return err
		}
		others, err := attach.DiskUses(tx, d.To)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return primitives.Errorf(primitives.CodeInUse, "a disk uses a volume of that name").On(d.To).By(device.Blocker(others[0])).
				Trying("name another volume: DEVICE/VOLUME")
		}
		err = device.Admit(tx, journal.Use{
			ID: toID(r, i), Kind: journal.UseTransfer, URI: d.To, Access: primitives.ReadWrite, Operation: r.ID,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// hand puts the disk's use on the target, in one transaction with what holds the
// source until it is let go. A repeat changes nothing.
func (s *Service) hand(r *run, i int) error {
	d := &r.Memory.Disks[i]
	return s.journal.Update(func(tx *journal.Tx) error {
		admitted, err := tx.Use(toID(r, i))
		if errors.Is(err, primitives.CodeNotFound) {
			return nil // it was handed over in an earlier life
		}
		if err != nil {
			return err
		}
		// The disk goes on with what the target's gate said of the operation's use.
		next := admitted
		next.ID, next.Kind, next.Access = d.Use.ID, journal.UseDisk, d.Use.Access
		next.Domain, next.Disk = d.Use.Domain, d.Use.Disk
		// Put, not admitted: the source's gate may be closed, and this use of it is
		// the remainder of one that was there before.
		from := d.Use
		from.ID, from.Kind, from.Operation = fromID(r, i), journal.UseTransfer, r.ID
		from.Domain, from.Disk = "", ""
		return errors.Join(tx.PutUse(next), tx.DeleteUse(toID(r, i)), tx.PutUse(from))
	})
}

// handed reports whether the record names the target already.
func (s *Service) handed(r *run, i int) (yes bool, err error) {
	d := &r.Memory.Disks[i]
	err = s.journal.View(func(tx *journal.Tx) error {
		u, err := tx.Use(d.Use.ID)
		if errors.Is(err, primitives.CodeNotFound) {
			return nil
		}
		yes = err == nil && u.URI == d.To
		return err
	})
	return yes, err
}

// drop forgets a use of this operation's.
func (s *Service) drop(id string) error {
	return s.journal.Update(func(tx *journal.Tx) error { return tx.DeleteUse(id) })
}
