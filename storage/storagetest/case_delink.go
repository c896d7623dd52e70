// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

var delinkChecks = []check{
	{cases: []int{40}, name: "delink of what is absent is not found, and its repeat gives the same tombstone", run: delinkReplays},
	{cases: []int{41}, name: "a delinked name is free at once", needs: []need{reuses}, run: nameIsFree},
	{cases: []int{42}, name: "relink restores everything", run: relinkRestores},
	{cases: []int{42, 49}, name: "relink restores the snapshots that went along", needs: []need{snapshots}, run: relinkRestoresSnapshots},
	{cases: []int{43}, name: "a mapped volume is not delinked", needs: []need{mapper}, run: mappedIsNotDelinked},
	{cases: []int{44}, name: "destroy of an unknown tombstone is success", run: destroyUnknown},
	{cases: []int{44}, name: "destroy does not touch what has the tombstone's old name", run: destroySparesTheName},
	{cases: []int{45}, name: "a tombstone can be destroyed by many at once", run: destroyAtOnce},
	{cases: []int{46}, name: "a delink survives a crash as one tombstone", run: delinkSurvives},
	{cases: []int{47}, name: "destroyed bytes do not come back in a new volume", needs: []need{zeroes}, run: erasedIsGone},
	{cases: []int{48}, name: "an expired tombstone is kept until it is destroyed", run: expiredIsKept},
	{cases: []int{49}, name: "delink of a volume with snapshots does what is declared", needs: []need{snapshots}, run: delinkWithSnapshots},
	{cases: []int{50}, name: "a tombstone without its bytes harms nobody", needs: []need{vanishes}, run: vanishedTombstone},
}

// Case 40.
func delinkReplays(c *C) {
	b := c.open()
	_, err := b.Delink(c.ctx, c.u("nobody"), primitives.DelinkRequest{Op: c.op()})
	c.refused(err, "delink of an absent volume", primitives.CodeNotFound)
	c.create(b, "vol", c.blank())
	d := primitives.DelinkRequest{Op: c.op()}
	dead, err := b.Delink(c.ctx, c.u("vol"), d)
	c.must(err, "delink")
	b = c.crashAndReopen()
	again, err := b.Delink(c.ctx, c.u("vol"), d)
	c.must(err, "delink, repeated after a crash")
	c.same(again.ID, dead.ID, "the tombstone of a repeated delink")
	_, err = b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: c.op()})
	c.refused(err, "delink of a delinked volume by another request", primitives.CodeNotFound)
	if n := len(c.tombstones(b)); n != 1 {
		c.Errorf("%d tombstones, want 1", n)
	}
}

// Case 41.
func nameIsFree(c *C) {
	b := c.open()
	old, img := c.full(c.seed()), c.full(c.seed())
	first := c.create(b, "vol", old)
	dead := c.delink(b, c.u("vol"))
	second := c.create(b, "vol", img)
	if second.Handle == first.Handle {
		c.Errorf("a new volume of an old name has the old handle %v", first.Handle)
	}
	for _, as := range []primitives.URI{{}, c.u("vol")} {
		_, err := b.Relink(c.ctx, dead, as, c.op())
		c.refused(err, "relink to a taken name", primitives.CodeExists)
	}
	c.holds(b, c.u("vol"), img)
	if n := len(c.tombstones(b)); n != 1 {
		c.Errorf("%d tombstones after a refused relink, want 1", n)
	}
	c.delink(b, c.u("vol"))
	if n := len(c.tombstones(b)); n != 2 {
		c.Errorf("%d tombstones of one name, want 2", n)
	}
	o := c.relink(b, dead, c.u("renamed"))
	if o.Handle != first.Handle || o.URI != c.u("renamed") {
		c.Errorf("relink = %v with handle %v, want renamed with %v", o.URI.Short(), o.Handle, first.Handle)
	}
	c.holds(b, c.u("renamed"), old)
	c.absent(b, c.u("vol"))
}

// Case 42.
func relinkRestores(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	before := c.stat(b, c.u("vol"))
	dead := c.delink(b, c.u("vol"))
	if dead.Handle != before.Handle {
		c.Errorf("tombstone of handle %v, want %v", dead.Handle, before.Handle)
	}
	b = c.crashAndReopen()
	after := c.relink(b, dead, primitives.URI{})
	c.repeats(after, before, "relink after delink")
	c.same(after.Props, before.Props, "the properties after relink")
	c.holds(b, c.u("vol"), img)
	if n := len(c.tombstones(b)); n != 0 {
		c.Errorf("%d tombstones after relink, want none", n)
	}
	dead.ID += "-unknown"
	_, err := b.Relink(c.ctx, dead, c.u("ghost"), c.op())
	c.refused(err, "relink of an unknown tombstone", primitives.CodeNotFound)
	c.overwrite(b, c.u("vol"), img, c.seed(), 0, 4096)
	c.holds(b, c.u("vol"), img)
}

