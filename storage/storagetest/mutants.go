// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"slices"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// Mutants are drivers with one bug each, all of which were seen in the field or
// are one slip away. A suite that does not catch each of them is not worth much.
// The driver that is bent must offer snapshots, resize, delta, map and fence.
func Mutants() []Mutant {
	var all []Mutant
	for _, topic := range []struct {
		mutants []Mutant
		near    []check
	}{
		{objectMutants, slices.Concat(capChecks, propChecks, delinkChecks, listChecks)},
		{writeMutants, slices.Concat(createChecks, readChecks, listChecks)},
		{listMutants, listChecks},
		{removeMutants, delinkChecks},
		{cloneMutants, slices.Concat(cloneChecks, copyChecks)},
		{snapshotMutants, slices.Concat(snapshotChecks, liveChecks, resizeChecks, readChecks)},
		{deltaMutants, deltaChecks},
		{fenceMutants, fenceChecks},
		{mapMutants, slices.Concat(resizeChecks, mapChecks)},
		{lifeMutants, slices.Concat(errorChecks, createChecks, propChecks)},
	} {
		for _, m := range topic.mutants {
			m.near = topic.near
			all = append(all, m)
		}
	}
	return all
}

// Unbent is the mutant without a bug, which a sound driver passes the suite in.
func Unbent() Mutant { return bends("none", func(*bent) {}) }

// bends makes a mutant that changes each backend in the same way.
func bends(bug string, bend func(b *bent)) Mutant {
	return remembers(bug, func() func(*bent, primitives.OpenRequest) {
		return func(b *bent, _ primitives.OpenRequest) { bend(b) }
	})
}

// remembers makes a mutant whose backends share what the function has.
func remembers(bug string, make func() func(b *bent, o primitives.OpenRequest)) Mutant {
	return Mutant{Bug: bug, Bend: func(drv primitives.Driver) primitives.Driver {
		return &bentDriver{Driver: drv, bend: make()}
	}}
}

// everyObject changes each object that any call returns.
func everyObject(b *bent, change func(o primitives.Object, op primitives.Op) primitives.Object) {
	stat, list, write, clone, relink, resize, snaps := b.stat, b.list, b.write, b.clone, b.relink, b.resize, b.snapshots
	b.stat = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
		o, err := stat(ctx, u, op)
		return change(o, op), err
	}
	b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
		p, err := list(ctx, r)
		for i := range p.Objects {
			p.Objects[i] = change(p.Objects[i], r.Op)
		}
		return p, err
	}
	b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
		w, err := write(ctx, u, r)
		if err != nil {
			return nil, err
		}
		return afterCommit(w, func(_ context.Context, o primitives.Object) (primitives.Object, error) { return change(o, r.Op), nil }), nil
	}
	b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
		o, err := clone(ctx, src, dst, r)
		return change(o, r.Op), err
	}
	b.relink = func(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
		o, err := relink(ctx, t, as, op)
		return change(o, op), err
	}
	b.resize = func(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
		o, err := resize(ctx, u, size, op)
		return change(o, op), err
	}
	b.snapshots = &bentSnapshots{
		snapshot: func(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
			set, err := snaps.snapshot(ctx, vols, name, op)
			for i := range set.Snapshots {
				set.Snapshots[i] = change(set.Snapshots[i], op)
			}
			return set, err
		},
		settle: snaps.settle,
		revert: func(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
			o, err := snaps.revert(ctx, vol, snap, op)
			return change(o, op), err
		},
	}
}

// afterCommit returns a writer whose commit goes on with then.
func afterCommit(w primitives.Writer, then func(ctx context.Context, o primitives.Object) (primitives.Object, error)) *bentWriter {
	wr := straightWriter(w)
	wr.commit = func(ctx context.Context) (primitives.Object, error) {
		o, err := w.Commit(ctx)
		if err != nil {
			return o, err
		}
		return then(ctx, o)
	}
	return wr
}

// everyWriter changes each writer.
func everyWriter(b *bent, change func(ctx context.Context, w primitives.Writer, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error)) {
	write := b.write
	b.write = func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
		w, err := write(ctx, u, r)
		if err != nil {
			return nil, err
		}
		return change(ctx, w, u, r)
	}
}

