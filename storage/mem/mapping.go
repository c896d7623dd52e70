// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// mapping is a volume or snapshot as one host sees it: an NBD export on a unix
// socket. It belongs to the store, not to the session that made it, so it
// outlives the agent's restart, but not a reboot of its host.
type mapping struct {
	id         primitives.MappingID
	host, boot string
	dir        string
	limit      int64 // of the store's space
	consumer   string
	access     primitives.Access
	s          *store
	u          primitives.URI
	v          *volume
	snap       *snapshot

	active bool
	size   int64
	epoch  uint64
	socket string
	srv    *server // while active
	before *served // what the hypervisor must leave, during a switch
}

// served is one socket with what answers on it.
type served struct {
	socket string
	srv    *server
}

type mapper struct{ b *backend }

func (f mapper) Map(ctx context.Context, u primitives.URI, r primitives.MapRequest) (primitives.Mapping, error) {
	b := f.b
	return call(ctx, b, "map", func() (primitives.Mapping, error) {
		if err := b.mine(u); err != nil {
			return primitives.Mapping{}, err
		}
		o, err := b.s.mappable(u, r)
		if err != nil {
			return primitives.Mapping{}, err
		}
		id := b.mappingID(o.handle, r)
		m := b.s.maps[id]
		if m == nil {
			m = &mapping{id: id, host: b.host.ID, boot: b.host.BootID, dir: b.host.RunDir, limit: b.cfg.capacity, consumer: r.Consumer, access: r.Access, s: b.s}
			m.v = b.s.volumes[u.Volume]
			if u.IsSnapshot() {
				m.snap = m.v.snaps[u.Snapshot]
			}
			m.size = o.c.size
			m.move()
		}
		m.u = u
		if m.size != o.c.size {
			m.size = o.c.size
			m.epoch++
		}
		out := m.render()
		if len(r.Accept) > 0 && !slices.ContainsFunc(r.Accept, func(a primitives.Acceptable) bool { return a.Takes(out) }) {
			return primitives.Mapping{}, primitives.Errorf(primitives.CodeUnsupported, "only nbd over a unix socket is offered, which is not accepted").On(u)
		}
		b.s.maps[id] = m
		return out, nil
	})
}

// mappable returns the object if it can be mapped so.
func (s *store) mappable(u primitives.URI, r primitives.MapRequest) (*object, error) {
	if r.Access != primitives.ReadOnly && r.Access != primitives.ReadWrite {
		return nil, primitives.Invalid("access", "%d is neither read-only nor read-write", r.Access)
	}
	o, err := s.readable(u)
	if err != nil {
		return nil, err
	}
	if u.IsSnapshot() && r.Access == primitives.ReadWrite {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "a snapshot is mapped read-only").On(u)
	}
	return o, o.atGeneration(r.IfGen, u)
}

// mappingID is the same for the same host, device, object, consumer and access.
func (b *backend) mappingID(h primitives.Handle, r primitives.MapRequest) primitives.MappingID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s\x00%s", b.host.ID, b.host.BootID, b.name, h, r.Consumer, r.Access))
	return primitives.MappingID("mem-" + hex.EncodeToString(sum[:8]))
}

// move gives the mapping an address of its own for a new epoch.
func (m *mapping) move() {
	m.epoch++
	m.socket = filepath.Join(m.dir, fmt.Sprintf("%s.%d", m.id, m.epoch))
}

func (m *mapping) render() primitives.Mapping {
	o := &m.v.object
	if m.snap != nil {
		o = &m.snap.object
	}
	return primitives.Mapping{
		ID: m.id, URI: m.u, Handle: o.handle, Consumer: m.consumer, Access: m.access, Active: m.active,
		Form:    primitives.FormNetwork,
		Network: &primitives.NetworkMap{Protocol: "nbd", Export: exportName, Socket: m.socket},
		Size:    m.size, Logical: 512, Physical: 4096, Discard: m.access == primitives.ReadWrite, Epoch: m.epoch,
	}
}

// mine returns a mapping of this host's present boot.
func (f mapper) mine(id primitives.MappingID) *mapping {
	m := f.b.s.maps[id]
	if m == nil || m.host != f.b.host.ID || m.boot != f.b.host.BootID {
		return nil
	}
	return m
}

func (f mapper) Activate(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
	return call(ctx, f.b, "activate", func() (primitives.Mapping, error) {
		m := f.mine(id)
		if m == nil {
			return primitives.Mapping{}, primitives.Errorf(primitives.CodeNotFound, "no mapping %q on this host", id)
		}
		if m.active {
			return m.render(), nil
		}
		if m.v.writer != nil {
			return primitives.Mapping{}, m.v.busy(m.u)
		}
		if m.v.state != primitives.Ready && m.snap == nil {
			return primitives.Mapping{}, errIncomplete(m.u)
		}
		if by := f.b.s.rivals(m); len(by) > 0 {
			return primitives.Mapping{}, primitives.Errorf(primitives.CodeInUse, "a writer is active elsewhere").By(by...).On(m.u)
		}
		srv, err := serve(m.s, m.limit, m.socket, m.current, m.access == primitives.ReadOnly)
		if err != nil {
			return primitives.Mapping{}, err
		}
		m.srv, m.active = srv, true
		m.epoch++
		if m.access == primitives.ReadWrite {
			m.v.gen++ // from here on a guest changes the bytes
		}
		return m.render(), nil
	})
}

