// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

// Case 20.
func writesKeepInside(c *C) {
	b := c.open()
	size := c.p.size
	img := c.blank()
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(size))
	c.must(err, "write with create")
	put := func(seed int, off, n int64) {
		c.Helper()
		c.writeAt(w, img.write(seed, off, n)[off:off+n], off)
	}
	put(c.seed(), size-512, 512)        // to the exact end
	put(c.seed(), 65536-3, 7)           // over the edge of a cluster, unaligned
	put(c.seed(), 4095, 2)              // over the edge of a page
	put(c.seed(), 100_000, 50_000)      // a large unaligned one
	put(c.seed(), 120_001, 10_000)      // inside the one before
	put(c.seed(), 90_000, 20_000)       // over its beginning
	img.zero(130_003, 7_001)            // zeros over a part of it
	c.zeroAt(w, 130_003, 7_001)         //
	img.zero(0, 4095)                   // where nothing was written
	c.zeroAt(w, 0, 4095)                //
	c.writeAt(w, nil, size)             // nothing, at the end
	c.writeAt(w, img[:0], 17)           // nothing, anywhere
	c.zeroAt(w, size, 0)                //
	beyond := pattern(c.seed(), 0, 512) // must leave no trace
	for _, off := range []int64{size, size - 1, size - 511, size + 4096, 1 << 60, -1, -512} {
		n, err := w.WriteAt(beyond, off)
		c.refused(err, fmt.Sprintf("write of 512 bytes at %d of %d", off, size), primitives.CodeInvalid)
		if n != 0 {
			c.Errorf("refused write at %d = %d bytes, want 0", off, n)
		}
	}
	for _, s := range []span{{size, 1}, {size - 1, 2}, {-1, 1}, {0, size + 1}, {0, -1}, {1 << 62, 1 << 62}} {
		c.refused(w.ZeroAt(s.off, s.n), fmt.Sprintf("zero of %d bytes at %d of %d", s.n, s.off, size), primitives.CodeInvalid)
	}
	if o := c.commit(w); o.Size != size {
		c.Errorf("size after writes = %d, want %d", o.Size, size)
	}
	c.holds(b, c.u("vol"), img)
}

// Case 20. The generation shows that something changed.
func overwriteIsExact(c *C) {
	b := c.open()
	img := c.full(c.seed())
	first := c.create(b, "vol", img)
	c.create(b, "neighbour", img)
	neighbour := img.clone()
	before := c.stat(b, c.u("vol"))
	o := c.edit(b, c.u("vol"), func(w primitives.Writer) {
		c.writeAt(w, img.write(c.seed(), 8192, 4096)[8192:8192+4096], 8192)
		c.writeAt(w, img.write(c.seed(), c.p.size-777, 777)[c.p.size-777:], c.p.size-777)
		c.zeroAt(w, 65536, 65536)
		img.zero(65536, 65536)
	})
	if o.Handle != first.Handle || o.Size != first.Size {
		c.Errorf("overwrite = handle %v, %d bytes; want %v, %d", o.Handle, o.Size, first.Handle, first.Size)
	}
	if after := c.stat(b, c.u("vol")).Generation; after <= before.Generation {
		c.Errorf("generation %d after an overwrite, %d before; want it to grow", after, before.Generation)
	}
	c.holds(b, c.u("vol"), img)
	c.holds(b, c.u("neighbour"), neighbour)
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
	_, err := b.Write(c.ctx, c.u("nobody"), primitives.WriteRequest{Op: c.op()})
	c.refused(err, "write to an absent volume", primitives.CodeNotFound)
}

// Case 21.
func sequentialWriter(c *C) {
	b := c.open()
	img := c.blank()
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.writeAt(w, img.write(c.seed(), 0, 8192)[:8192], 0)
	_, err = w.WriteAt(pattern(c.seed(), 0, 4096), 0)
	c.refused(err, "write backwards", primitives.CodeInvalid)
	c.writeAt(w, img.write(c.seed(), 8192, 4096)[8192:8192+4096], 8192)
	c.commit(w)
	c.holds(b, c.u("vol"), img)
}

