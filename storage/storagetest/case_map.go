// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tenon-storage/tenon/primitives"
)

var mapChecks = []check{
	{cases: []int{77}, name: "a map repeated by the same consumer is the same mapping", needs: []need{mapper}, run: mapRepeats},
	{cases: []int{77, 92}, name: "map gives the first form that is accepted, or none", needs: []need{mapper}, run: mapGivesAcceptedForm},
	{cases: []int{78}, name: "a second writer is refused at activate, not at map", needs: []need{mapper}, run: secondWriterIsRefused},
	{cases: []int{78}, name: "a second writer on another host is refused", needs: []need{mapper, shared, fences}, run: foreignWriterIsRefused},
	{cases: []int{79}, name: "unmap and deactivate of what is unknown are success", needs: []need{mapper}, run: unmapUnknown},
	{cases: []int{80}, name: "a mapping that is held open is not unmapped without force", needs: []need{mapper, guests}, costly: true, run: heldOpen},
	{cases: []int{81}, name: "mappings are found again after a restart", needs: []need{mapper}, run: mappingsOutliveTheAgent},
	{cases: []int{81}, name: "mappings are gone after a reboot", needs: []need{mapper}, run: mappingsEndWithTheBoot},
	{cases: []int{81}, name: "a guest goes on while the agent restarts", needs: []need{mapper, guests}, run: guestOutlivesTheAgent},
	{cases: []int{82}, name: "a path that leads elsewhere is fenced at activate", needs: []need{mapper, recycles}, run: recycledIsFenced},
	{cases: []int{83}, name: "unmap touches nothing that it did not map", needs: []need{mapper}, run: unmapSparesOthers},
	{cases: []int{90}, name: "a writer hands over to the next in the order of a migration", needs: []need{mapper, fences}, run: handOver},
	{cases: []int{90}, name: "a writer hands over to another host in the order of a migration", needs: []need{mapper, shared, fences}, run: migrate},
	{cases: []int{90}, name: "a migration can be given up at every step", needs: []need{mapper, shared, fences}, run: migrationAborts},
}

// Case 77.
func mapRepeats(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	m := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest")
	if m.Handle != made.Handle || m.Size != c.p.size || m.Active {
		c.Errorf("map = handle %v, %d bytes, active %v; want %v, %d, inactive", m.Handle, m.Size, m.Active, made.Handle, c.p.size)
	}
	other := c.mapped(b, c.u("vol"), primitives.ReadWrite, "another")
	reader := c.mapped(b, c.u("vol"), primitives.ReadOnly, "guest")
	if other.ID == m.ID || reader.ID == m.ID || other.ID == reader.ID {
		c.Errorf("mappings of two consumers and of two accesses have the ids %s, %s and %s, want three", m.ID, other.ID, reader.ID)
	}
	c.same(len(c.mappings(b)), 3, "the number of mappings")
	active := c.activate(b, m)
	if again := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest"); !again.Active || again.Epoch != active.Epoch {
		c.Errorf("a repeated map = active %v of epoch %d, want active of %d", again.Active, again.Epoch, active.Epoch)
	}
	_, err := b.Facets().Map.Map(c.ctx, c.u("nobody"), c.mapRequest(primitives.ReadOnly, "guest"))
	c.refused(err, "map of an absent volume", primitives.CodeNotFound)
	_, err = b.Facets().Map.Activate(c.ctx, "nothing", c.op())
	c.refused(err, "activate of an unknown mapping", primitives.CodeNotFound)
	if c.p.caps.Snapshot {
		c.snapshotsAreMapped(b)
	}
}

func (c *C) snapshotsAreMapped(b primitives.Backend) {
	c.Helper()
	c.create(b, "src", c.full(c.seed()))
	c.snapshot(b, "snap", c.u("src"))
	u := c.u("src").At("snap")
	_, err := b.Facets().Map.Map(c.ctx, u, c.mapRequest(primitives.ReadWrite, "guest"))
	c.refused(err, "map of a snapshot for writing", primitives.CodeUnsupported, primitives.CodeInvalid, primitives.CodeDenied)
	m := c.attached(b, u, primitives.ReadOnly, "guest")
	_, err = b.Delink(c.ctx, u, primitives.DelinkRequest{Op: c.op()})
	c.refused(err, "delink of a mapped snapshot", primitives.CodeInUse)
	c.unmap(b, m)
}

