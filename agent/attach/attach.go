// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// attachMemory is what the steps of disk.attach remember.
type attachMemory struct {
	Use        journal.Use
	DomainName string
	Accept     []primitives.Acceptable
	Disk       Disk

	mapping primitives.Mapping // made anew by each repeat; it may hold secrets
	asked   bool               // the hypervisor was asked to attach, in this life
}

type attachRun = operation.Run[AttachArgs, attachMemory]

func (s *Service) attachKind() operation.Kind[AttachArgs, attachMemory] {
	return operation.Kind[AttachArgs, attachMemory]{
		Name:    KindAttach,
		Subject: func(a AttachArgs) string { return a.URI.Short() },
		Check:   s.checkAttach,
		Admit:   admitAttach,
		Steps: []operation.Step[AttachArgs, attachMemory]{
			{Name: "map", Do: s.doMap, Undo: s.undoMap},
			// Both are quick and safe to repeat, so one commit holds the intent of
			// all three: an attach costs two commits.
			{Name: "activate", Joined: true, Do: s.doActivate},
			{Name: "attach", Joined: true, Do: s.doAttach, Undo: s.undoAttach},
		},
		Result: func(r *attachRun) any { return r.Memory.Disk },
		End: func(tx *journal.Tx, r *attachRun, state operation.State, left bool) error {
			if state != operation.Succeeded && !left {
				return tx.DeleteUse(r.Memory.Use.ID)
			}
			return nil
		},
	}
}

// checkAttach refuses what can be seen to be wrong, finds the domain and chooses
// the disk's identity.
func (s *Service) checkAttach(ctx context.Context, r *attachRun) error {
	if err := checkObject(r.Args.URI); err != nil {
		return err
	}
	if b := r.Args.Bus; b != "" && b != "virtio" && b != "scsi" {
		return primitives.Invalid("bus", "%q: expected virtio or scsi", b)
	}
	if _, err := s.devices.Await(ctx, r.Args.URI.Device); err != nil {
		return err
	}
	domain, err := s.recall(ctx, r.Args.Domain)
	if err != nil {
		return err
	}
	if domain.State == hypervisor.StateRunning && !domain.Caps.AttachLive {
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s cannot be given disks while it runs", domain.Name)
	}
	access := primitives.ReadWrite
	if r.Args.ReadOnly || r.Args.URI.IsSnapshot() {
		access = primitives.ReadOnly
	}
	disk := newDiskID()
	r.Memory.DomainName, r.Memory.Accept = domain.Name, domain.Caps.Accepts
	r.Memory.Use = journal.Use{
		ID: usePrefix + string(disk), Kind: journal.UseDisk, URI: r.Args.URI, Access: access,
		Operation: r.ID, Domain: string(domain.ID), Disk: string(disk),
	}
	return nil
}

func checkObject(u primitives.URI) error {
	if err := u.Check(); err != nil {
		return err
	}
	if u.Volume == "" {
		return primitives.Invalid("uri", "%s names a device; expected DEVICE/VOLUME or DEVICE/VOLUME@SNAPSHOT", u.Short())
	}
	return nil
}

// newDiskID returns an identity that no disk had before: a serial of 16 bytes.
func newDiskID() hypervisor.DiskID {
	return hypervisor.DiskID("t" + strings.ToLower(rand.Text()[:15]))
}

// admitAttach refuses a second user beside a writer and records the use.
func admitAttach(tx *journal.Tx, r *attachRun) error {
	use := r.Memory.Use
	r.Claim(operation.OnDevice(use.URI.Device), true)
	r.Claim(operation.OnVolume(use.URI), use.Access == primitives.ReadOnly)
	r.Claim(operation.OnDisk(use.Disk), false)
	others, err := DiskUses(tx, use.URI)
	if err != nil {
		return err
	}
	if by := rivals(use, others); len(by) > 0 {
		return primitives.Errorf(primitives.CodeInUse, "only one disk may write to a volume, and none read beside it").
			On(use.URI).By(by...).Trying("detach the disk first, or attach a snapshot or clone of the volume")
	}
	return device.Admit(tx, use)
}

// rivals names the uses beside which a new one cannot be.
func rivals(use journal.Use, others []journal.Use) []primitives.Blocker {
	var by []primitives.Blocker
	for _, o := range others {
		if o.URI == use.URI && (o.Access == primitives.ReadWrite || use.Access == primitives.ReadWrite) {
			by = append(by, device.Blocker(o))
		}
	}
	return by
}

func (s *Service) doMap(ctx context.Context, r *attachRun) (err error) {
	r.Memory.mapping, err = s.mapUse(ctx, r.Memory.Use, r.Op("map"), r.Memory.Accept)
	return err
}

func (s *Service) undoMap(ctx context.Context, r *attachRun) error {
	return s.release(ctx, r.Memory.Use)
}

func (s *Service) doActivate(ctx context.Context, r *attachRun) (err error) {
	r.Memory.mapping, err = s.activate(ctx, r.Memory.Use, r.Memory.mapping.ID, r.Op("activate"))
	return err
}

func (s *Service) doAttach(ctx context.Context, r *attachRun) error {
	a, err := s.Adapter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	use := r.Memory.Use
	name := r.Args.Domain
	if strings.ToLower(name) == use.Domain {
		name = "" // an ID stays with its domain
	}
	r.Memory.asked = true
	result, err := a.Attach(ctx, hypervisor.AttachRequest{
		Domain: hypervisor.DomainID(use.Domain), Name: name, Disk: hypervisor.DiskID(use.Disk),
		Mapping: r.Memory.mapping, Bus: r.Args.Bus,
	})
	if err != nil {
		s.forget(name) // it may be the name that has moved
		r.Memory.asked = result.Live == hypervisor.Failed || result.Config == hypervisor.Failed
		return err
	}
	r.Memory.Disk = Disk{Disk: result.Disk, DomainName: r.Memory.DomainName, URI: use.URI, Size: r.Memory.mapping.Size, Use: use.ID}
	if result.Config == hypervisor.Failed && result.ConfigErr != nil {
		r.Memory.Disk.ConfigNote = result.ConfigErr.Error()
	}
	return nil
}

// undoAttach takes the disk away, whether or not it came to be there. What the
// guest does not give back stays mapped and recorded.
func (s *Service) undoAttach(ctx context.Context, r *attachRun) error {
	if !r.Memory.asked && !r.Resumed() {
		return nil
	}
	a, err := s.Adapter()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.options.DetachTime)
	defer cancel()
	_, err = a.Detach(ctx, hypervisor.DomainID(r.Memory.Use.Domain), hypervisor.DiskID(r.Memory.Use.Disk))
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // the domain is gone, and its disks with it
	}
	return err
}
