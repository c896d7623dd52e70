// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Service copies volumes.
type Service struct{ devices *device.Registry }

// New returns the service and registers its kind of operation.
func New(e *operation.Engine, devices *device.Registry) *Service {
	s := &Service{devices: devices}
	operation.Register(e, s.copyKind())
	return s
}

// memory is what the steps of a copy remember.
type memory struct {
	Size    int64  // the source's, when the copy began
	Handle  string // the source's incarnation
	Resumed bool   // a crash interrupted the copy
	Object  primitives.Object
}

type run = operation.Run[CopyArgs, memory]

func (s *Service) copyKind() operation.Kind[CopyArgs, memory] {
	return operation.Kind[CopyArgs, memory]{
		Name:    KindCopy,
		Subject: func(a CopyArgs) string { return a.To.Short() },
		Check:   s.check,
		Admit:   admit,
		Steps: []operation.Step[CopyArgs, memory]{{
			Name: "look",
			Do:   s.look,
		}, {
			Name: "copy",
			Do:   s.copy,
			Resume: func(_ context.Context, r *run) (operation.Verdict, error) {
				r.Memory.Resumed = true
				return operation.Repeat, nil
			},
			Undo: s.clear,
		}},
		Result: func(r *run) any { return r.Memory.Object },
		End: func(tx *journal.Tx, r *run, _ operation.State, left bool) error {
			if left {
				return nil
			}
			return errors.Join(tx.DeleteUse(r.ID+"/from"), tx.DeleteUse(r.ID+"/to"))
		},
		Bulk: true,
	}
}

// check refuses what can be seen to be wrong before anything is recorded.
func (s *Service) check(ctx context.Context, r *run) error {
	a := r.Args
	for field, u := range map[string]primitives.URI{"from": a.From, "to": a.To} {
		if err := u.Check(); err != nil {
			return err
		}
		if u.Volume == "" {
			return primitives.Invalid(field, "%s is a device; expected DEVICE/VOLUME", u.Short())
		}
	}
	if !a.To.IsVolume() {
		return primitives.Invalid("to", "%s is a snapshot; a copy makes a volume: DEVICE/VOLUME", a.To.Short())
	}
	if a.From == a.To {
		return primitives.Invalid("to", "%s is the source itself", a.To.Short())
	}
	d, err := s.devices.Await(ctx, a.From.Device)
	if err != nil {
		return err
	}
	if _, err := d.Stat(ctx, a.From, primitives.Op{}); err != nil {
		return err
	}
	_, err = s.devices.Await(ctx, a.To.Device)
	return err
}

// admit holds both volumes and records both uses.
func admit(tx *journal.Tx, r *run) error {
	a := r.Args
	r.Claim(operation.OnDevice(a.From.Device), true)
	r.Claim(operation.OnVolume(a.From), true)
	if a.To.Device != a.From.Device {
		r.Claim(operation.OnDevice(a.To.Device), true)
	}
	if a.To != a.From.Parent() {
		r.Claim(operation.OnVolume(a.To), false)
	}
	return errors.Join(
		device.Admit(tx, journal.Use{ID: r.ID + "/from", Kind: journal.UseTransfer, URI: a.From, Access: primitives.ReadOnly, Operation: r.ID}),
		device.Admit(tx, journal.Use{ID: r.ID + "/to", Kind: journal.UseTransfer, URI: a.To, Access: primitives.ReadWrite, Operation: r.ID}))
}

// look remembers which source the copy is of, so that a resumed copy notices
// another volume under the old name.
func (s *Service) look(ctx context.Context, r *run) error {
	d, err := s.devices.Await(ctx, r.Args.From.Device)
	if err != nil {
		return err
	}
	o, err := d.Stat(ctx, r.Args.From, primitives.Op{})
	if err != nil {
		return err
	}
	r.Memory.Size, r.Memory.Handle = o.Size, string(o.Handle)
	return nil
}

func (s *Service) copy(ctx context.Context, r *run) error {
	a := r.Args
	src, err := s.devices.Await(ctx, a.From.Device)
	if err != nil {
		return err
	}
	dst, err := s.devices.Await(ctx, a.To.Device)
	if err != nil {
		return err
	}
	o, err := src.Stat(ctx, a.From, primitives.Op{})
	if err != nil {
		return err
	}
	if string(o.Handle) != r.Memory.Handle {
		return primitives.Errorf(primitives.CodeConflict, "%s is another volume now than when the copy began", a.From.Short()).
			On(a.From).Trying("begin a new copy")
	}
	r.Memory.Object, err = storage.Copy(ctx, src, a.From, dst, a.To, storage.CopyRequest{
		Op: r.Op("copy"), Size: r.Memory.Size, Format: a.Format, Resume: r.Memory.Resumed,
	})
	return err
}

// clear takes away what an interrupted copy left at the target, after a crash or
// because the target's device was away for the clean-up too. Only what this
// operation itself began can be resumed with its id, so nothing else is touched.
func (s *Service) clear(ctx context.Context, r *run) error {
	dst, err := s.devices.Await(ctx, r.Args.To.Device)
	if err != nil {
		return err
	}
	o, err := dst.Stat(ctx, r.Args.To, primitives.Op{})
	if primitives.CodeOf(err) == primitives.CodeNotFound || (err == nil && o.State != primitives.Incomplete) {
		return nil
	}
	if err != nil {
		return err
	}
	w, err := dst.Write(ctx, r.Args.To, primitives.WriteRequest{
		Op: r.Op("copy"), Create: true, Size: r.Memory.Size, Format: r.Args.Format, Resume: true,
	})
	switch primitives.CodeOf(err) {
	case 0:
		return w.Abort(ctx)
	case primitives.CodeConflict, primitives.CodeIncomplete, primitives.CodeExists:
		return nil // another's
	}
	return err
}
