// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// snapshotMutants snapshot, revert and resize wrongly.
var snapshotMutants = []Mutant{
	bends("a snapshot shows its volume", func(b *bent) {
		read := b.read
		b.read = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
			r, err := read(ctx, u, op)
			if err != nil || !u.IsSnapshot() {
				return r, err
			}
			_ = r.Close()
			return read(ctx, u.Parent(), op)
		}
	}),
	bends("a group of snapshots is taken one by one", func(b *bent) {
		snapshot := b.snapshots.snapshot
		b.snapshots.snapshot = func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
			var all primitives.SnapshotSet
			if len(vols) < 2 {
				return snapshot(ctx, vols, name, op)
			}
			for _, v := range vols {
				one := op
				one.ID = op.ID + v.Volume
				set, err := snapshot(ctx, []primitives.URI{v}, name, one)
				if err != nil {
					return all, err
				}
				all.Snapshots = append(all.Snapshots, set.Snapshots...)
				all.Switch = append(all.Switch, set.Switch...)
			}
			return all, nil
		}
	}),
	bends("a snapshot of a taken name is the old one", func(b *bent) {
		snapshot := b.snapshots.snapshot
		b.snapshots.snapshot = func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
			set, err := snapshot(ctx, vols, name, op)
			if primitives.CodeOf(err) == primitives.CodeExists && len(vols) == 1 {
				o, serr := b.in.Stat(ctx, vols[0].At(name), primitives.Op{})
				return primitives.SnapshotSet{Snapshots: []primitives.Object{o}}, serr
			}
			return set, err
		}
	}),
	bends("a switch is asked for and the snapshot called ready", func(b *bent) {
		snapshot := b.snapshots.snapshot
		b.snapshots.snapshot = func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
			set, err := snapshot(ctx, vols, name, op)
			for i := range set.Snapshots {
				set.Snapshots[i].State = primitives.Ready
			}
			return set, err
		}
	}),
	bends("a snapshot whose switch failed stays", func(b *bent) {
		settle := b.snapshots.settle
		b.snapshots.settle = func(ctx context.Context, vols []primitives.URI, name string, _ bool, op primitives.Op) ([]primitives.Object, error) {
			return settle(ctx, vols, name, true, op)
		}
	}),
	bends("a settled snapshot is taken back by a late word", func(b *bent) {
		settle := b.snapshots.settle
		b.snapshots.settle = func(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error) {
			all, err := settle(ctx, vols, name, switched, op)
			for _, v := range vols {
				if dead, derr := b.in.Delink(ctx, v.At(name), primitives.DelinkRequest{}); !switched && derr == nil {
					_ = b.in.Destroy(ctx, dead, primitives.DestroyRequest{})
				}
			}
			return all, err
		}
	}),
	bends("revert keeps the size", func(b *bent) {
		revert := b.snapshots.revert
		b.snapshots.revert = func(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
			before, _ := b.in.Stat(ctx, vol, primitives.Op{})
			o, err := revert(ctx, vol, snap, op)
			if err == nil && o.Size != before.Size {
				return b.in.Facets().Resize.Resize(ctx, vol, before.Size, primitives.Op{})
			}
			return o, err
		}
	}),
	bends("revert removes later snapshots unasked", func(b *bent) {
		revert := b.snapshots.revert
		b.snapshots.revert = func(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
			o, err := revert(ctx, vol, snap, op)
			p, _ := b.in.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindSnapshot}, Of: vol})
			for _, s := range p.Objects {
				if s.URI.Snapshot != snap && err == nil {
					dead, _ := b.in.Delink(ctx, s.URI, primitives.DelinkRequest{})
					_ = b.in.Destroy(ctx, dead, primitives.DestroyRequest{})
				}
			}
			return o, err
		}
	}),
	bends("a mapped volume is reverted under its guest", func(b *bent) {
		revert := b.snapshots.revert
		b.snapshots.revert = func(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
			o, err := revert(ctx, vol, snap, op)
			if primitives.CodeOf(err) == primitives.CodeInUse {
				return b.in.Stat(ctx, vol, op)
			}
			return o, err
		}
	}),
	bends("what a shrink cut comes back when it grows", func(b *bent) {
		resize := b.resize
		b.resize = func(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
			before, _ := b.in.Stat(ctx, u, primitives.Op{})
			o, err := resize(ctx, u, size, op)
			if err == nil && o.Size > before.Size {
				if w, werr := b.in.Write(ctx, u, primitives.WriteRequest{}); werr == nil {
					_, _ = w.WriteAt(pattern(4095, 0, 512), before.Size)
					_, _ = w.Commit(ctx)
				}
			}
			return o, err
		}
	}),
	bends("a shrink that is not done is called done", func(b *bent) {
		resize := b.resize
		b.resize = func(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
			before, _ := b.in.Stat(ctx, u, primitives.Op{})
			if size > 0 && size < before.Size {
				before.Size = size
				return before, nil
			}
			return resize(ctx, u, size, op)
		}
	}),
}

