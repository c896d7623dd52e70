// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// lost is a switch that libvirt has forgotten: QEMU's truth about a disk.
type lost struct {
	to    *libvirtxml.DomainDiskSource
	job   string // what copies it back
	looks int    // at that job, after which it is ready
	home  bool   // the guest is on the source again, and the target still open

	closing bool // of the target's layers only the lower one is left

	copies string // a copy to the target that QEMU alone knows of; "": none
	ended  bool   // it was given up, and is to be taken away
}

// Lose ends a copy that is ready as a libvirt does that dies within the switch:
// QEMU is on the target, and libvirt knows of nothing.
func (l *Libvirt) Lose(uuid, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	disk, err := d.disk(target)
	if err != nil || disk.Mirror == nil {
		panic("fake: there is no copy to lose")
	}
	if d.lost == nil {
		d.lost = map[string]*lost{}
	}
	d.lost[target] = &lost{to: disk.Mirror.Source}
	d.endCopy(disk)
	d.endings = nil
}

// Stray reports whether a disk's guest is on what libvirt does not show, and whether
// anything of that is open.
func (l *Libvirt) Stray(uuid, target string) (away, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.domains[uuid].lost[target]
	return s != nil && !s.home, s != nil
}

// FailBack ends the job that brings a disk back.
func (l *Libvirt) FailBack(uuid, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].lost[target].job = ""
}

// index gives a source its number; mu is held.
func (d *domain) index(s *libvirtxml.DomainDiskSource) {
	if s != nil {
		d.indexes++
		s.Index = d.indexes
	}
}

func nodesOf(s *libvirtxml.DomainDiskSource, device string) []virt.Node {
	file := pathOf(&libvirtxml.DomainDisk{Source: s})
	return []virt.Node{
		{Name: fmt.Sprintf("libvirt-%d-storage", s.Index), Driver: "file", File: file},
		{Name: fmt.Sprintf("libvirt-%d-format", s.Index), Driver: "raw", File: file, Device: device},
	}
}

// Nodes lists what QEMU has open.
func (c *Conn) Nodes(uuid string) (out []virt.Node, err error) {
	err = c.change(uuid, "Nodes", func(d *domain) error {
		if d.live == nil {
			return virt.Errorf(virt.CodeOperationInvalid, "Requested operation is not valid: domain is not running")
		}
		for _, disk := range d.live.Devices.Disks {
			if disk.Alias == nil || disk.Source == nil {
				continue
			}
			device, filter := "/machine/peripheral/"+disk.Alias.Name+"/virtio-backend", ""
			s := d.lost[disk.Target.Dev]
			away := s != nil && !s.home
			if disk.Mirror != nil || away && s.job != "" {
				device, filter = "", device
			}
			if away {
				out = append(append(out, nodesOf(disk.Source, "")...), nodesOf(s.to, device)...)
			} else {
				out = append(out, nodesOf(disk.Source, device)...)
			}
			if s != nil && s.home {
				left := nodesOf(s.to, "")
				if s.closing {
					left = left[:1]
				}
				out = append(out, left...)
			}
			if filter != "" {
				out = append(out, virt.Node{Name: "#block1", Driver: "mirror_top", File: "a filter", Device: filter})
			}
		}
		return nil
	})
	return out, err
}

// NodeJobs lists the jobs that go past libvirt.
func (c *Conn) NodeJobs(uuid string) (out []virt.NodeJob, err error) {
	err = c.change(uuid, "NodeJobs", func(d *domain) error {
		for _, s := range d.lost {
			if s.copies != "" {
				out = append(out, virt.NodeJob{ID: s.copies})
			}
			if s.job != "" {
				s.looks++
				out = append(out, virt.NodeJob{ID: s.job, Ready: s.looks > 3})
			}
		}
		return nil
	})
	return out, err
}

// MirrorNode begins to bring a disk back.
func (c *Conn) MirrorNode(uuid, job, from, to string) error {
	return c.change(uuid, "MirrorNode", func(d *domain) error {
		for target, s := range d.lost {
			disk, err := d.disk(target)
			if err == nil && from == fmt.Sprintf("libvirt-%d-format", s.to.Index) && to == fmt.Sprintf("libvirt-%d-format", disk.Source.Index) {
				s.job, s.looks = job, 0
				return nil
			}
		}
		return virt.Errorf(virt.CodeInternal, "QEMU command 'blockdev-mirror': Cannot find device=%s", from)
	})
}

// CompleteNodeJob puts the guest back.
func (c *Conn) CompleteNodeJob(uuid, job string) error {
	return c.change(uuid, "CompleteNodeJob", func(d *domain) error {
		for _, s := range d.lost {
			if s.job == job && s.looks > 3 {
				s.job, s.home = "", true
				return nil
			}
		}
		return virt.Errorf(virt.CodeInternal, "QEMU command 'job-complete': Job not found")
	})
}

// EndNodeJob gives up a copy that QEMU alone knows of, and takes it away then.
func (c *Conn) EndNodeJob(uuid, job string) error {
	return c.change(uuid, "EndNodeJob", func(d *domain) error {
		for _, s := range d.lost {
			if s.copies == job && s.ended {
				s.copies = ""
			}
			s.ended = s.copies == job
		}
		return nil
	})
}

// DeleteNode closes what is left of a target: the upper layer first.
func (c *Conn) DeleteNode(uuid, node string) error {
	return c.change(uuid, "DeleteNode", func(d *domain) error {
		for target, s := range d.lost {
			switch {
			case !s.home || s.copies != "":
			case node == fmt.Sprintf("libvirt-%d-format", s.to.Index) && !s.closing:
				s.closing = true
				return nil
			case node == fmt.Sprintf("libvirt-%d-storage", s.to.Index) && s.closing:
				delete(d.lost, target)
				return nil
			}
		}
		return virt.Errorf(virt.CodeInternal, "QEMU command 'blockdev-del': Node %s is in use", node)
	})
}

// Home puts the guest back as CompleteNodeJob does.
func (l *Libvirt) Home(uuid, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].lost[target].home = true
}

// CopyOn has the guest at home while a copy to the target goes on, as after a libvirt
// that died as it began one.
func (l *Libvirt) CopyOn(uuid, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	disk, err := d.disk(target)
	if err != nil {
		panic("fake: there is no such disk")
	}
	s := d.lost[target]
	s.home, s.copies = true, fmt.Sprintf("copy-%s-libvirt-%d-format", target, disk.Source.Index)
}
