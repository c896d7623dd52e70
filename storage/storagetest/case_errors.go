// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

var errorChecks = []check{
	{cases: []int{99}, name: "what is invalid is named", run: invalidIsNamed},
	{cases: []int{100}, name: "a context that ended lets nothing happen", run: endedContextDoesNothing},
	{cases: []int{100}, name: "a clone that is cancelled is done, absent or incomplete", run: cancelledCloneIsKnown},
	{cases: []int{100}, name: "a commit that is cancelled is done or not", run: cancelledCommitIsKnown},
	{cases: []int{101}, name: "close can be repeated, and every call after it is unavailable", run: closeEndsEverything},
	{cases: []int{104}, name: "opening and closing leaks nothing", costly: true, serial: true, run: openAndCloseLeaksNothing},
}

// call is one method of the contract, bound to arguments that would succeed.
type call struct {
	name string
	do   func(ctx context.Context) error
}

// calls returns every call that takes a context. The volume vol and the tombstone
// dead must exist; no call succeeds twice with the same outcome, so they are for
// contexts and backends under which none does.
func (c *C) calls(b primitives.Backend, dead primitives.Tombstone) []call {
	u, op := c.u("vol"), c.op
	write := func(ctx context.Context, u primitives.URI, r primitives.WriteRequest) error {
		w, err := b.Write(ctx, u, r)
		if err == nil {
			_ = w.Abort(context.WithoutCancel(ctx))
		}
		return err
	}
	all := []call{
		{"stat", func(ctx context.Context) error { _, err := b.Stat(ctx, u, op()); return err }},
		{"list", func(ctx context.Context) error { _, err := b.List(ctx, primitives.ListRequest{Op: op()}); return err }},
		{"read", func(ctx context.Context) error { _, err := b.Read(ctx, u, op()); return err }},
		{"create", func(ctx context.Context) error { return write(ctx, c.u("new"), c.createRequest(c.p.size)) }},
		{"write", func(ctx context.Context) error { return write(ctx, u, primitives.WriteRequest{Op: op()}) }},
		{"clone", func(ctx context.Context) error {
			_, err := b.Clone(ctx, u, c.u("new"), primitives.CloneRequest{Op: op()})
			return err
		}},
		{"copy", func(ctx context.Context) error {
			_, err := b.CopyTo(ctx, u, primitives.CopyTarget{URI: c.u("new"), Backend: "nobody", Driver: "nobody"}, op())
			return err
		}},
		{"delink", func(ctx context.Context) error {
			_, err := b.Delink(ctx, u, primitives.DelinkRequest{Op: op()})
			return err
		}},
		{"relink", func(ctx context.Context) error { _, err := b.Relink(ctx, dead, primitives.URI{}, op()); return err }},
		{"destroy", func(ctx context.Context) error {
			return b.Destroy(ctx, dead, primitives.DestroyRequest{Op: op()})
		}},
	}
	return append(all, c.facetCalls(b)...)
}

func (c *C) facetCalls(b primitives.Backend) []call {
	u, op, f := c.u("vol"), c.op, b.Facets()
	var all []call
	if f.Snapshots != nil && c.p.caps.Snapshot {
		all = append(all,
			call{"snapshot", func(ctx context.Context) error {
				_, err := f.Snapshots.Snapshot(ctx, []primitives.URI{u}, "new", op())
				return err
			}},
			call{"settle", func(ctx context.Context) error {
				_, err := f.Snapshots.Settle(ctx, []primitives.URI{u}, "new", true, op())
				return err
			}},
			call{"revert", func(ctx context.Context) error { _, err := f.Snapshots.Revert(ctx, u, "new", op()); return err }})
	}
	if f.Resize != nil {
		all = append(all, call{"resize", func(ctx context.Context) error {
			_, err := f.Resize.Resize(ctx, u, 2*c.p.size, op())
			return err
		}})
	}
	if f.Delta != nil {
		all = append(all, call{"extents", func(ctx context.Context) error {
			for _, err := range f.Delta.Extents(ctx, primitives.DeltaRequest{Op: op(), Target: u}) {
				return err
			}
			return nil
		}})
	}
	if f.Map != nil {
		all = append(all,
			call{"map", func(ctx context.Context) error {
				_, err := f.Map.Map(ctx, u, c.mapRequest(primitives.ReadWrite, "guest"))
				return err
			}},
			call{"activate", func(ctx context.Context) error { _, err := f.Map.Activate(ctx, "nothing", op()); return err }},
			call{"mappings", func(ctx context.Context) error { _, err := f.Map.Mappings(ctx); return err }})
	}
	return all
}

// Case 99. That every error has a code is checked with every refusal.
func invalidIsNamed(c *C) {
	b := c.open()
	c.create(b, "vol", c.blank())
	named := func(err error, field, what string) {
		c.Helper()
		if e := c.refusal(err, what, primitives.CodeInvalid); len(e.Problems) == 0 || e.Problems[0].Prop == "" || e.Problems[0].Message == "" {
			c.Errorf("%s = %v, want a problem that names a field such as %q", what, e, field)
		}
	}
	_, err := b.Write(c.ctx, c.u("new"), c.createRequest(0))
	named(err, "size", "create of 0 bytes")
	_, err = b.Write(c.ctx, c.u("a/b"), c.createRequest(c.p.size))
	named(err, "volume", "create of an illegal name")
	_, err = b.Clone(c.ctx, c.u("vol"), c.u("new"), primitives.CloneRequest{Op: c.op(), Size: -1})
	named(err, "size", "clone of a negative size")
	_, err = b.List(c.ctx, primitives.ListRequest{Op: primitives.Op{Props: c.opProps()}, Cursor: "?"})
	named(err, "cursor", "list with an unknown cursor")
	other := c.u("vol")
	other.Device = "elsewhere"
	_, err = b.Stat(c.ctx, other, c.op())
	c.refused(err, "stat of another device's volume", primitives.CodeInvalid, primitives.CodeNotFound)
	_, err = b.Stat(c.ctx, primitives.URI{Device: device}, c.op())
	c.refused(err, "stat of a device", primitives.CodeInvalid, primitives.CodeNotFound)
}

