// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/tenon-storage/tenon/primitives"
)

var randomChecks = []check{
	{cases: []int{75}, name: "after any sequence of calls content and changes are those of a simple model", costly: true, run: matchesModel},
	{cases: []int{102}, name: "many callers at once on few volumes leave every volume whole", costly: true, run: manyCallers},
}

// Case 102. Every call may be refused, for one of the reasons that another's call
// is under way; whatever is there in the end is whole.
func manyCallers(c *C) {
	const callers, names = 32, 8
	backends := []primitives.Backend{c.open(), c.open()}
	rounds := 12
	if c.v.Slow {
		rounds = 1
	}
	var calls []func()
	for i := range callers {
		rng := rand.New(rand.NewPCG(uint64(i), 102))
		calls = append(calls, func() {
			for range rounds {
				c.randomCall(backends[rng.IntN(2)], rng, c.u(fmt.Sprintf("vol%d", rng.IntN(names))), c.u(fmt.Sprintf("vol%d", rng.IntN(names))))
			}
		})
	}
	c.together(calls...)
	b := c.crashAndReopen()
	for _, o := range c.list(b, primitives.ListRequest{}) {
		if o.State != primitives.Ready {
			c.Errorf("%v is %v in the end, want ready", o.URI.Short(), o.State)
			continue
		}
		c.uniform(b, o.URI)
	}
	c.clears(b)
}

// clears destroys every tombstone, those that others need after those others.
// What live volumes need stays.
func (c *C) clears(b primitives.Backend) {
	c.Helper()
	for left := c.tombstones(b); len(left) > 0; {
		for _, o := range left {
			err := b.Destroy(c.ctx, *o.Tombstone, primitives.DestroyRequest{Op: c.op()})
			c.allowed(err, "destroy of "+o.URI.Short(), primitives.CodeDependents)
		}
		again := c.tombstones(b)
		if len(again) == len(left) {
			return
		}
		left = again
	}
}

// uniform checks that a volume holds the pattern of one seed, whichever.
func (c *C) uniform(b primitives.Backend, u primitives.URI) {
	c.Helper()
	got := c.bytes(b, u)
	seed, _ := origin(binary.LittleEndian.Uint64(got))
	if d := c.full(seed).differs(got); d != "" {
		c.Errorf("content of %v, which is of one writer: %s", u.Short(), d)
	}
}

// randomCall does one thing that others may be in the way of.
func (c *C) randomCall(b primitives.Backend, rng *rand.Rand, u, other primitives.URI) {
	inTheWay := []primitives.Code{
		primitives.CodeNotFound, primitives.CodeExists, primitives.CodeConflict,
		primitives.CodeInUse, primitives.CodeIncomplete, primitives.CodeDependents,
	}
	allowed := func(err error, what string) bool { return c.allowed(err, what+" beside others", inTheWay...) }
	write := func(r primitives.WriteRequest) {
		w, err := b.Write(c.ctx, u, r)
		if !allowed(err, "write") {
			return
		}
		if _, err := w.WriteAt(c.full(c.seed()), 0); !allowed(err, "write of all") {
			c.must(w.Abort(c.ctx), "abort")
			return
		}
		_, err = w.Commit(c.ctx)
		allowed(err, "commit")
	}
	switch rng.IntN(8) {
	case 0, 1:
		write(c.createRequest(c.p.size))
	case 2:
		write(primitives.WriteRequest{Op: c.op()})
	case 3:
		_, err := b.Clone(c.ctx, u, other, primitives.CloneRequest{Op: c.op()})
		if u != other {
			allowed(err, "clone")
		}
	case 4:
		dead, err := b.Delink(c.ctx, u, primitives.DelinkRequest{Op: c.op()})
		if !allowed(err, "delink") {
			return
		}
		if rng.IntN(2) == 0 {
			allowed(b.Destroy(c.ctx, dead, primitives.DestroyRequest{Op: c.op()}), "destroy")
			return
		}
		_, err = b.Relink(c.ctx, dead, primitives.URI{}, c.op())
		allowed(err, "relink")
	case 5:
		_, err := b.List(c.ctx, primitives.ListRequest{Op: primitives.Op{Props: c.opProps()}, Limit: 3})
		c.must(err, "list beside others")
	case 6:
		if m := b.Facets().Map; m != nil {
			got, err := m.Map(c.ctx, u, c.mapRequest(primitives.ReadOnly, fmt.Sprintf("guest-%d", rng.IntN(3))))
			if allowed(err, "map") {
				allowed(m.Unmap(c.ctx, got.ID, primitives.UnmapRequest{Op: c.op()}), "unmap")
			}
		}
	case 7:
		r, err := b.Read(c.ctx, u, c.op())
		if allowed(err, "read") {
			_, _ = r.ReadAt(make([]byte, 4096), 0)
			c.must(r.Close(), "close a reader")
		}
	}
}
