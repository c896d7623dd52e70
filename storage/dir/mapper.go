// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"io/fs"

	"github.com/tenon-storage/tenon/primitives"
)

// mapper is the Map facet: files by their path, with the whole chain spelled out.
type mapper struct{ b *backend }

// Map prepares a mapping.
func (f mapper) Map(ctx context.Context, u primitives.URI, m primitives.MapRequest) (primitives.Mapping, error) {
	out, err := f.mapIt(ctx, u, m)
	return out, classify(u, err)
}

func (f mapper) mapIt(ctx context.Context, u primitives.URI, req primitives.MapRequest) (primitives.Mapping, error) {
	if err := f.b.mine(u); err != nil {
		return primitives.Mapping{}, err
	}
	if req.Access != primitives.ReadOnly && req.Access != primitives.ReadWrite {
		return primitives.Mapping{}, primitives.Invalid("access", "%d: expected read-only or read-write", req.Access)
	}
	s, err := f.b.change(ctx)
	if err != nil {
		return primitives.Mapping{}, err
	}
	defer s.leave()
	m, r, err := s.newMapping(u, req)
	if err != nil {
		return primitives.Mapping{}, err
	}
	if old, err := s.mapped(m.ID); err == nil {
		m.Active = old.Active
		if old.Active {
			m.Layer, m.Identity = old.Layer, old.Identity
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return primitives.Mapping{}, err
	}
	if err := s.locate(&m, r); err != nil {
		return primitives.Mapping{}, err
	}
	if !m.Active {
		if m.Identity, err = s.fileIdentity(r.layer(m.Layer).ref()); err != nil {
			return primitives.Mapping{}, err
		}
	}
	out, err := s.presentMapping(m, r)
	if err != nil {
		return primitives.Mapping{}, err
	}
	if err := accepts(req.Accept, out); err != nil {
		return primitives.Mapping{}, err
	}
	if err := s.saveMapping(&m); err != nil {
		return primitives.Mapping{}, err
	}
	return s.presentMapping(m, r)
}

// newMapping is what a request comes to if nothing was mapped before.
func (s *session) newMapping(u primitives.URI, req primitives.MapRequest) (mapping, record, error) {
	r, err := s.whole(u.Parent())
	if err != nil {
		return mapping{}, record{}, err
	}
	m := mapping{
		Volume: r.Handle, Of: r.Handle, Name: r.Name, Consumer: req.Consumer, Access: req.Access,
		Host: s.machine.ID, Boot: s.machine.BootID, Layer: r.Head, Size: r.Size,
	}
	if u.IsSnapshot() {
		snap := r.snapshot(u.Snapshot)
		switch {
		case snap == nil:
			return mapping{}, record{}, notFound(u)
		case snap.pending():
			return mapping{}, record{}, fail(primitives.CodeIncomplete, u, "the snapshot waits for the hypervisor to switch").Trying("settle it first")
		case req.Access == primitives.ReadWrite:
			return mapping{}, record{}, fail(primitives.CodeUnsupported, u, "a snapshot cannot be written to").Trying("clone it, and map the clone")
		}
		m.Of, m.Snapshot, m.Layer, m.Size = snap.Handle, snap.Name, snap.Layer, snap.Size
	}
	m.ID = s.mappingID(m.Volume, m.Of, req)
	return m, r, nil
}

func accepts(takes []primitives.Acceptable, m primitives.Mapping) error {
	for _, a := range takes {
		if a.Takes(m) {
			return nil
		}
	}
	if len(takes) == 0 {
		return nil
	}
	return fail(primitives.CodeUnsupported, m.URI, "it can only be offered as a %s file", m.File.Format)
}

// mapped reads this host's mapping of that id.
func (s *session) mapped(id primitives.MappingID) (mapping, error) {
	file, ok := mappingFile(id)
	if !ok {
		return mapping{}, fs.ErrNotExist
	}
	m, err := s.loadMapping(file)
	if err == nil && !s.here(m) {
		return mapping{}, fs.ErrNotExist
	}
	return m, err
}

// Activate opens a mapping for I/O.
func (f mapper) Activate(ctx context.Context, id primitives.MappingID, _ primitives.Op) (primitives.Mapping, error) {
	s, err := f.b.change(ctx)
	if err != nil {
		return primitives.Mapping{}, classify(primitives.URI{Device: f.b.name}, err)
	}
	defer s.leave()
	m, err := s.mapped(id)
	if errors.Is(err, fs.ErrNotExist) {
		return primitives.Mapping{}, fail(primitives.CodeNotFound, primitives.URI{Device: f.b.name}, "no mapping %q on this host", id).Trying("map the volume first")
	}
	u := primitives.URI{Device: f.b.name, Volume: m.Name, Snapshot: m.Snapshot}
	if err != nil {
		return primitives.Mapping{}, classify(u, err)
	}
	out, err := s.activate(u, m)
	return out, classify(u, err)
}

func (s *session) activate(u primitives.URI, m mapping) (primitives.Mapping, error) {
	recorded := m
	r, err := s.whole(u.Parent())
	if errors.Is(err, primitives.CodeNotFound) || err == nil && r.Handle != m.Volume {
		return primitives.Mapping{}, fail(primitives.CodeFenced, u, "the mapped volume is gone")
	}
	if err != nil {
		return primitives.Mapping{}, err
	}
	if !m.Active && m.isVolume() {
		if names := r.pending(); len(names) > 0 {
			return primitives.Mapping{}, errPending(u, names)
		}
		if m.Layer != r.Head { // a snapshot or a revert came after Map
			m.Layer, m.Identity = r.Head, ""
		}
		m.Size = r.Size
	}
	if err := s.locate(&m, r); err != nil {
		return primitives.Mapping{}, err
	}
	if err := s.checkFile(&m, r); err != nil {
		return primitives.Mapping{}, err
	}
	if !m.Active {
		if err := s.admit(u, m); err != nil {
			return primitives.Mapping{}, err
		}
	}
	m.Active = true
	if err := s.replaceMapping(recorded, &m); err != nil {
		return primitives.Mapping{}, err
	}
	return s.presentMapping(m, r)
}

// checkFile makes sure that the path still leads to the file that was mapped.
func (s *session) checkFile(m *mapping, r record) error {
	now, err := s.fileIdentity(r.layer(m.Layer).ref())
	if err != nil {
		return err
	}
	if m.Identity == "" {
		m.Identity = now
	}
	if now != m.Identity {
		return primitives.Errorf(primitives.CodeFenced, "%s is another file than the one that was mapped", s.host(r.layer(m.Layer).file())).
			Trying("unmap it and find out who replaced the file")
	}
	return nil
}

// admit refuses a second writer, and a reader beside a writer.
func (s *session) admit(u primitives.URI, m mapping) error {
	all, err := s.mappingsBeside(m.Volume, m.ID)
	if err != nil {
		return err
	}
	var against []mapping
	for _, other := range all {
		bothRead := other.Access == primitives.ReadOnly && m.Access == primitives.ReadOnly
		if other.Active && other.Of == m.Of && !bothRead {
			against = append(against, other)
		}
	}
	if len(against) > 0 {
		return errMapped(u, against)
	}
	use, err := s.layerUse(m.Layer)
	if err != nil {
		return err
	}
	if use == beingWritten || use == beingRead && m.Access == primitives.ReadWrite {
		return errBeingRead(u)
	}
	return nil
}

// Deactivate ends I/O but keeps the mapping.
func (f mapper) Deactivate(ctx context.Context, id primitives.MappingID, _ primitives.Op) error {
	return f.b.release(ctx, id, false, func(s *session, m mapping) error {
		if !m.Active {
			return nil
		}
		m.Active = false
		return s.saveMapping(&m)
	})
}

// Unmap removes a mapping.
func (f mapper) Unmap(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
	return f.b.release(ctx, id, u.Force, func(s *session, m mapping) error { return s.removeMapping(m.ID) })
}

// release runs end for a mapping that nobody holds open.
func (b *backend) release(ctx context.Context, id primitives.MappingID, force bool, end func(*session, mapping) error) error {
	s, err := b.change(ctx)
	if err != nil {
		return classify(primitives.URI{Device: b.name}, err)
	}
	defer s.leave()
	m, err := s.mapped(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	u := primitives.URI{Device: b.name, Volume: m.Name, Snapshot: m.Snapshot}
	if err != nil {
		return classify(u, err)
	}
	r, err := s.load(m.Name)
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return classify(u, err)
	}
	if err == nil && r.Handle == m.Volume {
		if err := s.locate(&m, r); err == nil && m.Active && !force {
			if err := s.checkReleased(u, m, r); err != nil {
				return classify(u, err)
			}
		}
	}
	return classify(u, end(s, m))
}

// Mappings tells what is mapped on this host.
func (f mapper) Mappings(ctx context.Context) ([]primitives.Mapping, error) {
	u := primitives.URI{Device: f.b.name}
	s, err := f.b.enter(ctx)
	if err != nil {
		return nil, classify(u, err)
	}
	defer s.leave()
	var here []mapping
	err = s.still(ctx, func() error {
		here, err = s.everyMapping(s.here)
		return err
	})
	if err != nil {
		return nil, classify(u, err)
	}
	var out []primitives.Mapping
	for _, m := range here {
		if p, ok := s.observe(m); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// observe shows a mapping as it is now, if its volume is still there.
func (s *session) observe(m mapping) (primitives.Mapping, bool) {
	r, err := s.load(m.Name)
	if err != nil || r.Handle != m.Volume || s.locate(&m, r) != nil {
		return primitives.Mapping{}, false
	}
	p, err := s.presentMapping(m, r)
	return p, err == nil
}
