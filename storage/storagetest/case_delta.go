// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

var deltaChecks = []check{
	{cases: []int{65}, name: "no change has no extents", needs: []need{deltas, snapshots}, run: noChangeNoExtents},
	{cases: []int{66}, name: "one byte at the edge of a block is reported", needs: []need{deltas, snapshots}, run: singleBytesAreReported},
	{cases: []int{67}, name: "rewritten content makes no difference", needs: []need{deltas, snapshots}, run: rewrittenIsEqual},
	{cases: []int{68}, name: "what was zeroed since the base is reported as zero", needs: []need{deltas, snapshots}, run: zeroedIsReported},
	{cases: []int{69}, name: "written after the base and zeroed again reads as zero", needs: []need{deltas, snapshots}, run: writtenAndZeroed},
	{cases: []int{70}, name: "growth since the base is reported as a tail", needs: []need{deltas, snapshots, resizer}, run: growthIsReported},
	{cases: []int{71}, name: "a target is its own base without extents", needs: []need{deltas, snapshots}, run: targetIsBase},
	{cases: []int{72}, name: "a base that cannot serve is no delta", needs: []need{deltas, snapshots}, run: wrongBaseIsNoDelta},
	{cases: []int{73}, name: "extents of every part make up the whole", needs: []need{deltas}, run: partsMakeTheWhole},
	{cases: []int{74}, name: "a broken stream is not mistaken for its end", needs: []need{deltas}, run: brokenStream},
	{cases: []int{76}, name: "all that is not zero is reported without a base", needs: []need{deltas}, run: allocatedIsReported},
}

// extents returns what a delta yields, after checking its form.
func (c *C) extents(b primitives.Backend, r primitives.DeltaRequest) []primitives.Extent {
	c.Helper()
	r.Op = c.op()
	var all []primitives.Extent
	end := r.Off
	for x, err := range b.Facets().Delta.Extents(c.ctx, r) {
		c.must(err, "extents of %v since %v", r.Target.Short(), r.Base.Short())
		if x.Off < end || x.Len <= 0 || (r.Len > 0 && x.Off+x.Len > r.Off+r.Len) {
			c.Errorf("extent of %d bytes at %d follows one that ends at %d, asked for %d bytes from %d", x.Len, x.Off, end, r.Len, r.Off)
		}
		if x.Kind != primitives.ExtentData && x.Kind != primitives.ExtentZero {
			c.Errorf("extent of kind %d", x.Kind)
		}
		end = x.Off + x.Len
		all = append(all, x)
	}
	return all
}

// apply makes of base what the extents say the target is.
func (c *C) apply(base image, extents []primitives.Extent, target image) image {
	c.Helper()
	got := base.resized(target.size())
	for _, x := range extents {
		if x.Off+x.Len > target.size() {
			c.Errorf("extent of %d bytes at %d of a target of %d", x.Len, x.Off, target.size())
			continue
		}
		if x.Kind == primitives.ExtentZero {
			clear(got[x.Off : x.Off+x.Len])
		} else {
			copy(got[x.Off:x.Off+x.Len], target[x.Off:])
		}
	}
	return got
}

// adds checks that base and extents make the target.
func (c *C) adds(b primitives.Backend, target, base primitives.URI, want, from image) []primitives.Extent {
	c.Helper()
	all := c.extents(b, primitives.DeltaRequest{Target: target, Base: base})
	if d := want.differs(c.apply(from, all, want)); d != "" {
		c.Errorf("%v and its changes up to %v: %s", base.Short(), target.Short(), d)
	}
	return all
}

// twoPoints makes a volume, snapshots it as s1, lets do change it, and snapshots
// it as s2. It returns both images.
func (c *C) twoPoints(b primitives.Backend, name string, do func(w primitives.Writer, img image)) (s1, s2 image) {
	c.Helper()
	img := c.full(c.seed()).zero(c.p.size/2, c.p.size/4)
	c.create(b, name, img)
	c.snapshot(b, "s1", c.u(name))
	s1 = img.clone()
	if do != nil {
		c.edit(b, c.u(name), func(w primitives.Writer) { do(w, img) })
	}
	c.snapshot(b, "s2", c.u(name))
	return s1, img
}

