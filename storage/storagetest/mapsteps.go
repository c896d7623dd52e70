// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"io"
	"math/bits"
	"os"

	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
)

func (c *C) mapRequest(access primitives.Access, consumer string) primitives.MapRequest {
	return primitives.MapRequest{Op: c.op(), Access: access, Consumer: consumer}
}

// mapped maps u, twice.
func (c *C) mapped(b primitives.Backend, u primitives.URI, access primitives.Access, consumer string) primitives.Mapping {
	c.Helper()
	r := c.mapRequest(access, consumer)
	m, err := b.Facets().Map.Map(c.ctx, u, r)
	c.must(err, "map %v", u.Short())
	again, err := b.Facets().Map.Map(c.ctx, u, r)
	c.must(err, "map, repeated")
	c.same(again.ID, m.ID, "the id of a repeated map")
	if m.URI != u || m.Consumer != consumer || m.Access != access || m.ID == "" || m.Handle == "" {
		c.Errorf("map = id %q, handle %q, %v, %q, %v; want both set, %v, %q, %v",
			m.ID, m.Handle, m.URI.Short(), m.Consumer, m.Access, u.Short(), consumer, access)
	}
	c.soundMapping(m)
	return m
}

// soundMapping checks what holds for every mapping.
func (c *C) soundMapping(m primitives.Mapping) {
	c.Helper()
	forms := map[primitives.Form]bool{
		primitives.FormBlock: m.Block != nil, primitives.FormFile: m.File != nil, primitives.FormNetwork: m.Network != nil,
	}
	for form, set := range forms {
		if set != (form == m.Form) {
			c.Errorf("mapping of form %v has its %v part set: %v", m.Form, form, set)
		}
	}
	if m.Logical < 512 || bits.OnesCount(uint(m.Logical)) != 1 || m.Physical < m.Logical {
		c.Errorf("mapping has blocks of %d and %d bytes, want a power of two of at least 512, and no smaller one", m.Logical, m.Physical)
	}
	if m.File != nil {
		c.soundFile(*m.File)
	}
}

// soundFile checks that the format of every file of the chain is explicit.
func (c *C) soundFile(f primitives.FileMap) {
	c.Helper()
	for i, link := range append([]primitives.FileMap{f}, f.Backing...) {
		if link.Path == "" || link.Format == "" {
			c.Errorf("file %d of the chain is %q of format %q, want both", i, link.Path, link.Format)
		}
		if i > 0 && len(link.Backing) > 0 {
			c.Errorf("backing file %q has a chain of its own, want one flat list", link.Path)
		}
	}
}

func (c *C) activate(b primitives.Backend, m primitives.Mapping) primitives.Mapping {
	c.Helper()
	active, err := b.Facets().Map.Activate(c.ctx, m.ID, c.op())
	c.must(err, "activate %v", m.URI.Short())
	again, err := b.Facets().Map.Activate(c.ctx, m.ID, c.op())
	c.must(err, "activate, repeated")
	c.same(again.ID, active.ID, "the id of a repeated activate")
	if !active.Active {
		c.Errorf("activate of %v = a mapping that is not active", m.URI.Short())
	}
	c.soundMapping(active)
	return active
}

// attached maps and activates.
func (c *C) attached(b primitives.Backend, u primitives.URI, access primitives.Access, consumer string) primitives.Mapping {
	c.Helper()
	return c.activate(b, c.mapped(b, u, access, consumer))
}

func (c *C) deactivate(b primitives.Backend, m primitives.Mapping) {
	c.Helper()
	c.must(b.Facets().Map.Deactivate(c.ctx, m.ID, c.op()), "deactivate %v", m.URI.Short())
	c.must(b.Facets().Map.Deactivate(c.ctx, m.ID, c.op()), "deactivate, repeated")
}

func (c *C) unmap(b primitives.Backend, m primitives.Mapping) {
	c.Helper()
	r := primitives.UnmapRequest{Op: c.op()}
	c.must(b.Facets().Map.Unmap(c.ctx, m.ID, r), "unmap %v", m.URI.Short())
	c.must(b.Facets().Map.Unmap(c.ctx, m.ID, r), "unmap, repeated")
}

func (c *C) mappings(b primitives.Backend) []primitives.Mapping {
	c.Helper()
	all, err := b.Facets().Map.Mappings(c.ctx)
	c.must(err, "mappings")
	return all
}

// guest opens the bytes of an active mapping as a guest does.
func (c *C) guest(m primitives.Mapping) Guest {
	c.Helper()
	if c.store.Guest != nil {
		return c.store.Guest(c.TB, m)
	}
	if m.Form == primitives.FormNetwork {
		return c.nbdGuest(m)
	}
	flag := os.O_RDWR
	if m.Access == primitives.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(pathOf(m), flag, 0)
	c.must(err, "open the mapped bytes")
	return fileGuest{f}
}

// opensItself reports whether guest needs no hook for m.
func opensItself(m primitives.Mapping) bool {
	switch m.Form {
	case primitives.FormBlock:
		return true
	case primitives.FormFile:
		return m.File.Format == primitives.FormatRaw && len(m.File.Backing) == 0
	case primitives.FormNetwork:
		return m.Network.Protocol == "nbd" && m.Network.Socket != ""
	}
	return false
}

func pathOf(m primitives.Mapping) string {
	if m.Form == primitives.FormBlock {
		return m.Block.Path
	}
	return m.File.Path
}

// fileGuest is a raw file or block device, opened as QEMU does.
type fileGuest struct{ *os.File }

// Flush makes what was written durable.
func (g fileGuest) Flush() error { return g.Sync() }

// nbdGuest is one connection to an NBD export.
type nbdGuest struct {
	io.ReaderAt
	io.WriterAt
	client *nbd.Client
	c      *C
}

func (c *C) nbdGuest(m primitives.Mapping) Guest {
	c.Helper()
	client, err := nbd.Dial(c.ctx, "unix", m.Network.Socket, nbd.Options{Export: m.Network.Export})
	c.must(err, "connect to %s", m.Network.Socket)
	at := client.At(c.ctx)
	return &nbdGuest{ReaderAt: at, WriterAt: at, client: client, c: c}
}

// Flush asks the server to make durable what was written.
func (g *nbdGuest) Flush() error { return g.client.Flush(g.c.ctx) }

// Close ends the connection.
func (g *nbdGuest) Close() error { return g.client.Close() }

// guestWrites puts the pattern of seed over a range, as a guest.
func (c *C) guestWrites(g Guest, img image, seed int, off, n int64) {
	c.Helper()
	c.writeAt(g, img.write(seed, off, n)[off:off+n], off)
	c.must(g.Flush(), "flush, as a guest")
}

// guestHolds checks the whole content as a guest sees it.
func (c *C) guestHolds(g Guest, want image) {
	c.Helper()
	if d := want.differs(c.readAll(g, want.size())); d != "" {
		c.Errorf("content that the guest sees: %s", d)
	}
}
