// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

var createChecks = []check{
	{cases: []int{11}, name: "a create repeated by its id is the same volume", run: createReplays},
	{cases: []int{11}, name: "an id used for a create is not taken for another one", run: idIsNotReused},
	{cases: []int{12}, name: "a create over another volume is refused and changes nothing", run: createOverAnother},
	{cases: []int{13}, name: "of concurrent creates of one name exactly one wins", run: oneCreateWins},
	{cases: []int{14}, name: "sizes are rounded up to the granule and checked", run: sizesAreRounded},
	{cases: []int{15}, name: "unwritten space reads as zero, also where old bytes were", needs: []need{zeroes}, run: unwrittenIsZero},
	{cases: []int{16}, name: "nothing is visible before commit", run: nothingBeforeCommit},
	{cases: []int{17}, name: "an aborted create never was", run: abortedCreateNeverWas},
	{cases: []int{17}, name: "abort after commit does nothing", run: abortAfterCommit},
	{cases: []int{17, 27}, name: "an aborted overwrite is incomplete until it is resumed", run: abortedOverwrite},
	{cases: []int{18, 27}, name: "a create killed before commit is absent or incomplete", run: killedCreate},
	{cases: []int{19}, name: "an interrupted create goes on under its own id only", run: resumeCreate},
	{cases: []int{20}, name: "writes keep to the volume, at any offset", needs: []need{random}, run: writesKeepInside},
	{cases: []int{20}, name: "an overwrite changes what it writes and nothing else", run: overwriteIsExact},
	{cases: []int{21}, name: "a writer without random access refuses to go back", needs: []need{sequential}, run: sequentialWriter},
	{cases: []int{22}, name: "a full device leaves nothing half made", needs: []need{small}, run: fullDevice},
	{cases: []int{23}, name: "a mapped volume is not written to", needs: []need{mapper}, run: mappedIsNotWritten},
	{cases: []int{24}, name: "what was committed survives a crash", run: committedSurvives},
	{cases: []int{24}, name: "a request for an older generation is a conflict", run: generationsAreCompared},
}

var sequential = declared("RandomWrite is true", func(p profile) bool { return !p.desc.Caps.RandomWrite })

// Case 11. The repeat may carry bytes; they fall.
func createReplays(c *C) {
	b := c.open()
	img, r := c.full(c.seed()), c.createRequest(c.p.size)
	made := c.createBy(b, "vol", img, r)
	for range 2 {
		w, err := b.Write(c.ctx, c.u("vol"), r)
		c.must(err, "write with create, repeated")
		c.put(w, c.full(c.seed()), 0)
		c.repeats(c.commit(w), made, "create")
		c.holds(b, c.u("vol"), img)
		b = c.crashAndReopen()
	}
	c.same(c.names(b), []string{"vol"}, "the listing")
}

// Case 11. Only the same name is tried: a driver stores the id with the object
// and cannot look through all of them; ids over all objects are the caller's side's.
func idIsNotReused(c *C) {
	b := c.open()
	img, r := c.full(c.seed()), c.createRequest(c.p.size)
	c.createBy(b, "vol", img, r)
	r.Size *= 2
	w, err := b.Write(c.ctx, c.u("vol"), r)
	if err == nil {
		_, err = w.Commit(c.ctx)
	}
	c.refused(err, "create of another size with the same id", primitives.CodeConflict)
	c.holds(b, c.u("vol"), img)
}

// Case 12.
func createOverAnother(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	for _, size := range []int64{c.p.size, 2 * c.p.size} {
		w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(size))
		if err == nil {
			_, err = w.Commit(c.ctx)
		}
		c.refused(err, fmt.Sprintf("create of %d bytes over another volume", size), primitives.CodeExists)
	}
	c.repeats(c.stat(b, c.u("vol")), made, "stat")
	c.holds(b, c.u("vol"), img)
}

