// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// lookTime bounds each question to a device or a hypervisor.
const lookTime = 20 * time.Second

// situationOf gathers what decides about the uses of a device that pick selects.
// What cannot be seen is left unknown, and makes steps that need it infeasible.
func (s *Service) situationOf(ctx context.Context, name string, impact protocol.Impact, policy protocol.Policy, pick func(user) bool) (situation, error) {
	x := situation{Device: name, Impact: impact, Policy: policy, Rate: s.options.Rate}
	if s.adapter != nil {
		f := s.adapter.Facets()
		x.Mover, x.Pauser, x.Powerer = f.Move != nil, f.Pause != nil, f.Power != nil
	}
	var c *census
	doors := make(map[string]protocol.Door)
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		if c, err = count(tx); err != nil {
			return err
		}
		for _, other := range s.devices.Names() {
			if doors[other], err = tx.Door(other); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return x, err
	}
	v := view{s: s, domains: make(map[string]hypervisor.Domain), disks: make(map[string][]hypervisor.Disk), read: make(map[string]bool)}
	volumes := make(map[string]bool)
	for _, u := range c.of(name) {
		if !pick(u) {
			continue
		}
		f := facts{user: u}
		if u.Kind == kindDisk {
			s.lookAt(ctx, &v, &f, c.of(name))
			volumes[u.URI.Volume] = true
		}
		x.Users = append(x.Users, f)
	}
	if len(volumes) > 0 {
		x.Targets = s.targets(ctx, name, doors, volumes)
	}
	return x, nil
}

// lookAt fills in what the hypervisor and the device tell of a disk.
func (s *Service) lookAt(ctx context.Context, v *view, f *facts, all []user) {
	f.Domain, f.Known = v.domain(ctx, f.Use.Domain)
	for _, d := range v.disks[f.Use.Domain] {
		if shows(f.record, d) {
			f.Disk = d
		}
	}
	f.Overlay = v.overlay(ctx, f.record)
	for _, other := range all {
		if other.ID != f.ID && other.Kind == kindDisk && other.URI == f.URI {
			f.Sharers = append(f.Sharers, device.Blocker(other.record))
		}
	}
	d, err := s.devices.Device(f.URI.Device)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if o, err := d.Stat(ctx, f.URI, primitives.Op{}); err == nil {
		f.Size, f.Bytes = o.Size, o.Size
		if o.Used > 0 {
			f.Bytes = min(o.Used, o.Size)
		}
	}
}

// shows reports whether a domain's disk is the one that is recorded.
func shows(u journal.Use, d hypervisor.Disk) bool {
	if u.Disk != "" {
		return u.Disk == string(d.ID)
	}
	return d.ID == "" && u.Target == d.Target
}

// view is what was asked of the hypervisor in one go.
type view struct {
	s       *Service
	domains map[string]hypervisor.Domain
	disks   map[string][]hypervisor.Disk
	read    map[string]bool
}

// domain returns a domain, asking once. false: it could not be looked at.
func (v *view) domain(ctx context.Context, id string) (hypervisor.Domain, bool) {
	if _, asked := v.read[id]; !asked {
		v.read[id] = false
		if d, err := v.s.disks.Domain(ctx, id); err == nil {
			disks, err := v.s.disks.Shown(ctx, d.ID)
			v.domains[id], v.disks[id], v.read[id] = d, disks, err == nil
		}
	}
	return v.domains[id], v.read[id]
}

// overlay reports whether a hypervisor's own snapshot lies upon a disk.
func (v *view) overlay(ctx context.Context, u journal.Use) bool {
	err := v.s.disks.RefuseOverlay(ctx, hypervisor.DomainID(u.Domain), []journal.Use{u})
	return primitives.CodeOf(err) == primitives.CodeInUse
}

// targets returns the devices that disks could go to, from what the registry
// knows of them; only the volumes' names are asked for.
func (s *Service) targets(ctx context.Context, except string, doors map[string]protocol.Door, volumes map[string]bool) []target {
	states, err := s.devices.List()
	if err != nil {
		return nil
	}
	var list []target
	for _, st := range states {
		if st.Name == except {
			continue
		}
		t := target{
			Name: st.Name, Open: st.State == device.Open && st.Described, Gate: doors[st.Name].Gate, IDs: doors[st.Name].IDs,
			Free: st.Description.Free - s.reserved(st.Name), Forms: st.Description.Caps.Forms, Max: st.Description.MaxVolume,
			Grains: st.Description.Granule, Taken: make(map[string]bool),
		}
		if st.Description.Free < 0 {
			t.Free = -1
		}
		d, err := s.devices.Device(st.Name)
		if err != nil {
			t.Open = false
			list = append(list, t)
			continue
		}
		t.Map = d.Facets().Map != nil
		if t.Gate == protocol.GateOpen {
			for _, v := range slices.Sorted(maps.Keys(volumes)) {
				stat, cancel := context.WithTimeout(ctx, lookTime)
				_, err := d.Stat(stat, primitives.URI{Device: st.Name, Volume: v}, primitives.Op{})
				cancel()
				t.Taken[v] = primitives.CodeOf(err) != primitives.CodeNotFound
			}
		}
		list = append(list, t)
	}
	return list
}

// reserved is the room on a device that moves under way will still take, as far
// as the device may not show it yet.
func (s *Service) reserved(name string) (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.memories {
		for _, d := range m.acts {
			if d.act.To.Device == name && d.waiting {
				bytes += d.act.Bytes
			}
		}
	}
	return bytes
}

// Plan tells what a maintenance would do to each use of a device now. It changes
// nothing. CodeNotFound, CodeInvalid.
func (s *Service) Plan(ctx context.Context, r PlanRequest) (Plan, error) {
	if err := checkPolicy("intent.policy", r.Intent.Policy); err != nil {
		return Plan{}, err
	}
	err := s.journal.View(func(tx *journal.Tx) error {
		_, err := s.begin(tx).configured(r.Device)
		return err
	})
	if err != nil {
		return Plan{}, err
	}
	impact := r.Intent.Impact
	if impact == 0 {
		impact = protocol.Disconnect
	}
	x, err := s.situationOf(ctx, r.Device, impact, r.Intent.Policy, func(user) bool { return true })
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Device: r.Device, Uses: decide(x)}
	r.Intent.Impact = impact
	p.Digest = digestOf(r.Device, r.Intent, p.Uses)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plans = append(s.plans, p)
	if len(s.plans) > 64 {
		s.plans = slices.Delete(s.plans, 0, len(s.plans)-64)
	}
	return p, nil
}

// planned returns the plan of a digest, while it is remembered.
func (s *Service) planned(device, digest string) (Plan, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.plans) {
		if p.Device == device && p.Digest == digest {
			return p, true
		}
	}
	return Plan{}, false
}
