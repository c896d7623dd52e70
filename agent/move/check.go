// SPDX-License-Identifier: Apache-2.0

package move

import (
	"context"
	"errors"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// check finds the disks and refuses what can be seen to be wrong.
func (s *Service) check(ctx context.Context, r *run) error {
	if err := checkArgs(r.Args); err != nil {
		return err
	}
	if _, err := s.mover(); err != nil {
		return err
	}
	domain, err := s.disks.Domain(ctx, r.Args.Domain)
	if err != nil {
		return err
	}
	shown, err := s.disks.Shown(ctx, domain.ID)
	if err != nil {
		return err
	}
	r.Memory.Domain, r.Memory.DomainName, r.Memory.Accept = domain.ID, domain.Name, domain.Caps.Accepts
	needed := map[string]int64{}
	for _, p := range r.Args.pairs() {
		v, err := s.look(ctx, domain, shown, p)
		if err != nil {
			return err
		}
		needed[v.To.Device] += v.bytes()
		v.Needed = needed[v.To.Device]
		if err := refuse(v); err != nil {
			return err
		}
		if twin := slices.IndexFunc(r.Memory.Disks, func(d disk) bool { return d.ID == v.Disk.ID || d.To == v.To }); twin >= 0 {
			return primitives.Invalid("also", "disk %s or volume %s is named twice", v.Disk.ID, v.To.Short())
		}
		if err := s.disks.RefuseOverlay(ctx, domain.ID, uses(v.Use)); err != nil {
			return err
		}
		r.Memory.Disks = append(r.Memory.Disks, disk{
			ID: v.Disk.ID, Target: v.Disk.Target, Use: v.Use, To: v.To, Size: v.Source.Size,
			Format: v.format(), IsZero: v.Device.Caps.ZeroOnCreate, Source: v.Source.Handle,
		})
	}
	return nil
}

func checkArgs(a Args) error {
	if a.Bandwidth < 0 {
		return primitives.Invalid("bandwidth", "%d: expected bytes per second, or 0 for no limit", a.Bandwidth)
	}
	if a.Keep < 0 {
		return primitives.Invalid("keep", "%v is negative", a.Keep)
	}
	for _, p := range a.pairs() {
		if err := p.To.Check(); err != nil {
			return err
		}
		if p.To.IsSnapshot() {
			return primitives.Invalid("to", "%s is a snapshot; a disk moves to a new volume: DEVICE or DEVICE/VOLUME", p.To.Short())
		}
	}
	return nil
}

// look collects what the decision about one disk needs.
func (s *Service) look(ctx context.Context, domain hypervisor.Domain, shown []hypervisor.Disk, p Pair) (view, error) {
	v := view{Domain: domain, To: p.To}
	id, use, err := s.disks.Identify(ctx, domain, p.Disk)
	if err != nil {
		return v, err
	}
	at := slices.IndexFunc(shown, func(d hypervisor.Disk) bool { return d.ID == id })
	if use.ID == "" || at < 0 {
		return v, primitives.Errorf(primitives.CodeNotFound, "domain %s and the record of its disks do not both have disk %s", domain.Name, id).
			Trying("see: tenonctl disk list %s", domain.Name)
	}
	v.Disk, v.Use = shown[at], use
	if v.To.Volume == "" {
		v.To.Volume = use.URI.Volume
	}
	source, err := s.devices.Await(ctx, use.URI.Device)
	if err != nil {
		return v, err
	}
	if v.Source, err = source.Stat(ctx, use.URI, primitives.Op{}); err != nil {
		return v, err
	}
	target, err := s.devices.Await(ctx, v.To.Device)
	if err != nil {
		return v, err
	}
	if v.Device, err = target.Describe(ctx); err != nil {
		return v, err
	}
	v.Mappable = target.Facets().Map != nil
	there, err := target.Stat(ctx, v.To, primitives.Op{})
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return v, err
	}
	v.Taken = err == nil
	v.TakenBy = there.State
	return v, nil
}
