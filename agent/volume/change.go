// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

// outcome is what the steps of this package remember.
type outcome struct {
	Object    primitives.Object
	Tombstone primitives.Tombstone
	Found     []attach.Found // disks that use an image that is imported
	Uses      []journal.Use  // theirs
	Resumed   bool           // a crash came during the step, or its clean-up failed: something may be there
}

// object is the result of kinds that end with one.
func object[A any](r *operation.Run[A, outcome]) any { return r.Memory.Object }

// only makes a kind of one step, which the driver makes safe to repeat by the
// request id that it is given. The driver leaves nothing behind when it fails;
// only a crash can leave the step done and the operation cancelled.
func only[A any](name string, do func(context.Context, *operation.Run[A, outcome]) error) []operation.Step[A, outcome] {
	return []operation.Step[A, outcome]{{Name: name, Do: do}}
}

// onlyTakingBack is only, with the way back for what a crash may have left done.
func onlyTakingBack[A any](name string, do, undo func(context.Context, *operation.Run[A, outcome]) error) []operation.Step[A, outcome] {
	return []operation.Step[A, outcome]{{
		Name: name,
		Do:   do,
		Resume: func(_ context.Context, r *operation.Run[A, outcome]) (operation.Verdict, error) {
			r.Memory.Resumed = true
			return operation.Repeat, nil
		},
		Undo: func(ctx context.Context, r *operation.Run[A, outcome]) error {
			if !r.Memory.Resumed {
				return nil
			}
			return undo(ctx, r)
		},
	}}
}

// discard takes a volume of this operation's making away again.
func (s *Service) discard(ctx context.Context, o primitives.Object, op primitives.Op) error {
	d, err := s.Device(ctx, o.URI)
	if err != nil {
		return err
	}
	id := op.ID
	op.ID = id + "/delink"
	t, err := d.Delink(ctx, o.URI, primitives.DelinkRequest{Op: op})
	if err != nil {
		return err
	}
	op.ID = id + "/destroy"
	return d.Destroy(ctx, t, primitives.DestroyRequest{Op: op, Erase: primitives.EraseNone})
}

// discardRepeated finds out, by repeating a step with its request id, what a
// crash left of it, and takes that away. A repeat that is refused means that
// there is nothing of this operation's.
func discardRepeated[A any](s *Service, do func(context.Context, *operation.Run[A, outcome]) error) func(context.Context, *operation.Run[A, outcome]) error {
	return func(ctx context.Context, r *operation.Run[A, outcome]) error {
		if err := do(ctx, r); err != nil {
			if primitives.CodeOf(err).Retry() == primitives.RetrySame {
				return err
			}
			return nil
		}
		return s.discard(ctx, r.Memory.Object, r.Op("take back"))
	}
}

func (s *Service) createKind() operation.Kind[CreateArgs, outcome] {
	type run = operation.Run[CreateArgs, outcome]
	return operation.Kind[CreateArgs, outcome]{
		Name:    KindCreate,
		Subject: func(a CreateArgs) string { return a.URI.Short() },
		Check: func(_ context.Context, r *run) error {
			a := r.Args
			if a.Size <= 0 {
				return primitives.Invalid("size", "%d: expected a number of bytes above 0", a.Size)
			}
			return volumeName("uri", a.URI)
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claim(r, r.Args.URI, false)
			return device.Enter(tx, r.Args.URI)
		},
		Steps:  onlyTakingBack("create", s.create, discardRepeated(s, s.create)),
		Result: object[CreateArgs],
	}
}

func (s *Service) create(ctx context.Context, r *operation.Run[CreateArgs, outcome]) error {
	d, err := s.Device(ctx, r.Args.URI)
	if err != nil {
		return err
	}
	op := r.Op("create")
	op.Props = r.Args.Props
	// Resume: what a crash left of this very operation is taken over.
	w, err := d.Write(ctx, r.Args.URI, primitives.WriteRequest{Op: op, Create: true, Size: r.Args.Size, Format: r.Args.Format, Resume: true})
	if err != nil {
		return err
	}
	r.Memory.Object, err = w.Commit(ctx)
	if err != nil {
		abortErr := w.Abort(context.WithoutCancel(ctx))
		r.Memory.Resumed = r.Memory.Resumed || abortErr != nil
		err = errors.Join(err, abortErr)
	}
	return err
}

