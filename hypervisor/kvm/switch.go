// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/internal/undo"
	"github.com/tenon-storage/tenon/primitives"
)

// Switch moves disks of a domain to new mappings: of a running one to overlays
// that exist already, by one snapshot transaction without libvirt's metadata; of
// one that is off in its definition.
func (a *Adapter) Switch(ctx context.Context, d hypervisor.DomainID, disks []hypervisor.DiskSwitch) error {
	for i, s := range disks {
		if err := checkSwitch(disks[:i], s); err != nil {
			return err
		}
	}
	v, unlock, err := a.claim(ctx, d, "switch disks")
	if err != nil {
		return err
	}
	defer unlock()
	if v.live != nil {
		todo, err := planSwitch(v, disks)
		if err != nil {
			return err
		}
		if err := a.switchLive(ctx, v, todo); err != nil {
			return err
		}
	}
	return a.switchConfig(ctx, d, disks)
}

func checkSwitch(before []hypervisor.DiskSwitch, s hypervisor.DiskSwitch) error {
	if err := hypervisor.CheckDiskID(s.Disk); err != nil {
		return err
	}
	if slices.ContainsFunc(before, func(b hypervisor.DiskSwitch) bool { return b.Disk == s.Disk }) {
		return primitives.Invalid("disks", "disk %s is named twice", s.Disk)
	}
	return checkMapping(s.To)
}

// planSwitch returns the switches that a running domain still needs.
func planSwitch(v view, disks []hypervisor.DiskSwitch) ([]hypervisor.DiskSwitch, error) {
	var todo []hypervisor.DiskSwitch
	for _, s := range disks {
		disk := find(v.live, s.Disk)
		if disk == nil {
			return nil, noDisk(hypervisor.DomainID(v.UUID), s.Disk)
		}
		now := sourceOf(disk)
		if now.Shows(s.To) {
			continue
		}
		if err := refuseBusy(v, s.Disk); err != nil {
			return nil, err
		}
		if err := checkOverlay(s, now); err != nil {
			return nil, err
		}
		todo = append(todo, s)
	}
	return todo, nil
}

// checkOverlay reports why a running disk cannot switch: QEMU puts the overlay
// on what the disk has without comparing the two, so a wrong one would show the
// guest other bytes.
func checkOverlay(s hypervisor.DiskSwitch, now hypervisor.Source) error {
	const try = "detach the disk and attach it again, or shut the domain down first"
	if s.To.Form != primitives.FormFile || s.To.File.Format != primitives.FormatQcow2 {
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s of a running domain can switch to a qcow2 overlay only", s.Disk).Trying(try)
	}
	if len(s.To.File.Backing) == 0 {
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s: %s has no backing file; it must lie upon %v", s.Disk, s.To.File.Path, now).Trying(try)
	}
	under := s.To.File.Backing[0]
	if (now.Form != primitives.FormFile && now.Form != primitives.FormBlock) || under.Path != now.Path || under.Format != now.Format {
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s: %s lies upon %s (%s), but the disk is on %v (%s)",
			s.Disk, s.To.File.Path, under.Path, under.Format, now, now.Format).Trying(try)
	}
	return nil
}

// switchLive switches the running domain's disks, all or none.
func (a *Adapter) switchLive(ctx context.Context, v view, todo []hypervisor.DiskSwitch) error {
	if len(todo) == 0 {
		return nil
	}
	overlays := map[string]overlay{}
	for _, s := range todo {
		overlays[find(v.live, s.Disk).Target.Dev] = overlay{path: s.To.File.Path, format: s.To.File.Format}
	}
	text, err := snapshotXML("", v.live, overlays).Marshal()
	if err != nil {
		return primitives.Errorf(primitives.CodeInternal, "describe the switch: %w", err)
	}
	q := ask{what: fmt.Sprintf("switch %d disks of domain %s", len(todo), v.Name), domain: hypervisor.DomainID(v.UUID), waits: true}
	return a.do(ctx, q, func(c virt.Conn) error {
		return c.SnapshotCreate(v.UUID, text, virt.SnapshotFlags{NoMetadata: true, ReuseExternal: true})
	})
}

// overlay is the file that a snapshot puts on a disk.
type overlay struct {
	path   string
	format primitives.Format
}

// snapshotXML describes a snapshot of the disks whose targets have overlays, and
// of no other.
func snapshotXML(name string, d *libvirtxml.Domain, overlays map[string]overlay) *libvirtxml.DomainSnapshot {
	s := &libvirtxml.DomainSnapshot{Name: name, Disks: &libvirtxml.DomainSnapshotDisks{}}
	for _, disk := range disksIn(d) {
		if disk.Target == nil {
			continue
		}
		part := libvirtxml.DomainSnapshotDisk{Name: disk.Target.Dev, Snapshot: "no"}
		if o, ok := overlays[disk.Target.Dev]; ok {
			part.Snapshot = "external"
			part.Driver = &libvirtxml.DomainDiskDriver{Type: string(o.format)}
			part.Source = fileXML(o.path)
		}
		s.Disks.Disks = append(s.Disks.Disks, part)
	}
	return s
}

// switchConfig makes the definition follow. libvirt lets it follow a live switch
// by itself; this compares, and writes where the two differ, which also ends a
// switch that a crash cut in two. It is all or none unless taking back fails too.
func (a *Adapter) switchConfig(ctx context.Context, d hypervisor.DomainID, disks []hypervisor.DiskSwitch) (err error) {
	v, err := a.look(ctx, d)
	if err != nil || v.config == nil {
		return err
	}
	var done undo.Stack
	defer func() { err = errors.Join(err, done.Unwind(ctx)) }()
	for _, s := range disks {
		disk := find(v.config, s.Disk)
		if disk == nil {
			if v.live != nil {
				continue // attached to the running domain only
			}
			return noDisk(d, s.Disk)
		}
		if sourceOf(disk).Shows(s.To) {
			continue
		}
		before := *disk
		after := before
		driver := libvirtxml.DomainDiskDriver{}
		if disk.Driver != nil {
			driver = *disk.Driver
		}
		after.Driver = &driver
		layMapping(&after, s.To)
		if err := a.redefineDisk(ctx, d, &after); err != nil {
			return err
		}
		done.Push(func(ctx context.Context) error { return a.redefineDisk(ctx, d, &before) })
	}
	done.Commit()
	return nil
}

// redefineDisk changes one disk of the definition.
func (a *Adapter) redefineDisk(ctx context.Context, d hypervisor.DomainID, disk *libvirtxml.DomainDisk) error {
	text, err := disk.Marshal()
	if err != nil {
		return primitives.Errorf(primitives.CodeInternal, "describe disk %s: %w", disk.Target.Dev, err)
	}
	q := ask{what: fmt.Sprintf("change %s in the definition", disk.Target.Dev), domain: d, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.UpdateDevice(string(d), text, virt.Config) })
}
