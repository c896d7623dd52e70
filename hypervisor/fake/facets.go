// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

func noDisk(d *domain, id hypervisor.DiskID) error {
	return primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %s", d.name, id)
}

// ResizeDisk notes the new size.
func (a *Adapter) ResizeDisk(ctx context.Context, id hypervisor.DomainID, diskID hypervisor.DiskID, size int64) error {
	if size <= 0 {
		return primitives.Invalid("size", "%d", size)
	}
	return a.change(ctx, "ResizeDisk", id, func(d *domain) error {
		x := find(d.live, diskID)
		if x == nil {
			return noDisk(d, diskID)
		}
		if size < x.size {
			return primitives.Errorf(primitives.CodeUnsupported, "disk %s has %d bytes and cannot shrink", diskID, x.size)
		}
		x.size = size
		return nil
	})
}

// Size returns the size that the guest sees.
func (h *Host) Size(id hypervisor.DomainID, diskID hypervisor.DiskID) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x := find(h.domains[id].live, diskID); x != nil {
		return x.size
	}
	return 0
}

// Switch moves disks to new mappings, all or none.
func (a *Adapter) Switch(ctx context.Context, id hypervisor.DomainID, disks []hypervisor.DiskSwitch) error {
	seen := make(map[hypervisor.DiskID]bool)
	for _, s := range disks {
		if err := hypervisor.CheckDiskID(s.Disk); err != nil {
			return err
		}
		if seen[s.Disk] {
			return primitives.Invalid("disks", "disk %s is named twice", s.Disk)
		}
		seen[s.Disk] = true
		if err := checkMapping(s.To); err != nil {
			return err
		}
	}
	return a.change(ctx, "Switch", id, func(d *domain) error {
		for _, s := range disks {
			if err := d.switchable(s); err != nil {
				return err
			}
		}
		for _, s := range disks {
			for _, x := range []*disk{find(d.live, s.Disk), find(d.config, s.Disk)} {
				if x != nil {
					x.Source = sourceOf(s.To)
				}
			}
		}
		return nil
	})
}

// switchable reports why a disk cannot move: a running one moves to an overlay
// directly upon what it shows, or to another address of the same volume.
func (d *domain) switchable(s hypervisor.DiskSwitch) error {
	live := find(d.live, s.Disk)
	if live == nil && (d.running || find(d.config, s.Disk) == nil) {
		return noDisk(d, s.Disk)
	}
	if live == nil || live.Source.Shows(s.To) {
		return nil
	}
	if s.To.Form == primitives.FormFile {
		under := s.To.File.Backing
		if s.To.File.Format != primitives.FormatQcow2 || len(under) == 0 || under[0].Path != live.Source.Path || under[0].Format != live.Source.Format {
			return primitives.Errorf(primitives.CodeUnsupported, "disk %s: the file does not lie directly upon %v", s.Disk, live.Source)
		}
	}
	return reachable(s.To)
}

// Freeze freezes the guest, runs during, and thaws.
func (a *Adapter) Freeze(ctx context.Context, id hypervisor.DomainID, hold time.Duration, during func(context.Context) error) (report hypervisor.FreezeReport, err error) {
	hurry, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	if err := a.agent(hurry, id, true); err != nil {
		if !errors.Is(err, primitives.CodeUnsupported) && !errors.Is(err, primitives.CodeNotFound) {
			report.ThawErr = a.Thaw(context.WithoutCancel(ctx), id)
		}
		return report, err
	}
	start := time.Now()
	inside, stop := after(ctx, hold)
	err = during(inside)
	stop()
	report.Filesystems, report.Held = 1, held(start)
	report.ThawErr = a.Thaw(context.WithoutCancel(ctx), id)
	return report, err
}

// Thaw thaws the guest.
func (a *Adapter) Thaw(ctx context.Context, id hypervisor.DomainID) error {
	err := a.agent(ctx, id, false)
	if errors.Is(err, primitives.CodeUnsupported) {
		return nil // nothing that could be frozen
	}
	return err
}

