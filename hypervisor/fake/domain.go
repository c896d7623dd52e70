// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// domain is a virtual machine.
type domain struct {
	id         hypervisor.DomainID
	name       string
	persistent bool
	agent      bool
	slots      int // negative: nobody knows
	reconnects bool

	up        bool // there is a running half
	state     hypervisor.DomainState
	reason    string
	live      []disk
	config    []disk
	snapshots []snapshot                    // oldest first
	failures  map[hypervisor.DiskID]failure // how the last copy of a disk ended, where it failed
	late      []*late                       // what awaits that a stalled domain answers, oldest first

	guest
}

// guest is how the guest and what runs it behave. It is as new after each boot.
type guest struct {
	deaf     bool // requests are not heard
	refuses  bool // disks are not given back
	hung     bool // the agent does not answer
	stalled  bool // nothing about the running domain answers
	frozen   bool
	stopping bool // it was asked to power off
	hurt     bool // its storage fails, so that it pauses again whenever it is resumed
	outruns  bool // it writes faster than any copy of a disk
}

// disk is a disk in one half of a domain. A change replaces it as a whole.
type disk struct {
	id        hypervisor.DiskID
	target    string
	bus       string
	access    primitives.Access
	source    hypervisor.Source
	handle    primitives.Handle // of the volume
	size      int64
	beneath   []hypervisor.Source // what hypervisor snapshots put overlays upon, newest last
	job       string
	copy      *mirror // what copies it elsewhere; nil: nothing does
	astray    bool    // the guest is on what it was copied to, and the host does not know it
	detaching bool
	instance  int // tells it from an earlier disk of that ID
}

// view is a domain at one moment.
type view struct {
	domain
}

func (d *domain) view() view {
	v := view{domain: *d}
	v.live, v.config, v.snapshots = slices.Clone(d.live), slices.Clone(d.config), slices.Clone(d.snapshots)
	return v
}

// find returns the disk of that ID, or nil.
func find(half []disk, id hypervisor.DiskID) *disk {
	for i := range half {
		if half[i].id == id {
			return &half[i]
		}
	}
	return nil
}

// byTarget returns the disk of that target, or nil.
func byTarget(half []disk, target string) *disk {
	for i := range half {
		if half[i].target == target {
			return &half[i]
		}
	}
	return nil
}

// without returns a half that lacks a disk.
func without(half []disk, target string) []disk {
	return slices.DeleteFunc(slices.Clone(half), func(x disk) bool { return x.target == target })
}

// shown is a disk as the contract shows it.
func (x disk) shown(d hypervisor.DomainID) hypervisor.Disk {
	return hypervisor.Disk{
		ID: x.id, Domain: d, Target: x.target, Serial: string(x.id), Bus: x.bus, Access: x.access,
		Detaching: x.detaching, Source: x.source, Job: x.job,
	}
}

// disks merges both halves. A disk of tenon's is the same in both by its ID,
// another one by its target. What the running domain says wins.
func (v view) disks() []hypervisor.Disk {
	var out []hypervisor.Disk
	for _, x := range v.live {
		s := x.shown(v.id)
		s.Live = true
		out = append(out, s)
	}
	for _, x := range v.config {
		same := slices.IndexFunc(out, func(o hypervisor.Disk) bool {
			return o.ID == x.id && (o.ID != "" || o.Target == x.target)
		})
		if same < 0 {
			out = append(out, x.shown(v.id))
			same = len(out) - 1
		}
		out[same].Config = true
	}
	slices.SortStableFunc(out, func(a, b hypervisor.Disk) int {
		return cmp.Or(cmp.Compare(len(a.Target), len(b.Target)), strings.Compare(a.Target, b.Target))
	})
	return out
}

// shown is the domain as the contract shows it.
func (v view) shown() hypervisor.Domain {
	running := v.state == hypervisor.StateRunning
	return hypervisor.Domain{
		ID: v.id, Name: v.name, State: v.state, Reason: v.reason, Persistent: v.persistent,
		Caps: hypervisor.Caps{
			AttachLive: v.up,
			DetachLive: running, // a paused guest cannot let go
			ResizeLive: v.up,
			Freeze:     running && v.agent,
			Switch:     v.up || v.persistent,
			Snapshot:   v.up,
			Pause:      v.up,
			Move:       v.up,
			FreeSlots:  v.freeSlots(),
			Accepts:    slices.Clone(accepts),
		},
	}
}

// freeSlots counts the virtio disks that can still be plugged in, or is -1.
func (v view) freeSlots() int {
	if !v.up || v.slots < 0 {
		return -1
	}
	used := 0
	for _, x := range v.live {
		if x.bus == busVirtio {
			used++
		}
	}
	return max(0, v.slots-used)
}

// start boots a domain; mu is held.
func (h *Host) start(d *domain) error {
	if d.up {
		return nil
	}
	live := slices.Clone(d.config)
	for i := range live {
		if err := h.open(live[i]); err != nil {
			return err
		}
		live[i].instance = h.nextInstance()
	}
	d.up, d.state, d.reason, d.live, d.guest = true, hypervisor.StateRunning, "", live, guest{}
	return nil
}

// end ends a running domain; mu is held.
func (h *Host) end(d *domain, reason string) {
	if !d.up {
		return
	}
	d.up, d.state, d.reason, d.live, d.guest = false, hypervisor.StateOff, reason, nil, guest{}
	for _, l := range d.late {
		l.done <- primitives.Errorf(primitives.CodeUnavailable, "%s: domain %s ended under the call", l.call.Name, d.name)
	}
	d.late = nil
	if !d.persistent {
		delete(h.domains, d.id)
	}
}

func (h *Host) nextInstance() int {
	h.instances++
	return h.instances
}
