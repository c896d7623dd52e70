// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

var snapshotChecks = []check{
	{cases: []int{51}, name: "a snapshot repeated by its id is the same, another's name is taken", needs: []need{snapshots}, run: snapshotReplays},
	{cases: []int{51}, name: "one snapshot name serves every volume", needs: []need{snapshots}, run: snapshotNamesArePerVolume},
	{cases: []int{53}, name: "a group of snapshots is all or nothing", needs: []need{snapshots, group}, run: groupIsAllOrNothing},
	{cases: []int{53, 92}, name: "without SnapshotGroup one call takes one volume", needs: []need{snapshots, noGroup}, run: noGroupIsRefused},
	{cases: []int{54}, name: "revert brings the content back", needs: []need{snapshots, reverts}, run: revertRestores},
	{cases: []int{54}, name: "revert keeps later snapshots or names them as blockers", needs: []need{snapshots, reverts}, run: revertAndLater},
	{cases: []int{54}, name: "a mapped volume is not reverted", needs: []need{snapshots, reverts, mapper}, run: mappedIsNotReverted},
	{cases: []int{54, 92}, name: "without Revert a revert is unsupported", needs: []need{snapshots, noReverts}, run: noRevertIsRefused},
	{cases: []int{55}, name: "a snapshot keeps its size, and revert restores it", needs: []need{snapshots, resizer}, run: snapshotKeepsSize},
	{cases: []int{57}, name: "many snapshots work, or their limit is an answer", needs: []need{snapshots}, run: manySnapshots},
	{cases: []int{58}, name: "a snapshot taken out of the middle harms no neighbour", needs: []need{snapshots}, run: middleSnapshotGoes},
	{cases: []int{58}, name: "a delinked snapshot can be relinked", needs: []need{snapshots}, run: snapshotRelinks},
	{cases: []int{58}, name: "a snapshot comes back only with its volume", needs: []need{snapshots}, run: snapshotNeedsItsVolume},
	{cases: []int{91, 92}, name: "volumes without snapshots refuse one", needs: []need{noSnapshots}, run: noSnapshotIsRefused},
}

var (
	noGroup   = declared("SnapshotGroup is true", func(p profile) bool { return !p.caps.SnapshotGroup })
	noReverts = declared("Revert is offered", func(p profile) bool { return p.caps.Revert == primitives.RevertNone })
)

// Case 51.
func snapshotReplays(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	made := c.create(b, "vol", img)
	op := c.op()
	set, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u}, "snap", op)
	c.must(err, "snapshot")
	then := img.clone()
	if p := set.Snapshots[0].Parent; p != "" && p != made.Handle {
		c.Errorf("parent of a snapshot = %v, want its volume %v", p, made.Handle)
	}
	if set.Snapshots[0].Handle == made.Handle {
		c.Errorf("a snapshot has its volume's handle %v", made.Handle)
	}
	c.overwrite(b, u, img, c.seed(), 0, 8192)
	b = c.crashAndReopen()
	again, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u}, "snap", op)
	c.must(err, "snapshot, repeated after a crash")
	c.same(identities(again.Snapshots), identities(set.Snapshots), "a repeated snapshot")
	_, err = b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u}, "snap", c.op())
	c.refused(err, "snapshot of a taken name", primitives.CodeExists)
	_, err = b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{c.u("nobody")}, "snap", c.op())
	c.refused(err, "snapshot of an absent volume", primitives.CodeNotFound)
	c.holds(b, u.At("snap"), then)
	c.holds(b, u, img)
}

// Case 51.
func snapshotNamesArePerVolume(c *C) {
	b := c.open()
	one, two := c.full(c.seed()), c.full(c.seed())
	c.create(b, "one", one)
	c.create(b, "two", two)
	c.snapshot(b, "snap", c.u("one"))
	c.snapshot(b, "snap", c.u("two"))
	c.holds(b, c.u("one").At("snap"), one)
	c.holds(b, c.u("two").At("snap"), two)
	c.same(c.names(b, primitives.KindSnapshot), []string{"one@snap", "two@snap"}, "the snapshots")
	for _, name := range []string{"..", "a/b", "a@b", ""} {
		_, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{c.u("one")}, name, c.op())
		c.refused(err, fmt.Sprintf("snapshot called %q", name), primitives.CodeInvalid)
	}
}

// Case 53. One point in time under guests is among the live checks.
func groupIsAllOrNothing(c *C) {
	b := c.open()
	one, two := c.full(c.seed()), c.full(c.seed())
	c.create(b, "one", one)
	c.create(b, "two", two)
	c.snapshot(b, "both", c.u("one"), c.u("two"))
	c.holds(b, c.u("one").At("both"), one)
	c.holds(b, c.u("two").At("both"), two)
	sn := b.Facets().Snapshots
	_, err := sn.Snapshot(c.ctx, []primitives.URI{c.u("one"), c.u("nobody")}, "some", c.op())
	c.refused(err, "snapshot of a group with an absent volume", primitives.CodeNotFound)
	c.absent(b, c.u("one").At("some"))
	c.snapshot(b, "taken", c.u("two"))
	_, err = sn.Snapshot(c.ctx, []primitives.URI{c.u("one"), c.u("two")}, "taken", c.op())
	c.refused(err, "snapshot of a group, one name of which is taken", primitives.CodeExists)
	c.absent(b, c.u("one").At("taken"))
	_, err = sn.Snapshot(c.ctx, nil, "none", c.op())
	c.refused(err, "snapshot of no volume", primitives.CodeInvalid)
}

