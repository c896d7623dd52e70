// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
)

var errDead = errors.New("the agent is dead")

// reaper kills an agent after a number of events. An event is a commit to the
// journal, or the beginning or the end of a call that changes a device or a
// domain. What comes after the agent's death does not happen any more.
type reaper struct {
	mu     sync.Mutex // guards what follows
	armed  bool
	left   int
	dead   bool
	last   string
	died   chan struct{}
	onKill func()

	unfenceable atomic.Bool // devices have no fence
}

func newReaper(onKill func()) *reaper { return &reaper{died: make(chan struct{}), onKill: onKill} }

// arm lets n events pass.
func (r *reaper) arm(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.left = true, n
}

// event counts one event; errDead once the agent is dead.
func (r *reaper) event(what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return errDead
	}
	if !r.armed {
		return nil
	}
	if r.left--; r.left < 0 {
		r.kill(what)
		return errDead
	}
	return nil
}

// kill kills the agent now. The caller holds the lock.
func (r *reaper) kill(what string) {
	r.dead, r.last = true, what
	r.onKill()
	close(r.died)
}

// finish kills an agent that nothing else killed, and reports whether that was so.
func (r *reaper) finish() (alive bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return false
	}
	r.kill("the end")
	return true
}

func (r *reaper) alive() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return errDead
	}
	return nil
}

func (r *reaper) intercept(call string, at fake.Point) error {
	if at == fake.Before {
		return r.event("before " + call)
	}
	return r.event("after " + call)
}

// change runs a call that changes something.
func change[T any](r *reaper, what string, f func() (T, error)) (T, error) {
	var zero T
	if err := r.event("before " + what); err != nil {
		return zero, err
	}
	v, err := f()
	if err := r.event("after " + what); err != nil {
		return zero, err
	}
	return v, err
}

func do(r *reaper, what string, f func() error) error {
	_, err := change(r, what, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// ask runs a call that changes nothing.
func ask[T any](r *reaper, f func() (T, error)) (T, error) {
	if err := r.alive(); err != nil {
		var zero T
		return zero, err
	}
	return f()
}

// mortal is a driver whose calls a reaper counts.
type mortal struct {
	primitives.Driver
	r *reaper
}

func (m mortal) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	b, err := change(m.r, "open", func() (primitives.Backend, error) { return m.Driver.Open(ctx, o) })
	if err != nil {
		return nil, err
	}
	return backend{b, m.r}, nil
}

type backend struct {
	primitives.Backend
	r *reaper
}

func (b backend) Describe(ctx context.Context) (primitives.Description, error) {
	return ask(b.r, func() (primitives.Description, error) { return b.Backend.Describe(ctx) })
}

func (b backend) Stat(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
	return ask(b.r, func() (primitives.Object, error) { return b.Backend.Stat(ctx, u, op) })
}

func (b backend) List(ctx context.Context, l primitives.ListRequest) (primitives.Page, error) {
	return ask(b.r, func() (primitives.Page, error) { return b.Backend.List(ctx, l) })
}

func (b backend) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	return ask(b.r, func() (primitives.Reader, error) { return b.Backend.Read(ctx, u, op) })
}

func (b backend) Write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	inner, err := change(b.r, "write", func() (primitives.Writer, error) { return b.Backend.Write(ctx, u, w) })
	if err != nil {
		return nil, err
	}
	return writer{inner, b.r}, nil
}

func (b backend) Clone(ctx context.Context, src, dst primitives.URI, c primitives.CloneRequest) (primitives.Object, error) {
	return change(b.r, "clone", func() (primitives.Object, error) { return b.Backend.Clone(ctx, src, dst, c) })
}

func (b backend) Delink(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	return change(b.r, "delink", func() (primitives.Tombstone, error) { return b.Backend.Delink(ctx, u, d) })
}

func (b backend) Relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	return change(b.r, "relink", func() (primitives.Object, error) { return b.Backend.Relink(ctx, t, as, op) })
}

func (b backend) Destroy(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
	return do(b.r, "destroy", func() error { return b.Backend.Destroy(ctx, t, d) })
}

