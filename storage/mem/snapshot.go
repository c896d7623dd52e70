// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"fmt"
	"strings"

	"github.com/tenon-storage/tenon/internal/undo"
	"github.com/tenon-storage/tenon/primitives"
)

type snapshots struct{ b *backend }

func (f snapshots) Snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	b := f.b
	return call(ctx, b, "snapshot", func() (primitives.SnapshotSet, error) {
		if err := b.snapshotNames(vols, name); err != nil {
			return primitives.SnapshotSet{}, err
		}
		args := "snapshot " + name + " of " + shortAll(vols)
		answer, err := b.s.replay(op.ID, args)
		if err != nil {
			return primitives.SnapshotSet{}, err
		}
		if answer != nil {
			return b.snapshotAgain(vols, name, answer.(primitives.SnapshotSet)), nil
		}
		set, err := b.snapshot(ctx, vols, name, op)
		if err != nil {
			return primitives.SnapshotSet{}, err
		}
		b.s.remember(op.ID, args, set)
		return set, nil
	})
}

func shortAll(us []primitives.URI) string {
	names := make([]string, len(us))
	for i, u := range us {
		names[i] = u.Short()
	}
	return strings.Join(names, ", ")
}

func (b *backend) snapshotNames(vols []primitives.URI, name string) error {
	if err := primitives.CheckSnapshotName(name); err != nil {
		return err
	}
	if len(vols) == 0 {
		return primitives.Invalid("volumes", "none is given; expected at least one")
	}
	if err := b.mine(vols...); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, u := range vols {
		if seen[u.Volume] {
			return primitives.Invalid("volumes", "%s is given twice", u.Short())
		}
		seen[u.Volume] = true
	}
	return nil
}

// snapshotAgain answers a repeat with the snapshots as they are by now.
func (b *backend) snapshotAgain(vols []primitives.URI, name string, was primitives.SnapshotSet) primitives.SnapshotSet {
	var now primitives.SnapshotSet
	for _, u := range vols {
		o, err := b.s.object(u.At(name))
		if err != nil {
			return was // gone since
		}
		now.Snapshots = append(now.Snapshots, b.render(u.At(name), o))
		now.Switch = append(now.Switch, b.switching(b.s.volumes[u.Volume])...)
	}
	return now
}

// switching returns the mappings of v that await a switch.
func (b *backend) switching(v *volume) []primitives.Mapping {
	var out []primitives.Mapping
	for _, m := range b.s.mappingsOf(v) {
		if m.before != nil {
			out = append(out, m.render())
		}
	}
	return out
}

// snapshot makes all snapshots or none.
func (b *backend) snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	found := make([]*volume, len(vols))
	remap := false
	for i, u := range vols {
		v, err := b.snapshottable(u, name, op)
		if err != nil {
			return primitives.SnapshotSet{}, err
		}
		found[i] = v
		live := b.s.mappedBy(v, func(m *mapping) bool { return m.snap == nil && m.active && m.access == primitives.ReadWrite })
		if len(live) > 0 && b.cfg.live == primitives.LiveNone {
			return primitives.SnapshotSet{}, primitives.Errorf(primitives.CodeInUse, "it is mapped, and this device makes no snapshots of mapped volumes").On(u).By(live...)
		}
		remap = remap || len(live) > 0 && b.cfg.live == primitives.LiveRemap
	}
	var set primitives.SnapshotSet
	var back undo.Stack
	defer func() { _ = back.Unwind(context.WithoutCancel(ctx)) }()
	for i, v := range found {
		sn := b.take(v, name, op)
		back.Push(func(context.Context) error { b.s.untake(v, sn); return nil })
		if remap {
			sn.state = primitives.Pending
			if err := b.s.remap(v, sn); err != nil {
				return primitives.SnapshotSet{}, err
			}
		}
		set.Snapshots = append(set.Snapshots, b.render(vols[i].At(name), &sn.object))
		set.Switch = append(set.Switch, b.switching(v)...)
	}
	back.Commit()
	return set, nil
}

func (b *backend) snapshottable(u primitives.URI, name string, op primitives.Op) (*volume, error) {
	v, err := b.s.changeable(u, op.IfGen)
	if err != nil {
		return nil, err
	}
	if v.state == primitives.Incomplete {
		return nil, errIncomplete(u)
	}
	if v.snaps[name] != nil {
		return nil, primitives.Errorf(primitives.CodeExists, "a snapshot has that name").On(u.At(name))
	}
	return v, nil
}