// agent has the guest agent freeze or thaw.
func (a *Adapter) agent(ctx context.Context, id hypervisor.DomainID, freeze bool) error {
	call := "Thaw"
	if freeze {
		call = "Freeze"
	}
	err := a.host.wait(ctx, func() bool {
		d := a.host.domains[id]
		return d == nil || !d.running || !d.agentHung
	})
	if err != nil {
		return primitives.Errorf(primitives.CodeUnavailable, "the guest agent does not answer: %w", err)
	}
	return a.change(ctx, call, id, func(d *domain) error {
		if !d.running || !d.agent {
			return primitives.Errorf(primitives.CodeUnsupported, "domain %s has no guest agent", d.name)
		}
		if freeze {
			a.host.freezes++
		}
		d.frozen = freeze
		return nil
	})
}

// Start starts a domain with the disks of its definition.
func (a *Adapter) Start(ctx context.Context, id hypervisor.DomainID) error {
	return a.change(ctx, "Start", id, func(d *domain) error {
		if d.running {
			return nil
		}
		d.running, d.live = true, nil
		for _, x := range d.config {
			live := *x
			d.live = append(d.live, &live)
		}
		return nil
	})
}

// Shutdown asks the guest to power off and waits.
func (a *Adapter) Shutdown(ctx context.Context, id hypervisor.DomainID) error {
	err := a.change(ctx, "Shutdown", id, func(d *domain) error {
		if !d.deaf {
			a.host.end(d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = a.host.wait(ctx, func() bool {
		d := a.host.domains[id]
		return d == nil || !d.running
	})
	if err != nil {
		return primitives.Errorf(primitives.CodeUnavailable, "the guest does not power off: %w", err)
	}
	return nil
}

// CreateSnapshot puts an overlay on every writable disk.
func (a *Adapter) CreateSnapshot(ctx context.Context, id hypervisor.DomainID, name string) (snap hypervisor.Snapshot, err error) {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return snap, primitives.Invalid("name", "%q", name)
	}
	err = a.change(ctx, "CreateSnapshot", id, func(d *domain) error {
		if !d.running {
			return primitives.Errorf(primitives.CodeUnsupported, "domain %s is off", d.name)
		}
		if slices.ContainsFunc(d.snapshots, func(s hypervisor.Snapshot) bool { return s.Name == name }) {
			return primitives.Errorf(primitives.CodeExists, "domain %s has a snapshot %q", d.name, name)
		}
		snap = hypervisor.Snapshot{Name: name, Created: time.Now()}
		for _, x := range append(slices.Clone(d.live), d.config...) {
			if x.Access != primitives.ReadWrite || x.ID == "" {
				continue
			}
			x.below = append([]hypervisor.Source{x.Source}, x.below...)
			x.Source = hypervisor.Source{Form: primitives.FormFile, Path: "/fake/" + string(x.ID) + "." + name, Format: primitives.FormatQcow2, Chain: []string{x.Source.String()}}
			if !slices.Contains(snap.Disks, x.ID) {
				snap.Disks = append(snap.Disks, x.ID)
			}
		}
		d.snapshots = append(d.snapshots, snap)
		return nil
	})
	return snap, err
}

// Snapshots lists the snapshots, oldest first.
func (a *Adapter) Snapshots(ctx context.Context, id hypervisor.DomainID) (all []hypervisor.Snapshot, err error) {
	err = a.look(ctx, id, func(d *domain) error {
		all = slices.Clone(d.snapshots)
		return nil
	})
	return all, err
}

// DeleteSnapshot merges the newest snapshot's overlays back.
func (a *Adapter) DeleteSnapshot(ctx context.Context, id hypervisor.DomainID, name string) error {
	return a.change(ctx, "DeleteSnapshot", id, func(d *domain) error {
		at := slices.IndexFunc(d.snapshots, func(s hypervisor.Snapshot) bool { return s.Name == name })
		switch {
		case at < 0:
			return nil
		case at < len(d.snapshots)-1:
			return primitives.Errorf(primitives.CodeDependents, "snapshot %q is not the newest", name)
		}
		for _, x := range append(slices.Clone(d.live), d.config...) {
			if slices.Contains(d.snapshots[at].Disks, x.ID) && len(x.below) > 0 {
				x.Source, x.below = x.below[0], x.below[1:]
			}
		}
		d.snapshots = d.snapshots[:at]
		return nil
	})
}
