// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// model is what a store should hold after a random sequence of calls.
type model struct {
	c    *C
	b    primitives.Backend
	rng  *rand.Rand
	live map[string]*modelVolume
	dead []modelTomb
	next int
	log  []string // what was done, to be read when a check fails
}

type modelVolume struct {
	img   image
	snaps map[string]image
	order []string // names of snaps, oldest first
}

type modelTomb struct {
	primitives.Tombstone
	vol *modelVolume
}

// Case 75.
func matchesModel(c *C) {
	steps := 150
	if c.v.Slow {
		steps = 20
	}
	for seed := range uint64(2) {
		m := &model{c: c, b: c.open(), rng: rand.New(rand.NewPCG(75, seed)), live: map[string]*modelVolume{}}
		for range steps {
			m.step()
			if c.Failed() {
				break
			}
		}
		m.compare()
		if c.Failed() {
			c.Fatalf("the sequence of seed %d was:\n%s", seed, m.log)
		}
		c.crash()
		c.use(c.h.New(c.TB))
	}
}

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...)+"\n")
}

// any returns a live volume, "" where there is none.
func (m *model) any() string {
	names := slices.Sorted(maps.Keys(m.live))
	if len(names) == 0 {
		return ""
	}
	return names[m.rng.IntN(len(names))]
}

func (m *model) fresh(prefix string) string {
	m.next++
	return fmt.Sprintf("%s%03d", prefix, m.next)
}

// step does one random thing to the store and to the model.
func (m *model) step() {
	name := m.any()
	if name == "" || (len(m.live) < 4 && m.rng.IntN(6) == 0) {
		m.create()
		return
	}
	v := m.live[name]
	steps := []func(string, *modelVolume){m.write, m.write, m.write, m.clone, m.delink, m.verify}
	if m.c.p.caps.Snapshot {
		steps = append(steps, m.snapshot, m.snapshot, m.dropSnapshot, m.delta, m.delta)
		if m.c.p.caps.Revert != primitives.RevertNone {
			steps = append(steps, m.revert)
		}
	}
	if m.c.p.offers.resize {
		steps = append(steps, m.grow)
	}
	if len(m.dead) > 0 {
		steps = append(steps, m.raiseOrDestroy)
	}
	steps[m.rng.IntN(len(steps))](name, v)
}

func (m *model) create() {
	name := m.fresh("v")
	img := m.c.blank()
	if m.rng.IntN(2) == 0 {
		m.scribble(img, nil)
	}
	m.note("create %s", name)
	m.c.create(m.b, name, img)
	m.live[name] = &modelVolume{img: img, snaps: map[string]image{}}
}

// scribble changes img at random, and w likewise.
func (m *model) scribble(img image, w primitives.Writer) {
	for range 1 + m.rng.IntN(4) {
		off := m.rng.Int64N(img.size())
		n := 1 + m.rng.Int64N(min(img.size()-off, 200_000))
		if m.rng.IntN(2) == 0 { // whole clusters, which a backend may share or free
			off, n = off/65536*65536, roundUp(n, 65536)
			n = min(n, img.size()-off)
		}
		if m.rng.IntN(3) == 0 {
			img.zero(off, n)
			if w != nil {
				m.c.zeroAt(w, off, n)
			}
			continue
		}
		img.write(m.c.seed(), off, n)
		if w != nil {
			m.c.writeAt(w, img[off:off+n], off)
		}
	}
}

func (m *model) write(name string, v *modelVolume) {
	m.note("write %s", name)
	m.c.edit(m.b, m.c.u(name), func(w primitives.Writer) { m.scribble(v.img, w) })
}

func (m *model) snapshot(name string, v *modelVolume) {
	if len(v.snaps) >= 4 {
		return
	}
	snap := m.fresh("s")
	m.note("snapshot %s@%s", name, snap)
	m.c.snapshot(m.b, snap, m.c.u(name))
	v.snaps[snap], v.order = v.img.clone(), append(v.order, snap)
}

// pick returns one of v's snapshots, "" where it has none.
func (m *model) pick(v *modelVolume) string {
	if len(v.order) == 0 {
		return ""
	}
	return v.order[m.rng.IntN(len(v.order))]
}

func (m *model) dropSnapshot(name string, v *modelVolume) {
	snap := m.pick(v)
	if snap == "" {
		return
	}
	m.note("delink %s@%s", name, snap)
	dead, err := m.b.Delink(m.c.ctx, m.c.u(name).At(snap), primitives.DelinkRequest{Op: m.c.op()})
	if !m.c.allowed(err, "delink of a snapshot", primitives.CodeDependents) {
		return
	}
	err = m.b.Destroy(m.c.ctx, dead, primitives.DestroyRequest{Op: m.c.op()})
	if !m.c.allowed(err, "destroy of a snapshot", primitives.CodeDependents) {
		m.c.relink(m.b, dead, primitives.URI{})
		return
	}
	delete(v.snaps, snap)
	v.order = slices.DeleteFunc(v.order, func(s string) bool { return s == snap })
}