// objectMutants tell lies about what exists.
var objectMutants = []Mutant{
	bends("the generation does not grow", func(b *bent) {
		everyObject(b, func(o primitives.Object, _ primitives.Op) primitives.Object {
			o.Generation = min(o.Generation, 1)
			return o
		})
	}),
	bends("a new volume of an old name has the old handle", func(b *bent) {
		everyObject(b, func(o primitives.Object, _ primitives.Op) primitives.Object {
			if o.Handle != "" {
				o.Handle = primitives.Handle("by-name-" + o.URI.Short())
			}
			return o
		})
	}),
	bends("secrets come back among the properties", func(b *bent) {
		everyObject(b, func(o primitives.Object, op primitives.Op) primitives.Object {
			o.Props = o.Props.Clone()
			for _, name := range op.Secrets.Names() {
				v, _ := op.Secrets.Get(name)
				o.Props[name] = string(v)
			}
			return o
		})
	}),
	bends("the caller's properties are stored, not a copy", func(b *bent) {
		var mu sync.Mutex
		kept := map[primitives.URI]primitives.Props{}
		everyObject(b, func(o primitives.Object, op primitives.Op) primitives.Object {
			mu.Lock()
			defer mu.Unlock()
			if kept[o.URI] == nil {
				kept[o.URI] = o.Props
			}
			o.Props = kept[o.URI]
			return o
		})
	}),
	bends("properties of the device are stored with its volumes", func(b *bent) {
		everyWriter(b, func(_ context.Context, w primitives.Writer, _ primitives.URI, r primitives.WriteRequest) (primitives.Writer, error) {
			return afterCommit(w, func(_ context.Context, o primitives.Object) (primitives.Object, error) {
				o.Props = r.Props.Clone()
				return o, nil
			}), nil
		})
	}),
	bends("a snapshot claims that it can be snapshotted, resized and mapped like no device", func(b *bent) {
		everyObject(b, func(o primitives.Object, _ primitives.Op) primitives.Object {
			o.Caps.Forms = append(slices.Clone(o.Caps.Forms), primitives.FormBlock)
			return o
		})
	}),
	remembers("identity of the store depends on the device's name", func() func(*bent, primitives.OpenRequest) {
		return func(b *bent, o primitives.OpenRequest) {
			describe := b.describe
			b.describe = func(ctx context.Context) (primitives.Description, error) {
				d, err := describe(ctx)
				d.Backend += o.Name
				return d, err
			}
		}
	}),
}

// listMutants page and look up wrongly.
var listMutants = []Mutant{
	bends("the last object of a page is skipped", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			p, err := list(ctx, r)
			if p.Next != "" && len(p.Objects) > 0 {
				p.Objects = p.Objects[:len(p.Objects)-1]
			}
			return p, err
		}
	}),
	bends("the last object of a page comes again on the next", func(b *bent) {
		list := b.list
		var mu sync.Mutex
		last := map[string]primitives.Object{}
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			p, err := list(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if o, ok := last[r.Cursor]; ok && err == nil {
				p.Objects = append([]primitives.Object{o}, p.Objects...)
			}
			if p.Next != "" {
				last[p.Next] = p.Objects[len(p.Objects)-1]
			}
			return p, err
		}
	}),
	bends("a cursor counts objects, and what comes or goes shifts them", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			if r.Limit == 0 || (r.Cursor != "" && len(r.Cursor) > 64) {
				return list(ctx, r)
			}
			skip, limit := len(r.Cursor), r.Limit
			for _, letter := range r.Cursor {
				if letter != '+' {
					return list(ctx, r)
				}
			}
			r.Cursor, r.Limit = "", 0
			p, err := list(ctx, r)
			p.Objects = p.Objects[min(skip, len(p.Objects)):]
			p.Next = ""
			if len(p.Objects) > limit {
				p.Objects = p.Objects[:limit]
				for range skip + limit {
					p.Next += "+"
				}
			}
			return p, err
		}
	}),
	bends("an unknown cursor starts from the beginning", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			p, err := list(ctx, r)
			if primitives.CodeOf(err) == primitives.CodeInvalid {
				r.Cursor = ""
				return list(ctx, r)
			}
			return p, err
		}
	}),
	bends("the prefix is ignored where nothing matches", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			p, err := list(ctx, r)
			if err == nil && len(p.Objects) == 0 {
				r.Prefix = ""
				return list(ctx, r)
			}
			return p, err
		}
	}),
	bends("the snapshots of one volume are those of all whose names begin alike", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			if !r.Of.IsZero() {
				r.Prefix, r.Of = r.Of.Volume, primitives.URI{}
			}
			return list(ctx, r)
		}
	}),
	bends("tombstones are listed among the volumes", func(b *bent) {
		list := b.list
		b.list = func(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
			if len(r.Kinds) == 0 {
				r.Kinds = []primitives.Kind{primitives.KindVolume, primitives.KindTombstone}
			}
			return list(ctx, r)
		}
	}),
	bends("stat looks through all volumes", func(b *bent) {
		stat, list := b.stat, b.list
		b.stat = func(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
			for cursor := ""; ; {
				p, err := list(ctx, primitives.ListRequest{Op: op, Cursor: cursor})
				if err != nil || p.Next == "" {
					return stat(ctx, u, op)
				}
				cursor = p.Next
			}
		}
	}),
}
