// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// Snapshots of volumes that somebody has mapped.
var liveChecks = []check{
	{cases: []int{52}, name: "a snapshot under a writing guest holds a prefix of its writes", needs: []need{snapshots, mapper, guests, live(primitives.LiveTransparent)}, run: liveSnapshotIsPrefix},
	{cases: []int{53}, name: "a group of snapshots under guests is one point in time", needs: []need{snapshots, group, mapper, guests, live(primitives.LiveTransparent)}, run: liveGroupIsOnePoint},
	{cases: []int{56}, name: "a switched snapshot holds what was written before the switch", needs: []need{snapshots, mapper, guests, live(primitives.LiveRemap)}, run: remapSnapshot},
	{cases: []int{56}, name: "a snapshot whose switch failed never was", needs: []need{snapshots, mapper, guests, live(primitives.LiveRemap)}, run: remapTakenBack},
	{cases: []int{56}, name: "a crash between snapshot and settle leaves both ways open", needs: []need{snapshots, mapper, guests, live(primitives.LiveRemap)}, run: remapAndCrash},
	{cases: []int{53, 56}, name: "a group of which one volume is mapped is switched as a whole", needs: []need{snapshots, group, mapper, guests, live(primitives.LiveRemap)}, run: remapGroup},
	{cases: []int{56}, name: "settle of what is settled is success, of what is absent is not found", needs: []need{snapshots}, run: settleRepeats},
	{cases: []int{52, 92}, name: "with SnapshotLive offline a mapped volume is not snapshotted", needs: []need{snapshots, mapper, live(primitives.LiveNone)}, run: offlineOnly},
	{cases: []int{52}, name: "a volume mapped for reading only has its snapshot at once or is refused", needs: []need{snapshots, mapper, liveAnyhow}, run: snapshotUnderReader},
}

// page is what the ordered-write checks write at a time.
const page = 4096

// numbered returns a page that carries its number all over.
func numbered(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), page/8)
}

// ticker writes page after page, each after the one before has reached the
// storage, in turn to several guests, until stopped.
type ticker struct {
	c      *C
	guests []Guest
	pages  int64

	done    sync.WaitGroup
	stop    chan struct{}
	written chan struct{} // closed when one round over all pages is done, or none will be
}

func (c *C) tick(size int64, guests ...Guest) *ticker {
	k := &ticker{c: c, guests: guests, pages: size / page, stop: make(chan struct{}), written: make(chan struct{})}
	k.done.Go(k.run)
	return k
}

func (k *ticker) run() {
	round := sync.OnceFunc(func() { close(k.written) })
	defer round()
	for n := uint64(1); ; n++ {
		select {
		case <-k.stop:
			return
		default:
		}
		if n == uint64(k.pages) {
			round()
		}
		for _, g := range k.guests {
			off := int64(n%uint64(k.pages)) * page
			if _, err := g.WriteAt(numbered(n), off); err != nil {
				k.c.Errorf("write of a guest at %d = %v", off, err)
				return
			}
			if err := g.Flush(); err != nil {
				k.c.Errorf("flush of a guest = %v", err)
				return
			}
		}
	}
}

func (k *ticker) end() {
	close(k.stop)
	k.done.Wait()
}

// reached returns the last number of an image that a ticker wrote, after
// checking that nothing before it is missing and no page is torn.
func (c *C) reached(p []byte) uint64 {
	c.Helper()
	var last uint64
	pages := int64(len(p)) / page
	numbers := make([]uint64, pages)
	for i := range numbers {
		at := p[int64(i)*page : int64(i+1)*page]
		numbers[i] = binary.BigEndian.Uint64(at)
		if numbers[i] != 0 && !bytes.Equal(at, numbered(numbers[i])) {
			c.Errorf("page %d is torn", i)
		}
		last = max(last, numbers[i])
	}
	for n := last; n > 0 && n+uint64(pages) > last; n-- {
		if got := numbers[n%uint64(pages)]; got != n {
			c.Errorf("page %d holds write %d although write %d had reached the storage before write %d", n%uint64(pages), got, n, last)
			break
		}
	}
	return last
}