// Case 100. The error says whether the caller or the clock ended it.
func endedContextDoesNothing(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	c.create(b, "dead", img)
	dead := c.delink(b, c.u("dead"))
	cancelled, cancel := context.WithCancel(c.ctx)
	cancel()
	late, cancel := context.WithDeadline(c.ctx, time.Now().Add(-time.Hour))
	defer cancel()
	for _, k := range c.calls(b, dead) {
		also := primitives.Code(0)
		if k.name == "copy" {
			also = primitives.CodeNoOffload
		}
		c.refused(k.do(cancelled), k.name+" under a cancelled context", primitives.CodeCancelled, also)
		c.refused(k.do(late), k.name+" after its deadline", primitives.CodeUnavailable, primitives.CodeCancelled, also)
	}
	_, err := c.tryOpen(cancelled, c.openRequest("a"))
	c.refused(err, "open under a cancelled context", primitives.CodeCancelled)
	c.same(c.names(b, primitives.KindVolume, primitives.KindSnapshot), []string{"vol"}, "the listing")
	c.same(len(c.tombstones(b)), 1, "the number of tombstones")
	c.repeats(c.stat(b, c.u("vol")), made, "stat")
	if b.Facets().Map != nil {
		c.same(len(c.mappings(b)), 0, "the number of mappings")
	}
	c.holds(b, c.u("vol"), img)
}

// Case 100.
func cancelledCloneIsKnown(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "src", img)
	for i, full := range []bool{true, false} {
		dst := c.u(fmt.Sprintf("dst%d", i))
		ctx, cancel := context.WithCancel(c.ctx)
		r := primitives.CloneRequest{Op: c.op(), Full: full}
		r.Report = func(primitives.Progress) { cancel() }
		c.together(
			func() {
				_, err := b.Clone(ctx, c.u("src"), dst, r)
				c.allowed(err, "clone, cancelled", primitives.CodeCancelled)
			},
			func() { runtime.Gosched(); cancel() },
		)
		r.Report = nil
		_, err := b.Clone(c.ctx, c.u("src"), dst, r)
		c.must(err, "clone, repeated after it was cancelled")
		c.holds(b, dst, img)
	}
	c.holds(b, c.u("src"), img)
}

// Case 100.
func cancelledCommitIsKnown(c *C) {
	b := c.open()
	img := c.full(c.seed())
	r := c.createRequest(c.p.size)
	w, err := b.Write(c.ctx, c.u("vol"), r)
	c.must(err, "write with create")
	c.put(w, img, 0)
	ctx, cancel := context.WithCancel(c.ctx)
	done := false
	c.together(
		func() {
			_, err := w.Commit(ctx)
			done = c.allowed(err, "commit, cancelled", primitives.CodeCancelled)
		},
		cancel,
	)
	if !done {
		c.must(w.Abort(c.ctx), "abort after a cancelled commit")
	}
	b = c.crashAndReopen()
	if len(c.names(b)) == 0 {
		if done {
			c.Errorf("a committed volume is absent")
		}
		c.createBy(b, "vol", img, r)
	}
	c.holds(b, c.u("vol"), img)
}

// Case 101.
func closeEndsEverything(c *C) {
	b, other := c.open(), c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.create(b, "dead", img)
	dead := c.delink(b, c.u("dead"))
	calls := c.calls(b, dead)
	w, err := b.Write(c.ctx, c.u("open"), c.createRequest(c.p.size))
	c.must(err, "write with create")
	c.close(b)
	c.must(b.Close(), "close, repeated")
	for _, k := range calls {
		c.refused(k.do(c.ctx), k.name+" after close", primitives.CodeUnavailable)
	}
	_, err = b.Describe(c.ctx)
	c.refused(err, "describe after close", primitives.CodeUnavailable)
	if _, err := w.Commit(c.ctx); err == nil {
		c.Errorf("commit after close succeeded")
	}
	_ = w.Abort(c.ctx)
	c.same(c.names(other), []string{"vol"}, "the listing of a backend that is still open")
	c.holds(other, c.u("vol"), img)
	c.must(b.Close(), "close, once more")
}

// Case 104.
func openAndCloseLeaksNothing(c *C) {
	b := c.open()
	c.create(b, "vol", c.full(c.seed()))
	c.close(b)
	cycle := func() {
		b := c.open()
		_ = c.stat(b, c.u("vol"))
		_ = c.names(b)
		r := c.reader(b, c.u("vol"))
		c.must(r.Close(), "close a reader")
		if b.Facets().Map != nil {
			c.unmap(b, c.attached(b, c.u("vol"), primitives.ReadWrite, "guest"))
		}
		c.close(b)
	}
	cycles := 100
	if c.v.Slow {
		cycles = 10
	}
	cycle()
	fds, routines := openFiles(), runtime.NumGoroutine()
	for range cycles {
		cycle()
	}
	// What ends asynchronously may take a moment; a leak of one per cycle never goes.
	allowed := cycles / 5
	c.waits(fmt.Sprintf("the return of all but %d file descriptors", allowed), func() bool { return openFiles() <= fds+allowed })
	c.waits(fmt.Sprintf("the end of all but %d goroutines", allowed), func() bool { return runtime.NumGoroutine() <= routines+allowed })
}

// openFiles returns how many file descriptors this process has.
func openFiles() int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}