// mapMutants map wrongly.
var mapMutants = []Mutant{
	bends("a second writer is activated", func(b *bent) {
		activate := b.maps.activate
		b.maps.activate = func(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
			m, err := activate(ctx, id, op)
			if primitives.CodeOf(err) == primitives.CodeInUse {
				return mappingOf(ctx, b.in, id), nil
			}
			return m, err
		}
	}),
	bends("a second writer is refused at map already", func(b *bent) {
		doMap := b.maps.doMap
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			all, _ := b.in.Facets().Map.Mappings(ctx)
			for _, m := range all {
				if m.URI == u && m.Active && m.Access == primitives.ReadWrite && m.Consumer != r.Consumer {
					return primitives.Mapping{}, primitives.Errorf(primitives.CodeInUse, "mapped").By(primitives.Blocker{Kind: "mapping", Name: string(m.ID)})
				}
			}
			return doMap(ctx, u, r)
		}
	}),
	bends("the epoch does not rise", func(b *bent) {
		doMap, activate, snapshot := b.maps.doMap, b.maps.activate, b.snapshots.snapshot
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			m, err := doMap(ctx, u, r)
			m.Epoch = 1
			return m, err
		}
		b.maps.activate = func(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
			m, err := activate(ctx, id, op)
			m.Epoch = 1
			return m, err
		}
		b.snapshots.snapshot = func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
			set, err := snapshot(ctx, vols, name, op)
			for i := range set.Switch {
				set.Switch[i].Epoch = 1
			}
			return set, err
		}
	}),
	bends("each map is another mapping", func(b *bent) {
		doMap, calls := b.maps.doMap, new(counter)
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			m, err := doMap(ctx, u, r)
			for range calls.next() {
				m.ID += "'"
			}
			return m, err
		}
	}),
	bends("consumers share one mapping", func(b *bent) {
		doMap := b.maps.doMap
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			consumer := r.Consumer
			r.Consumer = "all"
			m, err := doMap(ctx, u, r)
			m.Consumer = consumer
			return m, err
		}
	}),
	bends("unmap of an unknown id unmaps everything", func(b *bent) {
		unmap := b.maps.unmap
		b.maps.unmap = func(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
			all, _ := b.in.Facets().Map.Mappings(ctx)
			if !slices.ContainsFunc(all, func(m primitives.Mapping) bool { return m.ID == id }) {
				for _, m := range all {
					_ = unmap(ctx, m.ID, primitives.UnmapRequest{Force: true})
				}
			}
			return unmap(ctx, id, u)
		}
	}),
	bends("unmap of an unknown id is an error", func(b *bent) {
		unmap := b.maps.unmap
		b.maps.unmap = func(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
			all, _ := b.in.Facets().Map.Mappings(ctx)
			if !slices.ContainsFunc(all, func(m primitives.Mapping) bool { return m.ID == id }) {
				return primitives.Errorf(primitives.CodeNotFound, "no such mapping")
			}
			return unmap(ctx, id, u)
		}
	}),
	bends("unmap takes the disk from a guest that holds it open", func(b *bent) {
		unmap := b.maps.unmap
		b.maps.unmap = func(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
			u.Force = true
			return unmap(ctx, id, u)
		}
	}),
	bends("mappings are those of this process", func(b *bent) {
		doMap, mappings := b.maps.doMap, b.maps.mappings
		var mu sync.Mutex
		mine := map[primitives.MappingID]bool{}
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			m, err := doMap(ctx, u, r)
			mu.Lock()
			mine[m.ID] = true
			mu.Unlock()
			return m, err
		}
		b.maps.mappings = func(ctx context.Context) ([]primitives.Mapping, error) {
			all, err := mappings(ctx)
			mu.Lock()
			defer mu.Unlock()
			return slices.DeleteFunc(all, func(m primitives.Mapping) bool { return !mine[m.ID] }), err
		}
	}),
	{Bug: "mappings of an earlier boot are taken for this one's", Bend: func(drv primitives.Driver) primitives.Driver {
		return &bentDriver{Driver: drv, open: func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
			o.Host.BootID = "always the same"
			return drv.Open(ctx, o)
		}}
	}},
	{Bug: "every host is the same host", Bend: func(drv primitives.Driver) primitives.Driver {
		return &bentDriver{Driver: drv, open: func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
			o.Host.ID = "always the same"
			return drv.Open(ctx, o)
		}}
	}},
	bends("a form that nobody accepts is given all the same", func(b *bent) {
		doMap := b.maps.doMap
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
			r.Accept = nil
			return doMap(ctx, u, r)
		}
	}),
}