// Case 22.
func fullDevice(c *C) {
	const capacity = 8 << 20
	c.use(c.h.NewSmall(c.TB, capacity))
	b := c.open()
	kept := c.full(c.seed())
	c.create(b, "kept", kept)
	free := c.describe(b).Free

	const step = 256 << 10
	size := roundUp(4*capacity, c.p.desc.Granule)
	seed := c.seed()
	w, err := b.Write(c.ctx, c.u("big"), c.createRequest(size))
	if err == nil {
		for off := int64(0); err == nil && off+step <= size; off += step {
			_, err = w.WriteAt(pattern(seed, off, step), off)
		}
		if err == nil {
			_, err = w.Commit(c.ctx)
		}
		c.must(w.Abort(c.ctx), "abort on a full device")
	}
	c.refused(err, fmt.Sprintf("write of %d bytes to a device of %d", size, capacity), primitives.CodeNoSpace)

	c.same(c.names(b), []string{"kept"}, "the listing of a device that was full")
	c.absent(b, c.u("big"))
	c.holds(b, c.u("kept"), kept)
	if free >= 0 {
		// A file system gives space back a little later, and keeps a little.
		c.waits("the space of an aborted write being free again", func() bool { return c.describe(b).Free >= free-free/8 })
	}
	img := c.full(c.seed())
	c.create(b, "fits", img)
	c.holds(b, c.u("fits"), img)
}

// Case 23. Whether the mapping is active does not matter.
func mappedIsNotWritten(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	for _, access := range []primitives.Access{primitives.ReadOnly, primitives.ReadWrite} {
		m := c.mapped(b, c.u("vol"), access, "guest")
		refused := func() {
			c.Helper()
			_, err := b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: c.op()})
			e := c.refusal(err, fmt.Sprintf("write to a volume mapped %v", access), primitives.CodeInUse)
			if len(e.Blocked) == 0 {
				c.Errorf("write to a mapped volume names no blocker: %v", e)
			}
		}
		refused()
		c.activate(b, m)
		refused()
		c.unmap(b, m)
		c.overwrite(b, c.u("vol"), img, c.seed(), 0, 4096)
	}
	c.holds(b, c.u("vol"), img)
}

// Case 24.
func committedSurvives(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	b = c.crashAndReopen()
	c.repeats(c.stat(b, c.u("vol")), made, "stat after a crash")
	c.holds(b, c.u("vol"), img)
	c.overwrite(b, c.u("vol"), img, c.seed(), 1000, 100_000)
	gen := c.stat(b, c.u("vol")).Generation
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
	if got := c.stat(b, c.u("vol")).Generation; got != gen {
		c.Errorf("generation after a crash = %d, want %d", got, gen)
	}
}

// Case 24, of Op.IfGen: compare and set.
func generationsAreCompared(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	gen := c.stat(b, c.u("vol")).Generation
	if gen == 0 {
		c.Fatalf("generation = 0, which would mean any")
	}
	stale := c.op()
	stale.IfGen = gen + 1
	_, err := b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: stale})
	c.refused(err, "write for another generation", primitives.CodeConflict)
	stale.ID = c.op().ID
	_, err = b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: stale})
	c.refused(err, "delink of another generation", primitives.CodeConflict)
	if r := b.Facets().Resize; r != nil {
		stale.ID = c.op().ID
		_, err = r.Resize(c.ctx, c.u("vol"), 2*c.p.size, stale)
		c.refused(err, "resize of another generation", primitives.CodeConflict)
	}
	c.holds(b, c.u("vol"), img)
	fresh := c.op()
	fresh.IfGen = gen
	_, err = b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: fresh})
	c.must(err, "delink of the present generation")
}
