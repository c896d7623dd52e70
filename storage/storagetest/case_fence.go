// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// How a device is closed for service. The list of the contract's cases has none
// of these; they are numbered by themselves.
var fenceChecks = []check{
	{topic: "fence", cases: []int{1}, name: "a fenced device says so and refuses every other call", needs: []need{fencing}, run: fencedRefuses},
	{topic: "fence", cases: []int{2}, name: "the fence outlives the backend, the process and the boot", needs: []need{fencing}, run: fenceOutlives},
	{topic: "fence", cases: []int{3}, name: "unfence gives everything back as it was", needs: []need{fencing}, run: unfenceGivesBack},
	{topic: "fence", cases: []int{4}, name: "a device that is not fenced can be unfenced", needs: []need{fencing}, run: unfenceOfNothing},
	{topic: "fence", cases: []int{5}, name: "an active mapping is a holder and stops the fence", needs: []need{fencing, mapper}, run: mappingStopsFence},
	{topic: "fence", cases: []int{6}, name: "a guest whose mapping was forgotten is a holder still", needs: []need{fencing, mapper, guests}, run: guestStopsFence},
	{topic: "fence", cases: []int{7}, name: "holders are those of now, whoever let them in", needs: []need{fencing, mapper}, run: holdersAreOfNow},
	{topic: "fence", cases: []int{8}, name: "an open reader or writer stops the fence", needs: []need{fencing}, run: streamStopsFence},
	{topic: "fence", cases: []int{9}, name: "where a mapping led to nobody gets to the bytes of a fenced device", needs: []need{fencing, mapper, guests}, run: fencedBytesAreOutOfReach},
	{topic: "fence", cases: []int{10}, name: "a full device is fenced and opened again", needs: []need{fencing, small}, run: fullDeviceIsFenced},
	{topic: "fence", cases: []int{11}, name: "a fence among many callers leaves every volume whole", needs: []need{fencing}, costly: true, run: fenceAmongCallers},
}

var fencing = facet("Fence", func(o offers) bool { return o.fence })

// fence closes the device, twice.
func (c *C) fence(b primitives.Backend) {
	c.Helper()
	for _, what := range []string{"fence", "fence, repeated"} {
		r, err := b.Facets().Fence.Fence(c.ctx, c.op())
		c.must(err, "%s", what)
		if r.Method == "" || r.Evidence == "" {
			c.Errorf("%s = %+v, want the method, and the evidence that it stands", what, r)
		}
	}
	if !c.describe(b).Fenced {
		c.Errorf("a fenced device is described as not fenced")
	}
}

// unfence opens the device again, twice.
func (c *C) unfence(b primitives.Backend) {
	c.Helper()
	c.must(b.Facets().Fence.Unfence(c.ctx, c.op()), "unfence")
	c.must(b.Facets().Fence.Unfence(c.ctx, c.op()), "unfence, repeated")
	if c.describe(b).Fenced {
		c.Errorf("a device is described as fenced after unfence")
	}
}

// waiting is how long a fence may wait for who does not go. It is not for a
// driver, which need not wait, but for a caller's side, and a busy host.
const waiting = 15 * time.Second

// fenceRefused checks that the fence was refused, who is in the way being named,
// and nothing changed.
func (c *C) fenceRefused(b primitives.Backend, what, named string, codes ...primitives.Code) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, waiting)
	defer cancel()
	_, err := b.Facets().Fence.Fence(ctx, c.op())
	e := c.refusal(err, "fence beside "+what, codes...)
	c.blocked(e, named)
	if c.describe(b).Fenced {
		c.Errorf("a device whose fence was refused beside %s is fenced", what)
	}
}

func (c *C) holders(b primitives.Backend) []primitives.Holder {
	c.Helper()
	all, err := b.Facets().Fence.Holders(c.ctx)
	c.must(err, "holders")
	for _, h := range all {
		if h.Kind == "" || h.Name == "" || h.URI.Device != device {
			c.Errorf("holder = %+v, want its kind, its name and what it holds", h)
		}
	}
	return all
}

