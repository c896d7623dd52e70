// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Switch moves disks of a domain to new mappings: of a running one to overlays
// upon what they show, at one point in time; then the definition follows.
func (a *Adapter) Switch(ctx context.Context, id hypervisor.DomainID, disks []hypervisor.DiskSwitch) error {
	var ids []hypervisor.DiskID
	for i, s := range disks {
		if err := checkSwitch(disks[:i], s); err != nil {
			return err
		}
		ids = append(ids, s.Disk)
	}
	v, err := a.look(ctx, id)
	if err != nil {
		return err
	}
	todo, err := planSwitch(v, disks)
	if err != nil {
		return err
	}
	if len(todo) > 0 {
		c := Call{Name: "switch", Domain: id, Disks: ids}
		if err := a.act(ctx, c, func(d *domain) error { return a.host.switchLive(d, disks) }); err != nil {
			return err
		}
	}
	if v, err = a.look(ctx, id); err != nil {
		return err
	}
	if followed, err := follow(v, disks); err != nil || followed == nil {
		return err
	}
	return a.act(ctx, Call{Name: "switch-config", Domain: id, Disks: ids}, func(d *domain) error {
		followed, err := follow(d.view(), disks)
		if followed != nil {
			d.config = followed
		}
		return err
	})
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

// planSwitch returns the switches that a running domain still needs; one that is
// off needs none.
func planSwitch(v view, disks []hypervisor.DiskSwitch) ([]hypervisor.DiskSwitch, error) {
	if !v.up {
		return nil, nil
	}
	var todo []hypervisor.DiskSwitch
	for _, s := range disks {
		x := find(v.live, s.Disk)
		if x == nil {
			return nil, noDisk(v.id, s.Disk)
		}
		if x.source.Shows(s.To) {
			continue
		}
		if err := refuseBusy(v, *x); err != nil {
			return nil, err
		}
		if !v.reconnects || !x.movesTo(s.To) {
			if err := checkOverlay(s, x.source); err != nil {
				return nil, err
			}
		}
		todo = append(todo, s)
	}
	return todo, nil
}

// movesTo reports whether m is another address of the volume of a network disk.
func (x disk) movesTo(m primitives.Mapping) bool {
	return x.source.Form == primitives.FormNetwork && m.Form == primitives.FormNetwork && x.handle != "" && m.Handle == x.handle
}

// checkOverlay reports why a running disk cannot switch: an overlay upon anything
// else than what the disk has would show the guest other bytes.
func checkOverlay(s hypervisor.DiskSwitch, now hypervisor.Source) error {
	const try = "detach the disk and attach it again, or shut the domain down first"
	if s.To.Form != primitives.FormFile || s.To.File.Format != primitives.FormatQcow2 || len(s.To.File.Backing) == 0 {
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s of a running domain can switch to a qcow2 overlay only", s.Disk).Trying(try)
	}
	under := s.To.File.Backing[0]
	if now.Form == primitives.FormNetwork || under.Path != now.Path || under.Format != now.Format {
		return primitives.Errorf(primitives.CodeUnsupported, "disk %s: %s lies upon %s (%s), but the disk is on %v (%s)",
			s.Disk, s.To.File.Path, under.Path, under.Format, now, now.Format).Trying(try)
	}
	return nil
}

// switchLive switches all disks of a running domain, or none; mu is held.
func (h *Host) switchLive(d *domain, disks []hypervisor.DiskSwitch) error {
	todo, err := planSwitch(d.view(), disks)
	if err != nil {
		return err
	}
	live := slices.Clone(d.live)
	for _, s := range todo {
		x := find(live, s.Disk)
		x.source = sourceOf(s.To)
		if err := h.open(*x); err != nil {
			return err
		}
	}
	d.live = live
	return nil
}

// follow returns the definition with all disks on their new mappings; nil: it
// shows them already, or there is none. A disk of the running domain only has no
// part in it.
func follow(v view, disks []hypervisor.DiskSwitch) ([]disk, error) {
	if !v.persistent {
		return nil, nil
	}
	moved := false
	for _, s := range disks {
		x := find(v.config, s.Disk)
		switch {
		case x == nil && !v.up:
			return nil, noDisk(v.id, s.Disk)
		case x == nil || x.source.Shows(s.To):
			continue
		}
		x.source, moved = sourceOf(s.To), true
		if s.To.Size > 0 {
			x.size = s.To.Size
		}
	}
	if !moved {
		return nil, nil
	}
	return v.config, nil
}
