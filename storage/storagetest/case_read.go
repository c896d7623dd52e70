// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"errors"
	"fmt"
	"io"

	"github.com/tenon-storage/tenon/primitives"
)

var readChecks = []check{
	{cases: []int{25}, name: "a range over the end is short with EOF", run: readsEndWithEOF},
	{cases: []int{26}, name: "readers do not disturb each other", run: readersAtOnce},
	{cases: []int{26}, name: "a reader survives a delink or stops it", run: readerMeetsDelink},
	{cases: []int{28}, name: "a snapshot stays as it was while its volume changes", needs: []need{snapshots}, run: snapshotStaysFixed},
	{cases: []int{28}, name: "a snapshot is not written to", needs: []need{snapshots}, run: snapshotIsReadOnly},
}

func (c *C) reader(b primitives.Backend, u primitives.URI) primitives.Reader {
	c.Helper()
	r, err := b.Read(c.ctx, u, c.op())
	c.must(err, "read %v", u.Short())
	return r
}

// Case 25.
func readsEndWithEOF(c *C) {
	b := c.open()
	img := c.full(c.seed())
	size := img.size()
	c.create(b, "vol", img)
	r := c.reader(b, c.u("vol"))
	if r.Size() != size {
		c.Errorf("size of the reader = %d, want %d", r.Size(), size)
	}
	for _, s := range []struct{ off, ask, want int64 }{
		{size - 100, 200, 100}, {size - 1, 4096, 1}, {size, 1, 0}, {size + 4096, 10, 0}, {0, size + 1, size},
	} {
		p := make([]byte, s.ask)
		n, err := r.ReadAt(p, s.off)
		if int64(n) != s.want || !errors.Is(err, io.EOF) {
			c.Errorf("read of %d bytes at %d of %d = %d, %v; want %d, EOF", s.ask, s.off, size, n, err, s.want)
			continue
		}
		if end := min(s.off+s.want, size); s.want > 0 {
			if d := img[s.off:end].differs(p[:n]); d != "" {
				c.Errorf("read at %d: %s", s.off, d)
			}
		}
	}
	for _, s := range []span{{0, 512}, {4095, 2}, {65535, 65538}, {777, 100_001}, {size - 512, 512}} {
		p := make([]byte, s.n)
		if n, err := r.ReadAt(p, s.off); int64(n) != s.n || (err != nil && !errors.Is(err, io.EOF)) {
			c.Errorf("read of %d bytes at %d = %d, %v", s.n, s.off, n, err)
		}
		if d := img[s.off : s.off+s.n].differs(p); d != "" {
			c.Errorf("read of %d bytes at %d: %s", s.n, s.off, d)
		}
	}
	_, err := r.ReadAt(make([]byte, 1), -1)
	c.refused(err, "read at -1", primitives.CodeInvalid)
	c.must(r.Close(), "close a reader")
	c.must(r.Close(), "close a reader, repeated")
	_, err = b.Read(c.ctx, c.u("nobody"), c.op())
	c.refused(err, "read of an absent volume", primitives.CodeNotFound)
}

// Case 26.
func readersAtOnce(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	r1, r2 := c.reader(b, c.u("vol")), c.reader(b, c.u("vol"))
	var got1, got2 []byte
	c.together(
		func() { got1 = c.readAll(r1, img.size()) },
		func() { got2 = c.readAll(r2, img.size()) },
	)
	for i, got := range [][]byte{got1, got2} {
		if d := img.differs(got); d != "" {
			c.Errorf("reader %d: %s", i+1, d)
		}
	}
	c.must(r1.Close(), "close the first reader")
	if d := img.differs(c.readAll(r2, img.size())); d != "" {
		c.Errorf("the second reader after the first was closed: %s", d)
	}
	c.must(r2.Close(), "close the second reader")
}

// Case 26. A delink either waits its turn by refusing, or leaves the reader its bytes.
func readerMeetsDelink(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	r := c.reader(b, c.u("vol"))
	dead, err := b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: c.op()})
	gone := c.allowed(err, "delink beside a reader", primitives.CodeInUse, primitives.CodeConflict)
	if d := img.differs(c.readAll(r, img.size())); d != "" {
		c.Errorf("a reader beside a delink: %s", d)
	}
	c.must(r.Close(), "close the reader")
	if !gone {
		c.holds(b, c.u("vol"), img)
		dead = c.delink(b, c.u("vol"))
	}
	c.relink(b, dead, primitives.URI{})
	c.holds(b, c.u("vol"), img)
}

// Case 28. What a guest writes meanwhile is among the live checks.
func snapshotStaysFixed(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	var past []image
	for i := range 3 {
		c.snapshot(b, fmt.Sprintf("s%d", i), u)
		past = append(past, img.clone())
		off := int64(i) * 100_000
		c.edit(b, u, func(w primitives.Writer) {
			c.writeAt(w, img.write(c.seed(), off, 70_000)[off:off+70_000], off)
			c.zeroAt(w, off+300_000, 65_536)
			img.zero(off+300_000, 65_536)
		})
		for j := range past {
			c.holds(b, u.At(fmt.Sprintf("s%d", j)), past[j])
		}
	}
	c.holds(b, u, img)
	b = c.crashAndReopen()
	for j := range past {
		c.holds(b, u.At(fmt.Sprintf("s%d", j)), past[j])
	}
	_, err := b.Read(c.ctx, u.At("nobody"), c.op())
	c.refused(err, "read of an absent snapshot", primitives.CodeNotFound)
}

// Case 28.
func snapshotIsReadOnly(c *C) {
	b := c.open()
	img := c.full(c.seed())
	u := c.u("vol")
	c.create(b, "vol", img)
	c.snapshot(b, "snap", u)
	never := []primitives.Code{primitives.CodeInvalid, primitives.CodeUnsupported, primitives.CodeDenied}
	_, err := b.Write(c.ctx, u.At("snap"), primitives.WriteRequest{Op: c.op()})
	c.refused(err, "write to a snapshot", never...)
	_, err = b.Write(c.ctx, u.At("new"), c.createRequest(c.p.size))
	c.refused(err, "create of a snapshot by writing", never...)
	_, err = b.Clone(c.ctx, u, u.At("new"), primitives.CloneRequest{Op: c.op()})
	c.refused(err, "clone to a snapshot", never...)
	if f := b.Facets(); f.Resize != nil {
		_, err = f.Resize.Resize(c.ctx, u.At("snap"), 2*c.p.size, c.op())
		c.refused(err, "resize of a snapshot", never...)
	}
	_, err = b.Facets().Snapshots.Snapshot(c.ctx, []primitives.URI{u.At("snap")}, "again", c.op())
	c.refused(err, "snapshot of a snapshot", never...)
	c.holds(b, u.At("snap"), img)
}