func mappingOf(ctx context.Context, b primitives.Backend, id primitives.MappingID) primitives.Mapping {
	all, _ := b.Facets().Map.Mappings(ctx)
	for _, m := range all {
		if m.ID == id {
			m.Active = true
			return m
		}
	}
	return primitives.Mapping{}
}

// lifeMutants fail, crash and end wrongly.
var lifeMutants = []Mutant{
	bends("an error has no code", func(b *bent) {
		stat := b.stat
		b.stat = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
			o, err := stat(ctx, u, op)
			if err != nil {
				err = errors.New(err.Error())
			}
			return o, err
		}
	}),
	bends("what is invalid is not named", func(b *bent) {
		write := b.write
		b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			w, err := write(ctx, u, r)
			if primitives.CodeOf(err) == primitives.CodeInvalid {
				err = primitives.Errorf(primitives.CodeInvalid, "something is wrong")
			}
			return w, err
		}
	}),
	bends("a context that ended does not stop a delink", func(b *bent) {
		delink := b.delink
		b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
			return delink(context.WithoutCancel(ctx), u, d)
		}
	}),
	bends("close panics when it is repeated", func(b *bent) {
		closing, calls := b.close, new(counter)
		b.close = func() error {
			if calls.next() > 1 {
				panic("close of a closed device")
			}
			return closing()
		}
	}),
	bends("a closed device still lists", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			p, err := list(ctx, r)
			if ctx.Err() == nil && primitives.CodeOf(err) == primitives.CodeUnavailable {
				return primitives.Page{}, nil
			}
			return p, err
		}
	}),
	bends("each open leaves a goroutine behind", func(*bent) {
		go func() { select {} }()
	}),
	remembers("what was committed last is lost in a crash", func() func(*bent, primitives.OpenRequest) {
		var mu sync.Mutex
		var last primitives.URI
		return func(b *bent, _ primitives.OpenRequest) {
			mu.Lock()
			u := last
			last = primitives.URI{}
			mu.Unlock()
			ctx := context.Background()
			if dead, err := b.in.Delink(ctx, u, primitives.DelinkRequest{}); !u.IsZero() && err == nil {
				_ = b.in.Destroy(ctx, dead, primitives.DestroyRequest{})
			}
			everyWriter(b, func(_ context.Context, w primitives.Writer, u primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
				return afterCommit(w, func(_ context.Context, o primitives.Object) (primitives.Object, error) {
					mu.Lock()
					defer mu.Unlock()
					last = u
					return o, nil
				}), nil
			})
			closing := b.close
			b.close = func() error {
				mu.Lock()
				last = primitives.URI{}
				mu.Unlock()
				return closing()
			}
		}
	}),
	{Bug: "an interrupted create counts as done after a crash", Bend: func(drv primitives.Driver) primitives.Driver {
		d := &bentDriver{Driver: drv}
		d.bend = func(b *bent, o primitives.OpenRequest) {
			everyObject(b, func(o primitives.Object, _ primitives.Op) primitives.Object {
				if o.State == primitives.Incomplete {
					o.State = primitives.Ready
				}
				return o
			})
		}
		return d
	}},
	{Bug: "validate makes what it should only check", Bend: func(drv primitives.Driver) primitives.Driver {
		return &bentDriver{Driver: drv, validate: func(ctx context.Context, ch primitives.Change) []primitives.Problem {
			b, err := drv.Open(ctx, primitives.OpenRequest{Name: device, Props: ch.New, Secrets: ch.Secrets})
			if err == nil {
				if w, err := b.Write(ctx, primitives.URI{Device: device, Volume: "probe"}, primitives.WriteRequest{Create: true, Size: 4096}); err == nil {
					_, _ = w.Commit(ctx)
				}
				_ = b.Close()
			}
			return drv.Validate(ctx, ch)
		}}
	}},
}