// Cases 53, 92.
func noGroupIsRefused(c *C) {
	b := c.open()
	c.create(b, "one", c.blank())
	c.create(b, "two", c.blank())
	_, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{c.u("one"), c.u("two")}, "both", c.op())
	c.refused(err, "snapshot of two volumes without SnapshotGroup", primitives.CodeUnsupported)
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots")
}

// Case 54.
func revertRestores(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	made := c.create(b, "vol", img)
	c.snapshot(b, "snap", u)
	then := img.clone()
	c.edit(b, u, func(w primitives.Writer) {
		c.writeAt(w, img.write(c.seed(), 10_000, 300_000)[10_000:310_000], 10_000)
		c.zeroAt(w, 500_000, 200_000)
	})
	gen := c.stat(b, u).Generation
	o := c.revert(b, u, "snap")
	if o.Handle != made.Handle || o.URI != u || o.Kind != primitives.KindVolume {
		c.Errorf("revert = %v %v with handle %v; want volume %v with %v", o.Kind, o.URI.Short(), o.Handle, u.Short(), made.Handle)
	}
	if o.Generation <= gen {
		c.Errorf("generation %d after a revert, %d before; want it to grow", o.Generation, gen)
	}
	c.holds(b, u, then)
	c.holds(b, u.At("snap"), then)
	img = then.clone()
	c.overwrite(b, u, img, c.seed(), 0, 100_000)
	c.holds(b, u.At("snap"), then)
	b = c.crashAndReopen()
	c.holds(b, u, img)
	_, err := b.Facets().Snapshots.Revert(c.ctx, u, "nobody", c.op())
	c.refused(err, "revert to an absent snapshot", primitives.CodeNotFound)
	_, err = b.Facets().Snapshots.Revert(c.ctx, c.u("nobody"), "snap", c.op())
	c.refused(err, "revert of an absent volume", primitives.CodeNotFound)
	c.holds(b, u, img)
}

// Case 54.
func revertAndLater(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "early", u)
	early := img.clone()
	c.overwrite(b, u, img, c.seed(), 0, 100_000)
	c.snapshot(b, "late", u)
	late := img.clone()
	c.overwrite(b, u, img, c.seed(), 50_000, 100_000)
	op := c.op()
	_, err := b.Facets().Snapshots.Revert(c.ctx, u, "early", op)
	if c.p.caps.Revert == primitives.RevertLatestOnly {
		c.blocked(c.refusal(err, "revert to a snapshot that is not the latest", primitives.CodeDependents), "late")
		c.holds(b, u, img)
		c.revert(b, u, "late")
		c.holds(b, u, late)
		c.remove(b, u.At("late"))
		c.revert(b, u, "early")
	} else {
		c.must(err, "revert to a snapshot that is not the latest")
		c.holds(b, u.At("late"), late)
		c.revert(b, u, "late")
		c.holds(b, u, late)
		c.revert(b, u, "early")
		c.holds(b, u.At("late"), late)
	}
	c.holds(b, u, early)
	c.holds(b, u.At("early"), early)
}

// Case 54.
func mappedIsNotReverted(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "snap", u)
	then := img.clone()
	c.overwrite(b, u, img, c.seed(), 0, 4096)
	m := c.attached(b, u, primitives.ReadWrite, "guest")
	_, err := b.Facets().Snapshots.Revert(c.ctx, u, "snap", c.op())
	if e := c.refusal(err, "revert of a mapped volume", primitives.CodeInUse); len(e.Blocked) == 0 {
		c.Errorf("revert of a mapped volume names no blocker: %v", e)
	}
	c.unmap(b, m)
	c.holds(b, u, img)
	c.revert(b, u, "snap")
	c.holds(b, u, then)
}

// Cases 54, 92.
func noRevertIsRefused(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.snapshot(b, "snap", c.u("vol"))
	_, err := b.Facets().Snapshots.Revert(c.ctx, c.u("vol"), "snap", c.op())
	c.refused(err, "revert without Revert", primitives.CodeUnsupported)
	c.holds(b, c.u("vol"), img)
}