// Case 13.
func oneCreateWins(c *C) {
	backends := []primitives.Backend{c.open(), c.open()}
	const clients = 6
	images, won := make([]image, clients), make([]bool, clients)
	calls := make([]func(), clients)
	for i := range clients {
		images[i] = c.full(c.seed())
		r := c.createRequest(c.p.size)
		calls[i] = func() {
			w, err := backends[i%2].Write(c.ctx, c.u("vol"), r)
			if !c.allowed(err, "concurrent create", primitives.CodeExists, primitives.CodeConflict) {
				return
			}
			if _, err := w.WriteAt(images[i], 0); err != nil {
				c.refused(err, "concurrent write", primitives.CodeExists, primitives.CodeConflict)
				_ = w.Abort(c.ctx)
				return
			}
			_, err = w.Commit(c.ctx)
			won[i] = c.allowed(err, "concurrent commit", primitives.CodeExists, primitives.CodeConflict)
		}
	}
	c.together(calls...)
	winner := slices.Index(won, true)
	if winner < 0 || slices.Contains(won[winner+1:], true) {
		c.Fatalf("winners = %v, want exactly one", won)
	}
	c.holds(backends[0], c.u("vol"), images[winner])
}

// Case 14.
func sizesAreRounded(c *C) {
	b := c.open()
	granule := c.p.desc.Granule
	if granule < 1 {
		c.Fatalf("granule = %d, want at least 1", granule)
	}
	for i, size := range []int64{1, granule, granule + 1, 3*granule - 1} {
		name := fmt.Sprintf("vol%d", i)
		w, err := b.Write(c.ctx, c.u(name), c.createRequest(size))
		c.must(err, "create of %d bytes", size)
		if o, want := c.commit(w), roundUp(size, granule); o.Size != want {
			c.Errorf("create of %d bytes with granule %d = %d bytes, want %d", size, granule, o.Size, want)
		}
		c.same(int64(len(c.bytes(b, c.u(name)))), roundUp(size, granule), "the number of bytes that can be read")
	}
	wrong := []int64{0, -1, -granule}
	if c.p.desc.MaxVolume > 0 {
		wrong = append(wrong, c.p.desc.MaxVolume+1, 1<<62)
	}
	for _, size := range wrong {
		_, err := b.Write(c.ctx, c.u("wrong"), c.createRequest(size))
		c.refused(err, fmt.Sprintf("create of %d bytes", size), primitives.CodeInvalid, primitives.CodeNoSpace)
	}
	c.absent(b, c.u("wrong"))
}

// Case 15.
func unwrittenIsZero(c *C) {
	b := c.open()
	c.create(b, "old", c.full(c.seed()))
	c.remove(b, c.u("old"))
	img := c.blank().write(c.seed(), c.p.size/2+100, 1000)
	c.create(b, "new", c.blank())
	c.holds(b, c.u("new"), c.blank())
	w, err := b.Write(c.ctx, c.u("part"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.writeAt(w, img[c.p.size/2+100:c.p.size/2+1100], c.p.size/2+100)
	c.commit(w)
	c.holds(b, c.u("part"), img)
}

// Case 16. Another backend must not see it either.
func nothingBeforeCommit(c *C) {
	b, other := c.open(), c.open()
	img := c.full(c.seed())
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.put(w, img, 0)
	for _, see := range []primitives.Backend{b, other} {
		c.same(c.names(see), []string{}, "the listing before commit")
		c.absent(see, c.u("vol"))
		_, err := see.Read(c.ctx, c.u("vol"), c.op())
		c.refused(err, "read before commit", primitives.CodeNotFound)
		if m := see.Facets().Map; m != nil {
			_, err := m.Map(c.ctx, c.u("vol"), c.mapRequest(primitives.ReadWrite, "guest"))
			c.refused(err, "map before commit", primitives.CodeNotFound)
		}
	}
	c.commit(w)
	for _, see := range []primitives.Backend{b, other} {
		c.same(c.names(see), []string{"vol"}, "the listing after commit")
		c.holds(see, c.u("vol"), img)
	}
}

// Case 17.
func abortedCreateNeverWas(c *C) {
	b := c.open()
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.put(w, c.full(c.seed()), 0)
	c.must(w.Abort(c.ctx), "abort")
	c.must(w.Abort(c.ctx), "abort, repeated")
	c.absent(b, c.u("vol"))
	everything := []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}
	c.same(c.names(b, everything...), []string{}, "everything listed")
	if _, err := w.Commit(c.ctx); err == nil {
		c.Errorf("commit after abort succeeded")
	}
	b = c.crashAndReopen()
	c.same(c.names(b, everything...), []string{}, "everything listed after a crash")
	c.create(b, "vol", c.blank())
	c.holds(b, c.u("vol"), c.blank())
}

// Case 17.
func abortAfterCommit(c *C) {
	b := c.open()
	img := c.full(c.seed())
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.put(w, img, 0)
	c.commit(w)
	c.must(w.Abort(c.ctx), "abort after commit")
	c.must(w.Abort(c.ctx), "abort after commit, repeated")
	c.holds(b, c.u("vol"), img)

	w, err = b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: c.op()})
	c.must(err, "write")
	c.writeAt(w, img.write(c.seed(), 0, 512)[:512], 0)
	c.commit(w)
	c.must(w.Abort(c.ctx), "abort after the commit of an overwrite")
	c.holds(b, c.u("vol"), img)
}

