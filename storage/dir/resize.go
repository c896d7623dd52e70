// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"os"

	"github.com/tenon-storage/tenon/primitives"
)

// resizer is the Resize facet.
type resizer struct{ b *backend }

// Resize makes a volume larger. A raw file grows under its user, who then only
// looks again. A qcow2 image that a hypervisor has open can be changed by that
// hypervisor alone: the volume is then Pending, with its old size, until the
// image itself shows the new one, and a resize to the old size calls it off.
func (f resizer) Resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	o, err := f.resize(ctx, u, size, op)
	return o, classify(u, err)
}

func (f resizer) resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	if err := f.b.mineVolume(u); err != nil {
		return primitives.Object{}, err
	}
	size, err := roundUp(size)
	if err != nil {
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
	if err := checkGeneration(u, op, r.Generation); err != nil {
		return primitives.Object{}, err
	}
	if size < r.Size {
		return primitives.Object{}, fail(primitives.CodeUnsupported, u, "it has %d bytes and cannot become smaller", r.Size).
			Trying("make a smaller volume and copy the data inside the guest")
	}
	if err := s.grow(ctx, u, &r, size, op); err != nil {
		return primitives.Object{}, err
	}
	return s.volumeObject(r, ready)
}

func (s *session) grow(ctx context.Context, u primitives.URI, r *record, size int64, op primitives.Op) error {
	f := r.family.clone()
	switch {
	case size == f.Size && f.Growing == nil:
		return nil
	case size == f.Size:
		f.Growing = nil
	case f.Format == primitives.FormatRaw:
		if err := s.truncate(f.layer(f.Head).file(), size); err != nil {
			return err
		}
		f.Size, f.Growing = size, nil
		f.Generation++
	default:
		// Our own readers first: their storage daemons hold the image as well.
		if use, err := s.layerUse(f.Head); err != nil || use != unused {
			if err == nil {
				err = errBeingRead(u)
			}
			return err
		}
		held, err := s.heldByQEMU(f.layer(f.Head).ref())
		if err != nil {
			return err
		}
		f.Growing = &growth{Size: size, By: request{Kind: kindResize, ID: op.ID}}
		if held {
			break
		}
		// Recorded first: after a crash in between the image itself tells.
		if err := s.save(record{f, r.file}); err != nil {
			return err
		}
		if err := s.growQcow2(ctx, f.layer(f.Head).ref(), size); err != nil {
			f.Growing = nil
			return joinSave(err, s.save(record{f, r.file}))
		}
		f.Size, f.Growing = size, nil
		f.Generation++
	}
	if err := s.save(record{f, r.file}); err != nil {
		return err
	}
	r.family = f
	return nil
}

func joinSave(err, also error) error {
	if also != nil {
		return also
	}
	return err
}

// heldByQEMU reports whether a QEMU has the image open.
func (s *session) heldByQEMU(l layerRef) (bool, error) {
	f, err := s.open(l.file(), os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return qemuHolds(f)
}

// grown takes over the size of an image that somebody was to grow, once it shows
// it. An image that cannot be read shows nothing.
func (s *session) grown(f *family) {
	l := f.layer(f.Head)
	if f.Growing == nil || l == nil {
		return
	}
	size, err := s.imageSize(l.ref())
	if err != nil {
		return
	}
	if size > f.Size {
		f.Size = size
		f.Generation++
	}
	if size >= f.Growing.Size {
		f.Growing = nil
	}
}