// Cases 77, 92. Every form that is declared can be had, no other can.
func mapGivesAcceptedForm(c *C) {
	b := c.open()
	c.create(b, "vol", c.blank())
	forms := map[primitives.Form]bool{}
	for _, f := range c.p.desc.Caps.Forms {
		forms[f] = true
	}
	for i, form := range []primitives.Form{primitives.FormBlock, primitives.FormFile, primitives.FormNetwork} {
		r := c.mapRequest(primitives.ReadWrite, fmt.Sprintf("guest-%d", i))
		accept := primitives.Acceptable{Form: form}
		if form == primitives.FormNetwork {
			accept.Protocol = "nbd"
		}
		r.Accept = []primitives.Acceptable{{Form: primitives.FormNetwork, Protocol: "no such protocol"}, accept}
		m, err := b.Facets().Map.Map(c.ctx, c.u("vol"), r)
		if !forms[form] {
			c.refused(err, fmt.Sprintf("map as %v, which is not declared", form), primitives.CodeUnsupported)
			continue
		}
		c.must(err, "map as %v, which is declared", form)
		c.soundMapping(m)
		if !accept.Takes(m) {
			c.Errorf("map as %+v = %+v", accept, m)
		}
	}
	r := c.mapRequest(primitives.ReadWrite, "choosy")
	r.Accept = []primitives.Acceptable{{Form: primitives.FormNetwork, Protocol: "no such protocol"}, {Form: primitives.FormFile, Format: "no such format"}}
	_, err := b.Facets().Map.Map(c.ctx, c.u("vol"), r)
	c.refused(err, "map as what nobody offers", primitives.CodeUnsupported)
}

// Case 78. Where ExclusiveActivate is false the backend cannot see other hosts,
// but on one host every driver refuses.
func secondWriterIsRefused(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	c.secondUse(b, b, "a second consumer")
}

func foreignWriterIsRefused(c *C) {
	a, b := c.open(), c.openOn("b")
	c.create(a, "vol", c.full(c.seed()))
	c.secondUse(a, b, "another host")
}

// secondUse tries every pair of accesses, the first on a and the second on b.
func (c *C) secondUse(a, b primitives.Backend, who string) {
	c.Helper()
	u := c.u("vol")
	for _, pair := range []struct {
		first, second primitives.Access
		allowed       bool
	}{
		{primitives.ReadOnly, primitives.ReadOnly, true},
		{primitives.ReadWrite, primitives.ReadWrite, false},
		{primitives.ReadWrite, primitives.ReadOnly, false},
		{primitives.ReadOnly, primitives.ReadWrite, false},
	} {
		m1 := c.attached(a, u, pair.first, "one")
		m2 := c.mapped(b, u, pair.second, "two")
		got, err := b.Facets().Map.Activate(c.ctx, m2.ID, c.op())
		what := fmt.Sprintf("activate %v by %s beside %v", pair.second, who, pair.first)
		if pair.allowed {
			c.must(err, "%s", what)
			if !got.Active {
				c.Errorf("%s = inactive", what)
			}
		} else if e := c.refusal(err, what, primitives.CodeInUse); len(e.Blocked) == 0 {
			c.Errorf("%s names no blocker: %v", what, e)
		}
		c.deactivate(a, m1)
		c.activate(b, m2)
		c.unmap(b, m2)
		c.unmap(a, m1)
	}
}

// Case 79.
func unmapUnknown(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest")
	for _, id := range []primitives.MappingID{"nothing", "", "../vol", "/etc/passwd", "vol"} {
		c.must(b.Facets().Map.Deactivate(c.ctx, id, c.op()), "deactivate of the unknown %q", id)
		c.must(b.Facets().Map.Unmap(c.ctx, id, primitives.UnmapRequest{Op: c.op(), Force: true}), "unmap of the unknown %q", id)
	}
	c.same(len(c.mappings(b)), 1, "the number of mappings")
	c.activate(b, m)
	c.deactivate(b, m)
	c.unmap(b, m)
	c.same(len(c.mappings(b)), 0, "the number of mappings after unmap")
	c.holds(b, c.u("vol"), img)
}

