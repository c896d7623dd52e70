// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"iter"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// delta is the Delta facet. Overlays know what changed since a snapshot below
// them; reflinked files do not.
type delta struct{ b *backend }

// Extents yields what is not zero in the target, or what changed since the base.
func (d delta) Extents(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		if err := d.extents(ctx, r, yield); err != nil {
			yield(primitives.Extent{}, classify(r.Target, err))
		}
	}
}

// view is an open image and the range of it that was asked for.
type view struct {
	img      image
	hold     *hold
	off, end int64
	// changed is the walk over what changed, for a request with a base; what
	// lies from baseEnd on is new.
	changed bool
	baseEnd int64
}

func (d delta) extents(ctx context.Context, r primitives.DeltaRequest, yield func(primitives.Extent, error) bool) error {
	v, err := d.open(ctx, r)
	if err != nil || v == nil {
		return err
	}
	defer v.hold.release()
	defer v.img.kill() // nothing was written
	if v.off == v.end {
		return nil
	}
	if !v.changed {
		_, err := forward(v.img.extents(ctx, v.off, v.end-v.off), yield)
		return err
	}
	old := max(v.off, min(v.end, v.baseEnd))
	if old > v.off {
		more, err := forward(v.img.(*qcow2Image).changes(ctx, v.off, old-v.off), yield)
		if err != nil || !more {
			return err
		}
	}
	return forwardTail(ctx, v, old, yield)
}

// forward hands extents on; it reports whether more are wanted.
func forward(from iter.Seq2[primitives.Extent, error], yield func(primitives.Extent, error) bool) (bool, error) {
	for e, err := range from {
		if err != nil {
			return false, err
		}
		if !yield(e, nil) {
			return false, nil
		}
	}
	return true, nil
}

// forwardTail yields what the target has beyond its base's end, zeros too: the
// base says nothing about it.
func forwardTail(ctx context.Context, v *view, at int64, yield func(primitives.Extent, error) bool) error {
	zeros := func(to int64) bool {
		return to <= at || yield(primitives.Extent{Off: at, Len: to - at, Kind: primitives.ExtentZero}, nil)
	}
	if at == v.end {
		return nil
	}
	for e, err := range v.img.extents(ctx, at, v.end-at) {
		if err != nil {
			return err
		}
		if !zeros(e.Off) || !yield(e, nil) {
			return nil
		}
		at = e.Off + e.Len
	}
	zeros(v.end)
	return nil
}

// open finds the files to look at. A nil view is a delta without changes.
func (d delta) open(ctx context.Context, r primitives.DeltaRequest) (*view, error) {
	if err := d.b.mine(r.Target); err != nil {
		return nil, err
	}
	s, err := d.b.change(ctx)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	src, err := s.source(r.Target, r.Op)
	if err != nil {
		return nil, err
	}
	if r.Off < 0 || r.Len < 0 || r.Off > src.size {
		return nil, primitives.Invalid("offset", "%d bytes at %d are not within %d bytes", r.Len, r.Off, src.size)
	}
	v := &view{off: r.Off, end: src.size}
	if r.Len > 0 {
		v.end = min(src.size, r.Off+r.Len)
	}
	chain, size := src.layer.chain(), src.size
	if !r.Base.IsZero() {
		if chain, err = s.above(src, r, v); err != nil || chain == nil {
			return nil, err
		}
	}
	if v.hold, err = s.lockSource(r.Target, src); err != nil {
		return nil, err
	}
	s.meta.release()
	if v.img, err = s.openImage(ctx, chain, size, false); err != nil {
		v.hold.release()
		return nil, err
	}
	return v, nil
}

// above returns the part of the target's chain that lies above the base: what
// these images hold, and nothing else, may have changed since.
func (s *session) above(src source, r primitives.DeltaRequest, v *view) ([]layerRef, error) {
	noDelta := func(format string, args ...any) error { return fail(primitives.CodeNoDelta, r.Target, format, args...) }
	if r.Base.Parent() != r.Target.Parent() || !r.Base.IsSnapshot() {
		return nil, noDelta("%s is not a snapshot of the same volume", r.Base.Short())
	}
	base := src.snapshot(r.Base.Snapshot)
	if base == nil {
		return nil, noDelta("there is no %s", r.Base.Short())
	}
	if base.pending() {
		return nil, noDelta("%s is not settled", r.Base.Short())
	}
	if src.snap != nil && src.snap.Handle == base.Handle {
		return nil, nil
	}
	chain := src.layer.chain()
	at := slices.IndexFunc(chain, func(l layerRef) bool { return l.ID == base.Layer })
	if at < 0 {
		return nil, noDelta("%s is not below it", r.Base.Short())
	}
	if at == 0 { // two snapshots of one layer, between which nothing was written
		return nil, nil
	}
	v.changed, v.baseEnd = true, base.Size
	return chain[:at], nil
}
