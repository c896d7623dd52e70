// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"maps"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// copying is a copy of a disk under way; the disk's mirror element is what of it
// libvirt shows.
type copying struct {
	virt.CopyOptions
	done, total int64
}

// Copies returns the copies under way, by target.
func (l *Libvirt) Copies(uuid string) map[string]virt.CopyOptions {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]virt.CopyOptions{}
	for target, c := range l.domains[uuid].copies {
		out[target] = c.CopyOptions
	}
	return out
}

// Definition returns what is defined of a domain.
func (l *Libvirt) Definition(uuid string) *libvirtxml.Domain {
	l.mu.Lock()
	defer l.mu.Unlock()
	return clone(l.domains[uuid].config)
}

// Outrun makes a guest write as fast as any copy that is not synchronous.
func (l *Libvirt) Outrun(uuid string, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].outruns = on
}

// FailCopy ends a copy with an error, or without a word of why.
func (l *Libvirt) FailCopy(uuid, target, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	disk, err := d.disk(target)
	if err != nil || disk.Mirror == nil {
		return
	}
	d.endCopy(disk)
	l.tell(d, virt.Event{Kind: virt.CopyFailed, Device: target})
	if why != "" {
		l.tell(d, virt.Event{Kind: virt.CopyFailed, Device: target, Text: why})
	}
}

// endCopy takes a disk's copy away; mu is held.
func (d *domain) endCopy(disk *libvirtxml.DomainDisk) {
	disk.Mirror = nil
	d.copies = maps.Clone(d.copies)
	delete(d.copies, disk.Target.Dev)
}

// BlockCopy begins a copy. Each look at it gets it on by as much as its bandwidth, or all.
func (c *Conn) BlockCopy(uuid, target, text string, o virt.CopyOptions) error {
	var to libvirtxml.DomainDisk
	if err := to.Unmarshal(text); err != nil {
		return virt.Errorf(virt.CodeInternal, "%v", err)
	}
	return c.change(uuid, "BlockCopy", func(d *domain) error {
		disk, err := d.disk(target)
		if err != nil {
			return err
		}
		if disk.Mirror != nil {
			return virt.Errorf(virt.CodeBlockCopyActive, "block copy still active: disk '%s' already in active block job", target)
		}
		if err := c.l.open(d, &to); err != nil {
			return err
		}
		d.index(to.Source)
		disk.Mirror = &libvirtxml.DomainDiskMirror{
			Job: "copy", Source: to.Source, Format: &libvirtxml.DomainDiskFormat{Type: to.Driver.Type},
			BackingStore: &libvirtxml.DomainDiskBackingStore{},
		}
		if d.copies == nil {
			d.copies = map[string]*copying{}
		}
		d.copies[target] = &copying{CopyOptions: o, total: d.capacity[target]}
		return nil
	})
}

// BlockJob tells of a disk's job, and gets it on.
func (c *Conn) BlockJob(uuid, target string) (job virt.Job, err error) {
	err = c.change(uuid, "BlockJob", func(d *domain) error {
		disk, err := d.disk(target)
		x := d.copies[target]
		if err != nil || x == nil {
			return err
		}
		job = virt.Job{Copy: true, Done: x.done, Total: x.total}
		n := min(x.total-x.done, cmp.Or(int64(x.Bandwidth), x.total))
		x.done += n
		if d.outruns && !x.Synchronous {
			x.total += n
		}
		if x.done == x.total && disk.Mirror.Ready == "" {
			disk.Mirror.Ready = "yes"
			c.l.tell(d, virt.Event{Kind: virt.Changed})
		}
		return nil
	})
	return job, err
}

// BlockJobSwitch puts a disk on what it was copied to, a little later: first in the
// definition, as libvirt does.
func (c *Conn) BlockJobSwitch(uuid, target string) error {
	return c.end(uuid, target, "BlockJobSwitch", "pivot", func(d *domain, disk *libvirtxml.DomainDisk) {
		if config, err := diskIn(cmp.Or(d.config, &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}), target); err == nil && !d.stubborn {
			turn(config, disk.Mirror)
		}
		turn(disk, disk.Mirror)
	})
}

// turn puts a disk on the source of a mirror.
func turn(disk *libvirtxml.DomainDisk, m *libvirtxml.DomainDiskMirror) {
	driver := *disk.Driver
	driver.Type = m.Format.Type
	disk.Driver, disk.Source, disk.BackingStore = &driver, m.Source, m.BackingStore
}

// BlockJobCancel ends a copy a little later.
func (c *Conn) BlockJobCancel(uuid, target string) error {
	return c.end(uuid, target, "BlockJobCancel", "abort", func(*domain, *libvirtxml.DomainDisk) {})
}

// end marks a copy as ending, which it does from another goroutine.
func (c *Conn) end(uuid, target, name, how string, finish func(*domain, *libvirtxml.DomainDisk)) error {
	return c.change(uuid, name, func(d *domain) error {
		disk, err := d.disk(target)
		switch {
		case err != nil:
			return err
		case disk.Mirror == nil:
			return virt.Errorf(virt.CodeInvalidArgument, "invalid argument: disk %s does not have an active block job", target)
		case how == "pivot" && disk.Mirror.Ready != "yes":
			return virt.Errorf(virt.CodeBlockCopyActive, "block copy still active: block job 'copy-%s-libvirt-1-format' not ready for pivot yet", target)
		}
		disk.Mirror.Ready = how
		live := d.live
		over := func() { // mu is held
			disk, err := d.disk(target)
			if err != nil || d.live != live || disk.Mirror == nil {
				return
			}
			finish(d, disk)
			d.endCopy(disk)
			c.l.tell(d, virt.Event{Kind: virt.Changed})
		}
		if d.holdsJobs {
			d.endings = append(d.endings, over)
			return nil
		}
		go func() {
			c.l.mu.Lock()
			defer c.l.mu.Unlock()
			over()
		}()
		return nil
	})
}

// HoldJobs keeps jobs that were asked to end from ending until they are let go.
func (l *Libvirt) HoldJobs(uuid string, hold bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	d.holdsJobs = hold
	if hold {
		return
	}
	for _, over := range d.endings {
		over()
	}
	d.endings = nil
}

// Suspend pauses a domain.
func (c *Conn) Suspend(uuid string) error {
	return c.change(uuid, "Suspend", func(d *domain) error {
		if d.live == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
		}
		d.run, d.reason = virt.Paused, "user"
		c.l.tell(d, virt.Event{Kind: virt.Changed})
		return nil
	})
}

// Resume lets a domain go on. One whose storage fails pauses again.
func (c *Conn) Resume(uuid string) error {
	return c.change(uuid, "Resume", func(d *domain) error {
		if d.live == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
		}
		d.run, d.reason = virt.Running, ""
		c.l.tell(d, virt.Event{Kind: virt.Changed})
		if d.hurts > 0 {
			d.hurts--
			d.run, d.reason = virt.Paused, "ioerror"
		}
		return nil
	})
}

// Hurt pauses a domain for an I/O error, and again after so many resumes.
func (l *Libvirt) Hurt(uuid string, times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	d.run, d.reason, d.hurts = virt.Paused, "ioerror", times
	l.tell(d, virt.Event{Kind: virt.Changed})
}
