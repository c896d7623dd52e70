// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// check is one promise of the contract.
type check struct {
	topic  string // of checks with numbers of their own; empty: the list of cases
	cases  []int  // numbers in the list of cases, see NotHere for the missing ones
	name   string // the promise
	needs  []need
	serial bool // measures the process or the clock, so nothing may run beside it
	costly bool // takes long, so whoever looks for the first failure tries it last
	run    func(c *C)
}

// String returns the check's name with its cases, as subtests show it.
func (k check) String() string {
	numbers := make([]string, len(k.cases))
	for i, n := range k.cases {
		numbers[i] = fmt.Sprintf("%s%03d", k.topic, n)
	}
	return strings.Join(numbers, "+") + " " + k.name
}

// checks returns every check, in the order of the cases.
func checks() []check {
	return slices.Concat(listChecks, createChecks, readChecks, cloneChecks, copyChecks, delinkChecks,
		snapshotChecks, liveChecks, resizeChecks, deltaChecks, mapChecks, guestChecks, importChecks,
		fenceChecks, capChecks, propChecks, errorChecks, randomChecks)
}

// Run runs every check against the driver that h gives access to, as subtests
// of t, which must not be parallel itself.
func Run(t *testing.T, h Harness) {
	t.Helper()
	left := new(leftOut)
	for _, v := range h.variants() {
		t.Run(v.Name, func(t *testing.T) {
			p := examine(t, h, v)
			for _, k := range checks() {
				t.Run(k.String(), func(t *testing.T) {
					if !k.serial {
						t.Parallel()
					}
					newC(t, h, v, p, left, k).perform(k)
				})
			}
		})
	}
	t.Logf("left out:%s", left)
	t.Logf("not to be reached through this contract:%s", notHereList())
}

func (h Harness) variants() []Variant {
	if len(h.Variants) == 0 {
		return []Variant{{Name: "volumes"}}
	}
	return h.Variants
}

// timeLimit bounds one check. It is there so that a hang becomes a failure; no
// check measures itself by it.
const timeLimit = 2 * time.Minute

// perform runs k after its needs are found to be met.
func (c *C) perform(k check) {
	for _, n := range k.needs {
		if r, met := n(c); !met {
			c.skip(r)
		}
	}
	k.run(c)
}

// profile is what one variant of a store is able to do, learnt once from a
// store and a volume of its own.
type profile struct {
	store   Store // its hooks tell which hooks there are
	desc    primitives.Description
	caps    primitives.Caps // of an unmapped volume
	size    int64           // of the volumes that checks make
	offers  offers
	mapping primitives.Mapping // of the volume; zero without a Mapper
}

type offers struct{ snapshots, resize, delta, mapper, importer, fence bool }

// examine learns the profile. It fails t where not even that works.
func examine(t testing.TB, h Harness, v Variant) profile {
	t.Helper()
	c := newC(t, h, v, profile{}, new(leftOut), check{name: "opening a store and making a volume"})
	b := c.open()
	f := b.Facets()
	p := profile{store: c.store, desc: c.describe(b)}
	p.offers = offers{f.Snapshots != nil, f.Resize != nil, f.Delta != nil, f.Map != nil, f.Import != nil, f.Fence != nil}
	p.size = roundUp(1<<20, max(p.desc.Granule, 1))
	c.p = p
	u := c.create(b, "examined", c.blank()).URI
	p.caps = c.stat(b, u).Caps
	if f.Map != nil {
		p.mapping = c.mapped(b, u, primitives.ReadWrite, "examiner")
		c.unmap(b, p.mapping)
	}
	return p
}

func roundUp(n, granule int64) int64 { return (n + granule - 1) / granule * granule }

// C is one running check: a testing.TB with a fresh store.
type C struct {
	testing.TB
	ctx   context.Context
	h     Harness
	v     Variant
	p     profile
	left  *leftOut
	check string

	store    Store
	opened   []opened
	hosts    map[string]primitives.HostInfo
	sequence *counter
}

func newC(t testing.TB, h Harness, v Variant, p profile, left *leftOut, k check) *C {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
	t.Cleanup(cancel)
	c := &C{
		TB: t, ctx: ctx, h: h, v: v, p: p, left: left, check: k.String(), sequence: new(counter),
		hosts: make(map[string]primitives.HostInfo),
	}
	c.use(h.New(t))
	return c
}
