// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// wrapFacets puts the device around each facet that the backend has.
func (d *Device) wrapFacets(inner primitives.Facets) primitives.Facets {
	var f primitives.Facets
	if inner.Snapshots != nil {
		f.Snapshots = snapshotter{d, inner.Snapshots}
	}
	if inner.Resize != nil {
		f.Resize = resizer{d, inner.Resize}
	}
	if inner.Delta != nil {
		f.Delta = deltaReader{d, inner.Delta}
	}
	if inner.Map != nil {
		f.Map = mapper{d, inner.Map}
	}
	if inner.Import != nil {
		f.Import = importer{d, inner.Import}
	}
	if inner.Fence != nil {
		f.Fence = fencer{d, inner.Fence}
	}
	return f
}

type snapshotter struct {
	d     *Device
	inner primitives.Snapshotter
}

// group checks the volumes of one snapshot call and returns its locks.
func (s snapshotter) group(ctx context.Context, vols []primitives.URI, name string) ([]keylock.Key, error) {
	if err := primitives.CheckSnapshotName(name); err != nil {
		return nil, err
	}
	if len(vols) == 0 {
		return nil, primitives.Invalid("volumes", "none is given; expected at least one")
	}
	var keys []keylock.Key
	seen := make(map[primitives.URI]bool)
	for _, u := range vols {
		if err := s.d.volume("volumes", u); err != nil {
			return nil, err
		}
		if seen[u] {
			return nil, primitives.Invalid("volumes", "%s is given twice", u.Short())
		}
		seen[u] = true
		keys = append(append(keys, changing(u)...), changing(u.At(name))...)
	}
	if len(vols) > 1 {
		if caps := s.d.known(ctx).Caps; caps.Snapshot && !caps.SnapshotGroup {
			return nil, primitives.Errorf(primitives.CodeUnsupported, "this device cannot snapshot several volumes at one point in time").
				Trying("Snapshot the volumes one by one")
		}
	}
	return keys, nil
}

func first(vols []primitives.URI, name string) primitives.URI {
	if len(vols) == 0 {
		return primitives.URI{}
	}
	return vols[0].At(name)
}

func shortAll(us []primitives.URI) string {
	names := make([]string, len(us))
	for i, u := range us {
		names[i] = u.Short()
	}
	return strings.Join(names, ",")
}

func (s snapshotter) Snapshot(ctx context.Context, vols []primitives.URI, name string, op primitives.Op) (primitives.SnapshotSet, error) {
	c := call{
		name: "snapshot", uri: first(vols, name), op: op, scope: primitives.ScopeSnapshot, again: true,
		args: arguments(op, "snapshot %s of %s", name, shortAll(vols)),
	}
	var err error
	if c.keys, err = s.group(ctx, vols, name); err != nil {
		return primitives.SnapshotSet{}, s.d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, s.d, c, func(ctx context.Context, op primitives.Op) (primitives.SnapshotSet, error) {
		return s.inner.Snapshot(ctx, vols, name, op)
	})
}

func (s snapshotter) Settle(ctx context.Context, vols []primitives.URI, name string, switched bool, op primitives.Op) ([]primitives.Object, error) {
	c := call{
		name: "settle", uri: first(vols, name), op: op, again: true,
		args: arguments(op, "settle %s of %s switched %t", name, shortAll(vols), switched),
	}
	var err error
	if c.keys, err = s.group(ctx, vols, name); err != nil {
		return nil, s.d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, s.d, c, func(ctx context.Context, op primitives.Op) ([]primitives.Object, error) {
		return s.inner.Settle(ctx, vols, name, switched, op)
	})
}

// Revert holds the whole tree: later snapshots may be at stake.
func (s snapshotter) Revert(ctx context.Context, vol primitives.URI, snap string, op primitives.Op) (primitives.Object, error) {
	c := call{name: "revert", uri: vol, op: op, long: true, keys: overturning(vol), args: arguments(op, "revert %s to %s", vol.Short(), snap)}
	err := s.d.volume("uri", vol)
	if err == nil {
		err = primitives.CheckSnapshotName(snap)
	}
	if err != nil {
		return primitives.Object{}, s.d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, s.d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		return s.inner.Revert(ctx, vol, snap, op)
	})
}

type resizer struct {
	d     *Device
	inner primitives.Resizer
}

func (r resizer) Resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	c := call{name: "resize", uri: u, op: op, long: true, keys: changing(u), args: arguments(op, "resize %s to %d", u.Short(), size)}
	err := r.d.volume("uri", u)
	if err == nil {
		err = r.d.size(ctx, size)
	}
	if err != nil {
		return primitives.Object{}, r.d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, r.d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		return r.inner.Resize(ctx, u, size, op)
	})
}

