// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

var cloneChecks = []check{
	{cases: []int{29}, name: "a clone and its source do not share writes", run: cloneIsApart},
	{cases: []int{29}, name: "a snapshot can be cloned", needs: []need{snapshots}, run: snapshotsCanBeCloned},
	{cases: []int{29}, name: "clones of clones keep their content", run: clonesOfClones},
	{cases: []int{29}, name: "a clone to a taken name is refused and changes nothing", run: cloneToTakenName},
	{cases: []int{30}, name: "the tail of a larger clone is zero", run: largerClone},
	{cases: []int{31}, name: "a smaller clone is invalid", run: smallerClone},
	{cases: []int{32}, name: "a full clone survives its source", run: fullCloneSurvives},
	{cases: []int{33}, name: "the source of a dependent clone cannot be destroyed", run: dependentClone},
	{cases: []int{34}, name: "a clone and a delink of its source at once leave both whole", run: cloneMeetsDelink},
}

// Case 29.
func cloneIsApart(c *C) {
	b := c.open()
	src := c.full(c.seed())
	made := c.create(b, "src", src)
	o := c.clone(b, c.u("src"), c.u("dst"), primitives.CloneRequest{})
	if o.Handle == made.Handle || o.Size != made.Size {
		c.Errorf("clone = handle %v, %d bytes; want another handle than %v, %d bytes", o.Handle, o.Size, made.Handle, made.Size)
	}
	dst := src.clone()
	c.holds(b, c.u("dst"), dst)
	c.overwrite(b, c.u("dst"), dst, c.seed(), 4096, 100_000)
	c.holds(b, c.u("src"), src)
	c.overwrite(b, c.u("src"), src, c.seed(), 200_000, 100_000)
	c.holds(b, c.u("dst"), dst)
	b = c.crashAndReopen()
	c.holds(b, c.u("src"), src)
	c.holds(b, c.u("dst"), dst)
}

// Case 29.
func snapshotsCanBeCloned(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	c.snapshot(b, "snap", c.u("src"))
	then := img.clone()
	c.overwrite(b, c.u("src"), img, c.seed(), 0, 300_000)
	c.clone(b, c.u("src").At("snap"), c.u("dst"), primitives.CloneRequest{})
	c.holds(b, c.u("dst"), then)
	dst := then.clone()
	c.overwrite(b, c.u("dst"), dst, c.seed(), 100_000, 300_000)
	c.holds(b, c.u("src").At("snap"), then)
	c.holds(b, c.u("src"), img)
	c.holds(b, c.u("dst"), dst)
}

// Case 29. A limit of depth is an answer, a broken clone is not.
func clonesOfClones(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "gen0", img)
	depth := 8
	if c.v.Slow {
		depth = 4
	}
	past := []image{img.clone()}
	for i := 1; i <= depth; i++ {
		src, dst := c.u(fmt.Sprintf("gen%d", i-1)), c.u(fmt.Sprintf("gen%d", i))
		_, err := b.Clone(c.ctx, src, dst, primitives.CloneRequest{Op: c.op()})
		if !c.allowed(err, fmt.Sprintf("clone of depth %d", i), primitives.CodeNoSpace, primitives.CodeUnsupported) {
			break
		}
		c.overwrite(b, dst, img, c.seed(), int64(i)*50_000, 60_000)
		past = append(past, img.clone())
	}
	for i, want := range past {
		c.holds(b, c.u(fmt.Sprintf("gen%d", i)), want)
	}
}

// Case 29, and 37: onto itself.
func cloneToTakenName(c *C) {
	b := c.open()
	src, taken := c.full(c.seed()), c.full(c.seed())
	c.create(b, "src", src)
	c.create(b, "taken", taken)
	_, err := b.Clone(c.ctx, c.u("src"), c.u("taken"), primitives.CloneRequest{Op: c.op()})
	c.refused(err, "clone to a taken name", primitives.CodeExists)
	_, err = b.Clone(c.ctx, c.u("src"), c.u("src"), primitives.CloneRequest{Op: c.op()})
	c.refused(err, "clone onto itself", primitives.CodeExists, primitives.CodeInvalid)
	_, err = b.Clone(c.ctx, c.u("nobody"), c.u("dst"), primitives.CloneRequest{Op: c.op()})
	c.refused(err, "clone of an absent volume", primitives.CodeNotFound)
	c.absent(b, c.u("dst"))
	c.holds(b, c.u("src"), src)
	c.holds(b, c.u("taken"), taken)
	r := primitives.CloneRequest{Op: c.op()}
	first, err := b.Clone(c.ctx, c.u("src"), c.u("dst"), r)
	c.must(err, "clone")
	b = c.crashAndReopen()
	again, err := b.Clone(c.ctx, c.u("src"), c.u("dst"), r)
	c.must(err, "clone, repeated after a crash")
	c.repeats(again, first, "clone")
}