// offered leaves the check out where the store says NoDelta for the plainest of
// all questions, two snapshots of one volume.
func (c *C) offered(b primitives.Backend, u primitives.URI) {
	c.Helper()
	for _, err := range b.Facets().Delta.Extents(c.ctx, primitives.DeltaRequest{Op: c.op(), Target: u.At("s2"), Base: u.At("s1")}) {
		if primitives.CodeOf(err) == primitives.CodeNoDelta {
			c.refused(err, "extents", primitives.CodeNoDelta)
			c.skip(Reason{Answered, "NoDelta between two snapshots of one volume"})
		}
		return
	}
}

// Case 65.
func noChangeNoExtents(c *C) {
	b := c.open()
	c.twoPoints(b, "vol", nil)
	u := c.u("vol")
	c.offered(b, u)
	if all := c.extents(b, primitives.DeltaRequest{Target: u.At("s2"), Base: u.At("s1")}); len(all) != 0 {
		c.Errorf("extents without a change = %v, want none", all)
	}
}

// Case 66.
func singleBytesAreReported(c *C) {
	b := c.open()
	u := c.u("vol")
	offsets := []int64{0, 4095, 4096, 65535, 131072, 300_001, c.p.size/2 + 1, c.p.size - 1}
	s1, s2 := c.twoPoints(b, "vol", func(w primitives.Writer, img image) {
		for _, off := range offsets {
			img[off] ^= 0xff
			c.writeAt(w, img[off:off+1], off)
		}
	})
	c.offered(b, u)
	all := c.adds(b, u.At("s2"), u.At("s1"), s2, s1)
	for _, off := range offsets {
		if !covers(all, off, 1) {
			c.Errorf("the changed byte %d is in no extent of %v", off, all)
		}
	}
	c.adds(b, u, u.At("s1"), s2, s1)
}

// covers reports whether the extents hold the whole range.
func covers(all []primitives.Extent, off, n int64) bool {
	for _, x := range all {
		if x.Off <= off && off < x.Off+x.Len {
			done := x.Off + x.Len - off
			if done >= n {
				return true
			}
			off, n = off+done, n-done
		}
	}
	return n <= 0
}

// Case 67. The extents may name it; content is what counts.
func rewrittenIsEqual(c *C) {
	b := c.open()
	u := c.u("vol")
	s1, s2 := c.twoPoints(b, "vol", func(w primitives.Writer, img image) {
		c.writeAt(w, img[:131072], 0)
		c.zeroAt(w, c.p.size/2, c.p.size/4)
	})
	c.offered(b, u)
	c.adds(b, u.At("s2"), u.At("s1"), s2, s1)
}

// Case 68. A whole range of 64 KiB clusters, so that every backend can tell.
func zeroedIsReported(c *C) {
	b := c.open()
	u := c.u("vol")
	const off, n = 65536, 4 * 65536
	s1, s2 := c.twoPoints(b, "vol", func(w primitives.Writer, img image) {
		c.zeroAt(w, off, n)
		img.zero(off, n)
	})
	c.offered(b, u)
	all := c.adds(b, u.At("s2"), u.At("s1"), s2, s1)
	if !covers(all, off, n) {
		c.Errorf("the range zeroed since the base is not in %v", all)
	}
	for _, x := range all {
		if x.Off < off+n && x.Off+x.Len > off && x.Kind != primitives.ExtentZero && x.Off >= off && x.Off+x.Len <= off+n {
			c.Errorf("extent of %d bytes at %d, zeroed since the base, is of kind %d, want zero", x.Len, x.Off, x.Kind)
		}
	}
}

// Case 69.
func writtenAndZeroed(c *C) {
	b := c.open()
	u := c.u("vol")
	off := c.p.size / 2 // a hole in the base
	s1, s2 := c.twoPoints(b, "vol", func(w primitives.Writer, img image) {
		c.writeAt(w, pattern(c.seed(), off, 131072), off)
		c.zeroAt(w, off, 131072)
		c.writeAt(w, pattern(c.seed(), 0, 131072), 0)
		c.zeroAt(w, 0, 131072)
		img.zero(0, 131072)
	})
	c.offered(b, u)
	c.holds(b, u, s2)
	c.adds(b, u.At("s2"), u.At("s1"), s2, s1)
}

