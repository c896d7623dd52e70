// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"syscall"

	"github.com/tenon-storage/tenon/primitives"
)

// volumeObject shows a volume to callers.
func (s *session) volumeObject(r record, cond condition) (primitives.Object, error) {
	o := primitives.Object{
		URI: primitives.URI{Device: s.name, Volume: r.Name}, Handle: r.Handle, Kind: primitives.KindVolume,
		State: primitives.Ready, Size: r.Size, Format: r.Format, Generation: r.Generation,
		Dependents: len(r.clones()), Created: r.Created, Props: r.Props.Clone(),
	}
	if r.Origin != nil {
		o.Parent = r.Origin.Snapshot
	}
	o.Used = s.used(r.layer(r.Head))
	if cond != ready {
		o.State = primitives.Incomplete
		o.Caps = s.tornCaps()
		return o, nil
	}
	if r.Growing != nil {
		o.State = primitives.Pending
	}
	maps, err := s.mappingsOf(r.Handle)
	if err != nil {
		return o, err
	}
	o.Caps = s.volumeCaps(r.family, maps)
	return o, nil
}

// volumeCaps narrows the device's capabilities to one volume.
func (s *session) volumeCaps(f *family, maps []mapping) primitives.Caps {
	c := s.caps(s.fs)
	c.Formats = []primitives.Format{f.Format}
	if !s.canSnapshot(f) {
		c.Snapshot, c.SnapshotLive, c.SnapshotGroup, c.Revert = false, primitives.LiveNone, false, primitives.RevertNone
	}
	if len(f.pending()) > 0 {
		c.Snapshot, c.SnapshotGroup = false, false
	}
	if len(maps) > 0 {
		c.Revert = primitives.RevertNone
	}
	return c
}

// canSnapshot reports whether the volume's format has snapshots on this file system.
func (s *session) canSnapshot(f *family) bool {
	return s.fs.reflink || f.Format == primitives.FormatQcow2 && s.tools
}

func (s *session) snapshotObject(r record, snap *snapshot) (primitives.Object, error) {
	o := primitives.Object{
		URI: primitives.URI{Device: s.name, Volume: r.Name, Snapshot: snap.Name}, Handle: snap.Handle, Kind: primitives.KindSnapshot,
		State: primitives.Ready, Size: snap.Size, Format: r.Format, Generation: 1,
		Parent: r.Handle, Dependents: len(snap.Clones), Created: snap.Created, Props: snap.Props.Clone(),
	}
	if snap.pending() {
		o.State = primitives.Pending
	}
	o.Used = s.used(r.layer(snap.Layer))
	o.Caps = s.snapshotCaps(r.family)
	return o, nil
}

func (s *session) snapshotCaps(f *family) primitives.Caps {
	c := s.caps(s.fs)
	c.Formats = []primitives.Format{f.Format}
	c.RandomWrite, c.ResizeOnline = false, false
	c.Snapshot, c.SnapshotLive, c.SnapshotGroup, c.Revert = false, primitives.LiveNone, false, primitives.RevertNone
	// An overlay over a snapshot of a qcow2 volume costs nothing; everything else
	// without reflinks is a copy.
	c.CloneIsCopy = !s.fs.reflink && f.Format != primitives.FormatQcow2
	return c
}

func (s *session) tornCaps() primitives.Caps {
	c := s.caps(s.fs)
	return primitives.Caps{
		Manageable: c.Manageable, RandomWrite: c.RandomWrite, ThinProvisioned: c.ThinProvisioned, SharedAcrossHosts: c.SharedAcrossHosts,
		DelinkFreesName: c.DelinkFreesName, DeleteWithSnaps: c.DeleteWithSnaps, Formats: c.Formats, Erase: c.Erase,
	}
}

// tombstoneObject shows a delinked volume, or a delinked snapshot of r, to callers.
func (s *session) tombstoneObject(r record, snap *snapshot) (primitives.Object, error) {
	var o primitives.Object
	d, was := r.Delinked, primitives.URI{Device: s.name}
	if snap == nil {
		cond, err := s.conditionOf(r.family)
		if err != nil {
			return o, err
		}
		if o, err = s.volumeObject(r, cond); err != nil {
			return o, err
		}
		was.Volume = d.Was
	} else {
		var err error
		if o, err = s.snapshotObject(r, snap); err != nil {
			return o, err
		}
		d = snap.Delinked
		was.Volume, was.Snapshot = r.Name, d.Was
	}
	o.URI, o.Kind = was, primitives.KindTombstone
	if d.Dying {
		o.State = primitives.Incomplete
	}
	o.Caps = s.tornCaps()
	t := d.tombstone(was, o.Handle)
	o.Tombstone = &t
	return o, nil
}

func (d *delinked) tombstone(was primitives.URI, h primitives.Handle) primitives.Tombstone {
	return primitives.Tombstone{ID: d.ID, Was: was, Handle: h, Delinked: d.Time, Expires: d.Expires}
}

// used is what the layer's file takes; -1 where it shares extents with another
// file, because how many is not worth a walk through its extent map.
func (s *session) used(l *layer) int64 {
	if l == nil || l.Shared {
		return -1
	}
	info, err := s.lstat(l.file())
	if err != nil {
		return -1
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
