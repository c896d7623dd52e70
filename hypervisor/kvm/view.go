// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"cmp"
	"crypto/rand"
	"net"
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// view is a domain as libvirt shows it at one moment.
type view struct {
	virt.Domain
	live   *libvirtxml.Domain // nil: not running
	config *libvirtxml.Domain // nil: not persistent
}

// aliasPrefix begins the alias of a disk of tenon's. libvirt keeps aliases that
// begin with "ua-" as its users gave them, in both halves of a domain.
const aliasPrefix = "ua-tenon-"

// newAlias returns an alias that no disk had before. QEMU's and libvirt's late
// news of a device name it by alias: libvirt 9.0 itself, when the guest gives a
// device back just as a second request for it comes, takes the first request's
// news for that of whatever has the alias by then, and forgets a disk that QEMU
// still has open.
func newAlias(id hypervisor.DiskID) string {
	return aliasPrefix + string(id) + "_" + strings.ToLower(rand.Text()[:8])
}

// idOf returns the ID of a disk of tenon's, or "".
func idOf(d *libvirtxml.DomainDisk) hypervisor.DiskID {
	if d.Alias == nil {
		return ""
	}
	id, ours := strings.CutPrefix(d.Alias.Name, aliasPrefix)
	id, _, _ = strings.Cut(id, "_") // which no ID contains
	if !ours || hypervisor.CheckDiskID(hypervisor.DiskID(id)) != nil {
		return ""
	}
	return hypervisor.DiskID(id)
}

// disksIn returns the disks of one half; nil has none.
func disksIn(d *libvirtxml.Domain) []libvirtxml.DomainDisk {
	if d == nil || d.Devices == nil {
		return nil
	}
	return d.Devices.Disks
}

// hasAlias reports whether a disk of that alias is in one half.
func hasAlias(d *libvirtxml.Domain, alias string) bool {
	return slices.ContainsFunc(disksIn(d), func(x libvirtxml.DomainDisk) bool { return x.Alias != nil && x.Alias.Name == alias })
}

// find returns the disk of that ID in one half, or nil.
func find(d *libvirtxml.Domain, id hypervisor.DiskID) *libvirtxml.DomainDisk {
	disks := disksIn(d)
	for i := range disks {
		if idOf(&disks[i]) == id {
			return &disks[i]
		}
	}
	return nil
}

// disks merges both halves. A disk of tenon's is the same in both by its alias,
// another one by its target. What the running domain says wins.
func (v view) disks(detaching func(alias string) bool) []hypervisor.Disk {
	var out []hypervisor.Disk
	for _, d := range disksIn(v.live) {
		disk := describe(&d)
		disk.Live = true
		disk.Detaching = disk.ID != "" && detaching(d.Alias.Name)
		out = append(out, disk)
	}
	for _, d := range disksIn(v.config) {
		disk := describe(&d)
		same := slices.IndexFunc(out, func(o hypervisor.Disk) bool {
			return o.ID == disk.ID && (o.ID != "" || o.Target == disk.Target)
		})
		if same < 0 {
			out = append(out, disk)
			same = len(out) - 1
		}
		out[same].Config = true
	}
	for i := range out {
		out[i].Domain = hypervisor.DomainID(v.UUID)
	}
	slices.SortStableFunc(out, func(a, b hypervisor.Disk) int { return compareTargets(a.Target, b.Target) })
	return out
}

// describe reads one disk.
func describe(d *libvirtxml.DomainDisk) hypervisor.Disk {
	out := hypervisor.Disk{ID: idOf(d), Serial: d.Serial, Access: primitives.ReadWrite, Source: sourceOf(d)}
	if d.Target != nil {
		out.Target, out.Bus = d.Target.Dev, d.Target.Bus
	}
	if d.ReadOnly != nil || d.Device == "cdrom" {
		out.Access = primitives.ReadOnly
	}
	if d.Mirror != nil {
		// libvirt leaves the job out where it is a copy, for its older self.
		out.Job = cmp.Or(d.Mirror.Job, "copy")
	}
	return out
}

func sourceOf(d *libvirtxml.DomainDisk) hypervisor.Source {
	var out hypervisor.Source
	if d.Source == nil {
		return out // an empty drive
	}
	out = whereIs(d.Source)
	out.Format = primitives.FormatRaw
	if d.Driver != nil && d.Driver.Type != "" {
		out.Format = primitives.Format(d.Driver.Type)
	}
	if out.Form == primitives.FormNetwork {
		out.Format = ""
	}
	for b := d.BackingStore; b != nil && b.Source != nil; b = b.BackingStore {
		out.Chain = append(out.Chain, whereIs(b.Source).String())
	}
	return out
}

// whereIs reads a source without its format. What tenon never makes, such as a
// disk in a libvirt storage pool, has no form.
func whereIs(s *libvirtxml.DomainDiskSource) hypervisor.Source {
	switch {
	case s.File != nil:
		return hypervisor.Source{Form: primitives.FormFile, Path: s.File.File}
	case s.Block != nil:
		return hypervisor.Source{Form: primitives.FormBlock, Path: s.Block.Dev}
	case s.Network != nil:
		n := &primitives.NetworkMap{Protocol: s.Network.Protocol, Export: s.Network.Name}
		for _, h := range s.Network.Hosts {
			if h.Transport == "unix" {
				n.Socket = h.Socket
			} else {
				n.Hosts = append(n.Hosts, net.JoinHostPort(h.Name, h.Port))
			}
		}
		return hypervisor.Source{Form: primitives.FormNetwork, Network: n}
	case s.Volume != nil:
		return hypervisor.Source{Path: s.Volume.Pool + "/" + s.Volume.Volume}
	case s.Dir != nil:
		return hypervisor.Source{Path: s.Dir.Dir}
	}
	return hypervisor.Source{}
}

// agentPort is the name of the guest agent's channel.
const agentPort = "org.qemu.guest_agent.0"

// agentConnected reports whether a guest agent is there now.
func agentConnected(d *libvirtxml.Domain) bool {
	if d == nil || d.Devices == nil {
		return false
	}
	for _, c := range d.Devices.Channels {
		if c.Target != nil && c.Target.VirtIO != nil && c.Target.VirtIO.Name == agentPort {
			return c.Target.VirtIO.State == "connected"
		}
	}
	return false
}

// states turns libvirt's states into the contract's.
var states = map[virt.Run]hypervisor.DomainState{
	virt.Off:          hypervisor.StateOff,
	virt.Running:      hypervisor.StateRunning,
	virt.Paused:       hypervisor.StatePaused,
	virt.Crashed:      hypervisor.StateCrashed,
	virt.ShuttingDown: hypervisor.StateShuttingDown,
}

// domain describes v with what can be done to it.
func (v view) domain() hypervisor.Domain {
	up := v.Run == virt.Running || v.Run == virt.Paused
	return hypervisor.Domain{
		ID:         hypervisor.DomainID(v.UUID),
		Name:       v.Name,
		State:      states[v.Run],
		Reason:     v.Reason,
		Persistent: v.Persistent,
		Caps: hypervisor.Caps{
			AttachLive: up,
			DetachLive: v.Run == virt.Running, // a paused guest cannot let go
			ResizeLive: up,
			Freeze:     v.Run == virt.Running && agentConnected(v.live),
			Switch:     up || v.Run == virt.Off && v.Persistent,
			Snapshot:   up,
			Pause:      up,
			Move:       up,
			FreeSlots:  freeSlots(v.live),
			Accepts:    accepts,
		},
	}
}