// Case 70. The receiver's tail may hold anything, so it must be named.
func growthIsReported(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.snapshot(b, "s1", u)
	s1 := img.clone()
	c.resize(b, u, 2*c.p.size)
	img = img.resized(2 * c.p.size)
	c.overwrite(b, u, img, c.seed(), c.p.size+100_000, 4096)
	c.snapshot(b, "s2", u)
	c.offered(b, u)
	dirty := s1.resized(2*c.p.size).write(c.seed(), c.p.size, c.p.size)
	all := c.adds(b, u.At("s2"), u.At("s1"), img, dirty)
	if !covers(all, c.p.size, c.p.size) {
		c.Errorf("the tail of %d bytes is not in %v", c.p.size, all)
	}
	if !c.p.caps.Shrink {
		return
	}
	s2 := img.clone()
	c.resize(b, u, c.p.size)
	img = img.resized(c.p.size)
	c.snapshot(b, "s3", u)
	c.adds(b, u.At("s3"), u.At("s2"), img, s2.resized(c.p.size))
	c.resize(b, u, 2*c.p.size)
	c.snapshot(b, "s4", u)
	c.adds(b, u.At("s4"), u.At("s2"), img.resized(2*c.p.size), s2)
}

// Case 71.
func targetIsBase(c *C) {
	b := c.open()
	c.twoPoints(b, "vol", nil)
	u := c.u("vol")
	c.offered(b, u)
	if all := c.extents(b, primitives.DeltaRequest{Target: u.At("s1"), Base: u.At("s1")}); len(all) != 0 {
		c.Errorf("extents of a snapshot since itself = %v, want none", all)
	}
}

// Case 72. The code comes first, so nobody applies half a delta.
func wrongBaseIsNoDelta(c *C) {
	b := c.open()
	u := c.u("vol")
	c.twoPoints(b, "vol", func(w primitives.Writer, img image) { c.writeAt(w, img.write(c.seed(), 0, 4096)[:4096], 0) })
	c.twoPoints(b, "other", nil)
	gone := c.u("vol").At("s0")
	refused := func(what string, target, base primitives.URI, codes ...primitives.Code) {
		c.Helper()
		items := 0
		for x, err := range b.Facets().Delta.Extents(c.ctx, primitives.DeltaRequest{Op: c.op(), Target: target, Base: base}) {
			if items++; items > 1 {
				c.Errorf("extents since %s go on after an error: %v", what, x)
				break
			}
			c.refused(err, "extents since "+what, codes...)
		}
		if items == 0 {
			c.Errorf("extents since %s = none, want %v", what, codes)
		}
	}
	refused("a newer snapshot", u.At("s1"), u.At("s2"), primitives.CodeNoDelta)
	refused("another volume's snapshot", u.At("s2"), c.u("other").At("s1"), primitives.CodeNoDelta)
	refused("a snapshot that never was", u.At("s2"), gone, primitives.CodeNoDelta, primitives.CodeNotFound)
	refused("a live volume", u.At("s2"), u, primitives.CodeNoDelta, primitives.CodeInvalid)
	refused("an absent target's snapshot", c.u("nobody"), u.At("s1"), primitives.CodeNotFound)
	if !c.p.desc.Caps.DeltaAcrossDelink {
		if _, err := b.Delink(c.ctx, u.At("s1"), primitives.DelinkRequest{Op: c.op()}); err == nil {
			refused("a delinked snapshot", u.At("s2"), u.At("s1"), primitives.CodeNoDelta, primitives.CodeNotFound)
		}
	}
}

