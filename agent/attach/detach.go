// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"context"
	"errors"
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
	Disk       hypervisor.DiskID
	Use        journal.Use // zero: none is recorded
}

type detachRun = operation.Run[DetachArgs, detachMemory]

func (s *Service) detachKind() operation.Kind[DetachArgs, detachMemory] {
	return operation.Kind[DetachArgs, detachMemory]{
		Name:    KindDetach,
		Subject: func(a DetachArgs) string { return a.Domain + " " + string(a.Disk) },
		Check:   s.checkDetach,
		Admit: func(_ *journal.Tx, r *detachRun) error {
			r.Claim(operation.OnDisk(string(r.Memory.Disk)), false)
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
	if r.Args.Timeout < 0 || r.Args.Timeout > 24*time.Hour {
		return primitives.Invalid("timeout", "%s: expected up to 24h", r.Args.Timeout)
	}
	domain, err := s.Domain(ctx, r.Args.Domain)
	if err != nil {
		return err
	}
	r.Memory.Domain, r.Memory.DomainName = domain.ID, domain.Name
	// A disk of tenon's whose record was lost is detached too.
	r.Memory.Disk, r.Memory.Use, err = s.identify(ctx, domain, r.Args.Disk)
	return err
}

func (s *Service) doDetach(ctx context.Context, r *detachRun) error {
	a, err := s.Adapter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Args.Timeout, s.options.DetachTime))
	defer cancel()
	_, err = a.Detach(ctx, r.Memory.Domain, r.Memory.Disk)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // the domain went away meanwhile, and its disks with it
	}
	if e, ok := errors.AsType[*primitives.Error](err); ok && e.Try == "" &&
		(e.Code == primitives.CodeUnavailable || e.Code == primitives.CodeInUse) {
		return e.Trying("the disk stays in use until the guest lets go of it; unmount it in the guest and detach it again")
	}
	return err
}
