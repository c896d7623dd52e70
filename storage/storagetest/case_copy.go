// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

var copyChecks = []check{
	{cases: []int{35}, name: "a copy that is not offered leaves no trace", run: noOffloadNoTrace},
	{cases: []int{35, 37}, name: "a copy within the store is whole and apart", needs: []need{copiesItself}, run: copyWithin},
	{cases: []int{36}, name: "an offered copy that is cancelled is absent or incomplete, and can be done again", needs: []need{copiesItself}, run: cancelledOffload},
	{cases: []int{36}, name: "a streamed copy that is given up at half can be done again", run: cancelledStream},
	// Cases: T127
	{cases: []int{37}, name: "a copy onto itself is refused and changes nothing", run: copyOntoItself},
	{cases: []int{38}, name: "what is sparse stays sparse", needs: []need{thin}, run: sparseStaysSparse},
	{cases: []int{39}, name: "a reader sees one size although its volume grows", needs: []need{resizer}, run: readerOfGrowing},
}

// copiesItself needs a store that copies to another volume of its own kind.
func copiesItself(c *C) (Reason, bool) {
	peers := c.p.desc.Caps.CopyPeers
	r := Reason{Declared, "CopyPeers has neither this driver nor this store"}
	return r, slices.Contains(peers, c.p.desc.Backend) || slices.Contains(peers, c.store.Driver.Info().Name)
}

// within is a target in the store itself.
func (c *C) within(b primitives.Backend, name string) primitives.CopyTarget {
	return primitives.CopyTarget{URI: c.u(name), Backend: c.describe(b).Backend, Driver: c.store.Driver.Info().Name, Props: c.store.Props}
}

// Case 35.
func noOffloadNoTrace(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "src", img)
	target := primitives.CopyTarget{
		URI:     primitives.URI{Device: "elsewhere", Volume: "dst"},
		Backend: "a store that nobody has", Driver: "a driver that nobody has",
	}
	_, err := b.CopyTo(c.ctx, c.u("src"), target, c.op())
	c.refused(err, "copy to a store that it cannot know", primitives.CodeNoOffload)
	everything := []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}
	c.same(c.names(b, everything...), []string{"src"}, "everything listed")
	c.repeats(c.stat(b, c.u("src")), made, "stat")
	c.holds(b, c.u("src"), img)
}

// Cases 35, 37.
func copyWithin(c *C) {
	b := c.open()
	img := c.full(c.seed()).zero(100_000, 300_000)
	c.create(b, "src", img)
	op, to := c.op(), c.within(b, "dst")
	made, err := b.CopyTo(c.ctx, c.u("src"), to, op)
	c.must(err, "copy within the store")
	again, err := b.CopyTo(c.ctx, c.u("src"), to, op)
	c.must(err, "copy, repeated")
	c.repeats(again, made, "copy")
	c.holds(b, c.u("dst"), img)
	_, err = b.CopyTo(c.ctx, c.u("src"), to, c.op())
	c.refused(err, "copy to a taken name", primitives.CodeExists)
	c.overwrite(b, c.u("dst"), img.clone(), c.seed(), 0, 4096)
	c.holds(b, c.u("src"), img)
	c.remove(b, c.u("dst"))
	c.holds(b, c.u("src"), img)
}

// Case 36.
func cancelledOffload(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	op := c.op()
	op.Report = func(p primitives.Progress) {
		if 2*p.Done >= p.Total {
			cancel()
		}
	}
	_, err := b.CopyTo(ctx, c.u("src"), c.within(b, "dst"), op)
	if !c.allowed(err, "copy, cancelled at half", primitives.CodeCancelled) && slices.Contains(c.names(b), "dst") {
		c.torn(b, c.u("dst"))
	}
	_, err = b.CopyTo(c.ctx, c.u("src"), c.within(b, "dst"), op)
	c.must(err, "copy, done again")
	c.holds(b, c.u("dst"), img)
}

