// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// detachMemory is what the steps of disk.detach remember.
type detachMemory struct {
	Domain     hypervisor.DomainID
	DomainName string
	Use        journal.Use // zero: none is recorded
}

type detachRun = operation.Run[DetachArgs, detachMemory]

func (s *Service) detachKind() operation.Kind[DetachArgs, detachMemory] {
	return operation.Kind[DetachArgs, detachMemory]{
		Name:    KindDetach,
		Subject: func(a DetachArgs) string { return a.Domain + " " + string(a.Disk) },
		Check:   s.checkDetach,
		Admit: func(_ *journal.Tx, r *detachRun) error {
			r.Claim(operation.OnDisk(string(r.Args.Disk)), false)
			if u := r.Memory.Use; u.ID != "" {
				r.Claim(operation.OnDevice(u.URI.Device), true)
				r.Claim(operation.OnVolume(u.URI), true)
			}
			return nil
		},
		Steps: []operation.Step[DetachArgs, detachMemory]{
			// Not taken back: who asked for a detach is not served by a disk that
			// comes back under another name.
			{Name: "detach", Do: s.doDetach, Interrupt: true},
			{Name: "release", Joined: true, Do: func(ctx context.Context, r *detachRun) error {
				if r.Memory.Use.ID == "" {
					return nil
				}
				return s.release(ctx, r.Memory.Use)
			}},
		},
		End: func(tx *journal.Tx, r *detachRun, state operation.State, _ bool) error {
			if state != operation.Succeeded || r.Memory.Use.ID == "" {
				return nil // the use stays until the disk is seen to be gone
			}
			return tx.DeleteUse(r.Memory.Use.ID)
		},
	}
}

func (s *Service) checkDetach(ctx context.Context, r *detachRun) error {
	if err := hypervisor.CheckDiskID(r.Args.Disk); err != nil {
		return err
	}
	if r.Args.Timeout < 0 || r.Args.Timeout > 24*time.Hour {
		return primitives.Invalid("timeout", "%s: expected up to 24h", r.Args.Timeout)
	}
	domain, err := s.Domain(ctx, r.Args.Domain)
	if err != nil {
		return err
	}
	r.Memory.Domain, r.Memory.DomainName = domain.ID, domain.Name
	if r.Memory.Use, err = s.useOf(domain.ID, r.Args.Disk); err != nil || r.Memory.Use.ID != "" {
		return err
	}
	return s.checkUnrecorded(ctx, domain, r.Args.Disk)
}

// checkUnrecorded accepts a disk of tenon's whose record was lost, and tells
// people apart who mean a disk that tenon did not attach.
func (s *Service) checkUnrecorded(ctx context.Context, domain hypervisor.Domain, id hypervisor.DiskID) error {
	disks, err := s.disks(ctx, domain.ID)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(disks, func(d hypervisor.Disk) bool { return d.ID == id }) {
		return nil
	}
	if slices.ContainsFunc(disks, func(d hypervisor.Disk) bool { return d.Target == string(id) }) {
		return primitives.Errorf(primitives.CodeUnsupported, "tenon did not attach disk %s of domain %s", id, domain.Name).
			Trying("detach it with the hypervisor's own tools; tenon notices")
	}
	return primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %s", domain.Name, id).
		Trying("see: tenonctl disk list %s", domain.Name)
}

func (s *Service) doDetach(ctx context.Context, r *detachRun) error {
	a, err := s.Adapter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Args.Timeout, s.options.DetachTime))
	defer cancel()
	_, err = a.Detach(ctx, r.Memory.Domain, r.Args.Disk)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // the domain went away meanwhile, and its disks with it
	}
	if e, ok := errors.AsType[*primitives.Error](err); ok && e.Try == "" &&
		(e.Code == primitives.CodeUnavailable || e.Code == primitives.CodeInUse) {
		return e.Trying("the disk stays in use until the guest lets go of it; unmount it in the guest and detach it again")
	}
	return err
}