func (b backend) Facets() primitives.Facets {
	f := b.Backend.Facets()
	if f.Snapshots != nil {
		f.Snapshots = snapshotter{f.Snapshots, b.r}
	}
	if f.Resize != nil {
		f.Resize = resizer{f.Resize, b.r}
	}
	if f.Map != nil {
		f.Map = mapper{f.Map, b.r}
	}
	if f.Import != nil {
		f.Import = importer{f.Import, b.r}
	}
	if f.Fence != nil {
		f.Fence = fencer{f.Fence, b.r}
	}
	if b.r.unfenceable.Load() {
		f.Fence = nil
	}
	return f
}

type writer struct {
	primitives.Writer
	r *reaper
}

func (w writer) WriteAt(p []byte, off int64) (int, error) {
	return change(w.r, "write-at", func() (int, error) { return w.Writer.WriteAt(p, off) })
}

func (w writer) Commit(ctx context.Context) (primitives.Object, error) {
	return change(w.r, "commit", func() (primitives.Object, error) { return w.Writer.Commit(ctx) })
}

func (w writer) Abort(ctx context.Context) error {
	return do(w.r, "abort", func() error { return w.Writer.Abort(ctx) })
}

type snapshotter struct {
	primitives.Snapshotter
	r *reaper
}

func (s snapshotter) Snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	return change(s.r, "snapshot", func() (primitives.SnapshotSet, error) { return s.Snapshotter.Snapshot(ctx, vols, name, op) })
}

func (s snapshotter) Settle(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error) {
	return change(s.r, "settle", func() ([]primitives.Object, error) { return s.Snapshotter.Settle(ctx, vols, name, switched, op) })
}

func (s snapshotter) Revert(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
	return change(s.r, "revert", func() (primitives.Object, error) { return s.Snapshotter.Revert(ctx, vol, snap, op) })
}

type resizer struct {
	primitives.Resizer
	r *reaper
}

func (s resizer) Resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	return change(s.r, "resize", func() (primitives.Object, error) { return s.Resizer.Resize(ctx, u, size, op) })
}

type fencer struct {
	primitives.Fencer
	r *reaper
}

func (f fencer) Holders(ctx context.Context) ([]primitives.Holder, error) {
	return ask(f.r, func() ([]primitives.Holder, error) { return f.Fencer.Holders(ctx) })
}

func (f fencer) Fence(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
	return change(f.r, "fence", func() (primitives.FenceReport, error) { return f.Fencer.Fence(ctx, op) })
}

func (f fencer) Unfence(ctx context.Context, op primitives.Op) error {
	return do(f.r, "unfence", func() error { return f.Fencer.Unfence(ctx, op) })
}

type importer struct {
	primitives.Importer
	r *reaper
}

func (i importer) Import(ctx context.Context, u primitives.URI, q primitives.ImportRequest) (primitives.Object, error) {
	return change(i.r, "import", func() (primitives.Object, error) { return i.Importer.Import(ctx, u, q) })
}

type mapper struct {
	primitives.Mapper
	r *reaper
}

func (m mapper) Map(ctx context.Context, u primitives.URI, q primitives.MapRequest) (primitives.Mapping, error) {
	return change(m.r, "map", func() (primitives.Mapping, error) { return m.Mapper.Map(ctx, u, q) })
}

func (m mapper) Activate(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
	return change(m.r, "activate", func() (primitives.Mapping, error) { return m.Mapper.Activate(ctx, id, op) })
}

func (m mapper) Deactivate(ctx context.Context, id primitives.MappingID, op primitives.Op) error {
	return do(m.r, "deactivate", func() error { return m.Mapper.Deactivate(ctx, id, op) })
}

func (m mapper) Unmap(ctx context.Context, id primitives.MappingID, q primitives.UnmapRequest) error {
	return do(m.r, "unmap", func() error { return m.Mapper.Unmap(ctx, id, q) })
}

func (m mapper) Mappings(ctx context.Context) ([]primitives.Mapping, error) {
	return ask(m.r, func() ([]primitives.Mapping, error) { return m.Mapper.Mappings(ctx) })
}
