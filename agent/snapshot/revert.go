// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

type reverted struct{ Object primitives.Object }

type revertRun = operation.Run[RevertArgs, reverted]

func (s *Service) revertKind() operation.Kind[RevertArgs, reverted] {
	return operation.Kind[RevertArgs, reverted]{
		Name:    KindRevert,
		Subject: func(a RevertArgs) string { return a.URI.Short() },
		Check:   s.checkRevert,
		Admit: func(tx *journal.Tx, r *revertRun) error {
			r.Claim(operation.OnDevice(r.Args.URI.Device), true)
			r.Claim(operation.OnVolume(r.Args.URI), false)
			if err := device.Enter(tx, r.Args.URI); err != nil {
				return err
			}
			uses, err := attach.DiskUses(tx, r.Args.URI)
			if err != nil {
				return err
			}
			return refuseUses(r.Args.URI.Parent(), uses)
		},
		Steps: []operation.Step[RevertArgs, reverted]{{
			Name: "revert",
			Do: func(ctx context.Context, r *revertRun) error {
				_, f, err := s.device(ctx, r.Args.URI.Device)
				if err != nil {
					return err
				}
				r.Memory.Object, err = f.Revert(ctx, r.Args.URI.Parent(), r.Args.URI.Snapshot, r.Op("revert"))
				return err
			},
		}},
		Result: func(r *revertRun) any { return r.Memory.Object },
	}
}

func (s *Service) checkRevert(ctx context.Context, r *revertRun) error {
	u := r.Args.URI
	if err := u.Check(); err != nil {
		return err
	}
	if !u.IsSnapshot() {
		return primitives.Invalid("uri", "%s: expected a snapshot, DEVICE/VOLUME@SNAPSHOT", u.Short())
	}
	d, err := s.devices.Await(ctx, u.Device)
	if err != nil {
		return err
	}
	if _, err := d.Stat(ctx, u, primitives.Op{}); err != nil {
		return err
	}
	var uses []journal.Use
	err = s.journal.View(func(tx *journal.Tx) (err error) {
		uses, err = attach.DiskUses(tx, u)
		return err
	})
	if err != nil {
		return err
	}
	for _, use := range uses {
		if err := s.disks.RefuseOverlay(ctx, hypervisor.DomainID(use.Domain), []journal.Use{use}); err != nil {
			return err
		}
	}
	return refuseUses(u.Parent(), uses)
}

// refuseUses names the disks that have the volume itself; those of its snapshots
// do not mind.
func refuseUses(volume primitives.URI, uses []journal.Use) error {
	var by []primitives.Blocker
	for _, use := range uses {
		if use.URI == volume {
			by = append(by, device.Blocker(use))
		}
	}
	if len(by) == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "a domain has the volume as a disk").On(volume).By(by...).
		Trying("detach the disk, revert, and attach it again")
}