// Case 52. Each write waits for the one before to be durable, so a snapshot that
// holds one holds all before it.
func liveSnapshotIsPrefix(c *C) {
	b := c.open()
	u := c.u("vol")
	c.create(b, "vol", c.blank())
	g := c.guest(c.attached(b, u, primitives.ReadWrite, "guest"))
	k := c.tick(16*page, g)
	<-k.written
	c.snapshot(b, "s1", u)
	first := c.bytes(b, u.At("s1"))
	c.snapshot(b, "s2", u)
	k.end()
	one, two := c.reached(first[:16*page]), c.reached(c.bytes(b, u.At("s2"))[:16*page])
	if one == 0 || two < one {
		c.Errorf("snapshots hold writes up to %d and %d, want some and not fewer in the later one", one, two)
	}
	if again := c.bytes(b, u.At("s1")); !bytes.Equal(again, first) {
		c.Errorf("a snapshot changed while the guest wrote")
	}
	c.must(g.Close(), "close the guest's view")
}

// Case 53. The first volume is written before the second, so at one point in time
// it is ahead by at most one.
func liveGroupIsOnePoint(c *C) {
	b := c.open()
	one, two := c.u("one"), c.u("two")
	c.create(b, "one", c.blank())
	c.create(b, "two", c.blank())
	g1 := c.guest(c.attached(b, one, primitives.ReadWrite, "guest"))
	g2 := c.guest(c.attached(b, two, primitives.ReadWrite, "guest"))
	k := c.tick(16*page, g1, g2)
	<-k.written
	for _, name := range []string{"s1", "s2", "s3", "s4", "s5"} {
		c.snapshot(b, name, one, two)
		n1 := c.reached(c.bytes(b, one.At(name))[:16*page])
		n2 := c.reached(c.bytes(b, two.At(name))[:16*page])
		if n1 != n2 && n1 != n2+1 {
			c.Errorf("%s holds writes up to %d of the volume written first and %d of the other, want the same or one more", name, n1, n2)
		}
	}
	k.end()
	c.must(g1.Close(), "close a guest's view")
	c.must(g2.Close(), "close a guest's view")
}

// remapped is a volume with a guest, in the middle of a snapshot.
type remapped struct {
	u      primitives.URI
	img    image // what the guest wrote before the snapshot was asked for
	old    primitives.Mapping
	fresh  primitives.Mapping
	client Guest // on the old mapping
	op     primitives.Op
}

// remap begins a snapshot called snap of a mapped volume.
func (c *C) remap(b primitives.Backend) remapped {
	c.Helper()
	r := remapped{u: c.u("vol"), img: c.full(c.seed()), op: c.op()}
	c.create(b, "vol", r.img)
	r.old = c.attached(b, r.u, primitives.ReadWrite, "guest")
	r.client = c.guest(r.old)
	c.guestWrites(r.client, r.img, c.seed(), 0, 8192)
	ask := func() primitives.SnapshotSet {
		set, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{r.u}, "snap", r.op)
		c.must(err, "snapshot of a mapped volume")
		if len(set.Snapshots) != 1 || set.Snapshots[0].State != primitives.Pending || len(set.Switch) != 1 {
			c.Fatalf("snapshot of a mapped volume = %d snapshots, %d mappings to switch to; want one, pending, and one", len(set.Snapshots), len(set.Switch))
		}
		return set
	}
	set := ask()
	r.fresh = set.Switch[0]
	c.same(identities(ask().Snapshots), identities(set.Snapshots), "a repeated snapshot")
	if r.fresh.ID != r.old.ID || r.fresh.Epoch <= r.old.Epoch {
		c.Errorf("mapping to switch to = id %s of epoch %d, want %s of more than %d", r.fresh.ID, r.fresh.Epoch, r.old.ID, r.old.Epoch)
	}
	c.soundMapping(r.fresh)
	_, err := b.Read(c.ctx, r.u.At("snap"), c.op())
	c.refused(err, "read of a pending snapshot", primitives.CodeConflict, primitives.CodeIncomplete)
	// The guest writes on until the switch, and that still is before the snapshot.
	c.guestWrites(r.client, r.img, c.seed(), 100_000, 8192)
	c.guestHolds(r.client, r.img)
	return r
}