// held reports whether anything of that kind, any where empty, holds the object.
func (c *C) held(b primitives.Backend, u primitives.URI, kind string) bool {
	c.Helper()
	return slices.ContainsFunc(c.holders(b), func(h primitives.Holder) bool {
		return (kind == "" || h.Kind == kind) && (h.URI == u || h.URI == primitives.URI{Device: u.Device})
	})
}

// closed checks that the device answers what it must, and nothing else.
func (c *C) closed(b primitives.Backend, dead primitives.Tombstone) {
	c.Helper()
	if !c.describe(b).Fenced {
		c.Errorf("a fenced device is described as not fenced")
	}
	c.same(len(c.holders(b)), 0, "the number of holders of a fenced device")
	calls := c.calls(b, dead)
	if f := b.Facets().Map; f != nil {
		calls = append(calls,
			call{"deactivate", func(ctx context.Context) error { return f.Deactivate(ctx, "nothing", c.op()) }},
			call{"unmap", func(ctx context.Context) error {
				return f.Unmap(ctx, "nothing", primitives.UnmapRequest{Op: c.op()})
			}})
	}
	for _, call := range calls {
		c.refused(call.do(c.ctx), call.name+" on a fenced device", primitives.CodeFenced)
	}
}

// Fence 1. Another backend of the store is closed with it.
func fencedRefuses(c *C) {
	b, other := c.open(), c.open()
	c.create(b, "vol", c.full(c.seed()))
	c.create(b, "gone", c.blank())
	dead := c.delink(b, c.u("gone"))
	if d := c.describe(b); d.Fenced {
		c.Errorf("a new device is described as fenced")
	}
	c.fence(b)
	c.closed(b, dead)
	c.closed(other, dead)
	c.fence(other)
	c.unfence(other)
	c.stat(b, c.u("vol"))
}

// Fence 2.
func fenceOutlives(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	c.create(b, "gone", c.blank())
	dead := c.delink(b, c.u("gone"))
	c.fence(b)
	c.close(b)
	b = c.open()
	c.closed(b, dead)
	b = c.crashAndReopen()
	c.closed(b, dead)
	c.crash()
	c.reboot("a")
	b = c.open()
	c.closed(b, dead)
	c.fence(b)
	b = c.crashAndReopen()
	c.unfence(b)
	b = c.crashAndReopen()
	if c.describe(b).Fenced {
		c.Errorf("a device is described as fenced after unfence and a crash")
	}
	c.repeats(c.stat(b, c.u("vol")), made, "stat after the fence")
	c.holds(b, c.u("vol"), img)
	c.relink(b, dead, primitives.URI{})
}

// Fence 3.
func unfenceGivesBack(c *C) {
	b := c.open()
	img, below := c.full(c.seed()), c.full(c.seed())
	c.create(b, "other", below)
	var kept []image
	if c.p.caps.Snapshot {
		c.snapshot(b, "snap", c.u("other"))
		kept = append(kept, below.clone())
		c.overwrite(b, c.u("other"), below, c.seed(), 4096, 8192)
	}
	made := c.create(b, "vol", img)
	c.create(b, "gone", img)
	dead := c.delink(b, c.u("gone"))
	kinds := []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}
	before := c.list(b, primitives.ListRequest{Kinds: kinds})
	caps := c.describe(b).Caps
	for range 2 {
		c.fence(b)
		c.unfence(b)
		c.same(identities(c.list(b, primitives.ListRequest{Kinds: kinds})), identities(before), "the listing after a fence")
		c.same(c.describe(b).Caps, caps, "the capabilities after a fence")
		c.same(c.stat(b, c.u("vol")).Generation, made.Generation, "the generation after a fence")
		c.holds(b, c.u("vol"), img)
		c.holds(b, c.u("other"), below)
		for _, was := range kept {
			c.holds(b, c.u("other").At("snap"), was)
		}
	}
	c.relink(b, dead, primitives.URI{})
	c.holds(b, c.u("gone"), img)
	c.overwrite(b, c.u("vol"), img, c.seed(), 0, 4096)
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
	c.create(b, "new", img)
}

