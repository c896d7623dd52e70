// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// copyOver replaces the content of dst, as a bug would.
func copyOver(ctx context.Context, b primitives.Backend, src, dst primitives.URI) {
	r, err := b.Read(ctx, src, primitives.Op{})
	if err != nil {
		return
	}
	defer r.Close()
	w, err := b.Write(ctx, dst, primitives.WriteRequest{})
	if err != nil {
		return
	}
	p := make([]byte, r.Size())
	if _, err := r.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return
	}
	_, _ = w.WriteAt(p, 0)
	_, _ = w.Commit(ctx)
}

// removeMutants delink, relink and destroy wrongly.
var removeMutants = []Mutant{
	bends("delink destroys", func(b *bent) {
		delink := b.delink
		b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
			t, err := delink(ctx, u, d)
			if err == nil {
				_ = b.in.Destroy(ctx, t, primitives.DestroyRequest{})
			}
			return t, err
		}
	}),
	bends("a repeated delink is another one", func(b *bent) {
		delink := b.delink
		b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
			d.ID = ""
			return delink(ctx, u, d)
		}
	}),
	bends("a mapped volume is delinked", func(b *bent) {
		delink := b.delink
		b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
			all, _ := b.in.Facets().Map.Mappings(ctx)
			for _, m := range all {
				if m.URI == u {
					_ = b.in.Facets().Map.Unmap(ctx, m.ID, primitives.UnmapRequest{Force: true})
				}
			}
			return delink(ctx, u, d)
		}
	}),
	bends("who is in the way is not said", func(b *bent) {
		delink := b.delink
		b.delink = func(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
			t, err := delink(ctx, u, d)
			if e, ok := errors.AsType[*primitives.Error](err); ok {
				plain := *e
				plain.Blocked = nil
				return t, &plain
			}
			return t, err
		}
	}),
	bends("destroy of an unknown tombstone is an error", func(b *bent) {
		destroy := b.destroy
		b.destroy = func(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
			p, err := b.in.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
			for _, o := range p.Objects {
				if o.Tombstone.ID == t.ID {
					return destroy(ctx, t, d)
				}
			}
			if err == nil {
				err = primitives.Errorf(primitives.CodeNotFound, "no such tombstone")
			}
			return err
		}
	}),
	bends("destroy takes what has the tombstone's name", func(b *bent) {
		destroy := b.destroy
		b.destroy = func(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
			if err := destroy(ctx, t, d); err != nil {
				return err
			}
			if live, err := b.in.Delink(ctx, t.Was, primitives.DelinkRequest{}); err == nil {
				_ = b.in.Destroy(ctx, live, primitives.DestroyRequest{})
			}
			return nil
		}
	}),
	bends("relink takes the place of what has the name", func(b *bent) {
		relink := b.relink
		b.relink = func(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
			o, err := relink(ctx, t, as, op)
			if primitives.CodeOf(err) == primitives.CodeExists {
				if live, derr := b.in.Delink(ctx, t.Was, primitives.DelinkRequest{}); derr == nil {
					_ = b.in.Destroy(ctx, live, primitives.DestroyRequest{})
					return relink(ctx, t, as, op)
				}
			}
			return o, err
		}
	}),
	bends("relink loses the snapshots", func(b *bent) {
		relink := b.relink
		b.relink = func(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
			o, err := relink(ctx, t, as, op)
			p, _ := b.in.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindSnapshot}, Of: o.URI})
			for _, s := range p.Objects {
				dead, _ := b.in.Delink(ctx, s.URI, primitives.DelinkRequest{})
				_ = b.in.Destroy(ctx, dead, primitives.DestroyRequest{})
			}
			return o, err
		}
	}),
	remembers("an expired tombstone is cleaned up by the driver", func() func(*bent, primitives.OpenRequest) {
		return func(b *bent, _ primitives.OpenRequest) {
			ctx := context.Background()
			p, _ := b.in.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
			for _, o := range p.Objects {
				if !o.Tombstone.Expires.IsZero() {
					_ = b.in.Destroy(ctx, *o.Tombstone, primitives.DestroyRequest{})
				}
			}
		}
	}),
}