// Case 56.
func remapSnapshot(c *C) {
	b := c.open()
	r := c.remap(b)
	c.must(r.client.Close(), "close the guest's old view")
	g := c.guest(r.fresh)
	then := r.img.clone()
	c.guestHolds(g, r.img)
	c.guestWrites(g, r.img, c.seed(), 200_000, 8192)
	for range 2 {
		done, err := b.Facets().Snapshots.Settle(c.ctx, []primitives.URI{r.u}, "snap", true, c.op())
		c.must(err, "settle")
		if len(done) != 1 || done[0].State != primitives.Ready || done[0].URI != r.u.At("snap") {
			c.Errorf("settle = %v, want one ready snapshot", identities(done))
		}
	}
	c.guestWrites(g, r.img, c.seed(), 300_000, 8192)
	c.guestHolds(g, r.img)
	c.holds(b, r.u.At("snap"), then)
	if m := c.mapped(b, r.u, primitives.ReadWrite, "guest"); m.ID != r.old.ID || m.Epoch < r.fresh.Epoch {
		c.Errorf("map after the switch = id %s of epoch %d, want %s of at least %d", m.ID, m.Epoch, r.old.ID, r.fresh.Epoch)
	}
	c.must(g.Close(), "close the guest's view")
	c.unmap(b, r.old)
	c.holds(b, r.u, r.img)
	c.holds(b, r.u.At("snap"), then)
	b = c.crashAndReopen()
	c.holds(b, r.u, r.img)
	c.holds(b, r.u.At("snap"), then)
}

// Case 56.
func remapTakenBack(c *C) {
	b := c.open()
	r := c.remap(b)
	for range 2 {
		_, err := b.Facets().Snapshots.Settle(c.ctx, []primitives.URI{r.u}, "snap", false, c.op())
		c.must(err, "settle, not switched")
	}
	c.absent(b, r.u.At("snap"))
	c.same(c.names(b, primitives.KindSnapshot), []string{}, "the snapshots")
	c.guestWrites(r.client, r.img, c.seed(), 200_000, 8192)
	c.guestHolds(r.client, r.img)
	c.must(r.client.Close(), "close the guest's view")
	c.unmap(b, r.old)
	c.holds(b, r.u, r.img)
	c.snapshot(b, "snap", r.u)
	c.holds(b, r.u.At("snap"), r.img)
}

// Case 56. The agent asks the hypervisor what it had done, then settles.
func remapAndCrash(c *C) {
	for _, switched := range []bool{false, true} {
		b := c.open()
		r := c.remap(b)
		then := r.img.clone()
		g := r.client
		if switched {
			c.must(r.client.Close(), "close the guest's old view")
			g = c.guest(r.fresh)
			c.guestWrites(g, r.img, c.seed(), 200_000, 8192)
		}
		b = c.crashAndReopen()
		if state := c.stat(b, r.u.At("snap")).State; state != primitives.Pending {
			c.Errorf("an unsettled snapshot after a crash is %v, want pending", state)
		}
		_, err := b.Facets().Snapshots.Settle(c.ctx, []primitives.URI{r.u}, "snap", switched, c.op())
		c.must(err, "settle after a crash")
		c.guestWrites(g, r.img, c.seed(), 300_000, 8192)
		c.guestHolds(g, r.img)
		c.must(g.Close(), "close the guest's view")
		for _, m := range c.mappings(b) {
			c.unmap(b, m)
		}
		c.holds(b, r.u, r.img)
		if switched {
			c.holds(b, r.u.At("snap"), then)
		} else {
			c.absent(b, r.u.At("snap"))
		}
		c.crash()
		c.use(c.h.New(c.TB))
	}
}