// Fence 4.
func unfenceOfNothing(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.unfence(b)
	c.holds(b, c.u("vol"), img)
}

// Fence 5. A mapping that is not active is in nobody's way.
func mappingStopsFence(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.same(len(c.holders(b)), 0, "the number of holders beside a mapping that is not active")
	c.activate(b, m)
	if !c.held(b, c.u("vol"), "mapping") {
		c.Errorf("holders = %+v, want the active mapping of vol", c.holders(b))
	}
	c.fenceRefused(b, "an active mapping", "guest", primitives.CodeInUse)
	c.activate(b, m)
	c.deactivate(b, m)
	c.same(len(c.holders(b)), 0, "the number of holders after deactivate")
	c.fence(b)
	c.unfence(b)
	c.unmap(b, m)
	c.holds(b, c.u("vol"), img)
}

// Fence 6. Where a forced unmap takes the bytes away from the guest, nothing is
// held any more.
//
// Cases: E53
func guestStopsFence(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	g := c.guest(m)
	c.guestWrites(g, img, c.seed(), 0, 4096)
	if !c.held(b, c.u("vol"), "") {
		c.Errorf("holders beside a guest = %+v, want one of vol", c.holders(b))
	}
	c.must(b.Facets().Map.Unmap(c.ctx, m.ID, primitives.UnmapRequest{Op: c.op(), Force: true}), "unmap with force")
	if _, err := g.ReadAt(make([]byte, 4096), 0); err == nil {
		if !c.held(b, c.u("vol"), "") {
			c.Errorf("holders beside a guest that reads = %+v, want one of vol", c.holders(b))
		}
		c.fenceRefused(b, "a guest that nobody knows of", "", primitives.CodeInUse)
		c.guestHolds(g, img)
	}
	c.must(g.Close(), "close the guest's view")
	c.waits("the end of the guest's hold", func() bool { return len(c.holders(b)) == 0 })
	c.fence(b)
	c.unfence(b)
	c.holds(b, c.u("vol"), img)
}

// Fence 7.
func holdersAreOfNow(c *C) {
	b, other := c.open(), c.open()
	c.create(b, "vol", c.full(c.seed()))
	c.same(len(c.holders(b)), 0, "the number of holders of an idle device")
	m := c.attached(other, c.u("vol"), primitives.ReadWrite, "guest")
	if !c.held(b, c.u("vol"), "mapping") {
		c.Errorf("holders = %+v, want the mapping that another backend made", c.holders(b))
	}
	c.fenceRefused(b, "the mapping of another backend", "guest", primitives.CodeInUse)
	b = c.crashAndReopen()
	if !c.held(b, c.u("vol"), "mapping") {
		c.Errorf("holders after a crash = %+v, want the mapping that an earlier process made", c.holders(b))
	}
	other = c.open()
	c.unmap(other, m)
	c.same(len(c.holders(b)), 0, "the number of holders after another backend unmapped")
	c.fence(b)
	c.unfence(b)
}

// Fence 8. The caller's side waits for them and gives up as a conflict.
func streamStopsFence(c *C) {
	b, other := c.open(), c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	codes := []primitives.Code{primitives.CodeInUse, primitives.CodeConflict}
	for name, by := range map[string]primitives.Backend{"the same backend": b, "another backend": other} {
		r := c.reader(by, c.u("vol"))
		c.fenceRefused(b, "a reader of "+name, "", codes...)
		if d := img.differs(c.readAll(r, img.size())); d != "" {
			c.Errorf("a reader of %s after a fence was refused: %s", name, d)
		}
		c.must(r.Close(), "close a reader")
		w, err := by.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: c.op()})
		c.must(err, "write")
		c.fenceRefused(b, "a writer of "+name, "", codes...)
		c.writeAt(w, img.write(c.seed(), 0, 8192)[:8192], 0)
		c.commit(w)
	}
	c.fence(b)
	c.unfence(b)
	c.holds(b, c.u("vol"), img)
}