// Case 80.
func heldOpen(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	g := c.guest(m)
	c.guestHolds(g, img)
	err := b.Facets().Map.Unmap(c.ctx, m.ID, primitives.UnmapRequest{Op: c.op()})
	if e := c.refusal(err, "unmap of a mapping that is held open", primitives.CodeInUse); len(e.Blocked) == 0 {
		c.Errorf("unmap of a mapping that is held open names no blocker: %v", e)
	}
	c.refused(b.Facets().Map.Deactivate(c.ctx, m.ID, c.op()), "deactivate of a mapping that is held open", primitives.CodeInUse)
	c.same(len(c.mappings(b)), 1, "the number of mappings")
	c.guestWrites(g, img, c.seed(), 4096, 8192)
	c.guestHolds(g, img)
	c.must(b.Facets().Map.Unmap(c.ctx, m.ID, primitives.UnmapRequest{Op: c.op(), Force: true}), "unmap with force")
	c.same(len(c.mappings(b)), 0, "the number of mappings after unmap with force")
	_ = g.Close() // the other end may be gone
	c.holds(b, c.u("vol"), img)

	m = c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	g = c.guest(m)
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
	c.waits("unmap after the guest let go", func() bool {
		return b.Facets().Map.Unmap(c.ctx, m.ID, primitives.UnmapRequest{Op: c.op()}) == nil
	})
}

// Case 81.
func mappingsOutliveTheAgent(c *C) {
	b := c.open()
	c.create(b, "vol", c.blank())
	c.create(b, "idle", c.blank())
	active := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	idle := c.mapped(b, c.u("idle"), primitives.ReadOnly, "other")
	for _, how := range []func(){func() { c.close(b) }, c.crash} {
		how()
		b = c.open()
		found := map[primitives.MappingID]primitives.Mapping{}
		for _, m := range c.mappings(b) {
			found[m.ID] = m
		}
		c.same(len(found), 2, "the number of mappings found again")
		if m := found[active.ID]; !m.Active || m.Consumer != "guest" || m.URI != c.u("vol") || m.Access != primitives.ReadWrite {
			c.Errorf("mapping found again = %+v, want the active one of vol by guest", m)
		}
		if m := found[idle.ID]; m.Active || m.Consumer != "other" || m.URI != c.u("idle") {
			c.Errorf("mapping found again = %+v, want the inactive one of idle by other", m)
		}
		if again := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest"); again.ID != active.ID || again.Epoch < active.Epoch {
			c.Errorf("map after a restart = id %s of epoch %d, want %s of at least %d", again.ID, again.Epoch, active.ID, active.Epoch)
		}
		_, err := b.Delink(c.ctx, c.u("idle"), primitives.DelinkRequest{Op: c.op()})
		c.refused(err, "delink of a mapped volume after a restart", primitives.CodeInUse)
	}
	c.unmap(b, active)
	c.unmap(b, idle)
	c.delink(b, c.u("vol"))
}

// Case 81. Files of the earlier boot may lie in the run folder still.
func mappingsEndWithTheBoot(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.crash()
	c.reboot("a")
	b = c.open()
	if all := c.mappings(b); len(all) != 0 {
		c.Errorf("%d mappings after a reboot, want none", len(all))
	}
	_, err := b.Facets().Map.Activate(c.ctx, m.ID, c.op())
	c.refused(err, "activate of a mapping of an earlier boot", primitives.CodeNotFound)
	again := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.unmap(b, again)
	c.holds(b, c.u("vol"), img)
	c.delink(b, c.u("vol"))
}

// Case 81.
func guestOutlivesTheAgent(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	g := c.guest(m)
	c.guestWrites(g, img, c.seed(), 0, 4096)
	c.close(b)
	c.guestWrites(g, img, c.seed(), 8192, 4096)
	c.open()
	c.guestWrites(g, img, c.seed(), 16384, 4096)
	b = c.crashAndReopen()
	c.guestWrites(g, img, c.seed(), 32768, 4096)
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
	c.waits("unmap after the guest let go", func() bool {
		return b.Facets().Map.Unmap(c.ctx, m.ID, primitives.UnmapRequest{Op: c.op()}) == nil
	})
	c.holds(b, c.u("vol"), img)
}