// Cases 42, 49.
func relinkRestoresSnapshots(c *C) {
	if c.p.desc.Caps.DeleteWithSnaps != primitives.DeleteTakesSnapshots {
		c.skip(Reason{Declared, "DeleteWithSnaps is " + c.p.desc.Caps.DeleteWithSnaps.String()})
	}
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.snapshot(b, "s1", c.u("vol"))
	s1 := img.clone()
	c.overwrite(b, c.u("vol"), img, c.seed(), 0, 300_000)
	c.snapshot(b, "s2", c.u("vol"))
	s2 := img.clone()
	c.overwrite(b, c.u("vol"), img, c.seed(), 100_000, 300_000)
	before := c.stat(b, c.u("vol").At("s1"))

	dead := c.delink(b, c.u("vol"))
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots while their volume is delinked")
	c.absent(b, c.u("vol").At("s1"))
	b = c.crashAndReopen()
	c.relink(b, dead, c.u("back"))
	u := c.u("back")
	c.same(c.names(b, primitives.KindSnapshot), []string{"back@s1", "back@s2"}, "the snapshots after relink")
	if h := c.stat(b, u.At("s1")).Handle; h != before.Handle {
		c.Errorf("handle of a snapshot after relink = %v, want %v", h, before.Handle)
	}
	c.holds(b, u, img)
	c.holds(b, u.At("s1"), s1)
	c.holds(b, u.At("s2"), s2)
}

// Case 43.
func mappedIsNotDelinked(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	for _, access := range []primitives.Access{primitives.ReadOnly, primitives.ReadWrite} {
		m := c.mapped(b, c.u("vol"), access, "guest")
		for range 2 {
			_, err := b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: c.op()})
			e := c.refusal(err, "delink of a mapped volume", primitives.CodeInUse)
			if len(e.Blocked) == 0 {
				c.Errorf("delink of a mapped volume names no blocker: %v", e)
			}
			m = c.activate(b, m)
		}
		c.unmap(b, m)
	}
	c.repeats(c.stat(b, c.u("vol")), made, "stat")
	c.holds(b, c.u("vol"), img)
	c.delink(b, c.u("vol"))
}

// Case 44.
func destroyUnknown(c *C) {
	b := c.open()
	for _, id := range []string{"nobody", "../vol", "", "vol", "tenon://device/vol"} {
		t := primitives.Tombstone{ID: id, Was: c.u("vol"), Handle: "nothing"}
		c.must(b.Destroy(c.ctx, t, primitives.DestroyRequest{Op: c.op()}), "destroy of the unknown tombstone %q", id)
	}
}

// Case 44. A tombstone of the past, or one that was made up, never reaches a live volume.
func destroySparesTheName(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	dead := c.delink(b, c.u("vol"))
	c.destroy(b, dead)
	img := c.full(c.seed())
	o := c.create(b, "vol", img)
	c.destroy(b, dead)
	c.destroy(b, primitives.Tombstone{ID: "made-up", Was: c.u("vol"), Handle: o.Handle})
	c.destroy(b, primitives.Tombstone{ID: string(o.Handle), Was: c.u("vol"), Handle: o.Handle})
	c.holds(b, c.u("vol"), img)

	dead = c.delink(b, c.u("vol"))
	c.relink(b, dead, primitives.URI{})
	c.destroy(b, dead) // it was relinked: unknown by now
	c.holds(b, c.u("vol"), img)
}

// Case 45.
func destroyAtOnce(c *C) {
	b, other := c.open(), c.open()
	c.create(b, "vol", c.full(c.seed()))
	dead := c.delink(b, c.u("vol"))
	var calls []func()
	for i := range 6 {
		d := primitives.DestroyRequest{Op: c.op()}
		calls = append(calls, func() {
			err := []primitives.Backend{b, other}[i%2].Destroy(c.ctx, dead, d)
			c.allowed(err, "concurrent destroy", primitives.CodeConflict)
		})
	}
	c.together(calls...)
	c.destroy(b, dead)
	if n := len(c.tombstones(b)); n != 0 {
		c.Errorf("%d tombstones after destroy, want none", n)
	}
	_, err := b.Relink(c.ctx, dead, primitives.URI{}, c.op())
	c.refused(err, "relink of a destroyed tombstone", primitives.CodeNotFound)
}

