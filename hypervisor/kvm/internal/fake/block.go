// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"
	"os"
	"slices"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// disk finds a live disk by target; mu is held.
func (d *domain) disk(target string) (*libvirtxml.DomainDisk, error) {
	if d.live == nil {
		return nil, virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
	}
	return diskIn(d.live, target)
}

func diskIn(x *libvirtxml.Domain, target string) (*libvirtxml.DomainDisk, error) {
	for i := range x.Devices.Disks {
		if x.Devices.Disks[i].Target.Dev == target {
			return &x.Devices.Disks[i], nil
		}
	}
	return nil, virt.Errorf(virt.CodeOperationFailed, "operation failed: disk '%s' not found", target)
}

// BlockCapacity returns a disk's size.
func (c *Conn) BlockCapacity(uuid, target string) (size int64, err error) {
	err = c.change(uuid, "BlockCapacity", func(d *domain) error {
		_, err := d.disk(target)
		size = d.capacity[target]
		return err
	})
	return size, err
}

// BlockResize sets a disk's size.
func (c *Conn) BlockResize(uuid, target string, size int64) error {
	return c.change(uuid, "BlockResize", func(d *domain) error {
		_, err := d.disk(target)
		d.capacity[target] = size
		return err
	})
}

// SnapshotCreate puts overlays on disks, all or none.
func (c *Conn) SnapshotCreate(uuid, text string, flags virt.SnapshotFlags) error {
	s := &libvirtxml.DomainSnapshot{}
	if err := s.Unmarshal(text); err != nil {
		return virt.Errorf(virt.CodeInternal, "%v", err)
	}
	return c.change(uuid, "SnapshotCreate", func(d *domain) error {
		for _, part := range s.Disks.Disks {
			disk, err := d.disk(part.Name)
			if err != nil || part.Snapshot != "external" {
				if err != nil {
					return err
				}
				continue
			}
			if disk.Mirror != nil {
				return virt.Errorf(virt.CodeOperationUnsupported, "disk '%s' already in active block job", part.Name)
			}
			if err := c.l.overlay(part, flags); err != nil {
				return err
			}
		}
		for _, part := range s.Disks.Disks {
			if part.Snapshot == "external" {
				lay(d, part)
			}
		}
		if !flags.NoMetadata {
			d.remember(s)
		}
		c.l.tell(d, virt.Event{Kind: virt.Changed})
		return nil
	})
}

// overlay makes an overlay's file, or wants it there; mu is held.
func (l *Libvirt) overlay(part libvirtxml.DomainSnapshotDisk, flags virt.SnapshotFlags) error {
	path := part.Source.File.File
	if !flags.ReuseExternal {
		if l.files == nil {
			return nil
		}
		return os.WriteFile(path, nil, 0o600)
	}
	if l.files != nil && l.files(path) != nil {
		return virt.Errorf(virt.CodeConfigUnsupported, "unsupported configuration: missing existing file for disk %s: %s", part.Name, path)
	}
	return nil
}

// lay puts an overlay on a disk in both halves, as libvirt does where the
// definition has the same source; mu is held.
func lay(d *domain, part libvirtxml.DomainSnapshotDisk) {
	live, _ := diskIn(d.live, part.Name)
	under := fmt.Sprint(live.Source.File, live.Source.Block)
	d.index(part.Source)
	push(live, part)
	if d.config == nil || d.stubborn {
		return
	}
	if config, err := diskIn(d.config, part.Name); err == nil && fmt.Sprint(config.Source.File, config.Source.Block) == under {
		push(config, part)
	}
}

func push(disk *libvirtxml.DomainDisk, part libvirtxml.DomainSnapshotDisk) {
	disk.BackingStore = &libvirtxml.DomainDiskBackingStore{
		Format:       &libvirtxml.DomainDiskFormat{Type: disk.Driver.Type},
		Source:       disk.Source,
		BackingStore: disk.BackingStore,
	}
	driver := *disk.Driver
	driver.Type = part.Driver.Type
	disk.Driver, disk.Source = &driver, part.Source
}

func (d *domain) remember(s *libvirtxml.DomainSnapshot) {
	s.CreationTime = fmt.Sprint(time.Now().Unix())
	if n := len(d.snapshots); n > 0 {
		s.Parent = &libvirtxml.DomainSnapshotParent{Name: d.snapshots[n-1].Name}
	}
	d.snapshots = append(d.snapshots, s)
}

// Snapshots lists what libvirt remembers.
func (c *Conn) Snapshots(uuid string) (out []string, err error) {
	err = c.look(uuid, func(d *domain) error {
		for _, s := range d.snapshots {
			text, err := s.Marshal()
			if err != nil {
				return err
			}
			out = append(out, text)
		}
		return nil
	})
	return out, err
}

// SnapshotForget forgets a snapshot.
func (c *Conn) SnapshotForget(uuid, name string) error {
	return c.change(uuid, "SnapshotForget", func(d *domain) error {
		n := len(d.snapshots)
		d.snapshots = slices.DeleteFunc(d.snapshots, func(s *libvirtxml.DomainSnapshot) bool { return s.Name == name })
		if len(d.snapshots) == n {
			return virt.Errorf(virt.CodeNoDomainSnapshot, "Domain snapshot not found: no domain snapshot with matching name '%s'", name)
		}
		return nil
	})
}

// BlockCommit begins a job that is ready at once.
func (c *Conn) BlockCommit(uuid, target string) error {
	return c.change(uuid, "BlockCommit", func(d *domain) error {
		disk, err := d.disk(target)
		if err != nil {
			return err
		}
		if disk.BackingStore == nil || disk.BackingStore.Source == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "top '%s' in chain for '%s' has no backing file", pathOf(disk), target)
		}
		disk.Mirror = &libvirtxml.DomainDiskMirror{
			Job: "active-commit", Ready: "yes",
			Format: disk.BackingStore.Format, Source: disk.BackingStore.Source,
		}
		c.l.tell(d, virt.Event{Kind: virt.Changed})
		return nil
	})
}

// BlockJobPivot puts a disk on its job's result, in both halves.
func (c *Conn) BlockJobPivot(uuid, target string) error {
	return c.change(uuid, "BlockJobPivot", func(d *domain) error {
		disk, err := d.disk(target)
		if err != nil {
			return err
		}
		if disk.Mirror == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "disk %s does not have an active block job", target)
		}
		top := pathOf(disk)
		pop(disk)
		if d.config != nil {
			if config, err := diskIn(d.config, target); err == nil && pathOf(config) == top {
				pop(config)
			}
		}
		c.l.tell(d, virt.Event{Kind: virt.Changed})
		return nil
	})
}

func pop(disk *libvirtxml.DomainDisk) {
	below := disk.BackingStore
	driver := *disk.Driver
	driver.Type = below.Format.Type
	disk.Driver, disk.Source, disk.BackingStore, disk.Mirror = &driver, below.Source, below.BackingStore, nil
}