// take makes a snapshot that shares every chunk with its volume.
func (b *backend) take(v *volume, name string, op primitives.Op) *snapshot {
	sn := &snapshot{of: v.handle, name: name, op: op.ID}
	sn.object = b.s.newObject(v.c.fork())
	sn.order, sn.parent, sn.props = b.s.serial, v.handle, v.props.Clone()
	v.snaps[name] = sn
	return sn
}

func (s *store) untake(v *volume, sn *snapshot) {
	if sn.state == primitives.Pending {
		s.unmapNew(v)
		if v.c.base != nil {
			below := v.c.base
			s.space.release(v.c)
			v.c = below
		}
	} else {
		s.space.release(sn.c)
	}
	delete(v.snaps, sn.name)
}

// remap begins the first phase: the volume's old bytes become the snapshot's,
// still written through the old mapping, and an empty layer above them becomes
// the volume, for the new one.
func (s *store) remap(v *volume, sn *snapshot) error {
	s.space.release(sn.c)
	sn.c = v.c
	v.c = &content{size: sn.c.size, chunks: make(map[int64]*chunk), base: sn.c}
	for _, m := range s.mappingsOf(v) {
		if m.snap != nil || !m.active || m.access != primitives.ReadWrite {
			continue
		}
		if err := m.beginSwitch(sn.c); err != nil {
			return err
		}
	}
	return nil
}

// unmapNew takes the new mappings away and gives the old ones back.
func (s *store) unmapNew(v *volume) {
	for _, m := range s.mappingsOf(v) {
		m.endSwitch(false)
	}
}

func (f snapshots) Settle(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error) {
	b := f.b
	return call(ctx, b, "settle", func() ([]primitives.Object, error) {
		if err := b.snapshotNames(vols, name); err != nil {
			return nil, err
		}
		if err := b.settleable(vols, name, switched); err != nil {
			return nil, err
		}
		var out []primitives.Object
		for _, u := range vols {
			v := b.s.volumes[u.Volume]
			if v == nil || v.snaps[name] == nil {
				continue // taken away before
			}
			sn := v.snaps[name]
			if !switched {
				b.s.untake(v, sn)
				continue
			}
			if sn.state == primitives.Pending {
				b.s.settle(v, sn)
			}
			out = append(out, b.render(u.At(name), &sn.object))
		}
		return out, nil
	})
}

// settleable checks all before anything is settled.
func (b *backend) settleable(vols []primitives.URI, name string, switched bool) error {
	for _, u := range vols {
		o, err := b.s.object(u.At(name))
		switch {
		case err != nil && switched:
			return err
		case err == nil && !switched && o.state != primitives.Pending:
			return primitives.Errorf(primitives.CodeConflict, "the snapshot is settled as switched already").On(u.At(name))
		}
	}
	return nil
}

// settle ends the second phase: what the old mapping wrote is the snapshot, and
// the layer above it becomes whole.
func (s *store) settle(v *volume, sn *snapshot) {
	top := v.c
	v.c = top.fork()
	s.space.release(top)
	sn.state = primitives.Ready
	for _, m := range s.mappingsOf(v) {
		m.endSwitch(true)
	}
}

func (f snapshots) Revert(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
	b := f.b
	return call(ctx, b, "revert", func() (primitives.Object, error) {
		if err := b.mine(vol); err != nil {
			return primitives.Object{}, err
		}
		if err := primitives.CheckSnapshotName(snap); err != nil {
			return primitives.Object{}, err
		}
		args := fmt.Sprintf("revert of %s to %s", vol.Short(), snap)
		return once(b.s, op.ID, args, func() (primitives.Object, error) { return b.revert(vol, snap, op) })
	})
}

func (b *backend) revert(vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
	v, err := b.s.changeable(vol, op.IfGen)
	if err != nil {
		return primitives.Object{}, err
	}
	if err := b.s.unmapped(v, vol); err != nil {
		return primitives.Object{}, err
	}
	from, err := b.s.readable(vol.At(snap))
	if err != nil {
		return primitives.Object{}, err
	}
	b.s.space.release(v.c)
	v.c = from.c.fork()
	v.state, v.touchedBy = primitives.Ready, "" // the torn bytes are gone
	v.gen++
	return b.render(vol, &v.object), nil
}