// Case 73.
func partsMakeTheWhole(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.blank().write(c.seed(), 0, 70_000).write(c.seed(), 300_000, 100).write(c.seed(), c.p.size-65536, 65536)
	c.create(b, "vol", img)
	for _, step := range []int64{c.p.size / 2, 200_000, 65536 + 512} {
		got := c.blank()
		for off := int64(0); off < c.p.size; off += step {
			part := c.extents(b, primitives.DeltaRequest{Target: u, Off: off, Len: min(step, c.p.size-off)})
			got = c.apply(got, part, img)
		}
		if d := img.differs(got); d != "" {
			c.Errorf("extents in parts of %d: %s", step, d)
		}
	}
	for _, off := range []int64{1, 69_999, 300_050, c.p.size - 1} {
		rest := c.extents(b, primitives.DeltaRequest{Target: u, Off: off})
		got := c.apply(img.clone().zero(off, c.p.size-off), rest, img)
		if d := img.differs(got); d != "" {
			c.Errorf("extents from %d on: %s", off, d)
		}
	}
	for _, x := range []span{{-1, 0}, {0, -1}, {c.p.size + 1, 1}} {
		for _, err := range b.Facets().Delta.Extents(c.ctx, primitives.DeltaRequest{Op: c.op(), Target: u, Off: x.off, Len: x.n}) {
			c.refused(err, fmt.Sprintf("extents of %d bytes from %d of %d", x.n, x.off, c.p.size), primitives.CodeInvalid)
		}
	}
}

// Case 74. A consumer that stops early is fine; a context that ends is an error item.
func brokenStream(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.blank()
	for off := int64(0); off+65536 <= c.p.size; off += 131072 {
		img.write(c.seed(), off, 65536)
	}
	c.create(b, "vol", img)
	request := func() primitives.DeltaRequest { return primitives.DeltaRequest{Op: c.op(), Target: u} }
	for _, err := range b.Facets().Delta.Extents(c.ctx, request()) {
		c.must(err, "the first extent")
		break
	}
	ctx, cancel := context.WithCancel(c.ctx)
	var got []primitives.Extent
	var failed error
	for x, err := range b.Facets().Delta.Extents(ctx, request()) {
		if failed = err; err != nil {
			break
		}
		got = append(got, x)
		cancel()
	}
	cancel()
	if c.allowed(failed, "extents under a context that ends", primitives.CodeCancelled) {
		if d := img.differs(c.apply(c.blank(), got, img)); d != "" {
			c.Errorf("extents ended without an error and are not all: %s", d)
		}
	}
	dead, cancel := context.WithCancel(c.ctx)
	cancel()
	items := 0
	for _, err := range b.Facets().Delta.Extents(dead, request()) {
		items++
		c.refused(err, "extents under a cancelled context", primitives.CodeCancelled)
	}
	if items != 1 {
		c.Errorf("extents under a cancelled context = %d items, want one error", items)
	}
}

// Case 76.
func allocatedIsReported(c *C) {
	b := c.open()
	size := roundUp(8<<20, c.p.desc.Granule)
	img := make(image, size).write(c.seed(), 1<<20, 100_000).write(c.seed(), size-1, 1).write(c.seed(), 5<<20, 4096)
	c.create(b, "vol", img)
	c.create(b, "empty", c.blank())
	all := c.extents(b, primitives.DeltaRequest{Target: c.u("vol")})
	if d := img.differs(c.apply(make(image, size), all, img)); d != "" {
		c.Errorf("what the extents name: %s", d)
	}
	if c.p.desc.Caps.ThinProvisioned {
		var data int64
		for _, x := range all {
			if x.Kind == primitives.ExtentData {
				data += x.Len
			}
		}
		if data > size/2 {
			c.Errorf("%d of %d bytes are reported as data, want about 200 KiB", data, size)
		}
	}
	for _, x := range c.extents(b, primitives.DeltaRequest{Target: c.u("empty")}) {
		if c.p.desc.Caps.ThinProvisioned && x.Kind == primitives.ExtentData {
			c.Errorf("an empty volume has data of %d bytes at %d", x.Len, x.Off)
		}
	}
	if c.p.caps.Snapshot {
		c.snapshot(b, "snap", c.u("vol"))
		all = c.extents(b, primitives.DeltaRequest{Target: c.u("vol").At("snap")})
		if d := img.differs(c.apply(make(image, size), all, img)); d != "" {
			c.Errorf("what the extents of a snapshot name: %s", d)
		}
	}
}