// Cases 53, 56. Only the mapped ones are switched; all become ready together, or none.
func remapGroup(c *C) {
	b := c.open()
	names := []string{"one", "two", "idle"}
	var vols []primitives.URI
	images, views := map[string]image{}, map[string]Guest{}
	for _, name := range names {
		images[name] = c.full(c.seed())
		c.create(b, name, images[name])
		vols = append(vols, c.u(name))
		if name != "idle" {
			views[name] = c.guest(c.attached(b, c.u(name), primitives.ReadWrite, "guest"))
		}
	}
	for _, switched := range []bool{false, true} {
		set, err := b.Facets().Snapshots.Snapshot(c.ctx, vols, "snap", c.op())
		c.must(err, "snapshot of a group")
		if len(set.Snapshots) != 3 || len(set.Switch) != 2 {
			c.Fatalf("snapshot of three volumes, two of them mapped = %d snapshots, %d mappings to switch to", len(set.Snapshots), len(set.Switch))
		}
		for name, g := range views {
			c.guestWrites(g, images[name], c.seed(), 50_000, 4096)
		}
		if switched {
			for _, m := range set.Switch {
				name := m.URI.Volume
				c.must(views[name].Close(), "close the guest's old view")
				views[name] = c.guest(m)
			}
		}
		done, err := b.Facets().Snapshots.Settle(c.ctx, vols, "snap", switched, c.op())
		c.must(err, "settle of a group")
		if switched && len(done) != 3 {
			c.Errorf("settle of three volumes = %v", identities(done))
		}
		for _, name := range names {
			if !switched {
				c.absent(b, c.u(name).At("snap"))
				continue
			}
			c.holds(b, c.u(name).At("snap"), images[name])
		}
		for name, g := range views {
			then := images[name].clone()
			c.guestWrites(g, images[name], c.seed(), 90_000, 4096)
			c.guestHolds(g, images[name])
			if switched {
				c.holds(b, c.u(name).At("snap"), then)
			}
		}
	}
	for _, g := range views {
		c.must(g.Close(), "close a guest's view")
	}
	for _, m := range c.mappings(b) {
		c.unmap(b, m)
	}
	for _, name := range names {
		c.holds(b, c.u(name), images[name])
	}
}

// Case 56.
func settleRepeats(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	made := c.snapshot(b, "snap", u)
	sn := b.Facets().Snapshots
	done, err := sn.Settle(c.ctx, []primitives.URI{u}, "snap", true, c.op())
	c.must(err, "settle of a ready snapshot")
	c.same(identities(done), identities(made), "a settled snapshot")
	_, err = sn.Settle(c.ctx, []primitives.URI{u}, "nobody", true, c.op())
	c.refused(err, "settle of an absent snapshot as switched", primitives.CodeNotFound)
	_, err = sn.Settle(c.ctx, []primitives.URI{u}, "nobody", false, c.op())
	c.must(err, "settle of an absent snapshot as not switched")
	// Only a pending snapshot is taken back; a ready one is somebody's backup.
	_, err = sn.Settle(c.ctx, []primitives.URI{u}, "snap", false, c.op())
	c.allowed(err, "settle of a ready snapshot as not switched", primitives.CodeConflict, primitives.CodeInvalid)
	c.holds(b, u.At("snap"), img)
}

// Cases 52, 92.
func offlineOnly(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	m := c.attached(b, c.u("vol"), primitives.ReadWrite, "guest")
	_, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{c.u("vol")}, "snap", c.op())
	if e := c.refusal(err, "snapshot of a mapped volume", primitives.CodeInUse); len(e.Blocked) == 0 {
		c.Errorf("snapshot of a mapped volume names no blocker: %v", e)
	}
	c.absent(b, c.u("vol").At("snap"))
	c.unmap(b, m)
	c.snapshot(b, "snap", c.u("vol"))
}

// Case 52. Nobody writes, so nothing can be in the wrong place.
func snapshotUnderReader(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	m := c.attached(b, u, primitives.ReadOnly, "guest")
	op := c.op()
	set, err := b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u}, "snap", op)
	if c.allowed(err, "snapshot under a reader", primitives.CodeInUse) && len(set.Switch) > 0 {
		_, err = b.Facets().Snapshots.Settle(c.ctx, []primitives.URI{u}, "snap", true, op)
		c.must(err, "settle")
	}
	if err == nil {
		c.holds(b, u.At("snap"), img)
	}
	c.unmap(b, m)
	c.holds(b, u, img)
}