// Case 82.
func recycledIsFenced(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	m := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.store.Recycle(c.TB, m)
	for range 2 {
		_, err := b.Facets().Map.Activate(c.ctx, m.ID, c.op())
		c.refused(err, "activate of a path that leads elsewhere", primitives.CodeFenced)
	}
	for _, x := range c.mappings(b) {
		if x.ID == m.ID && x.Active {
			c.Errorf("a fenced mapping is active")
		}
	}
}

// Case 83. The decoy lies where a driver may look for files of its own.
func unmapSparesOthers(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.create(b, "vol2", img)
	decoy := filepath.Join(c.host("a").RunDir, "decoy")
	c.must(os.WriteFile(decoy, []byte("not yours"), 0o600), "make a decoy")
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	other := c.attached(b, c.u("vol2"), primitives.ReadWrite, "guest")
	for _, id := range []primitives.MappingID{"decoy", primitives.MappingID(decoy), "./decoy", m.ID + "2", m.ID[:len(m.ID)-1]} {
		if id != other.ID {
			c.must(b.Facets().Map.Unmap(c.ctx, id, primitives.UnmapRequest{Op: c.op(), Force: true}), "unmap of the unknown %q", id)
		}
	}
	c.unmap(b, m)
	left := c.mappings(b)
	if len(left) != 1 || left[0].ID != other.ID || !left[0].Active {
		c.Errorf("mappings after unmap of one of two = %+v, want the other, active", left)
	}
	if _, err := os.Stat(decoy); err != nil {
		c.Errorf("a file that no mapping made is gone: %v", err)
	}
	if opensItself(other) || c.store.Guest != nil {
		g := c.guest(other)
		c.guestHolds(g, img)
		c.must(g.Close(), "close the guest's view")
	}
	c.holds(b, c.u("vol"), img)
}

// Case 90, from one consumer to another on one host.
func handOver(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	c.passes(b, b, "vol")
}

// Case 90.
func migrate(c *C) {
	a, b := c.open(), c.openOn("b")
	c.create(a, "vol", c.full(c.seed()))
	c.passes(a, b, "vol")
	c.same(len(c.mappings(a)), 0, "the number of mappings on the source host")
	c.same(len(c.mappings(b)), 1, "the number of mappings on the target host")
}

// passes moves the right to write from a consumer on a to one on b.
func (c *C) passes(a, b primitives.Backend, name string) {
	c.Helper()
	from := c.attached(a, c.u(name), primitives.ReadWrite, "source")
	to := c.mapped(b, c.u(name), primitives.ReadWrite, "target")
	_, err := b.Facets().Map.Activate(c.ctx, to.ID, c.op())
	c.refused(err, "activate of the target before the source let go", primitives.CodeInUse)
	c.deactivate(a, from)
	c.activate(b, to)
	_, err = a.Facets().Map.Activate(c.ctx, from.ID, c.op())
	c.refused(err, "activate of the source after the target took over", primitives.CodeInUse)
	c.unmap(a, from)
	for _, m := range c.mappings(b) {
		if m.ID == to.ID && !m.Active {
			c.Errorf("unmap of the source ended the target's mapping")
		}
	}
}

// Case 90. At every step the source can go on.
func migrationAborts(c *C) {
	a, b := c.open(), c.openOn("b")
	img := c.full(c.seed())
	c.create(a, "vol", img)
	from := c.attached(a, c.u("vol"), primitives.ReadWrite, "source")
	for steps := range 4 {
		var to primitives.Mapping
		if steps > 0 {
			to = c.mapped(b, c.u("vol"), primitives.ReadWrite, "target")
		}
		if steps > 1 {
			c.deactivate(a, from)
		}
		if steps > 2 {
			c.activate(b, to)
			c.deactivate(b, to)
		}
		if steps > 0 {
			c.unmap(b, to)
		}
		from = c.activate(a, from)
		c.same(len(c.mappings(b)), 0, fmt.Sprintf("the number of mappings on the target after giving up at step %d", steps))
	}
	c.unmap(a, from)
	c.holds(a, c.u("vol"), img)
}