// Fence 9. Through what the mapping said while it was there.
func fencedBytesAreOutOfReach(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	if err := reach(m); err != nil {
		c.Fatalf("an active mapping leads nowhere: %v", err)
	}
	c.waits("the end of the check's own hold", func() bool {
		return b.Facets().Map.Deactivate(c.ctx, m.ID, c.op()) == nil
	})
	c.fence(b)
	if err := reach(m); err == nil {
		c.Errorf("the bytes of a fenced device are reached through %+v", m)
	}
	b = c.crashAndReopen()
	if err := reach(m); err == nil {
		c.Errorf("the bytes of a fenced device are reached after a crash through %+v", m)
	}
	c.unfence(b)
	m = c.attached(b, c.u("vol"), primitives.ReadOnly, "reader")
	g := c.guest(m)
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
}

// reach opens what the mapping leads to, and lets it go again.
func reach(m primitives.Mapping) error {
	if m.Form != primitives.FormNetwork {
		f, err := os.Open(pathOf(m))
		if err != nil {
			return err
		}
		return f.Close()
	}
	conn, err := new(net.Dialer).Dial("unix", m.Network.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // fails only if closed
	_, err = conn.Read(make([]byte, 8))                   // the server's greeting
	return err
}

// Fence 10.
func fullDeviceIsFenced(c *C) {
	const capacity = 8 << 20
	c.use(c.h.NewSmall(c.TB, capacity))
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	full := false
	for i := 0; i < 64 && !full; i++ {
		w, err := b.Write(c.ctx, c.u(fmt.Sprint("fill", i)), c.createRequest(c.p.size))
		if err == nil {
			if _, err = w.WriteAt(c.full(c.seed()), 0); err == nil {
				_, err = w.Commit(c.ctx)
			}
			if err != nil {
				c.must(w.Abort(c.ctx), "abort on a full device")
			}
		}
		full = !c.allowed(err, "fill the device", primitives.CodeNoSpace)
	}
	if !full {
		c.Fatalf("a device of %d bytes does not get full", capacity)
	}
	c.fence(b)
	b = c.crashAndReopen()
	c.unfence(b)
	c.holds(b, c.u("vol"), img)
}

// Fence 11. Whoever comes during the fence is told so; what was committed stays.
func fenceAmongCallers(c *C) {
	b, rounds, fences := c.open(), 20, 5
	if c.v.Slow {
		rounds, fences = 3, 2
	}
	var calls []func()
	for i := range 4 {
		calls = append(calls, func() {
			for n := range rounds {
				c.createUnlessFenced(b, c.u(fmt.Sprintf("vol%d-%d", i, n)))
			}
		})
	}
	c.together(append(calls, func() {
		f := b.Facets().Fence
		for range fences {
			if _, err := f.Fence(c.ctx, c.op()); !c.allowed(err, "fence among callers", primitives.CodeInUse, primitives.CodeConflict) {
				continue
			}
			c.must(f.Unfence(c.ctx, c.op()), "unfence among callers")
		}
	})...)
	b = c.crashAndReopen()
	for _, o := range c.list(b, primitives.ListRequest{}) {
		if o.State == primitives.Ready {
			c.uniform(b, o.URI)
		}
	}
}

// createUnlessFenced makes a volume, of which nothing may be there when it fails.
func (c *C) createUnlessFenced(b primitives.Backend, u primitives.URI) {
	c.Helper()
	inTheWay := []primitives.Code{primitives.CodeFenced, primitives.CodeConflict}
	w, err := b.Write(c.ctx, u, c.createRequest(c.p.size))
	if !c.allowed(err, "create beside a fence", inTheWay...) {
		return
	}
	if _, err := w.WriteAt(c.full(c.seed()), 0); err != nil {
		c.Errorf("a writer was fenced while it was open: %v", err)
	}
	if _, err := w.Commit(c.ctx); err != nil {
		c.Errorf("commit of a writer that was open before the fence = %v", errors.Join(err, w.Abort(c.ctx)))
	}
}
