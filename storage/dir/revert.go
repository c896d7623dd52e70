// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/primitives"
)

// Revert gives the volume a new head with the snapshot's content. The snapshots
// all stay: none of them lies in the old head.
func (f snapshots) Revert(ctx context.Context, u primitives.URI, name string, op primitives.Op) (primitives.Object, error) {
	o, err := f.revert(ctx, u, name, op)
	return o, classify(u, err)
}

func (f snapshots) revert(ctx context.Context, u primitives.URI, name string, op primitives.Op) (primitives.Object, error) {
	if err := f.b.mineVolume(u); err != nil {
		return primitives.Object{}, err
	}
	s, err := f.b.change(ctx)
	if err != nil {
		return primitives.Object{}, err
	}
	defer s.leave()
	r, err := s.settled(u)
	if err != nil {
		return primitives.Object{}, err
	}
	by := request{Kind: kindRevert, ID: op.ID, Args: name}
	if r.Reverted.repeats(by) {
		return s.volumeObject(r, ready)
	}
	if r.Reverted.clashes(by) {
		return primitives.Object{}, fail(primitives.CodeConflict, u, "operation %q reverted it to %q", op.ID, r.Reverted.Args)
	}
	snap := r.snapshot(name)
	if snap == nil {
		return primitives.Object{}, notFound(u.At(name))
	}
	if err := s.checkRevert(u, r, op); err != nil {
		return primitives.Object{}, err
	}
	if err := s.revert(ctx, &r, *snap, by); err != nil {
		return primitives.Object{}, err
	}
	return s.volumeObject(r, ready)
}

func (s *session) checkRevert(u primitives.URI, r record, op primitives.Op) error {
	if err := checkGeneration(u, op, r.Generation); err != nil {
		return err
	}
	if err := s.checkUnmapped(u, r.Handle); err != nil {
		return err
	}
	if !s.canSnapshot(r.family) {
		return fail(primitives.CodeUnsupported, u, "a %s volume cannot be reverted on a file system without reflinks", r.Format).
			Trying("make a full clone of the snapshot")
	}
	use, err := s.layerUse(r.Head)
	if err == nil && use != unused {
		err = errBeingRead(u)
	}
	return err
}

func (s *session) revert(ctx context.Context, r *record, snap snapshot, by request) error {
	base := r.layer(snap.Layer)
	l := layer{ID: newID(), Format: base.Format}
	if s.fs.reflink {
		l.Below, l.Shared = base.Below, true
	} else {
		l.Below = base.chain()
	}
	f := r.family.clone()
	f.Layers = append(f.Layers, l)
	f.Head, f.Size, f.Reverted, f.Growing = l.ID, snap.Size, by, nil
	f.Generation++
	if l.Shared {
		f.layer(base.ID).Shared = true
	}
	gone := f.unneeded()
	f.drop(gone)
	files := []layerRef{l.ref()} // if it fails
	for _, g := range gone {
		files = append(files, g.ref()) // if it succeeds
	}
	j, err := s.begin(*r, files...)
	if err != nil {
		return err
	}
	if s.fs.reflink {
		err = s.reflink(base.ref(), l.ref())
	} else {
		err = s.makeQcow2(ctx, l, snap.Size)
	}
	if err == nil {
		err = s.save(record{f, r.file})
	}
	if err != nil {
		return errors.Join(err, s.remove(l.file()), s.end(j))
	}
	r.family = f
	for _, g := range gone {
		if err := s.release(g); err != nil {
			j.hold.release() // the note stays for the next Open
			return err
		}
	}
	return s.end(j)
}