// Cases 17, 27. A torn volume is not taken for a whole one by anything.
func abortedOverwrite(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	op := c.op()
	w, err := b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: op})
	c.must(err, "write")
	img.write(c.seed(), 0, c.p.size/2)
	c.writeAt(w, img[:c.p.size/4], 0)
	c.must(w.Abort(c.ctx), "abort of an overwrite")
	for range 2 {
		c.torn(b, c.u("vol"))
		b = c.crashAndReopen()
	}
	w, err = b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: op, Resume: true})
	c.must(err, "write, resumed")
	c.writeAt(w, img[:c.p.size/2], 0)
	if o := c.commit(w); o.State != primitives.Ready {
		c.Errorf("a resumed overwrite is %v, want ready", o.State)
	}
	c.holds(b, c.u("vol"), img)
}

// torn checks that an object is Incomplete and refuses every use but its removal.
func (c *C) torn(b primitives.Backend, u primitives.URI) {
	c.Helper()
	if o := c.stat(b, u); o.State != primitives.Incomplete {
		c.Errorf("an interrupted write left %v %v, want incomplete", u.Short(), o.State)
	}
	_, err := b.Read(c.ctx, u, c.op())
	c.refused(err, "read of an incomplete volume", primitives.CodeIncomplete)
	_, err = b.Clone(c.ctx, u, c.u("clone-of-torn"), primitives.CloneRequest{Op: c.op()})
	c.refused(err, "clone of an incomplete volume", primitives.CodeIncomplete)
	c.absent(b, c.u("clone-of-torn"))
	_, err = b.Write(c.ctx, u, primitives.WriteRequest{Op: c.op()})
	c.refused(err, "write to an incomplete volume", primitives.CodeIncomplete)
	_, err = b.Write(c.ctx, u, primitives.WriteRequest{Op: c.op(), Resume: true})
	c.refused(err, "resume under another id", primitives.CodeConflict, primitives.CodeIncomplete)
	if f := b.Facets(); f.Map != nil {
		_, err := f.Map.Map(c.ctx, u, c.mapRequest(primitives.ReadOnly, "guest"))
		c.refused(err, "map of an incomplete volume", primitives.CodeIncomplete)
	}
	if f := b.Facets(); f.Snapshots != nil && c.p.caps.Snapshot {
		_, err := f.Snapshots.Snapshot(c.ctx, []primitives.URI{u}, "torn", c.op())
		c.refused(err, "snapshot of an incomplete volume", primitives.CodeIncomplete)
	}
}

// Cases 18, 27.
func killedCreate(c *C) {
	b := c.open()
	w, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.put(w, c.full(c.seed()), 0)
	b = c.crashAndReopen()
	if len(c.names(b)) == 0 {
		c.absent(b, c.u("vol"))
	} else {
		c.torn(b, c.u("vol"))
		_, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
		c.refused(err, "create over an interrupted one", primitives.CodeIncomplete, primitives.CodeExists)
		c.remove(b, c.u("vol"))
	}
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.holds(b, c.u("vol"), img)
}

// Case 19. What was written before the crash need not have reached the device, so
// the caller writes it again.
func resumeCreate(c *C) {
	b := c.open()
	img, r := c.full(c.seed()), c.createRequest(c.p.size)
	w, err := b.Write(c.ctx, c.u("vol"), r)
	c.must(err, "write with create")
	c.writeAt(w, img[:c.p.size/2], 0)
	b = c.crashAndReopen()

	r.Resume = true
	if len(c.names(b)) > 0 {
		stranger := c.createRequest(c.p.size)
		stranger.Resume = true
		_, err := b.Write(c.ctx, c.u("vol"), stranger)
		c.refused(err, "resume under another id", primitives.CodeConflict, primitives.CodeIncomplete)
	}
	made := c.createBy(b, "vol", img, r)
	c.holds(b, c.u("vol"), img)
	c.repeats(c.stat(b, c.u("vol")), made, "stat")
}
