// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"iter"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// Mutant is a driver with exactly one bug, made of a driver without it.
type Mutant struct {
	Bug  string // what is wrong
	Bend func(drv primitives.Driver) primitives.Driver

	near []check // what should catch it, tried first
}

// Bent returns a harness whose driver has m's bug.
func (h Harness) Bent(m Mutant) Harness {
	bend := func(s Store) Store {
		s.Driver = m.Bend(s.Driver)
		return s
	}
	bent := h
	bent.first = m.near
	bent.New = func(t testing.TB) Store { return bend(h.New(t)) }
	if h.NewSmall != nil {
		bent.NewSmall = func(t testing.TB, capacity int64) Store { return bend(h.NewSmall(t, capacity)) }
	}
	return bent
}

// bentDriver opens backends that bend changes.
type bentDriver struct {
	primitives.Driver
	bend func(b *bent, o primitives.OpenRequest)
	open func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error)

	validate func(ctx context.Context, ch primitives.Change) []primitives.Problem
}

// Validate validates, or does what takes its place.
func (d *bentDriver) Validate(ctx context.Context, ch primitives.Change) []primitives.Problem {
	if d.validate != nil {
		return d.validate(ctx, ch)
	}
	return d.Driver.Validate(ctx, ch)
}

// Open opens the store, then bends what opened.
func (d *bentDriver) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	open := d.Driver.Open
	if d.open != nil {
		open = d.open
	}
	b, err := open(ctx, o)
	if err != nil || d.bend == nil {
		return b, err
	}
	w := straight(b)
	d.bend(w, o)
	return w, nil
}

// bent is a backend each of whose calls can be replaced alone.
type bent struct {
	in primitives.Backend

	stat     func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error)
	list     func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error)
	read     func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error)
	write    func(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error)
	clone    func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error)
	copyTo   func(ctx context.Context, src primitives.URI, dst primitives.CopyTarget, op primitives.Op) (primitives.Object, error)
	delink   func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error)
	relink   func(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error)
	destroy  func(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error
	describe func(ctx context.Context) (primitives.Description, error)
	close    func() error

	snapshots *bentSnapshots
	resize    func(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error)
	extents   func(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error]
	maps      *bentMapper
	fencer    *bentFencer
}

// straight returns b with nothing bent yet.
func straight(b primitives.Backend) *bent {
	w := &bent{
		in: b, stat: b.Stat, list: b.List, read: b.Read, write: b.Write, clone: b.Clone, copyTo: b.CopyTo,
		delink: b.Delink, relink: b.Relink, destroy: b.Destroy, describe: b.Describe, close: b.Close,
	}
	f := b.Facets()
	if f.Snapshots != nil {
		w.snapshots = &bentSnapshots{f.Snapshots.Snapshot, f.Snapshots.Settle, f.Snapshots.Revert}
	}
	if f.Resize != nil {
		w.resize = f.Resize.Resize
	}
	if f.Delta != nil {
		w.extents = f.Delta.Extents
	}
	if f.Map != nil {
		w.maps = &bentMapper{f.Map.Map, f.Map.Activate, f.Map.Deactivate, f.Map.Unmap, f.Map.Mappings}
	}
	if f.Fence != nil {
		w.fencer = &bentFencer{f.Fence.Holders, f.Fence.Fence, f.Fence.Unfence}
	}
	return w
}

var _ primitives.Backend = (*bent)(nil)

func (b *bent) Describe(ctx context.Context) (primitives.Description, error) { return b.describe(ctx) }

func (b *bent) Facets() primitives.Facets {
	f := b.in.Facets()
	if f.Snapshots != nil {
		f.Snapshots = b.snapshots
	}
	if f.Resize != nil {
		f.Resize = bentResizer{b}
	}
	if f.Delta != nil {
		f.Delta = bentDelta{b}
	}
	if f.Map != nil {
		f.Map = b.maps
	}
	if f.Fence != nil {
		f.Fence = b.fencer
	}
	return f
}

func (b *bent) Stat(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
	return b.stat(ctx, u, op)
}

func (b *bent) List(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
	return b.list(ctx, r)
}

func (b *bent) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	return b.read(ctx, u, op)
}

func (b *bent) Write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	return b.write(ctx, u, w)
}

func (b *bent) Clone(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
	return b.clone(ctx, src, dst, r)
}

func (b *bent) CopyTo(ctx context.Context, src primitives.URI, dst primitives.CopyTarget, op primitives.Op) (primitives.Object, error) {
	return b.copyTo(ctx, src, dst, op)
}

func (b *bent) Delink(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	return b.delink(ctx, u, d)
}

func (b *bent) Relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	return b.relink(ctx, t, as, op)
}

func (b *bent) Destroy(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
	return b.destroy(ctx, t, d)
}

func (b *bent) Close() error { return b.close() }

// bentSnapshots is a Snapshotter each of whose calls can be replaced alone.
type bentSnapshots struct {
	snapshot func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error)
	settle   func(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error)
	revert   func(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error)
}

func (s *bentSnapshots) Snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	return s.snapshot(ctx, vols, name, op)
}

func (s *bentSnapshots) Settle(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error) {
	return s.settle(ctx, vols, name, switched, op)
}

func (s *bentSnapshots) Revert(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
	return s.revert(ctx, vol, snap, op)
}

type bentResizer struct{ b *bent }

func (r bentResizer) Resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	return r.b.resize(ctx, u, size, op)
}

type bentDelta struct{ b *bent }

func (d bentDelta) Extents(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	return d.b.extents(ctx, r)
}

// bentMapper is a Mapper each of whose calls can be replaced alone.
type bentMapper struct {
	doMap      func(ctx context.Context, u primitives.URI, m primitives.MapRequest) (primitives.Mapping, error)
	activate   func(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error)
	deactivate func(ctx context.Context, id primitives.MappingID, op primitives.Op) error
	unmap      func(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error
	mappings   func(ctx context.Context) ([]primitives.Mapping, error)
}

func (m *bentMapper) Map(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
	return m.doMap(ctx, u, r)
}

func (m *bentMapper) Activate(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
	return m.activate(ctx, id, op)
}

func (m *bentMapper) Deactivate(ctx context.Context, id primitives.MappingID, op primitives.Op) error {
	return m.deactivate(ctx, id, op)
}

func (m *bentMapper) Unmap(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
	return m.unmap(ctx, id, u)
}

func (m *bentMapper) Mappings(ctx context.Context) ([]primitives.Mapping, error) {
	return m.mappings(ctx)
}

// bentWriter is a Writer each of whose calls can be replaced alone.
type bentWriter struct {
	writeAt func(p []byte, off int64) (int, error)
	zeroAt  func(off, n int64) error
	commit  func(ctx context.Context) (primitives.Object, error)
	abort   func(ctx context.Context) error
}

func straightWriter(w primitives.Writer) *bentWriter {
	return &bentWriter{w.WriteAt, w.ZeroAt, w.Commit, w.Abort}
}

func (w *bentWriter) WriteAt(p []byte, off int64) (int, error) { return w.writeAt(p, off) }

func (w *bentWriter) ZeroAt(off, n int64) error { return w.zeroAt(off, n) }

func (w *bentWriter) Commit(ctx context.Context) (primitives.Object, error) { return w.commit(ctx) }

func (w *bentWriter) Abort(ctx context.Context) error { return w.abort(ctx) }