func (m *model) revert(name string, v *modelVolume) {
	snap := m.pick(v)
	if snap == "" {
		return
	}
	m.note("revert %s to %s", name, snap)
	_, err := m.b.Facets().Snapshots.Revert(m.c.ctx, m.c.u(name), snap, m.c.op())
	if m.c.allowed(err, "revert", primitives.CodeDependents) {
		v.img = v.snaps[snap].clone()
	}
}

func (m *model) clone(name string, v *modelVolume) {
	if len(m.live) >= 5 {
		return
	}
	src, img := m.c.u(name), v.img
	if snap := m.pick(v); snap != "" && m.rng.IntN(2) == 0 {
		src, img = src.At(snap), v.snaps[snap]
	}
	dst := m.fresh("v")
	r := primitives.CloneRequest{Full: m.rng.IntN(2) == 0}
	if m.rng.IntN(3) == 0 {
		r.Size = roundUp(img.size()+1, m.c.p.desc.Granule)
	}
	m.note("clone %s to %s, full %v, size %d", src.Short(), dst, r.Full, r.Size)
	m.c.clone(m.b, src, m.c.u(dst), r)
	m.live[dst] = &modelVolume{img: img.resized(max(r.Size, img.size())), snaps: map[string]image{}}
}

func (m *model) grow(name string, v *modelVolume) {
	if v.img.size() > 3*m.c.p.size {
		return
	}
	size := roundUp(v.img.size()+1+m.rng.Int64N(100_000), m.c.p.desc.Granule)
	m.note("resize %s to %d", name, size)
	m.c.resize(m.b, m.c.u(name), size)
	v.img = v.img.resized(size)
}

func (m *model) delink(name string, v *modelVolume) {
	m.note("delink %s", name)
	dead, err := m.b.Delink(m.c.ctx, m.c.u(name), primitives.DelinkRequest{Op: m.c.op()})
	if !m.c.allowed(err, "delink", primitives.CodeDependents) {
		return
	}
	delete(m.live, name)
	if m.c.p.desc.Caps.DeleteWithSnaps != primitives.DeleteTakesSnapshots && len(v.snaps) > 0 {
		// The snapshots stay under the old name; the model does not follow them.
		m.c.relink(m.b, dead, primitives.URI{})
		m.live[name] = v
		return
	}
	m.dead = append(m.dead, modelTomb{dead, v})
}

func (m *model) raiseOrDestroy(string, *modelVolume) {
	i := m.rng.IntN(len(m.dead))
	t := m.dead[i]
	if m.rng.IntN(2) == 0 {
		m.note("destroy %s", t.Was.Volume)
		err := m.b.Destroy(m.c.ctx, t.Tombstone, primitives.DestroyRequest{Op: m.c.op()})
		if !m.c.allowed(err, "destroy", primitives.CodeDependents) {
			return
		}
	} else {
		name := m.fresh("r")
		m.note("relink %s as %s", t.Was.Volume, name)
		m.c.relink(m.b, t.Tombstone, m.c.u(name))
		m.live[name] = t.vol
	}
	m.dead = slices.Delete(m.dead, i, i+1)
}

func (m *model) verify(name string, v *modelVolume) {
	m.note("read %s", name)
	m.c.holds(m.b, m.c.u(name), v.img)
	if snap := m.pick(v); snap != "" {
		m.c.holds(m.b, m.c.u(name).At(snap), v.snaps[snap])
	}
}

// delta checks the changes from one snapshot to a later one or to the volume.
// After a revert the order is no longer the content's, and NoDelta is an answer.
func (m *model) delta(name string, v *modelVolume) {
	if !m.c.p.offers.delta || len(v.order) == 0 {
		return
	}
	i := m.rng.IntN(len(v.order))
	target, want := m.c.u(name), v.img
	if later := v.order[i:]; m.rng.IntN(2) == 0 {
		snap := later[m.rng.IntN(len(later))]
		target, want = target.At(snap), v.snaps[snap]
	}
	base := m.c.u(name).At(v.order[i])
	m.note("extents of %s since %s", target.Short(), v.order[i])
	for _, err := range m.b.Facets().Delta.Extents(m.c.ctx, primitives.DeltaRequest{Op: m.c.op(), Target: target, Base: base}) {
		if primitives.CodeOf(err) == primitives.CodeNoDelta {
			return
		}
		break
	}
	m.c.adds(m.b, target, base, want, v.snaps[v.order[i]].resized(want.size()))
}

// compare checks everything, after a crash too.
func (m *model) compare() {
	m.b = m.c.crashAndReopen()
	want := []string{}
	for name, v := range m.live {
		want = append(want, name)
		m.c.holds(m.b, m.c.u(name), v.img)
		for snap, img := range v.snaps {
			m.c.holds(m.b, m.c.u(name).At(snap), img)
		}
	}
	m.c.same(m.c.names(m.b), slices.Sorted(slices.Values(want)), "the listing in the end")
}
