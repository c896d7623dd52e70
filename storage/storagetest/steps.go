// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"io"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// The steps of which checks are made. Each does one thing that has to succeed,
// repeats it where the contract says what a repeat brings, and returns what the
// first call returned.

// blank returns an image of zeros of the size that volumes of checks have.
func (c *C) blank() image { return make(image, c.p.size) }

// full returns an image that is all pattern.
func (c *C) full(seed int) image { return c.blank().write(seed, 0, c.p.size) }

// seed returns a pattern's seed that no other image of the check has.
func (c *C) seed() int { return int(c.sequence.next()) }

func (c *C) describe(b primitives.Backend) primitives.Description {
	c.Helper()
	d, err := b.Describe(c.ctx)
	c.must(err, "describe")
	return d
}

func (c *C) stat(b primitives.Backend, u primitives.URI) primitives.Object {
	c.Helper()
	o, err := b.Stat(c.ctx, u, primitives.Op{Props: c.opProps()})
	c.must(err, "stat %v", u)
	c.sound(o)
	return o
}

// absent checks that nothing has that name.
func (c *C) absent(b primitives.Backend, u primitives.URI) {
	c.Helper()
	_, err := b.Stat(c.ctx, u, primitives.Op{Props: c.opProps()})
	c.refused(err, "stat of the absent "+u.Short(), primitives.CodeNotFound)
}

// list returns all pages of a listing.
func (c *C) list(b primitives.Backend, r primitives.ListRequest) []primitives.Object {
	c.Helper()
	r.Op.Props = c.opProps()
	var all []primitives.Object
	for range 10_000 {
		page, err := b.List(c.ctx, r)
		c.must(err, "list")
		all = append(all, page.Objects...)
		if page.Next == "" {
			return all
		}
		r.Cursor = page.Next
	}
	c.Fatalf("a listing of %d objects has no end", len(all))
	return nil
}

// names returns the names of all objects of those kinds, in the listing's order.
func (c *C) names(b primitives.Backend, kinds ...primitives.Kind) []string {
	c.Helper()
	return shortNames(c.list(b, primitives.ListRequest{Kinds: kinds}))
}

func shortNames(all []primitives.Object) []string {
	names := []string{}
	for _, o := range all {
		name := o.URI.Volume
		if o.URI.Snapshot != "" {
			name += "@" + o.URI.Snapshot
		}
		names = append(names, name)
	}
	return names
}

