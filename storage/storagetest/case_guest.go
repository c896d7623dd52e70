// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// What a guest, or the world outside, can do to a mapping.
var guestChecks = []check{
	{cases: []int{84}, name: "raw bytes that look like an image of another format stay raw", run: rawStaysRaw},
	{cases: []int{84}, name: "a header that a guest writes changes no format", needs: []need{mapper, guests}, run: guestHeaderStaysBytes},
	{cases: []int{86}, name: "two connections of one guest see each other's writes", needs: []need{mapper, network, guests}, run: twoConnections},
	{cases: []int{86}, name: "a connection for reading only takes no writes", needs: []need{mapper, network, guests}, run: readOnlyConnection},
	{cases: []int{86}, name: "a stale socket of an earlier boot is in nobody's way", needs: []need{mapper, network, guests}, run: staleSocket},
	{cases: []int{89, 100}, name: "a store that does not answer makes every call end with its context", needs: []need{goesAway}, costly: true, run: deadStoreIsBounded},
	{cases: []int{89}, name: "a store that comes back serves again", needs: []need{goesAway}, run: storeComesBack},
}

// Case 84, CVE-2026-24708. The header names a backing file that the host must
// never open.
func rawStaysRaw(c *C) {
	b := c.open()
	img := c.blank()
	copy(img, qcow2Image(1<<30, "/etc/passwd", false))
	c.createImage(b, "vol", img)
	c.holds(b, c.u("vol"), img)
	o := c.stat(b, c.u("vol"))
	if o.Size != c.p.size || (c.v.Format != "" && o.Format != c.v.Format) {
		c.Errorf("a volume with such bytes = %d bytes of format %q, want %d of %q", o.Size, o.Format, c.p.size, c.v.Format)
	}
	b = c.crashAndReopen()
	c.clone(b, c.u("vol"), c.u("clone"), primitives.CloneRequest{})
	c.holds(b, c.u("clone"), img)
	if c.p.caps.Snapshot {
		c.snapshot(b, "snap", c.u("vol"))
		c.holds(b, c.u("vol").At("snap"), img)
	}
	if r := b.Facets().Resize; r != nil {
		c.resize(b, c.u("vol"), 2*c.p.size)
		c.holds(b, c.u("vol"), img.resized(2*c.p.size))
	}
	if b.Facets().Map != nil {
		c.mapsAs(b, c.u("vol"), o.Format)
	}
}

// createImage makes a volume of bytes that are no pattern.
func (c *C) createImage(b primitives.Backend, name string, img image) {
	c.Helper()
	c.create(b, name, img)
}

// mapsAs checks that a mapping of u is of that format, or hides it behind a protocol.
func (c *C) mapsAs(b primitives.Backend, u primitives.URI, format primitives.Format) {
	c.Helper()
	m := c.mapped(b, u, primitives.ReadWrite, "guest")
	if m.File != nil && m.File.Format != format {
		c.Errorf("mapping of a %s volume has the format %q", format, m.File.Format)
	}
	if m.File != nil && format == primitives.FormatRaw && len(m.File.Backing) > 0 {
		c.Errorf("mapping of a raw volume has the backing files %+v", m.File.Backing)
	}
	c.unmap(b, m)
}

// Case 84.
func guestHeaderStaysBytes(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	g := c.guest(m)
	header := qcow2Image(1<<40, "/etc/passwd", true)
	copy(img, header)
	c.writeAt(g, header, 0)
	c.must(g.Flush(), "flush, as a guest")
	again := c.mapped(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.same(again.Size, m.Size, "the size of the mapping")
	c.same(again.File, m.File, "the files of the mapping")
	c.must(g.Close(), "close the guest's view")
	c.unmap(b, m)
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
	c.same(c.stat(b, c.u("vol")).Size, c.p.size, "the size of the volume")
	m = c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	c.same(m.Size, c.p.size, "the size of a new mapping")
	g = c.guest(m)
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
}

// Case 86.
func twoConnections(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	one, two := c.guest(m), c.guest(m)
	c.guestWrites(one, img, c.seed(), 0, 8192)
	c.guestHolds(two, img)
	c.guestWrites(two, img, c.seed(), 100_000, 8192)
	c.guestHolds(one, img)
	c.must(one.Close(), "close one connection")
	c.guestWrites(two, img, c.seed(), 200_000, 8192)
	c.must(two.Close(), "close the other connection")
	third := c.guest(m)
	c.guestHolds(third, img)
	c.must(third.Close(), "close the third connection")
}

// Case 86. A file is opened as its user pleases; a server can refuse.
func readOnlyConnection(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	g := c.guest(c.attached(b, c.u("vol"), primitives.ReadOnly, "guest"))
	c.guestHolds(g, img)
	if _, err := g.WriteAt(pattern(c.seed(), 0, 4096), 0); err == nil {
		c.Errorf("a write to a mapping for reading only succeeded")
	}
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
	c.holds(b, c.u("vol"), img)
}

// Case 86. The socket's file is made anew where the process that served it is gone.
func staleSocket(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	if m.Network == nil || m.Network.Socket == "" {
		c.skip(Reason{Declared, "the mapping is no unix socket"})
	}
	c.crash()
	c.reboot("a")
	b = c.open()
	if _, err := os.Lstat(m.Network.Socket); err != nil {
		c.must(os.WriteFile(m.Network.Socket, nil, 0o600), "leave a file where the socket was")
	}
	g := c.guest(c.attached(b, c.u("vol"), primitives.ReadWrite, "guest"))
	c.guestWrites(g, img, c.seed(), 0, 4096)
	c.guestHolds(g, img)
	c.must(g.Close(), "close the guest's view")
}

// shortly is the deadline of calls on a store that does not answer.
const shortly = 10 * time.Millisecond

// goAway makes the store stop answering until back is called, or the check ends.
func (c *C) goAway() (back func()) {
	c.Helper()
	back = sync.OnceFunc(c.store.GoAway(c.TB))
	c.Cleanup(back)
	return back
}

// Cases 89, 100. The deadline is short; that the calls end at all is what is
// tested, and the check's own limit catches those that do not.
func deadStoreIsBounded(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.create(b, "other", img)
	dead := c.delink(b, c.u("other"))
	back := c.goAway()
	for _, call := range c.calls(b, dead) {
		ctx, cancel := context.WithTimeout(c.ctx, shortly)
		c.refused(call.do(ctx), call.name+" on a store that does not answer", primitives.CodeUnavailable, primitives.CodeNoOffload)
		cancel()
	}
	ctx, cancel := context.WithTimeout(c.ctx, shortly)
	if _, err := c.tryOpen(ctx, c.openRequest("a")); err != nil {
		c.refused(err, "open of a store that does not answer", primitives.CodeUnavailable)
	}
	cancel()
	back()
	c.holds(b, c.u("vol"), img)
}

// Case 89.
func storeComesBack(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	back := c.goAway()
	ctx, cancel := context.WithTimeout(c.ctx, shortly)
	_, err := b.Stat(ctx, c.u("vol"), c.op())
	c.refused(err, "stat on a store that does not answer", primitives.CodeUnavailable)
	if d, err := b.Describe(ctx); err == nil && d.Health == primitives.Healthy {
		c.Errorf("a store that does not answer calls itself healthy")
	}
	cancel()
	back()
	if d := c.describe(b); d.Health != primitives.Healthy {
		c.Errorf("a store that is back = %v (%s), want healthy", d.Health, d.HealthNote)
	}
	c.repeats(c.stat(b, c.u("vol")), made, "stat after the store came back")
	c.holds(b, c.u("vol"), img)
	c.create(b, "new", img)
}
