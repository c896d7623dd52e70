// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// diskSize is the size of every disk until it is resized.
const diskSize = 16 << 20

// Conn is a connection to the fake.
type Conn struct {
	l        *Libvirt
	handle   func(virt.Event)
	lost     chan struct{}
	loseOnce sync.Once
}

func (c *Conn) lose() { c.loseOnce.Do(func() { close(c.lost) }) }

// Lost is closed when the connection is gone.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Close ends the connection.
func (c *Conn) Close() error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	delete(c.l.conns, c)
	c.lose()
	return nil
}

// Listen registers the receiver of events.
func (c *Conn) Listen(handle func(virt.Event)) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.handle = handle
	return nil
}

// Library names the fake.
func (c *Conn) Library() (string, error) { return "fake 0.0.0", c.alive() }

// Hypervisor names what the fake pretends, as soon as libvirt has looked at it.
func (c *Conn) Hypervisor() (string, error) {
	c.l.mu.Lock()
	looking := c.l.looking
	c.l.mu.Unlock()
	if looking != nil {
		<-looking
	}
	return "QEMU 0.0.0", c.alive()
}

func (c *Conn) alive() error {
	select {
	case <-c.lost:
		return &virt.Error{Code: virt.CodeInternal, Remote: true, Text: "client socket is closed"}
	default:
		return nil
	}
}

// look runs fn with the domain, without waiting for QEMU.
func (c *Conn) look(uuid string, fn func(*domain) error) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if err := c.alive(); err != nil {
		return err
	}
	d := c.l.domains[uuid]
	if d == nil {
		return virt.Errorf(virt.CodeNoDomain, "Domain not found: no domain with matching uuid '%s'", uuid)
	}
	return fn(d)
}

// change runs fn with the domain as its only changer, and waits while QEMU is
// stopped, as libvirt does: the first call without limit, others for 30 s.
func (c *Conn) change(uuid, name string, fn func(*domain) error) error {
	var d *domain
	if err := c.look(uuid, func(found *domain) error { d = found; return nil }); err != nil {
		return err
	}
	timer := time.NewTimer(lockWait)
	defer timer.Stop()
	select {
	case <-d.held:
		defer func() { d.held <- struct{}{} }()
	case <-timer.C:
		return virt.Errorf(virt.CodeOperationTimeout, "Timed out during operation: cannot acquire state change lock")
	}
	c.l.mu.Lock()
	if stalled := d.stalled; stalled != nil && d.live != nil {
		d.since = time.Now()
		c.l.mu.Unlock()
		<-stalled
		c.l.mu.Lock()
		d.since = time.Time{}
	}
	c.l.mu.Unlock()
	return c.look(uuid, func(d *domain) error {
		if err := d.failures[name]; err != nil {
			delete(d.failures, name)
			return err
		}
		return fn(d)
	})
}

func (d *domain) describe() virt.Domain {
	return virt.Domain{UUID: d.uuid, Name: d.name, Run: d.run, Reason: d.reason, Persistent: d.config != nil}
}

// Domains lists all domains.
func (c *Conn) Domains() ([]virt.Domain, error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	var out []virt.Domain
	for _, d := range c.l.domains {
		out = append(out, d.describe())
	}
	return out, c.alive()
}

// ByName looks a domain up.
func (c *Conn) ByName(name string) (virt.Domain, error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if err := c.alive(); err != nil {
		return virt.Domain{}, err
	}
	for _, d := range c.l.domains {
		if d.name == name {
			return d.describe(), nil
		}
	}
	return virt.Domain{}, virt.Errorf(virt.CodeNoDomain, "Domain not found: no domain with matching name '%s'", name)
}

// State returns a domain's state.
func (c *Conn) State(uuid string) (out virt.Domain, err error) {
	err = c.look(uuid, func(d *domain) error { out = d.describe(); return nil })
	return out, err
}

// Occupied tells how long a call has been waiting for QEMU.
func (c *Conn) Occupied(uuid string) (ms uint64, err error) {
	err = c.look(uuid, func(d *domain) error {
		d.probes++
		if !d.since.IsZero() {
			ms = uint64(time.Since(d.since).Milliseconds()) + 1
		}
		return nil
	})
	return ms, err
}