// cloneMutants clone and copy wrongly.
var cloneMutants = []Mutant{
	remembers("a clone shares its writes with its source", func() func(*bent, primitives.OpenRequest) {
		var mu sync.Mutex
		sources := map[primitives.URI]primitives.URI{}
		return func(b *bent, _ primitives.OpenRequest) {
			clone := b.clone
			b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
				o, err := clone(ctx, src, dst, r)
				if err == nil && src.IsVolume() {
					mu.Lock()
					sources[dst] = src
					mu.Unlock()
				}
				return o, err
			}
			everyWriter(b, func(_ context.Context, w primitives.Writer, u primitives.URI, _ primitives.WriteRequest) (primitives.Writer, error) {
				return afterCommit(w, func(ctx context.Context, o primitives.Object) (primitives.Object, error) {
					mu.Lock()
					src, ok := sources[u]
					mu.Unlock()
					if ok {
						copyOver(ctx, b.in, u, src)
					}
					return o, nil
				}), nil
			})
		}
	}),
	bends("the tail of a larger clone is dirty", func(b *bent) {
		clone := b.clone
		b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
			o, err := clone(ctx, src, dst, r)
			if err == nil && r.Size > 0 {
				if w, werr := b.in.Write(ctx, dst, primitives.WriteRequest{}); werr == nil {
					_, _ = w.WriteAt(pattern(4095, 0, 512), o.Size-512)
					_, _ = w.Commit(ctx)
				}
			}
			return o, err
		}
	}),
	bends("a smaller clone is cut off", func(b *bent) {
		clone := b.clone
		b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
			o, err := clone(ctx, src, dst, r)
			if primitives.CodeOf(err) == primitives.CodeInvalid && r.Size > 0 {
				r.Size = 0
				return clone(ctx, src, dst, r)
			}
			return o, err
		}
	}),
	bends("a full clone needs its source", func(b *bent) {
		clone := b.clone
		b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
			r.Full = false
			return clone(ctx, src, dst, r)
		}
	}),
	bends("a clone replaces what has the name", func(b *bent) {
		clone := b.clone
		b.clone = func(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
			o, err := clone(ctx, src, dst, r)
			if primitives.CodeOf(err) == primitives.CodeExists && src != dst {
				copyOver(ctx, b.in, src, dst)
				return b.in.Stat(ctx, dst, primitives.Op{})
			}
			return o, err
		}
	}),
	bends("a copy that is not offered leaves a volume behind", func(b *bent) {
		copyTo := b.copyTo
		b.copyTo = func(ctx context.Context, src primitives.URI, dst primitives.CopyTarget, op primitives.Op) (primitives.Object, error) {
			o, err := copyTo(ctx, src, dst, op)
			if primitives.CodeOf(err) == primitives.CodeNoOffload {
				u := src
				u.Volume += "-copying"
				_, _ = b.in.Clone(ctx, src, u, primitives.CloneRequest{})
			}
			return o, err
		}
	}),
}

// deltaMutants tell wrongly what changed.
var deltaMutants = []Mutant{
	bends("the last extent since a base is left out", func(b *bent) {
		extents := b.extents
		b.extents = func(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
			if r.Base.IsZero() {
				return extents(ctx, r)
			}
			return func(yield func(primitives.Extent, error) bool) {
				var kept *primitives.Extent
				for x, err := range extents(ctx, r) {
					if err != nil {
						yield(x, err)
						return
					}
					if kept != nil && !yield(*kept, nil) {
						return
					}
					kept = &x
				}
			}
		}
	}),
	bends("what was zeroed since the base is not reported", func(b *bent) {
		b.extents = filtered(b.extents, func(x primitives.Extent) (primitives.Extent, bool) { return x, x.Kind != primitives.ExtentZero })
	}),
	bends("extents are reported one block too short", func(b *bent) {
		b.extents = filtered(b.extents, func(x primitives.Extent) (primitives.Extent, bool) {
			x.Len -= min(x.Len-1, 512)
			return x, true
		})
	}),
	bends("a base that cannot serve gives an empty delta", func(b *bent) {
		extents := b.extents
		b.extents = func(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
			return func(yield func(primitives.Extent, error) bool) {
				for x, err := range extents(ctx, r) {
					if primitives.CodeOf(err) == primitives.CodeNoDelta || !yield(x, err) {
						return
					}
				}
			}
		}
	}),
	bends("a stream that breaks just ends", func(b *bent) {
		extents := b.extents
		b.extents = func(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
			return func(yield func(primitives.Extent, error) bool) {
				for x, err := range extents(ctx, r) {
					if ctx.Err() != nil || !yield(x, err) || ctx.Err() != nil {
						return
					}
				}
			}
		}
	}),
}

// filtered changes or drops extents.
func filtered(extents func(context.Context, primitives.DeltaRequest) iter.Seq2[primitives.Extent, error], change func(primitives.Extent) (primitives.Extent, bool)) func(context.Context, primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	return func(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
		return func(yield func(primitives.Extent, error) bool) {
			for x, err := range extents(ctx, r) {
				keep := true
				if err == nil {
					x, keep = change(x)
				}
				if keep && !yield(x, err) {
					return
				}
			}
		}
	}
}
