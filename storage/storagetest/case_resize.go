// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

var resizeChecks = []check{
	{cases: []int{59}, name: "a resize to the present size is success", needs: []need{resizer}, run: resizeToSame},
	{cases: []int{60}, name: "a shrink cuts what it says", needs: []need{resizer, shrinks}, run: shrinkCuts},
	{cases: []int{60, 92}, name: "without Shrink nothing is cut", needs: []need{resizer, noShrinks}, run: noShrink},
	{cases: []int{61}, name: "a mapped volume grows and its mapping shows it", needs: []need{resizer, mapper, grows}, run: growsOnline},
	{cases: []int{61, 92}, name: "without ResizeOnline a mapped volume keeps its size", needs: []need{resizer, mapper, noGrows}, run: noResizeOnline},
	{cases: []int{62}, name: "a resize that is cut short leaves one size or the other", needs: []need{resizer}, run: resizeIsWhole},
	{cases: []int{63}, name: "a resize is rounded up to the granule and checked", needs: []need{resizer}, run: resizeIsRounded},
	{cases: []int{64}, name: "a new tail is zero", needs: []need{resizer}, run: newTailIsZero},
}

var (
	noShrinks = declared("Shrink is true", func(p profile) bool { return !p.caps.Shrink })
	noGrows   = declared("ResizeOnline is true", func(p profile) bool { return !p.caps.ResizeOnline })
)

// Case 59.
func resizeToSame(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	c.repeats(c.resize(b, c.u("vol"), c.p.size), made, "resize to the present size")
	c.holds(b, c.u("vol"), img)
	_, err := b.Facets().Resize.Resize(c.ctx, c.u("nobody"), c.p.size, c.op())
	c.refused(err, "resize of an absent volume", primitives.CodeNotFound)
}

// Case 60, and 64: what was cut does not come back.
func shrinkCuts(c *C) {
	b := c.open()
	u := c.u("vol")
	big := 2 * c.p.size
	img := make(image, big).write(c.seed(), 0, big)
	c.create(b, "vol", img)
	if o := c.resize(b, u, c.p.size); o.Size != c.p.size {
		c.Errorf("size after a shrink = %d, want %d", o.Size, c.p.size)
	}
	img = img.resized(c.p.size)
	c.holds(b, u, img)
	c.resize(b, u, big)
	c.holds(b, u, img.resized(big))
}

// Cases 60, 92.
func noShrink(c *C) {
	b := c.open()
	img := make(image, 2*c.p.size).write(c.seed(), 0, 2*c.p.size)
	c.create(b, "vol", img)
	_, err := b.Facets().Resize.Resize(c.ctx, c.u("vol"), c.p.size, c.op())
	c.refused(err, "shrink without Shrink", primitives.CodeUnsupported)
	c.holds(b, c.u("vol"), img)
}

// Case 61. The guest's own rescan is the hypervisor's suite's.
func growsOnline(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, u, primitives.ReadWrite, "guest")
	if m.Size != c.p.size {
		c.Errorf("size of the mapping = %d, want %d", m.Size, c.p.size)
	}
	if o := c.resize(b, u, 2*c.p.size); o.Size != 2*c.p.size {
		c.Errorf("size after resize = %d, want %d", o.Size, 2*c.p.size)
	}
	img = img.resized(2 * c.p.size)
	again := c.mapped(b, u, primitives.ReadWrite, "guest")
	if again.ID != m.ID || again.Size != img.size() || again.Epoch <= m.Epoch {
		c.Errorf("map after resize = id %s, %d bytes, epoch %d; want %s, %d, more than %d", again.ID, again.Size, again.Epoch, m.ID, img.size(), m.Epoch)
	}
	if !again.Active {
		c.Errorf("a repeated map made the mapping inactive")
	}
	c.unmap(b, m)
	c.holds(b, u, img)
}

// Cases 61, 92.
func noResizeOnline(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	_, err := b.Facets().Resize.Resize(c.ctx, c.u("vol"), 2*c.p.size, c.op())
	c.refused(err, "resize of a mapped volume without ResizeOnline", primitives.CodeInUse)
	c.unmap(b, m)
	c.holds(b, c.u("vol"), img)
	c.resize(b, c.u("vol"), 2*c.p.size)
}

// Case 62, as far as a context and a crash can cut a call short.
func resizeIsWhole(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.full(c.seed())
	c.create(b, "vol", img)
	ctx, cancel := context.WithCancel(c.ctx)
	op := c.op()
	c.together(
		func() {
			_, err := b.Facets().Resize.Resize(ctx, u, 2*c.p.size, op)
			c.allowed(err, "resize, cancelled", primitives.CodeCancelled)
		},
		cancel,
	)
	b = c.crashAndReopen()
	switch size := c.stat(b, u).Size; size {
	case c.p.size:
		c.holds(b, u, img)
	case 2 * c.p.size:
		c.holds(b, u, img.resized(size))
	default:
		c.Errorf("size after a resize that was cut short = %d, want %d or %d", size, c.p.size, 2*c.p.size)
	}
	_, err := b.Facets().Resize.Resize(c.ctx, u, 2*c.p.size, op)
	c.must(err, "resize, repeated after a crash")
	c.holds(b, u, img.resized(2*c.p.size))
}

// Case 63.
func resizeIsRounded(c *C) {
	b := c.open()
	u := c.u("vol")
	img := c.full(c.seed())
	c.create(b, "vol", img)
	want := roundUp(c.p.size+1, c.p.desc.Granule)
	if o := c.resize(b, u, c.p.size+1); o.Size != want {
		c.Errorf("resize to %d with granule %d = %d bytes, want %d", c.p.size+1, c.p.desc.Granule, o.Size, want)
	}
	c.holds(b, u, img.resized(want))
	wrong := []int64{0, -1}
	if c.p.desc.MaxVolume > 0 {
		wrong = append(wrong, c.p.desc.MaxVolume+1)
	}
	for _, size := range wrong {
		_, err := b.Facets().Resize.Resize(c.ctx, u, size, c.op())
		c.refused(err, fmt.Sprintf("resize to %d", size), primitives.CodeInvalid, primitives.CodeNoSpace)
	}
	c.holds(b, u, img.resized(want))
}

// Case 64.
func newTailIsZero(c *C) {
	b := c.open()
	u := c.u("vol")
	c.create(b, "dirt", c.full(c.seed()))
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.remove(b, c.u("dirt"))
	gen := c.stat(b, u).Generation
	if o := c.resize(b, u, 2*c.p.size); o.Generation <= gen {
		c.Errorf("generation %d after a resize, %d before; want it to grow", o.Generation, gen)
	}
	img = img.resized(2 * c.p.size)
	c.holds(b, u, img)
	c.overwrite(b, u, img, c.seed(), img.size()-4096, 4096)
	c.holds(b, u, img)
}