// Case 55.
func snapshotKeepsSize(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "small", u)
	small := img.clone()
	c.resize(b, u, 2*c.p.size)
	img = img.resized(2 * c.p.size)
	c.overwrite(b, u, img, c.seed(), c.p.size-4096, 8192)
	if size := c.stat(b, u.At("small")).Size; size != c.p.size {
		c.Errorf("size of a snapshot after its volume grew = %d, want %d", size, c.p.size)
	}
	c.holds(b, u.At("small"), small)
	c.holds(b, u, img)
	if c.p.caps.Revert == primitives.RevertNone {
		return
	}
	if o := c.revert(b, u, "small"); o.Size != c.p.size {
		c.Errorf("size after revert = %d, want %d", o.Size, c.p.size)
	}
	c.holds(b, u, small)
	c.resize(b, u, 2*c.p.size)
	c.holds(b, u, small.resized(2*c.p.size))
}

// Case 57.
func manySnapshots(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	most := 48
	if c.v.Slow {
		most = 12
	}
	made := 0
	for ; made < most; made++ {
		_, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u}, fmt.Sprintf("s%02d", made), c.op())
		if !c.allowed(err, fmt.Sprintf("snapshot %d", made+1), primitives.CodeNoSpace, primitives.CodeUnsupported) {
			break
		}
	}
	first, last := img.clone(), u.At(fmt.Sprintf("s%02d", made-1))
	c.overwrite(b, u, img, c.seed(), 0, 100_000)
	c.holds(b, u.At("s00"), first)
	c.holds(b, last, first)
	c.holds(b, u, img)
	c.same(len(c.names(b, primitives.KindSnapshot)), made, "the number of snapshots")
}

// Case 58. Where neighbours need the middle one, that is said and nothing is lost.
func middleSnapshotGoes(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	past := map[string]image{}
	for i, name := range []string{"s1", "s2", "s3"} {
		c.snapshot(b, name, u)
		past[name] = img.clone()
		c.overwrite(b, u, img, c.seed(), int64(i)*80_000, 100_000)
	}
	dead, err := b.Delink(c.ctx, u.At("s2"), primitives.DelinkRequest{Op: c.op()})
	if c.allowed(err, "delink of a snapshot in the middle", primitives.CodeDependents) {
		c.absent(b, u.At("s2"))
		err = b.Destroy(c.ctx, dead, primitives.DestroyRequest{Op: c.op()})
		if !c.allowed(err, "destroy of a snapshot in the middle", primitives.CodeDependents) {
			c.relink(b, dead, primitives.URI{})
			c.holds(b, u.At("s2"), past["s2"])
		}
	} else {
		c.holds(b, u.At("s2"), past["s2"])
	}
	c.holds(b, u.At("s1"), past["s1"])
	c.holds(b, u.At("s3"), past["s3"])
	c.holds(b, u, img)
	b = c.crashAndReopen()
	c.holds(b, u.At("s1"), past["s1"])
	c.holds(b, u, img)
}

// Case 58.
func snapshotRelinks(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	made := c.snapshot(b, "snap", u)[0]
	then := img.clone()
	c.overwrite(b, u, img, c.seed(), 0, 100_000)
	dead := c.delink(b, u.At("snap"))
	c.absent(b, u.At("snap"))
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots")
	c.holds(b, u, img)
	if o := c.relink(b, dead, primitives.URI{}); o.Handle != made.Handle || o.Kind != primitives.KindSnapshot {
		c.Errorf("relink of a snapshot = %v with handle %v, want a snapshot with %v", o.Kind, o.Handle, made.Handle)
	}
	c.holds(b, u.At("snap"), then)
	c.remove(b, u.At("snap"))
	c.holds(b, u, img)
	if n := len(c.tombstones(b)); n != 0 {
		c.Errorf("%d tombstones, want none", n)
	}
}

// Case 58. The volume has other names and other incarnations; the snapshot is of
// one of them.
func snapshotNeedsItsVolume(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "snap", u)
	then := img.clone()
	c.overwrite(b, u, img, c.seed(), 0, 100_000)
	snap := c.delink(b, u.At("snap"))
	vol := c.delink(b, u)
	impossible := []primitives.Code{primitives.CodeNotFound, primitives.CodeConflict, primitives.CodeInvalid, primitives.CodeUnsupported}
	_, err := b.Relink(c.ctx, snap, primitives.URI{}, c.op())
	c.refused(err, "relink of a snapshot whose volume is delinked", impossible...)
	stranger := c.full(c.seed())
	c.create(b, "vol", stranger)
	_, err = b.Relink(c.ctx, snap, primitives.URI{}, c.op())
	c.refused(err, "relink of a snapshot to another volume of the name", impossible...)
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots")
	c.holds(b, u, stranger)
	c.relink(b, vol, c.u("back"))
	c.relink(b, snap, c.u("back").At("snap"))
	c.holds(b, c.u("back").At("snap"), then)
	c.holds(b, c.u("back"), img)
}

// Cases 91, 92. The facet may exist for volumes of another kind.
func noSnapshotIsRefused(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	_, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{c.u("vol")}, "snap", c.op())
	c.refused(err, "snapshot of a volume that has none", primitives.CodeUnsupported)
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots")
	c.holds(b, c.u("vol"), img)
}