// Case 46.
func delinkSurvives(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.create(b, "other", img)
	dead := c.delink(b, c.u("vol"))
	b = c.crashAndReopen()
	everything := []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}
	c.same(len(c.names(b, everything...)), 2, "the number of objects after a crash")
	all := c.tombstones(b)
	if len(all) != 1 || all[0].Tombstone == nil {
		c.Fatalf("tombstones after a crash = %+v, want one", all)
	}
	found := *all[0].Tombstone
	if found.ID != dead.ID || found.Was != dead.Was || !found.Delinked.Equal(dead.Delinked) {
		c.Errorf("tombstone after a crash = %+v, want %+v", found, dead)
	}
	c.relink(b, found, primitives.URI{})
	c.holds(b, c.u("vol"), img)
	c.remove(b, c.u("vol"))
	b = c.crashAndReopen()
	c.same(c.names(b, everything...), []string{"other"}, "everything after a destroy and a crash")
}

// Case 47.
func erasedIsGone(c *C) {
	b := c.open()
	for _, e := range c.p.desc.Caps.Erase {
		for i := range 3 {
			c.create(b, fmt.Sprintf("old%d", i), c.full(c.seed()))
		}
		for i := range 3 {
			c.destroyBy(b, c.delink(b, c.u(fmt.Sprintf("old%d", i))), e)
		}
		for i := range 2 {
			name := fmt.Sprintf("new-%s-%d", e, i)
			c.create(b, name, c.blank())
			c.holds(b, c.u(name), c.blank())
		}
	}
}

// Case 48.
func expiredIsKept(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	const keep = time.Nanosecond
	dead := c.delinkFor(b, c.u("vol"), keep)
	if !dead.Expires.Equal(dead.Delinked.Add(keep)) {
		c.Errorf("delinked at %v for %v, expires at %v", dead.Delinked, keep, dead.Expires)
	}
	c.create(b, "other", c.blank())
	if kept := c.delink(b, c.u("other")); !kept.Expires.IsZero() {
		c.Errorf("delinked for ever, expires at %v", kept.Expires)
	}
	b = c.crashAndReopen()
	if n := len(c.tombstones(b)); n != 2 {
		c.Errorf("%d tombstones after one expired, want 2", n)
	}
	c.relink(b, dead, primitives.URI{})
	c.holds(b, c.u("vol"), img)
}

// Case 49.
func delinkWithSnapshots(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "snap", u)
	then := img.clone()
	c.overwrite(b, u, img, c.seed(), 0, 4096)
	dead, err := b.Delink(c.ctx, u, primitives.DelinkRequest{Op: c.op()})
	switch policy := c.p.desc.Caps.DeleteWithSnaps; policy {
	case primitives.DeleteRefusedWithSnapshots:
		c.blocked(c.refusal(err, "delink of a volume with a snapshot", primitives.CodeDependents), "snap")
		c.holds(b, u, img)
		c.holds(b, u.At("snap"), then)
		c.remove(b, u.At("snap"))
		c.remove(b, u)
	case primitives.DeleteTakesSnapshots:
		c.must(err, "delink of a volume with a snapshot")
		c.same(c.names(b, primitives.KindVolume, primitives.KindSnapshot), []string{}, "the listing")
		c.destroy(b, dead)
		if n := len(c.tombstones(b)); n != 0 {
			c.Errorf("%d tombstones after the destroy of a volume with its snapshot, want none", n)
		}
	case primitives.DeleteIndependentOfSnapshots:
		c.must(err, "delink of a volume with a snapshot")
		c.holds(b, u.At("snap"), then)
		c.destroy(b, dead)
		c.holds(b, u.At("snap"), then)
	default:
		c.Errorf("DeleteWithSnaps = %d, which is no policy", policy)
	}
}

// Case 50.
func vanishedTombstone(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.create(b, "other", img)
	dead := c.delink(b, c.u("vol"))
	c.store.Vanish(c.TB, dead)
	b = c.crashAndReopen()
	c.same(c.names(b), []string{"other"}, "the listing")
	_, err := b.Relink(c.ctx, dead, primitives.URI{}, c.op())
	c.refused(err, "relink of a tombstone without its bytes", primitives.CodeNotFound, primitives.CodeIncomplete)
	c.destroy(b, dead)
	if all := c.tombstones(b); slices.ContainsFunc(all, func(o primitives.Object) bool { return o.Tombstone.ID == dead.ID }) {
		c.Errorf("a tombstone without its bytes is still there after destroy")
	}
	c.holds(b, c.u("other"), img)
}
