// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"net"
	"path/filepath"
	"unicode/utf8"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

const protocolNBD = "nbd"

// reconnectSeconds is how long QEMU lets requests wait for an NBD server that
// went away before it fails them: tenon's own exporter may be restarted.
const reconnectSeconds = "300"

// diskXML describes a new disk.
func diskXML(id hypervisor.DiskID, alias string, m primitives.Mapping, bus, target string) *libvirtxml.DomainDisk {
	d := &libvirtxml.DomainDisk{
		Device: "disk",
		Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: bus},
		Serial: string(id),
		Alias:  &libvirtxml.DomainAlias{Name: alias},
	}
	if m.Access == primitives.ReadOnly {
		d.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	if m.Logical > 0 {
		d.BlockIO = &libvirtxml.DomainDiskBlockIO{LogicalBlockSize: uint(m.Logical), PhysicalBlockSize: uint(max(m.Logical, m.Physical))}
	}
	layMapping(d, m)
	return d
}

// layMapping puts what the mapping says under a disk and leaves the rest of the
// disk, which its guest sees, as it is.
func layMapping(d *libvirtxml.DomainDisk, m primitives.Mapping) {
	if d.Driver == nil {
		d.Driver = &libvirtxml.DomainDiskDriver{}
	}
	d.Driver.Name = "qemu"
	d.Driver.Type = string(formatOf(m))
	// A guest whose storage fails waits, and goes on when it is back; else its
	// file system would give up.
	d.Driver.ErrorPolicy, d.Driver.RErrorPolicy = "stop", "stop"
	d.Driver.Cache, d.Driver.IO, d.Driver.Discard = "", "", ""
	if m.Direct {
		d.Driver.Cache, d.Driver.IO = "none", "native"
	}
	if m.Discard {
		d.Driver.Discard = "unmap"
	}
	d.Source = sourceXML(m)
	d.Mirror = nil
	// An empty element ends the chain: libvirt and QEMU look into no image for
	// what may lie beneath (CVE-2026-24708).
	d.BackingStore = &libvirtxml.DomainDiskBackingStore{}
	if m.Form == primitives.FormFile {
		d.BackingStore = backingXML(m.File.Backing)
	}
}

func formatOf(m primitives.Mapping) primitives.Format {
	if m.Form == primitives.FormFile {
		return m.File.Format
	}
	return primitives.FormatRaw
}

func sourceXML(m primitives.Mapping) *libvirtxml.DomainDiskSource {
	switch m.Form {
	case primitives.FormBlock:
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: m.Block.Path}}
	case primitives.FormFile:
		return fileXML(m.File.Path)
	}
	n := &libvirtxml.DomainDiskSourceNetwork{Protocol: m.Network.Protocol, Name: m.Network.Export}
	n.Reconnect = &libvirtxml.DomainDiskSourceNetworkReconnect{Delay: reconnectSeconds}
	if m.Network.Socket != "" {
		n.Hosts = []libvirtxml.DomainDiskSourceHost{{Transport: "unix", Socket: m.Network.Socket}}
		return &libvirtxml.DomainDiskSource{Network: n}
	}
	for _, h := range m.Network.Hosts {
		name, port, _ := net.SplitHostPort(h) // checked before
		n.Hosts = append(n.Hosts, libvirtxml.DomainDiskSourceHost{Name: name, Port: port})
	}
	return &libvirtxml.DomainDiskSource{Network: n}
}

func fileXML(path string) *libvirtxml.DomainDiskSource {
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

// backingXML describes a whole chain, nearest first, and its end.
func backingXML(chain []primitives.FileMap) *libvirtxml.DomainDiskBackingStore {
	if len(chain) == 0 {
		return &libvirtxml.DomainDiskBackingStore{}
	}
	return &libvirtxml.DomainDiskBackingStore{
		Format:       &libvirtxml.DomainDiskFormat{Type: string(chain[0].Format)},
		Source:       fileXML(chain[0].Path),
		BackingStore: backingXML(chain[1:]),
	}
}

// checkMapping reports why a mapping cannot become a disk: CodeInvalid where it
// is malformed, CodeUnsupported where QEMU takes no such thing.
func checkMapping(m primitives.Mapping) error {
	var problems []primitives.Problem
	bad := func(field, format string, args ...any) {
		problems = append(problems, primitives.Problem{Prop: "mapping." + field, Message: fmt.Sprintf(format, args...), Fatal: true})
	}
	path := func(field, p string) {
		if why := pathProblem(p); why != "" {
			bad(field, "%.120q: %s", p, why)
		}
	}
	if m.Access != primitives.ReadOnly && m.Access != primitives.ReadWrite {
		bad("access", "expected read-only or read-write")
	}
	switch {
	case m.Form == primitives.FormBlock && m.Block != nil:
		path("block.path", m.Block.Path)
	case m.Form == primitives.FormFile && m.File != nil:
		for i, f := range append([]primitives.FileMap{*m.File}, m.File.Backing...) {
			path(fmt.Sprintf("file[%d].path", i), f.Path)
			if f.Format == "" {
				bad(fmt.Sprintf("file[%d].format", i), "it is empty; a format is never probed")
			}
			if i < len(m.File.Backing) && f.Format == primitives.FormatRaw {
				bad(fmt.Sprintf("file[%d].format", i), "a raw file has no backing file")
			}
		}
	case m.Form == primitives.FormNetwork && m.Network != nil:
		if m.Network.Socket != "" {
			path("network.socket", m.Network.Socket)
		} else if len(m.Network.Hosts) != 1 && m.Network.Protocol == protocolNBD {
			bad("network.hosts", "%d hosts: nbd takes a socket or one host", len(m.Network.Hosts))
		}
		for _, h := range m.Network.Hosts {
			if _, _, err := net.SplitHostPort(h); err != nil {
				bad("network.hosts", "%q: expected HOST:PORT", h)
			}
		}
		if !legalXML(m.Network.Export) {
			bad("network.export", "%.120q: not text that XML can carry", m.Network.Export)
		}
	default:
		bad("form", "%q: expected block, file or network with the part that belongs to it", m.Form)
	}
	if len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	for _, a := range accepts {
		if a.Takes(m) {
			return nil
		}
	}
	return primitives.Errorf(primitives.CodeUnsupported, "a QEMU guest takes no %v mapping like this one", m.Form)
}

// pathProblem says why a path cannot be given to libvirt, or "".
func pathProblem(p string) string {
	switch {
	case !filepath.IsAbs(p):
		return "expected an absolute path"
	case !legalXML(p):
		// Encoding would replace what it cannot carry, and so name another file.
		return "the path holds bytes that XML cannot carry"
	}
	return ""
}

// legalXML reports whether s comes back from XML as it was.
func legalXML(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		legal := r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xD7FF || r >= 0xE000 && r <= 0xFFFD || r >= 0x10000
		if !legal {
			return false
		}
	}
	return true
}