// Case 30. Old bytes lie where the tail may be put.
func largerClone(c *C) {
	b := c.open()
	c.create(b, "dirt", c.full(c.seed()))
	src := c.full(c.seed())
	c.create(b, "src", src)
	c.remove(b, c.u("dirt"))
	size := 2 * c.p.size
	for name, full := range map[string]bool{"dst": false, "full": true} {
		o := c.clone(b, c.u("src"), c.u(name), primitives.CloneRequest{Size: size, Full: full})
		if o.Size != size {
			c.Errorf("clone of size %d = %d bytes", size, o.Size)
		}
		c.holds(b, c.u(name), src.resized(size))
	}
	c.holds(b, c.u("src"), src)
}

// Case 31.
func smallerClone(c *C) {
	b := c.open()
	src := make(image, 2*c.p.size).write(c.seed(), 0, 2*c.p.size)
	c.create(b, "src", src)
	for _, size := range []int64{c.p.size, 1, -1} {
		_, err := b.Clone(c.ctx, c.u("src"), c.u("dst"), primitives.CloneRequest{Op: c.op(), Size: size})
		c.refused(err, fmt.Sprintf("clone of %d bytes of a source of %d", size, src.size()), primitives.CodeInvalid)
	}
	c.absent(b, c.u("dst"))
	c.holds(b, c.u("src"), src)
}

// Case 32.
func fullCloneSurvives(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	c.clone(b, c.u("src"), c.u("dst"), primitives.CloneRequest{Full: true})
	if n := c.stat(b, c.u("src")).Dependents; n != 0 {
		c.Errorf("a full clone makes its source have %d dependents, want 0", n)
	}
	c.remove(b, c.u("src"))
	c.holds(b, c.u("dst"), img)
	c.create(b, "dirt", c.full(c.seed()))
	c.holds(b, c.u("dst"), img)
}

// Case 33. Where the store keeps clones apart, its source goes and the clone stays.
func dependentClone(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	c.clone(b, c.u("src"), c.u("dst"), primitives.CloneRequest{})
	needed := c.stat(b, c.u("src")).Dependents > 0

	dead, err := b.Delink(c.ctx, c.u("src"), primitives.DelinkRequest{Op: c.op()})
	delinked := err == nil
	if delinked {
		err = b.Destroy(c.ctx, dead, primitives.DestroyRequest{Op: c.op()})
	}
	if needed {
		c.blocked(c.refusal(err, "destroy of the source of a dependent clone", primitives.CodeDependents), "dst")
	} else {
		c.must(err, "destroy of a source without dependents")
	}
	c.holds(b, c.u("dst"), img)
	if !needed {
		return
	}
	if delinked {
		c.relink(b, dead, primitives.URI{})
	}
	c.holds(b, c.u("src"), img)
	c.remove(b, c.u("dst"))
	c.remove(b, c.u("src"))
	c.same(c.names(b), []string{}, "the listing")
}

// Case 34.
func cloneMeetsDelink(c *C) {
	b := c.open()
	rounds := 8
	if c.v.Slow {
		rounds = 2
	}
	img := c.full(c.seed())
	for i := range rounds {
		src, dst := c.u(fmt.Sprintf("src%d", i)), c.u(fmt.Sprintf("dst%d", i))
		c.create(b, src.Volume, img)
		from := src
		if c.p.caps.Snapshot {
			c.snapshot(b, "snap", src)
			from = src.At("snap")
		}
		clone, delink := primitives.CloneRequest{Op: c.op()}, primitives.DelinkRequest{Op: c.op()}
		var cloneErr, delinkErr error
		var dead primitives.Tombstone
		c.together(
			func() { _, cloneErr = b.Clone(c.ctx, from, dst, clone) },
			func() { dead, delinkErr = b.Delink(c.ctx, from, delink) },
		)
		if c.allowed(cloneErr, "clone beside a delink", primitives.CodeNotFound, primitives.CodeConflict, primitives.CodeInUse) {
			c.holds(b, dst, img)
		} else {
			c.absent(b, dst)
		}
		if c.allowed(delinkErr, "delink beside a clone", primitives.CodeConflict, primitives.CodeInUse, primitives.CodeDependents) {
			c.absent(b, from)
			c.relink(b, dead, primitives.URI{})
		}
		c.holds(b, from, img)
	}
}