// Case 36, as the caller's side streams.
func cancelledStream(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	op := c.createRequest(c.p.size)
	for _, whole := range []bool{false, true} {
		ctx, cancel := context.WithCancel(c.ctx)
		from := c.reader(b, c.u("src"))
		to, err := b.Write(ctx, c.u("dst"), op)
		c.must(err, "write with create")
		half := make([]byte, c.p.size/2)
		for off := int64(0); off < c.p.size; off += c.p.size / 2 {
			if _, err := from.ReadAt(half, off); err != nil && off == 0 {
				c.Fatalf("read at %d = %v", off, err)
			}
			c.writeAt(to, half, off)
			if !whole {
				break
			}
		}
		if whole {
			c.commit(to)
		} else {
			cancel()
			if _, err := to.Commit(ctx); err == nil {
				c.Errorf("commit under a cancelled context succeeded")
			}
			c.must(to.Abort(c.ctx), "abort of a cancelled copy")
			c.absent(b, c.u("dst"))
		}
		c.must(from.Close(), "close a reader")
		cancel()
	}
	c.holds(b, c.u("dst"), img)
	c.holds(b, c.u("src"), img)
}

// Case 37.
func copyOntoItself(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "src", img)
	_, err := b.CopyTo(c.ctx, c.u("src"), c.within(b, "src"), c.op())
	c.refused(err, "copy onto itself", primitives.CodeExists, primitives.CodeInvalid, primitives.CodeConflict, primitives.CodeNoOffload)
	c.repeats(c.stat(b, c.u("src")), made, "stat")
	c.holds(b, c.u("src"), img)
}

// Case 38. Used may count what the format itself takes, so the bound is half.
func sparseStaysSparse(c *C) {
	b := c.open()
	size := roundUp(8<<20, c.p.desc.Granule)
	img := make(image, size).write(c.seed(), 3<<20, 64<<10)
	sparse := func(o primitives.Object) {
		c.Helper()
		if o.Used > size/2 {
			c.Errorf("%v of %d bytes with 64 KiB of content uses %d", o.URI.Short(), size, o.Used)
		}
	}
	c.create(b, "src", img)
	sparse(c.stat(b, c.u("src")))
	c.clone(b, c.u("src"), c.u("clone"), primitives.CloneRequest{Full: true})
	sparse(c.stat(b, c.u("clone")))
	c.holds(b, c.u("clone"), img)
	if d := b.Facets().Delta; d != nil {
		c.streamed(b, d, c.u("src"), c.u("copy"), size)
		sparse(c.stat(b, c.u("copy")))
		c.holds(b, c.u("copy"), img)
	}
}

// streamed copies what the extents name, as a transfer does.
func (c *C) streamed(b primitives.Backend, d primitives.DeltaReader, src, dst primitives.URI, size int64) {
	c.Helper()
	r := c.reader(b, src)
	w, err := b.Write(c.ctx, dst, c.createRequest(size))
	c.must(err, "write with create")
	for x, err := range d.Extents(c.ctx, primitives.DeltaRequest{Op: c.op(), Target: src}) {
		c.must(err, "extents of %v", src.Short())
		if x.Kind == primitives.ExtentZero {
			c.zeroAt(w, x.Off, x.Len)
			continue
		}
		p := make([]byte, x.Len)
		if n, err := r.ReadAt(p, x.Off); int64(n) != x.Len {
			c.Fatalf("read of %d bytes at %d = %d, %v", x.Len, x.Off, n, err)
		}
		c.writeAt(w, p, x.Off)
	}
	c.commit(w)
	c.must(r.Close(), "close a reader")
}

// Case 39.
func readerOfGrowing(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	r := c.reader(b, c.u("vol"))
	_, err := b.Facets().Resize.Resize(c.ctx, c.u("vol"), 2*c.p.size, c.op())
	grown := c.allowed(err, "resize beside a reader", primitives.CodeInUse, primitives.CodeConflict)
	if r.Size() != c.p.size {
		c.Errorf("size of the reader = %d after its volume grew, want %d", r.Size(), c.p.size)
	}
	if d := img.differs(c.readAll(r, c.p.size)); d != "" {
		c.Errorf("a reader of a growing volume: %s", d)
	}
	c.must(r.Close(), "close the reader")
	if grown {
		img = img.resized(2 * c.p.size)
	}
	c.holds(b, c.u("vol"), img)
}