// XML returns one half.
func (c *Conn) XML(uuid string, half virt.Half) (text string, err error) {
	err = c.look(uuid, func(d *domain) error {
		x := d.config
		if half == virt.Live && d.live != nil || x == nil {
			x = d.live
		}
		text, err = x.Marshal()
		return err
	})
	return text, err
}

// Start starts a domain.
func (c *Conn) Start(uuid string) error {
	return c.change(uuid, "Start", func(d *domain) error {
		if d.live != nil {
			return virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is already running")
		}
		d.start(c.l)
		return nil
	})
}

// Shutdown asks the guest to power off, which a deaf one does not hear.
func (c *Conn) Shutdown(uuid string) error {
	return c.change(uuid, "Shutdown", func(d *domain) error {
		if d.live == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
		}
		if d.manners.Deaf || d.run != virt.Running {
			return nil
		}
		go func() {
			c.l.mu.Lock()
			defer c.l.mu.Unlock()
			if d.live != nil {
				c.l.stop(d)
			}
		}()
		return nil
	})
}

// Freeze freezes the guest.
func (c *Conn) Freeze(uuid string, seconds int) (n int, err error) {
	err = c.agent(uuid, "Freeze", seconds, func(d *domain) error {
		if d.frozen > 0 {
			return virt.Errorf(virt.CodeAgentFailed, "unable to execute QEMU agent command 'guest-fsfreeze-freeze': The command guest-fsfreeze-freeze has been disabled for this instance")
		}
		d.frozen = 1
		if d.manners.FreezeFail {
			return virt.Errorf(virt.CodeAgentFailed, "unable to execute QEMU agent command 'guest-fsfreeze-freeze': failed to freeze /mnt")
		}
		n = d.frozen
		return nil
	})
	return n, err
}

// Thaw thaws the guest.
func (c *Conn) Thaw(uuid string, seconds int) (n int, err error) {
	err = c.agent(uuid, "Thaw", seconds, func(d *domain) error {
		n, d.frozen = d.frozen, 0
		return nil
	})
	return n, err
}

func (c *Conn) agent(uuid, name string, seconds int, fn func(*domain) error) error {
	var hung bool
	var limit time.Duration
	err := c.change(uuid, name, func(d *domain) error {
		if d.live == nil || d.manners.NoAgent {
			return virt.Errorf(virt.CodeAgentUnresponsive, "Guest agent is not responding: QEMU guest agent is not connected")
		}
		hung, limit = d.manners.HungAgent, min(c.l.sync, time.Duration(seconds)*time.Second)
		if hung {
			return nil
		}
		return fn(d)
	})
	if err != nil || !hung {
		return err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	<-timer.C
	return virt.Errorf(virt.CodeAgentUnresponsive, "Guest agent is not responding: Guest agent not available for now")
}

// half returns the half that a device change means.
func (d *domain) half(h virt.Half) (*libvirtxml.Domain, error) {
	switch {
	case h == virt.Live && d.live == nil:
		return nil, virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
	case h == virt.Config && d.config == nil:
		return nil, virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: transient domains do not have any persistent config")
	case h == virt.Live:
		return d.live, nil
	}
	return d.config, nil
}

// AttachDevice adds a disk.
func (c *Conn) AttachDevice(uuid, text string, half virt.Half) error {
	var disk libvirtxml.DomainDisk
	if err := disk.Unmarshal(text); err != nil {
		return virt.Errorf(virt.CodeInternal, "%v", err)
	}
	return c.change(uuid, "AttachDevice "+half.String(), func(d *domain) error {
		x, err := d.half(half)
		if err != nil {
			return err
		}
		for _, have := range x.Devices.Disks {
			if have.Target.Dev == disk.Target.Dev {
				return virt.Errorf(virt.CodeOperationFailed, "operation failed: target %s already exists", disk.Target.Dev)
			}
			if have.Alias != nil && have.Alias.Name == disk.Alias.Name {
				return virt.Errorf(virt.CodeConfigUnsupported, "non unique alias detected: %s", disk.Alias.Name)
			}
		}
		if half == virt.Live {
			if err := c.l.open(d, &disk); err != nil {
				return err
			}
			plug(x, &disk)
			d.index(disk.Source)
			d.capacity[disk.Target.Dev] = diskSize
			c.l.tell(d, virt.Event{Kind: virt.Changed})
		}
		x.Devices.Disks = append(x.Devices.Disks, disk)
		return nil
	})
}

// open fails where a real QEMU would: a missing image, or one that a running
// domain has for writing; mu is held.
func (l *Libvirt) open(d *domain, disk *libvirtxml.DomainDisk) error {
	path := pathOf(disk)
	if l.files != nil && path != "" {
		if err := l.files(path); err != nil {
			return virt.Errorf(virt.CodeInternal, "internal error: unable to execute QEMU command 'blockdev-add': Could not open '%s': No such file or directory", path)
		}
	}
	for _, o := range l.domains {
		if o.live == nil {
			continue
		}
		for _, have := range o.live.Devices.Disks {
			if path != "" && have.Mirror != nil && pathOf(&libvirtxml.DomainDisk{Source: have.Mirror.Source}) == path {
				return virt.Errorf(virt.CodeInternal, "internal error: unable to execute QEMU command 'blockdev-add': Failed to get \"write\" lock")
			}
			if path != "" && pathOf(&have) == path && (have.ReadOnly == nil || disk.ReadOnly == nil) {
				return virt.Errorf(virt.CodeInternal, "internal error: unable to execute QEMU command 'blockdev-add': Failed to get \"write\" lock")
			}
		}
	}
	return nil
}

// pathOf returns the file of a disk, which QEMU locks; block devices it does not.
func pathOf(disk *libvirtxml.DomainDisk) string {
	if disk.Source != nil && disk.Source.File != nil {
		return disk.Source.File.File
	}
	return ""
}

// plug gives a virtio disk the first free root port.
func plug(x *libvirtxml.Domain, disk *libvirtxml.DomainDisk) {
	if disk.Target.Bus != "virtio" {
		return
	}
	taken := map[uint]bool{}
	for _, have := range x.Devices.Disks {
		if have.Address != nil && have.Address.PCI != nil {
			taken[*have.Address.PCI.Bus] = true
		}
	}
	for _, port := range x.Devices.Controllers {
		if port.Model == "pcie-root-port" && !taken[*port.Index] {
			var zero uint
			disk.Address = &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: &zero, Bus: port.Index, Slot: &zero, Function: &zero}}
			return
		}
	}
}