type importer struct {
	d     *Device
	inner primitives.Importer
}

func (i importer) Import(ctx context.Context, u primitives.URI, r primitives.ImportRequest) (primitives.Object, error) {
	c := call{
		name: "import", uri: u, op: r.Op, scope: primitives.ScopeVolume, long: true, keys: naming(u),
		args: arguments(r.Op, "import %s from %q format %q", u.Short(), r.Path, r.Format),
	}
	if err := i.importable(ctx, u, r); err != nil {
		return primitives.Object{}, i.d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, i.d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		r.Op = op
		return i.inner.Import(ctx, u, r)
	})
}

func (i importer) importable(ctx context.Context, u primitives.URI, r primitives.ImportRequest) error {
	if err := i.d.volume("uri", u); err != nil {
		return err
	}
	if !filepath.IsAbs(r.Path) || strings.ContainsRune(r.Path, 0) {
		return primitives.Invalid("path", "%q is not the absolute path of a file", r.Path)
	}
	if r.Format == "" {
		return primitives.Invalid("format", "it is empty; an image's format is never guessed, so say raw or qcow2")
	}
	return i.d.format(ctx, r.Format)
}

// mapper leaves repeats to the driver: Map is known by what it asks for, and a
// repeat refreshes it.
type mapper struct {
	d     *Device
	inner primitives.Mapper
}

func (m mapper) Map(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
	c := call{name: "map", uri: u, op: r.Op, keys: reading(u)}
	err := m.d.object(u)
	if err == nil && r.Access != primitives.ReadOnly && r.Access != primitives.ReadWrite {
		err = primitives.Invalid("access", "%d is neither read-only nor read-write", uint8(r.Access))
	}
	if err != nil {
		return primitives.Mapping{}, m.d.refuse(c.name, c.uri, err)
	}
	made, err := perform(ctx, m.d, c, func(ctx context.Context, op primitives.Op) (primitives.Mapping, error) {
		r.Op = op
		return m.inner.Map(ctx, u, r)
	})
	if err == nil {
		m.d.mapped.put(made)
	}
	return made, err
}

// Activate of a writer waits for Readers of the volume, whose bytes it would
// change under them.
func (m mapper) Activate(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
	c := m.call("activate", id, op)
	found, err := m.find(ctx, id)
	if err != nil {
		return primitives.Mapping{}, err
	}
	if found.ID == id {
		c.uri = found.URI
		if found.Access == primitives.ReadWrite && !found.Active {
			c.keys = append(c.keys, changing(found.URI)...)
		}
	}
	return perform(ctx, m.d, c, func(ctx context.Context, op primitives.Op) (primitives.Mapping, error) {
		return m.inner.Activate(ctx, id, op)
	})
}

// find returns a mapping as Map has just made it, or as the device lists it now;
// one that is not there has no ID. What is remembered may be active by now, where
// a lock too many does no harm.
func (m mapper) find(ctx context.Context, id primitives.MappingID) (primitives.Mapping, error) {
	if made, ok := m.d.mapped.take(id); ok {
		return made, nil
	}
	mappings, err := m.Mappings(ctx)
	if err != nil {
		return primitives.Mapping{}, err
	}
	for _, found := range mappings {
		if found.ID == id {
			return found, nil
		}
	}
	return primitives.Mapping{}, nil
}

func (m mapper) Deactivate(ctx context.Context, id primitives.MappingID, op primitives.Op) error {
	return do(ctx, m.d, m.call("deactivate", id, op), func(ctx context.Context, op primitives.Op) error {
		return m.inner.Deactivate(ctx, id, op)
	})
}

func (m mapper) Unmap(ctx context.Context, id primitives.MappingID, r primitives.UnmapRequest) error {
	return do(ctx, m.d, m.call("unmap", id, r.Op), func(ctx context.Context, op primitives.Op) error {
		r.Op = op
		return m.inner.Unmap(ctx, id, r)
	})
}

func (m mapper) Mappings(ctx context.Context) ([]primitives.Mapping, error) {
	c := call{name: "mappings", uri: primitives.URI{Device: m.d.name}}
	return perform(ctx, m.d, c, func(ctx context.Context, _ primitives.Op) ([]primitives.Mapping, error) { return m.inner.Mappings(ctx) })
}

func (m mapper) call(name string, id primitives.MappingID, op primitives.Op) call {
	return call{name: name, uri: primitives.URI{Device: m.d.name}, op: op, keys: []keylock.Key{mappingKey(id)}}
}
