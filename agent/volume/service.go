// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Service changes volumes, and opens them for callers that read and write.
type Service struct {
	devices *device.Registry
	journal *journal.Journal
	disks   *attach.Service
}

// New returns the service and registers its kinds of operation.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, disks *attach.Service) *Service {
	s := &Service{devices: devices, journal: j, disks: disks}
	operation.Register(e, s.createKind())
	operation.Register(e, s.importKind())
	operation.Register(e, s.resizeKind())
	operation.Register(e, s.cloneKind())
	operation.Register(e, s.delinkKind())
	operation.Register(e, s.relinkKind())
	operation.Register(e, s.destroyKind())
	return s
}

// claim holds a volume for one operation, and keeps its device configured.
func claim[A, M any](r *operation.Run[A, M], u primitives.URI, shared bool) {
	r.Claim(operation.OnDevice(u.Device), true)
	r.Claim(operation.OnVolume(u), shared)
}

// naming tells a domain's name by its ID.
type naming func(id string) string

// byID shows the ID: within a transaction nobody is asked.
func byID(id string) string { return id }

// byName asks the hypervisor once, and shows the ID where it does not answer.
func (s *Service) byName(ctx context.Context) naming {
	names := map[string]string{}
	domains, err := s.disks.Domains(ctx)
	if err != nil {
		return byID
	}
	for _, d := range domains {
		names[string(d.ID)] = d.Name
	}
	return func(id string) string { return cmp.Or(names[id], id) }
}

// advice says what to do about a use.
type advice func(u journal.Use, domain naming) string

// unused refuses a volume, or one of its snapshots, that a disk or a transfer
// uses, with names that people know. Admit asks again, in its transaction.
func (s *Service) unused(ctx context.Context, u primitives.URI, try advice) error {
	var uses []journal.Use
	err := s.journal.View(func(tx *journal.Tx) (err error) {
		uses, err = usesOf(tx, u)
		return err
	})
	if err != nil || len(uses) == 0 {
		return err
	}
	return inUse(u, uses, s.byName(ctx), try)
}

// stillUnused is unused within the transaction that admits the operation.
func stillUnused(tx *journal.Tx, u primitives.URI, try advice) error {
	uses, err := usesOf(tx, u)
	if err != nil || len(uses) == 0 {
		return err
	}
	return inUse(u, uses, byID, try)
}

// usesOf lists the uses of an object, for a volume those of its snapshots too.
func usesOf(tx *journal.Tx, u primitives.URI) ([]journal.Use, error) {
	all, err := tx.Uses()
	return slices.DeleteFunc(all, func(use journal.Use) bool {
		return use.URI != u && (!u.IsVolume() || use.URI.Parent() != u)
	}), err
}

func inUse(u primitives.URI, uses []journal.Use, domain naming, try advice) error {
	e := primitives.Errorf(primitives.CodeInUse, "it is in use on this host").On(u).Trying("%s", try(uses[0], domain))
	for _, use := range uses {
		switch use.Kind {
		case journal.UseDisk:
			e = e.By(primitives.Blocker{Kind: "disk", Name: domain(use.Domain) + "/" + diskOf(use)})
		case journal.UseTransfer:
			e = e.By(primitives.Blocker{Kind: "operation", Name: use.Operation})
		default:
			e = e.By(primitives.Blocker{Kind: string(use.Kind), Name: use.ID})
		}
	}
	return e
}

func diskOf(u journal.Use) string { return cmp.Or(u.Disk, u.Target) }

// detachFirst is the advice for what cannot be done under a disk.
func detachFirst(u journal.Use, domain naming) string {
	if u.Kind == journal.UseDisk {
		return fmt.Sprintf("detach it first: tenonctl disk detach %s %s", domain(u.Domain), diskOf(u))
	}
	return waitForIt(u)
}

// resizeDisk is the advice for a volume beneath a disk.
func resizeDisk(u journal.Use, domain naming) string {
	if u.Kind == journal.UseDisk {
		return fmt.Sprintf("resize it beneath its guest: tenonctl disk resize %s %s --size SIZE", domain(u.Domain), diskOf(u))
	}
	return waitForIt(u)
}

func waitForIt(u journal.Use) string {
	if u.Operation == "" {
		return "wait until its reader or writer has ended"
	}
	return fmt.Sprintf("wait for it: tenonctl operation wait %s", u.Operation)
}

// Device returns the open device of a URI.
func (s *Service) Device(ctx context.Context, u primitives.URI) (*storage.Device, error) {
	return s.devices.Await(ctx, u.Device)
}
