// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// resizeMemory is what the steps of disk.resize remember.
type resizeMemory struct {
	Use        journal.Use
	DomainName string
	Accept     []primitives.Acceptable
	Live       bool  // the domain runs and has the disk
	Before     int64 // the volume's size before
	Want       int64 // rounded up as the device does
	Disk       Disk
}

type resizeRun = operation.Run[ResizeArgs, resizeMemory]

func (s *Service) resizeKind() operation.Kind[ResizeArgs, resizeMemory] {
	return operation.Kind[ResizeArgs, resizeMemory]{
		Name:    KindResize,
		Subject: func(a ResizeArgs) string { return a.Domain + " " + string(a.Disk) },
		Check:   s.checkResize,
		Admit: func(tx *journal.Tx, r *resizeRun) error {
			r.Claim(operation.OnDevice(r.Memory.Use.URI.Device), true)
			r.Claim(operation.OnVolume(r.Memory.Use.URI), false)
			r.Claim(operation.OnDisk(r.Memory.Use.Disk), false)
			return device.Enter(tx, r.Memory.Use.URI)
		},
		Steps: []operation.Step[ResizeArgs, resizeMemory]{
			{Name: "resize", Do: s.doResize, Undo: s.callOff},
			{Name: "tell the guest", Do: s.tellSize},
			{Name: "verify", Joined: true, Do: s.verifySize},
		},
		Result: func(r *resizeRun) any { return r.Memory.Disk },
	}
}

func (s *Service) checkResize(ctx context.Context, r *resizeRun) error {
	if r.Args.Size <= 0 {
		return primitives.Invalid("size", "%d: expected a number of bytes", r.Args.Size)
	}
	domain, err := s.Domain(ctx, r.Args.Domain)
	if err != nil {
		return err
	}
	id, use, err := s.identify(ctx, domain, r.Args.Disk)
	if err != nil {
		return err
	}
	if use.ID == "" {
		return primitives.Errorf(primitives.CodeNotFound, "domain %s has disk %s, but no record of its volume", domain.Name, id).
			Trying("see: tenonctl disk list %s", domain.Name)
	}
	r.Memory.Use, r.Memory.DomainName, r.Memory.Accept = use, domain.Name, domain.Caps.Accepts
	disk, err := s.find(ctx, domain.ID, id)
	if err != nil {
		return err
	}
	r.Memory.Live = disk.Live
	if disk.Live && (!domain.Caps.ResizeLive || s.adapter.Facets().Resize == nil) {
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s cannot be told of a new size while it runs", domain.Name).
			Trying("shut the domain down first")
	}
	return s.checkGrowth(ctx, r)
}

// checkGrowth learns the size that the device will make of the one asked for.
func (s *Service) checkGrowth(ctx context.Context, r *resizeRun) error {
	d, err := s.devices.Await(ctx, r.Memory.Use.URI.Device)
	if err != nil {
		return err
	}
	if d.Facets().Resize == nil {
		return primitives.Errorf(primitives.CodeUnsupported, "the device cannot resize volumes").On(r.Memory.Use.URI)
	}
	desc, err := d.Describe(ctx)
	if err != nil {
		return err
	}
	o, err := d.Stat(ctx, r.Memory.Use.URI, primitives.Op{})
	if err != nil {
		return err
	}
	granule := max(desc.Granule, 1)
	r.Memory.Before, r.Memory.Want = o.Size, (r.Args.Size+granule-1)/granule*granule
	if r.Memory.Live && r.Memory.Want < o.Size {
		return primitives.Errorf(primitives.CodeUnsupported, "the disk has %d bytes and cannot become smaller while the domain runs", o.Size).On(r.Memory.Use.URI)
	}
	return nil
}

func (s *Service) find(ctx context.Context, domain hypervisor.DomainID, id hypervisor.DiskID) (hypervisor.Disk, error) {
	disks, err := s.disks(ctx, domain)
	if err != nil {
		return hypervisor.Disk{}, err
	}
	for _, d := range disks {
		if d.ID == id {
			return d, nil
		}
	}
	return hypervisor.Disk{}, primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %s", domain, id).
		Trying("see: tenonctl disk list %s", domain)
}

func (s *Service) resizer(ctx context.Context, u primitives.URI) (*storage.Device, primitives.Resizer, error) {
	d, err := s.devices.Await(ctx, u.Device)
	if err != nil {
		return nil, nil, err
	}
	f := d.Facets().Resize
	if f == nil {
		return nil, nil, primitives.Errorf(primitives.CodeUnsupported, "the device cannot resize volumes").On(u)
	}
	return d, f, nil
}

func (s *Service) doResize(ctx context.Context, r *resizeRun) error {
	_, f, err := s.resizer(ctx, r.Memory.Use.URI)
	if err != nil {
		return err
	}
	if _, err = f.Resize(ctx, r.Memory.Use.URI, r.Args.Size, r.Op("resize")); err != nil {
		return err
	}
	_, err = s.mapUse(ctx, r.Memory.Use, r.Op("refresh"), r.Memory.Accept)
	return err
}

// callOff gives up a resize that waits for the hypervisor to grow the image. One
// that the device did itself stays: a larger volume harms nobody, and a repeat
// of the request goes on from there.
func (s *Service) callOff(ctx context.Context, r *resizeRun) error {
	d, f, err := s.resizer(ctx, r.Memory.Use.URI)
	if err != nil {
		return err
	}
	o, err := d.Stat(ctx, r.Memory.Use.URI, primitives.Op{})
	if err != nil || o.State != primitives.Pending {
		return err
	}
	_, err = f.Resize(ctx, r.Memory.Use.URI, o.Size, r.Op("call off"))
	return err
}

func (s *Service) tellSize(ctx context.Context, r *resizeRun) error {
	if !r.Memory.Live {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return s.adapter.Facets().Resize.ResizeDisk(ctx, hypervisor.DomainID(r.Memory.Use.Domain), hypervisor.DiskID(r.Memory.Use.Disk), r.Memory.Want)
}

// verifySize reads the size again from the device and the mapping.
func (s *Service) verifySize(ctx context.Context, r *resizeRun) error {
	use := r.Memory.Use
	m, err := s.mapUse(ctx, use, r.Op("verify"), r.Memory.Accept)
	if err != nil {
		return err
	}
	if m.Size != r.Memory.Want {
		return primitives.Errorf(primitives.CodeInternal, "the volume has %d bytes after a resize to %d", m.Size, r.Memory.Want).On(use.URI)
	}
	disk, err := s.find(ctx, hypervisor.DomainID(use.Domain), hypervisor.DiskID(use.Disk))
	if err != nil {
		return err
	}
	r.Memory.Disk = Disk{Disk: disk, DomainName: r.Memory.DomainName, URI: use.URI, Size: m.Size, Use: use.ID}
	return nil
}