// DetachDevice asks for a disk: at once from the definition, by the guest's
// leave from the running domain.
func (c *Conn) DetachDevice(uuid, alias string, half virt.Half) error {
	return c.change(uuid, "DetachDevice "+half.String(), func(d *domain) error {
		x, err := d.half(half)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(x.Devices.Disks, func(disk libvirtxml.DomainDisk) bool { return disk.Alias != nil && disk.Alias.Name == alias })
		if i < 0 {
			return virt.Errorf(virt.CodeInternal, "internal error: no device found with alias %s", alias)
		}
		if half == virt.Config {
			x.Devices.Disks = slices.Delete(x.Devices.Disks, i, i+1)
			return nil
		}
		c.l.request(d, alias)
		return nil
	})
}

// request is how the guest takes a request for a device; mu is held.
func (l *Libvirt) request(d *domain, alias string) {
	switch m := d.manners; {
	case m.Deaf || d.run != virt.Running:
		d.leaving[alias] = true
	case m.Refuses:
		l.tell(d, virt.Event{Kind: virt.RemovalFailed, Device: alias})
	case m.Delay == 0:
		l.remove(d, alias)
	default:
		time.AfterFunc(m.Delay, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.remove(d, alias)
		})
	}
}

// UpdateDevice replaces a disk of the definition.
func (c *Conn) UpdateDevice(uuid, text string, half virt.Half) error {
	var disk libvirtxml.DomainDisk
	if err := disk.Unmarshal(text); err != nil {
		return virt.Errorf(virt.CodeInternal, "%v", err)
	}
	return c.change(uuid, "UpdateDevice "+half.String(), func(d *domain) error {
		x, err := d.half(half)
		if err != nil {
			return err
		}
		for i := range x.Devices.Disks {
			if x.Devices.Disks[i].Target.Dev == disk.Target.Dev {
				x.Devices.Disks[i] = disk
				return nil
			}
		}
		return virt.Errorf(virt.CodeDeviceMissing, "device not found: target %s doesn't exist", disk.Target.Dev)
	})
}
