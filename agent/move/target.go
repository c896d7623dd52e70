// SPDX-License-Identifier: Apache-2.0

package move

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

// create makes the target volumes, empty.
func (s *Service) create(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		if err := s.createOne(ctx, r, i); err != nil {
			return err
		}
	}
	return nil
}

// createOne makes one target. A repeat, in this life or another, finds the same
// volume by the operation's id.
func (s *Service) createOne(ctx context.Context, r *run, i int) error {
	d := &r.Memory.Disks[i]
	dev, err := s.devices.Await(ctx, d.To.Device)
	if err != nil {
		return err
	}
	w, err := dev.Write(ctx, d.To, primitives.WriteRequest{
		Op: r.Op(part("create", i)), Create: true, Size: d.Size, Format: d.Format, Resume: true,
	})
	if err != nil {
		return err
	}
	made, err := w.Commit(ctx)
	if err != nil {
		abortErr := w.Abort(context.WithoutCancel(ctx))
		r.Memory.Resumed = r.Memory.Resumed || abortErr != nil
		return errors.Join(err, abortErr)
	}
	d.Made = made.Handle
	if made.Size != d.Size {
		return primitives.Errorf(primitives.CodeUnsupported, "the device made a volume of %d bytes, and the disk has %d; both must be equal", made.Size, d.Size).On(d.To)
	}
	return nil
}

func createdPartly(_ context.Context, r *run) (operation.Verdict, error) {
	r.Memory.Resumed = true
	return operation.Repeat, nil
}

// discard takes the targets away again: what this operation made, and only that.
func (s *Service) discard(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		if err := s.discardOne(ctx, r, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) discardOne(ctx context.Context, r *run, i int) error {
	d := &r.Memory.Disks[i]
	if d.Made == "" {
		if !r.Memory.Resumed {
			return nil
		}
		// What a crash left is found out by repeating the request. One that is
		// refused means that there is nothing of this operation's.
		if err := s.createOne(ctx, r, i); err != nil && d.Made == "" {
			if primitives.CodeOf(err).Retry() == primitives.RetrySame {
				return err
			}
			return nil
		}
	}
	dev, err := s.devices.Await(ctx, d.To.Device)
	if err != nil {
		return err
	}
	there, err := dev.Stat(ctx, d.To, primitives.Op{})
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return err
	}
	if err == nil && there.Handle != d.Made {
		return nil // another's
	}
	// Also where it is not found: an earlier try may have come no further than the delink.
	t, err := dev.Delink(ctx, d.To, primitives.DelinkRequest{Op: r.Op(part("take back", i))})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return dev.Destroy(ctx, t, primitives.DestroyRequest{Op: r.Op(part("take back", i) + "/destroy"), Erase: primitives.EraseNone})
}

// serve maps the targets for the disks and finds the mappings that the disks have.
func (s *Service) serve(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		from, err := s.mapping(ctx, d.Use.ID, d.Use.URI)
		if err != nil {
			return err
		}
		if from == nil || !from.Active {
			return primitives.Errorf(primitives.CodeConflict, "the disk's mapping is not there").On(d.Use.URI).
				Trying("repeat the request when tenond has made it anew")
		}
		to, err := s.serveOne(ctx, r, i)
		if err != nil {
			return err
		}
		d.OnSource, d.OnTarget = open(*from), open(to)
	}
	return nil
}

// serveOne maps one target and opens it. Consumer is the disk's own use, as for
// the source: after the switch nothing has to be mapped anew.
func (s *Service) serveOne(ctx context.Context, r *run, i int) (primitives.Mapping, error) {
	d := &r.Memory.Disks[i]
	m, err := s.mapper(ctx, d.To.Device)
	if err != nil {
		return primitives.Mapping{}, err
	}
	to, err := m.Map(ctx, d.To, primitives.MapRequest{
		Op: r.Op(part("map", i)), Access: d.Use.Access, Consumer: d.Use.ID, Accept: r.Memory.Accept,
	})
	if err == nil {
		to, err = m.Activate(ctx, to.ID, r.Op(part("activate", i)))
	}
	if err == nil && to.Size != d.Size {
		err = primitives.Errorf(primitives.CodeUnsupported, "the target is mapped with %d bytes, and the disk has %d; both must be equal", to.Size, d.Size).On(d.To)
	}
	d.mapped = &to
	return to, err
}

// open returns a mapping without its secrets, as it may be written down.
func open(m primitives.Mapping) primitives.Mapping {
	if m.Network != nil {
		n := *m.Network
		n.Secret = primitives.Secrets{}
		m.Network = &n
	}
	return m
}

func (s *Service) unserve(ctx context.Context, r *run) error {
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if err := s.unmap(ctx, d.Use.ID, d.To); err != nil {
			return err
		}
	}
	return nil
}

// mapping finds what serves a use with one volume; nil: nothing does.
func (s *Service) mapping(ctx context.Context, use string, u primitives.URI) (*primitives.Mapping, error) {
	m, err := s.mapper(ctx, u.Device)
	if err != nil {
		return nil, err
	}
	all, err := m.Mappings(ctx)
	for _, x := range all {
		if x.Consumer == use && x.URI == u {
			return &x, nil
		}
	}
	return nil, err
}

// unmap takes away what serves a use with one volume, and only that. A repeat
// finds nothing and is success.
func (s *Service) unmap(ctx context.Context, use string, u primitives.URI) error {
	x, err := s.mapping(ctx, use, u)
	if err != nil || x == nil {
		return err
	}
	m, err := s.mapper(ctx, u.Device)
	if err != nil {
		return err
	}
	if err := m.Deactivate(ctx, x.ID, primitives.Op{}); err != nil {
		return err
	}
	return m.Unmap(ctx, x.ID, primitives.UnmapRequest{})
}
