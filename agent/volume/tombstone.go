// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

// Tombstone finds a tombstone of a device by its ID. CodeNotFound.
func (s *Service) Tombstone(ctx context.Context, device, id string) (primitives.Object, error) {
	d, err := s.devices.Await(ctx, device)
	if err != nil {
		return primitives.Object{}, err
	}
	r := primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}}
	for {
		page, err := d.List(ctx, r)
		if err != nil {
			return primitives.Object{}, err
		}
		for _, o := range page.Objects {
			if o.Tombstone != nil && o.Tombstone.ID == id {
				return o, nil
			}
		}
		if r.Cursor = page.Next; r.Cursor == "" {
			return primitives.Object{}, primitives.Errorf(primitives.CodeNotFound, "device %s has no tombstone %q", device, id).
				On(primitives.URI{Device: device}).Trying("see: tenonctl volume list %s --tombstones", device)
		}
	}
}

// claimTombstone holds a tombstone for one operation.
func claimTombstone[A any](r *operation.Run[A, outcome], device, id string) {
	r.Claim(operation.OnDevice(device), true)
	r.Claim("tombstone "+device+"/"+id, false)
}

func (s *Service) relinkKind() operation.Kind[RelinkArgs, outcome] {
	type run = operation.Run[RelinkArgs, outcome]
	return operation.Kind[RelinkArgs, outcome]{
		Name:    KindRelink,
		Subject: func(a RelinkArgs) string { return a.Device + " " + a.Tombstone },
		Check: func(ctx context.Context, r *run) error {
			a := r.Args
			if !a.As.IsZero() {
				if err := objectName("as", a.As); err != nil {
					return err
				}
				if a.As.Device != a.Device {
					return primitives.Invalid("as", "%s is on another device than the tombstone, which is on %s", a.As.Short(), a.Device)
				}
			}
			_, err := s.Tombstone(ctx, a.Device, a.Tombstone)
			return err
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claimTombstone(r, r.Args.Device, r.Args.Tombstone)
			if !r.Args.As.IsZero() {
				r.Claim(operation.OnVolume(r.Args.As), false)
			}
			return device.Enter(tx, primitives.URI{Device: r.Args.Device})
		},
		Steps: []operation.Step[RelinkArgs, outcome]{{
			Name: "find",
			Do: func(ctx context.Context, r *run) error {
				o, err := s.Tombstone(ctx, r.Args.Device, r.Args.Tombstone)
				if err != nil {
					return err
				}
				r.Memory.Tombstone = *o.Tombstone
				return nil
			},
		}, {
			// Apart from "find": after a crash in here the tombstone may be gone, and
			// the driver answers the repeat by the request id.
			Name: "relink",
			Do: func(ctx context.Context, r *run) error {
				d, err := s.devices.Await(ctx, r.Args.Device)
				if err != nil {
					return err
				}
				r.Memory.Object, err = d.Relink(ctx, r.Memory.Tombstone, r.Args.As, r.Op("relink"))
				return err
			},
		}},
		Result: object[RelinkArgs],
	}
}

func (s *Service) destroyKind() operation.Kind[DestroyArgs, outcome] {
	type run = operation.Run[DestroyArgs, outcome]
	return operation.Kind[DestroyArgs, outcome]{
		Name:    KindDestroy,
		Subject: func(a DestroyArgs) string { return a.Device + " " + a.Tombstone },
		// A driver takes an unknown tombstone for one that is destroyed already. A
		// person who mistyped it wants to know.
		Check: func(ctx context.Context, r *run) error {
			a := r.Args
			_, err := s.Tombstone(ctx, a.Device, a.Tombstone)
			return err
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claimTombstone(r, r.Args.Device, r.Args.Tombstone)
			return device.Leave(tx, r.Args.Device)
		},
		Steps: only("destroy", func(ctx context.Context, r *run) error {
			o, err := s.Tombstone(ctx, r.Args.Device, r.Args.Tombstone)
			if primitives.CodeOf(err) == primitives.CodeNotFound {
				return nil // it was there when the operation began
			}
			if err != nil {
				return err
			}
			d, err := s.devices.Await(ctx, r.Args.Device)
			if err != nil {
				return err
			}
			return d.Destroy(ctx, *o.Tombstone, primitives.DestroyRequest{Op: r.Op("destroy"), Erase: r.Args.Erase})
		}),
		Bulk: true,
	}
}