// rivals names the active mappings, of any host, beside which m cannot be.
func (s *store) rivals(m *mapping) []primitives.Blocker {
	if m.snap != nil {
		return nil
	}
	return s.mappedBy(m.v, func(x *mapping) bool {
		return x != m && x.snap == nil && x.active &&
			(x.access == primitives.ReadWrite || m.access == primitives.ReadWrite)
	})
}

// current returns what an ordinary mapping shows now.
func (m *mapping) current() *content {
	if m.snap != nil {
		return m.snap.c
	}
	return m.v.c
}

func (f mapper) Deactivate(ctx context.Context, id primitives.MappingID, _ primitives.Op) error {
	f.hungUp(ctx, id)
	return do(ctx, f.b, "deactivate", func() error {
		m := f.mine(id)
		if m == nil || !m.active {
			return nil
		}
		if err := m.heldOpen(); err != nil {
			return err
		}
		m.stop()
		return nil
	})
}

func (f mapper) Unmap(ctx context.Context, id primitives.MappingID, u primitives.UnmapRequest) error {
	if !u.Force {
		f.hungUp(ctx, id)
	}
	return do(ctx, f.b, "unmap", func() error {
		m := f.mine(id)
		if m == nil {
			return nil
		}
		if err := m.heldOpen(); err != nil && !u.Force {
			return err
		}
		m.stop()
		delete(f.b.s.maps, id)
		return nil
	})
}

// hungUp lets the servers of a mapping notice that their clients are gone.
func (f mapper) hungUp(ctx context.Context, id primitives.MappingID) {
	var servers []*server
	f.b.s.mu.Lock()
	if m := f.mine(id); m != nil {
		servers = append(servers, m.srv)
		if m.before != nil {
			servers = append(servers, m.before.srv)
		}
	}
	f.b.s.mu.Unlock()
	for _, sv := range servers {
		sv.lastLeft(ctx)
	}
}

// connected is how many clients the mapping's sockets have.
func (m *mapping) connected() int {
	n := m.srv.connections()
	if m.before != nil {
		n += m.before.srv.connections()
	}
	return n
}

func (m *mapping) heldOpen() error {
	n := m.connected()
	if n == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "%d clients are connected to %s", n, m.socket).On(m.u).
		By(primitives.Blocker{Kind: "mapping", Name: string(m.id)}).Trying("Detach the disk first")
}

// stop ends the I/O of a mapping, of both its sockets during a switch.
func (m *mapping) stop() {
	if !m.active {
		return
	}
	m.srv.stop()
	m.srv, m.active = nil, false
	m.epoch++
	if m.before != nil {
		m.before.srv.stop()
		m.before = nil
	}
}

// beginSwitch opens a second socket, for the volume's new bytes, beside the one
// that goes on writing to the old ones.
func (m *mapping) beginSwitch(old *content) error {
	before := &served{socket: m.socket, srv: m.srv}
	m.move()
	srv, err := serve(m.s, m.limit, m.socket, m.current, false)
	if err != nil {
		m.socket = before.socket
		return err
	}
	before.srv.show(func() *content { return old })
	m.srv, m.before = srv, before
	return nil
}

// endSwitch keeps one socket of the two.
func (m *mapping) endSwitch(switched bool) {
	if m.before == nil {
		return
	}
	if switched {
		m.before.srv.stop()
	} else {
		m.srv.stop()
		m.srv, m.socket = m.before.srv, m.before.socket
		m.srv.show(m.current)
		m.epoch++
	}
	m.before = nil
}

func (s *store) mappingsOf(v *volume) []*mapping {
	var out []*mapping
	for _, m := range s.maps {
		if m.v == v {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *mapping) int { return cmp.Compare(a.id, b.id) })
	return out
}

func (f mapper) Mappings(ctx context.Context) ([]primitives.Mapping, error) {
	return call(ctx, f.b, "mappings", func() ([]primitives.Mapping, error) {
		var out []primitives.Mapping
		for m := range maps.Values(f.b.s.maps) {
			if f.mine(m.id) == m && m.u.Device == f.b.name {
				out = append(out, m.render())
			}
		}
		slices.SortFunc(out, func(a, b primitives.Mapping) int { return strings.Compare(string(a.ID), string(b.ID)) })
		return out, nil
	})
}
