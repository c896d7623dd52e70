// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

func (b *backend) Delink(ctx context.Context, u primitives.URI, d primitives.DelinkRequest) (primitives.Tombstone, error) {
	return call(ctx, b, "delink", func() (primitives.Tombstone, error) {
		if err := b.mine(u); err != nil {
			return primitives.Tombstone{}, err
		}
		args := fmt.Sprintf("delink of %s for %s", u.Short(), d.Keep)
		return once(b.s, d.Op.ID, args, func() (primitives.Tombstone, error) {
			t, err := b.bury(u, d)
			if err != nil {
				return primitives.Tombstone{}, err
			}
			b.s.serial++
			t.Tombstone = primitives.Tombstone{ID: fmt.Sprintf("t-%d", b.s.serial), Was: u, Handle: t.object().handle, Delinked: time.Now()}
			if d.Keep > 0 {
				t.Expires = t.Delinked.Add(d.Keep)
			}
			b.s.tombs[t.ID] = t
			return t.Tombstone, nil
		})
	})
}

func (t *tomb) object() *object {
	if t.snap != nil {
		return &t.snap.object
	}
	return &t.vol.object
}

// bury takes the object out of the namespace.
func (b *backend) bury(u primitives.URI, d primitives.DelinkRequest) (*tomb, error) {
	v, err := b.s.changeable(u.Parent(), 0)
	if err != nil {
		return nil, err
	}
	if u.IsSnapshot() {
		return b.burySnapshot(v, u, d)
	}
	if err := v.atGeneration(d.IfGen, u); err != nil {
		return nil, err
	}
	if err := errMapped(u, b.s.mappedBy(v, func(*mapping) bool { return true })); err != nil {
		return nil, err
	}
	if len(v.snaps) > 0 && !b.cfg.takeSnaps {
		return nil, primitives.Errorf(primitives.CodeDependents, "it has snapshots").On(u).By(v.snapshotNames(u, nil)...).
			Trying("Delink the snapshots first")
	}
	delete(b.s.volumes, v.name)
	return &tomb{vol: v}, nil
}

func (b *backend) burySnapshot(v *volume, u primitives.URI, d primitives.DelinkRequest) (*tomb, error) {
	sn := v.snaps[u.Snapshot]
	if sn == nil {
		return nil, (&primitives.Error{Code: primitives.CodeNotFound}).On(u)
	}
	if err := sn.atGeneration(d.IfGen, u); err != nil {
		return nil, err
	}
	if err := errMapped(u, b.s.mappedBy(v, func(m *mapping) bool { return m.snap == sn })); err != nil {
		return nil, err
	}
	delete(v.snaps, sn.name)
	return &tomb{snap: sn}, nil
}

// snapshotNames names the snapshots of v that keep chooses.
func (v *volume) snapshotNames(u primitives.URI, keep func(*snapshot) bool) []primitives.Blocker {
	var by []primitives.Blocker
	for _, sn := range v.snaps {
		if keep == nil || keep(sn) {
			by = append(by, primitives.Blocker{Kind: "snapshot", Name: u.At(sn.name).Short()})
		}
	}
	slices.SortFunc(by, func(a, b primitives.Blocker) int { return strings.Compare(a.Name, b.Name) })
	return by
}

func (b *backend) Relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	return call(ctx, b, "relink", func() (primitives.Object, error) {
		args := fmt.Sprintf("relink of %s as %s", t.ID, as.Short())
		return once(b.s, op.ID, args, func() (primitives.Object, error) { return b.raise(t, as, op) })
	})
}

// raise brings a tombstone back into the namespace.
func (b *backend) raise(t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	tb := b.s.tombs[t.ID]
	if tb == nil {
		return primitives.Object{}, primitives.Errorf(primitives.CodeNotFound, "no tombstone %q", t.ID)
	}
	if as.IsZero() {
		as = primitives.URI{Device: b.name, Volume: tb.Was.Volume, Snapshot: tb.Was.Snapshot}
	}
	if err := b.mine(as); err != nil {
		return primitives.Object{}, err
	}
	o := tb.object()
	if err := o.atGeneration(op.IfGen, as); err != nil {
		return primitives.Object{}, err
	}
	if as.IsSnapshot() != (tb.snap != nil) {
		return primitives.Object{}, primitives.Invalid("as", "%s cannot become %s: one is a volume, the other a snapshot", tb.Was.Short(), as.Short())
	}
	place := b.s.free
	if tb.snap != nil {
		place = func(u primitives.URI) error { return b.s.freeFor(tb.snap, u) }
	}
	if err := place(as); err != nil {
		return primitives.Object{}, err
	}
	if tb.snap != nil {
		tb.snap.name = as.Snapshot
		b.s.volumes[as.Volume].snaps[as.Snapshot] = tb.snap
	} else {
		tb.vol.name = as.Volume
		b.s.volumes[as.Volume] = tb.vol
	}
	delete(b.s.tombs, t.ID)
	return b.render(as, o), nil
}

// freeFor reports why a snapshot cannot come back under that name.
func (s *store) freeFor(sn *snapshot, u primitives.URI) error {
	v, err := s.changeable(u.Parent(), 0)
	if err != nil {
		return err
	}
	if v.handle != sn.of {
		return primitives.Invalid("as", "%s is not the volume that the snapshot was made of", u.Parent().Short())
	}
	if v.snaps[u.Snapshot] != nil {
		return primitives.Errorf(primitives.CodeExists, "a snapshot has that name").On(u)
	}
	return nil
}

func (b *backend) Destroy(ctx context.Context, t primitives.Tombstone, d primitives.DestroyRequest) error {
	return do(ctx, b, "destroy", func() error {
		tb := b.s.tombs[t.ID]
		if tb == nil {
			return nil
		}
		parts := []*object{tb.object()}
		if tb.vol != nil {
			for _, sn := range tb.vol.snaps {
				parts = append(parts, &sn.object)
			}
		}
		if by := b.needed(parts); len(by) > 0 {
			return primitives.Errorf(primitives.CodeDependents, "clones need its data").By(by...).On(tb.Was)
		}
		for _, o := range parts {
			if d.Erase == primitives.EraseZero {
				o.c.wipe()
			}
			b.s.space.release(o.c)
			b.s.needNoMore(o)
		}
		delete(b.s.tombs, t.ID)
		return nil
	})
}

// needed names whatever needs one of those objects and is none of them.
func (b *backend) needed(parts []*object) []primitives.Blocker {
	wanted := make(map[primitives.Handle]bool)
	for _, o := range parts {
		for h := range b.s.needers[o.handle] {
			wanted[h] = true
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	var by []primitives.Blocker
	for _, v := range b.s.volumes {
		if wanted[v.handle] {
			by = append(by, primitives.Blocker{Kind: "volume", Name: b.name + "/" + v.name})
		}
	}
	for _, t := range b.s.tombs {
		if t.vol != nil && wanted[t.vol.handle] {
			by = append(by, primitives.Blocker{Kind: "tombstone", Name: t.ID})
		}
	}
	slices.SortFunc(by, func(a, b primitives.Blocker) int { return strings.Compare(a.Name, b.Name) })
	return by
}