func (s *Service) resizeKind() operation.Kind[ResizeArgs, outcome] {
	type run = operation.Run[ResizeArgs, outcome]
	return operation.Kind[ResizeArgs, outcome]{
		Name:    KindResize,
		Subject: func(a ResizeArgs) string { return a.URI.Short() },
		Check: func(ctx context.Context, r *run) error {
			a := r.Args
			if a.Size <= 0 {
				return primitives.Invalid("size", "%d: expected a number of bytes above 0", a.Size)
			}
			if err := volumeName("uri", a.URI); err != nil {
				return err
			}
			return s.unused(ctx, a.URI, resizeDisk)
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claim(r, r.Args.URI, false)
			if err := device.Enter(tx, r.Args.URI); err != nil {
				return err
			}
			return stillUnused(tx, r.Args.URI, resizeDisk)
		},
		Steps: only("resize", func(ctx context.Context, r *run) error {
			d, err := s.Device(ctx, r.Args.URI)
			if err != nil {
				return err
			}
			resize := d.Facets().Resize
			if resize == nil {
				return unsupported(r.Args.URI, "volumes of this device cannot be resized")
			}
			r.Memory.Object, err = resize.Resize(ctx, r.Args.URI, r.Args.Size, r.Op("resize"))
			return err
		}),
		Result: object[ResizeArgs],
	}
}

func (s *Service) cloneKind() operation.Kind[CloneArgs, outcome] {
	type run = operation.Run[CloneArgs, outcome]
	return operation.Kind[CloneArgs, outcome]{
		Name:    KindClone,
		Subject: func(a CloneArgs) string { return a.To.Short() },
		Check: func(_ context.Context, r *run) error {
			a := r.Args
			if a.From.Device != a.To.Device {
				return primitives.Invalid("to", "%s is on another device than %s; a clone stays on its device", a.To.Short(), a.From.Short()).
					Trying("copy it: tenonctl copy %s %s", a.From.Short(), a.To.Short())
			}
			if a.Size < 0 {
				return primitives.Invalid("size", "%d is negative", a.Size)
			}
			return volumeName("to", a.To)
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claim(r, r.Args.To, false)
			if r.Args.From.Parent() != r.Args.To {
				r.Claim(operation.OnVolume(r.Args.From), true)
			}
			return device.Enter(tx, r.Args.To)
		},
		Steps:  onlyTakingBack("clone", s.clone, discardRepeated(s, s.clone)),
		Result: object[CloneArgs],
		Bulk:   true,
	}
}

func (s *Service) clone(ctx context.Context, r *operation.Run[CloneArgs, outcome]) error {
	d, err := s.Device(ctx, r.Args.To)
	if err != nil {
		return err
	}
	op := r.Op("clone")
	op.Props = r.Args.Props
	r.Memory.Object, err = d.Clone(ctx, r.Args.From, r.Args.To, primitives.CloneRequest{Op: op, Size: r.Args.Size, Full: r.Args.Full})
	return err
}

func (s *Service) delinkKind() operation.Kind[DelinkArgs, outcome] {
	type run = operation.Run[DelinkArgs, outcome]
	return operation.Kind[DelinkArgs, outcome]{
		Name:    KindDelink,
		Subject: func(a DelinkArgs) string { return a.URI.Short() },
		Check: func(ctx context.Context, r *run) error {
			a := r.Args
			if a.Keep < 0 {
				return primitives.Invalid("keep", "%v is negative", a.Keep)
			}
			if err := objectName("uri", a.URI); err != nil {
				return err
			}
			return s.unused(ctx, a.URI, detachFirst)
		},
		Admit: func(tx *journal.Tx, r *run) error {
			claim(r, r.Args.URI, false)
			if err := device.Leave(tx, r.Args.URI.Device); err != nil {
				return err
			}
			return stillUnused(tx, r.Args.URI, detachFirst)
		},
		Steps: onlyTakingBack("delink", s.delink, func(ctx context.Context, r *run) error {
			if err := s.delink(ctx, r); err != nil {
				return err
			}
			d, err := s.Device(ctx, r.Args.URI)
			if err != nil {
				return err
			}
			_, err = d.Relink(ctx, r.Memory.Tombstone, r.Args.URI, r.Op("take back"))
			return err
		}),
		Result: func(r *run) any { return r.Memory.Tombstone },
	}
}

func (s *Service) delink(ctx context.Context, r *operation.Run[DelinkArgs, outcome]) error {
	d, err := s.Device(ctx, r.Args.URI)
	if err != nil {
		return err
	}
	r.Memory.Tombstone, err = d.Delink(ctx, r.Args.URI, primitives.DelinkRequest{Op: r.Op("delink"), Keep: r.Args.Keep})
	return err
}

// volumeName refuses, with CodeInvalid, what cannot name a volume.
func volumeName(field string, u primitives.URI) error {
	if err := objectName(field, u); err != nil {
		return err
	}
	if !u.IsVolume() {
		return primitives.Invalid(field, "%s is a snapshot; expected DEVICE/VOLUME", u.Short())
	}
	return nil
}

// objectName refuses what cannot name a volume or snapshot.
func objectName(field string, u primitives.URI) error {
	if err := u.Check(); err != nil {
		return err
	}
	if u.Volume == "" {
		return primitives.Invalid(field, "%s is a device; expected DEVICE/VOLUME", u.Short())
	}
	return nil
}

func unsupported(u primitives.URI, why string) error {
	return primitives.Errorf(primitives.CodeUnsupported, "%s", why).On(u)
}
