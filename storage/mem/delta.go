// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"bytes"
	"context"
	"iter"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

type delta struct{ b *backend }

// Extents is exact at the granule: a block is reported if and only if its bytes
// differ from the base's, or are not zero where there is no base.
func (d delta) Extents(ctx context.Context, r primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		sides, err := call(ctx, d.b, "extents", func() (compared, error) { return d.b.compare(r) })
		if err != nil {
			yield(primitives.Extent{}, err)
			return
		}
		defer sides.drop()
		end := sides.target.size
		if r.Len > 0 && r.Len < end-r.Off {
			end = r.Off + r.Len
		}
		for e := range sides.extents(d.b.cfg.granule) {
			e, inside := clip(e, r.Off, end)
			if !inside {
				continue
			}
			if err := ended(ctx); err != nil {
				yield(primitives.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func clip(e primitives.Extent, low, high int64) (primitives.Extent, bool) {
	from, to := max(e.Off, low), min(e.Off+e.Len, high)
	return primitives.Extent{Off: from, Len: to - from, Kind: e.Kind}, from < to
}

// compared holds both sides as they were when the listing began.
type compared struct {
	s            *store
	target, base *content
	grownFrom    int64 // the base's size; the target's where there is no base
}

// drop gives the chunks back.
func (c compared) drop() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.space.release(c.target)
	c.s.space.release(c.base)
}

func (b *backend) compare(r primitives.DeltaRequest) (compared, error) {
	if r.Off < 0 || r.Len < 0 {
		return compared{}, primitives.Invalid("offset", "%d bytes at %d are no range", r.Len, r.Off)
	}
	if err := b.mine(r.Target); err != nil {
		return compared{}, err
	}
	target, err := b.s.readable(r.Target)
	if err != nil {
		return compared{}, err
	}
	sides := compared{s: b.s, base: newContent(0), grownFrom: target.c.size}
	if !r.Base.IsZero() {
		from, err := b.base(r, target)
		if err != nil {
			return compared{}, err
		}
		sides.base, sides.grownFrom = from.c.fork(), from.c.size
	}
	sides.target = target.c.fork()
	return sides, nil
}

// base returns the older snapshot, or CodeNoDelta.
func (b *backend) base(r primitives.DeltaRequest, target *object) (*object, error) {
	none := func(why string) error {
		return primitives.Errorf(primitives.CodeNoDelta, "%s %s", r.Base.Short(), why).On(r.Target)
	}
	if err := b.mine(r.Base); err != nil {
		return nil, err
	}
	base, err := b.s.readable(r.Base)
	v := b.s.volumes[r.Target.Volume]
	switch {
	case err != nil:
		return nil, none("cannot be read any more")
	case r.Base.Volume != r.Target.Volume:
		return nil, none("is of another volume")
	case base == target:
		return base, nil
	case !r.Base.IsSnapshot():
		return nil, none("is no snapshot")
	case r.Target.IsSnapshot() && v.snaps[r.Target.Snapshot].order < v.snaps[r.Base.Snapshot].order:
		return nil, none("is newer than the target")
	}
	return base, nil
}

// extents yields what differs, neighbours of one kind joined.
func (c compared) extents(granule int64) iter.Seq[primitives.Extent] {
	return func(yield func(primitives.Extent) bool) {
		var last primitives.Extent
		for block := range c.grown(c.blocks(granule)) {
			if last.Len > 0 && last.Kind == block.Kind && last.Off+last.Len == block.Off {
				last.Len += block.Len
				continue
			}
			if last.Len > 0 && !yield(last) {
				return
			}
			last = block
		}
		if last.Len > 0 {
			yield(last)
		}
	}
}

// grown reports what the target has beyond the base's end, even if it is zero:
// the base has nothing there that it could equal.
func (c compared) grown(blocks iter.Seq[primitives.Extent]) iter.Seq[primitives.Extent] {
	return func(yield func(primitives.Extent) bool) {
		told := c.grownFrom
		for e := range blocks {
			if e.Off > told && !yield(primitives.Extent{Off: told, Len: e.Off - told, Kind: primitives.ExtentZero}) {
				return
			}
			if !yield(e) {
				return
			}
			told = max(told, e.Off+e.Len)
		}
		if told < c.target.size {
			yield(primitives.Extent{Off: told, Len: c.target.size - told, Kind: primitives.ExtentZero})
		}
	}
}

var zeros = make([]byte, chunkSize)

// blocks yields every granule that differs. Chunks that both sides share are
// equal without a look.
func (c compared) blocks(granule int64) iter.Seq[primitives.Extent] {
	bytesOf := func(k *chunk) []byte {
		if k == nil {
			return zeros
		}
		return k.data
	}
	return func(yield func(primitives.Extent) bool) {
		indexes := slices.Concat(c.target.indexes(), c.base.indexes())
		slices.Sort(indexes)
		for _, i := range slices.Compact(indexes) {
			kt, kb := c.target.at(i), c.base.at(i)
			if kt == kb {
				continue
			}
			for in := int64(0); in < chunkSize && i*chunkSize+in < c.target.size; in += granule {
				now, was := bytesOf(kt)[in:in+granule], bytesOf(kb)[in:in+granule]
				if bytes.Equal(now, was) {
					continue
				}
				kind := primitives.ExtentData
				if bytes.Equal(now, zeros[:granule]) {
					kind = primitives.ExtentZero
				}
				if !yield(primitives.Extent{Off: i*chunkSize + in, Len: granule, Kind: kind}) {
					return
				}
			}
		}
	}
}