func (c *C) tombstones(b primitives.Backend) []primitives.Object {
	c.Helper()
	return c.list(b, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
}

func (c *C) createRequest(size int64) primitives.WriteRequest {
	return primitives.WriteRequest{Op: c.op(), Create: true, Size: size, Format: c.v.Format}
}

// create makes a volume that holds img.
func (c *C) create(b primitives.Backend, name string, img image) primitives.Object {
	c.Helper()
	return c.createBy(b, name, img, c.createRequest(img.size()))
}

func (c *C) createBy(b primitives.Backend, name string, img image, r primitives.WriteRequest) primitives.Object {
	c.Helper()
	w, err := b.Write(c.ctx, c.u(name), r)
	c.must(err, "write %s with create", name)
	c.put(w, img, 0)
	o := c.commit(w)
	if o.URI != c.u(name) || o.Kind != primitives.KindVolume || o.State != primitives.Ready || o.Size != img.size() {
		c.Errorf("commit = %v, %v, %v, %d bytes; want volume %s, ready, %d bytes", o.URI, o.Kind, o.State, o.Size, name, img.size())
	}
	return o
}

// put writes the part of img that is not zero, from offset from on.
func (c *C) put(w primitives.Writer, img image, from int64) {
	c.Helper()
	const most = 256 << 10
	for _, s := range img.data() {
		for off := max(s.off, from); off < s.off+s.n; off += most {
			c.writeAt(w, img[off:min(off+most, s.off+s.n)], off)
		}
	}
}

func (c *C) writeAt(w io.WriterAt, p []byte, off int64) {
	c.Helper()
	if n, err := w.WriteAt(p, off); err != nil || n != len(p) {
		c.Fatalf("write of %d bytes at %d = %d, %v", len(p), off, n, err)
	}
}

func (c *C) zeroAt(w primitives.Writer, off, n int64) {
	c.Helper()
	c.must(w.ZeroAt(off, n), "zero %d bytes at %d", n, off)
}

func (c *C) commit(w primitives.Writer) primitives.Object {
	c.Helper()
	o, err := w.Commit(c.ctx)
	c.must(err, "commit")
	c.sound(o)
	again, err := w.Commit(c.ctx)
	c.must(err, "commit, repeated")
	c.repeats(again, o, "commit")
	return o
}

// edit opens a volume for writing in place, lets do write, and commits.
func (c *C) edit(b primitives.Backend, u primitives.URI, do func(w primitives.Writer)) primitives.Object {
	c.Helper()
	w, err := b.Write(c.ctx, u, primitives.WriteRequest{Op: c.op()})
	c.must(err, "write %v", u)
	do(w)
	return c.commit(w)
}

// overwrite puts the pattern of seed over a range of a volume and of img.
func (c *C) overwrite(b primitives.Backend, u primitives.URI, img image, seed int, off, n int64) {
	c.Helper()
	c.edit(b, u, func(w primitives.Writer) { c.writeAt(w, img.write(seed, off, n)[off:off+n], off) })
}

// bytes returns everything an object holds.
func (c *C) bytes(b primitives.Backend, u primitives.URI) []byte {
	c.Helper()
	r, err := b.Read(c.ctx, u, primitives.Op{Props: c.opProps()})
	c.must(err, "read %v", u)
	defer func() { c.must(r.Close(), "close a reader") }()
	return c.readAll(r, r.Size())
}

func (c *C) readAll(r io.ReaderAt, size int64) []byte {
	c.Helper()
	p := make([]byte, size)
	if n, err := r.ReadAt(p, 0); int64(n) != size || (err != nil && err != io.EOF) {
		c.Fatalf("read of %d bytes at 0 = %d, %v", size, n, err)
	}
	return p
}

// holds checks an object's whole content.
func (c *C) holds(b primitives.Backend, u primitives.URI, want image) {
	c.Helper()
	if d := want.differs(c.bytes(b, u)); d != "" {
		c.Errorf("content of %v: %s", u.Short(), d)
	}
}

func (c *C) clone(b primitives.Backend, src, dst primitives.URI, r primitives.CloneRequest) primitives.Object {
	c.Helper()
	r.Op = c.op()
	o, err := b.Clone(c.ctx, src, dst, r)
	c.must(err, "clone %v to %v", src.Short(), dst.Short())
	c.sound(o)
	if o.URI != dst || o.Kind != primitives.KindVolume || o.State != primitives.Ready {
		c.Errorf("clone = %v, %v, %v; want volume %v, ready", o.URI, o.Kind, o.State, dst)
	}
	again, err := b.Clone(c.ctx, src, dst, r)
	c.must(err, "clone, repeated")
	c.repeats(again, o, "clone")
	return o
}

func (c *C) delink(b primitives.Backend, u primitives.URI) primitives.Tombstone {
	c.Helper()
	return c.delinkFor(b, u, 0)
}

func (c *C) delinkFor(b primitives.Backend, u primitives.URI, keep time.Duration) primitives.Tombstone {
	c.Helper()
	d := primitives.DelinkRequest{Op: c.op(), Keep: keep}
	t, err := b.Delink(c.ctx, u, d)
	c.must(err, "delink %v", u.Short())
	again, err := b.Delink(c.ctx, u, d)
	c.must(err, "delink, repeated")
	c.same(again.ID, t.ID, "the tombstone of a repeated delink")
	if t.ID == "" || t.Was != u || t.Handle == "" || t.Delinked.IsZero() {
		c.Errorf("delink of %v = %+v, want an id, the name, the handle and the time", u.Short(), t)
	}
	return t
}

func (c *C) relink(b primitives.Backend, t primitives.Tombstone, as primitives.URI) primitives.Object {
	c.Helper()
	op := c.op()
	o, err := b.Relink(c.ctx, t, as, op)
	c.must(err, "relink %v", t.Was.Short())
	c.sound(o)
	again, err := b.Relink(c.ctx, t, as, op)
	c.must(err, "relink, repeated")
	c.repeats(again, o, "relink")
	return o
}

func (c *C) destroy(b primitives.Backend, t primitives.Tombstone) {
	c.Helper()
	c.destroyBy(b, t, primitives.EraseNone)
}

func (c *C) destroyBy(b primitives.Backend, t primitives.Tombstone, e primitives.Erase) {
	c.Helper()
	d := primitives.DestroyRequest{Op: c.op(), Erase: e}
	c.must(b.Destroy(c.ctx, t, d), "destroy %v", t.Was.Short())
	c.must(b.Destroy(c.ctx, t, d), "destroy, repeated")
}

// remove delinks and destroys.
func (c *C) remove(b primitives.Backend, u primitives.URI) {
	c.Helper()
	c.destroy(b, c.delink(b, u))
}

// snapshot takes a snapshot of unmapped volumes, which is ready at once.
func (c *C) snapshot(b primitives.Backend, name string, vols ...primitives.URI) []primitives.Object {
	c.Helper()
	op := c.op()
	set, err := b.Facets().Snapshots.Snapshot(c.ctx, vols, name, op)
	c.must(err, "snapshot %s of %v", name, vols)
	again, err := b.Facets().Snapshots.Snapshot(c.ctx, vols, name, op)
	c.must(err, "snapshot, repeated")
	c.same(identities(again.Snapshots), identities(set.Snapshots), "snapshot, repeated,")
	if len(set.Switch) != 0 {
		c.Errorf("snapshot %s of unmapped volumes wants %d mappings switched, want none", name, len(set.Switch))
	}
	if len(set.Snapshots) != len(vols) {
		c.Fatalf("snapshot of %d volumes = %d snapshots", len(vols), len(set.Snapshots))
	}
	for i, o := range set.Snapshots {
		c.sound(o)
		if o.URI != vols[i].At(name) || o.Kind != primitives.KindSnapshot || o.State != primitives.Ready {
			c.Errorf("snapshot = %v, %v, %v; want snapshot %v, ready", o.URI, o.Kind, o.State, vols[i].At(name))
		}
	}
	return set.Snapshots
}

func (c *C) revert(b primitives.Backend, vol primitives.URI, snap string) primitives.Object {
	c.Helper()
	op := c.op()
	o, err := b.Facets().Snapshots.Revert(c.ctx, vol, snap, op)
	c.must(err, "revert %v to %s", vol.Short(), snap)
	again, err := b.Facets().Snapshots.Revert(c.ctx, vol, snap, op)
	c.must(err, "revert, repeated")
	c.repeats(again, o, "revert")
	return o
}

func (c *C) resize(b primitives.Backend, u primitives.URI, size int64) primitives.Object {
	c.Helper()
	op := c.op()
	o, err := b.Facets().Resize.Resize(c.ctx, u, size, op)
	c.must(err, "resize %v to %d", u.Short(), size)
	again, err := b.Facets().Resize.Resize(c.ctx, u, size, op)
	c.must(err, "resize, repeated")
	c.repeats(again, o, "resize")
	return o
}
