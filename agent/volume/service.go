// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Options are what the room needs from its neighbours.
type Options struct {
	Log *slog.Logger
	// DomainName tells a domain's name by its ID, for blockers; nil: the ID is shown.
	DomainName func(id string) string
	// Adopt takes disks of running domains that use the image at path already as
	// uses of u, and names them as DOMAIN/TARGET. A repeat names the same. nil:
	// there is no hypervisor.
	Adopt func(ctx context.Context, u primitives.URI, path, operation string) ([]string, error)
	// Abandon forgets the uses that Adopt made for u. nil as Adopt.
	Abandon func(ctx context.Context, u primitives.URI, operation string) error
}

// Service changes volumes, and opens them for callers that read and write.
type Service struct {
	devices *device.Registry
	journal *journal.Journal
	options Options
}

// New returns the service and registers its kinds of operation.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, o Options) *Service {
	s := &Service{devices: devices, journal: j, options: o}
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

// configured refuses, within the transaction, devices that are not.
func configured(tx *journal.Tx, name string) error {
	if _, err := tx.Device(name); err != nil {
		if primitives.CodeOf(err) == primitives.CodeNotFound {
			return primitives.Errorf(primitives.CodeNotFound, "device %q is not configured", name).
				On(primitives.URI{Device: name}).Trying("see: tenonctl device list")
		}
		return err
	}
	return nil
}

// unused refuses a volume, or one of its snapshots, that a domain or a transfer
// uses: CodeInUse names the uses. what is the advice.
func (s *Service) unused(tx *journal.Tx, u primitives.URI, advice func(journal.Use) string) error {
	uses, err := tx.Uses()
	if err != nil {
		return err
	}
	inUse := primitives.Errorf(primitives.CodeInUse, "%s is in use on this host", u.Short()).On(u)
	for _, use := range uses {
		if use.URI == u || (u.IsVolume() && use.URI.Parent() == u) {
			inUse = inUse.By(s.blocker(use))
			if inUse.Try == "" {
				inUse = inUse.Trying("%s", advice(use))
			}
		}
	}
	if len(inUse.Blocked) > 0 {
		return inUse
	}
	return nil
}

func (s *Service) blocker(u journal.Use) primitives.Blocker {
	switch u.Kind {
	case journal.UseDisk:
		return primitives.Blocker{Kind: "disk", Name: s.domain(u.Domain) + "/" + diskOf(u)}
	case journal.UseTransfer:
		return primitives.Blocker{Kind: "operation", Name: u.Operation}
	}
	return primitives.Blocker{Kind: string(u.Kind), Name: u.ID}
}

func (s *Service) domain(id string) string {
	if s.options.DomainName == nil {
		return id
	}
	return s.options.DomainName(id)
}

func diskOf(u journal.Use) string {
	if u.Disk != "" {
		return u.Disk
	}
	return u.Target
}

// detachFirst is the advice for what cannot be done under a disk.
func (s *Service) detachFirst(u journal.Use) string {
	if u.Kind == journal.UseDisk {
		return fmt.Sprintf("detach it first: tenonctl disk detach %s %s", s.domain(u.Domain), diskOf(u))
	}
	return fmt.Sprintf("wait for it: tenonctl operation wait %s", u.Operation)
}

// Device returns the open device of a URI.
func (s *Service) Device(ctx context.Context, u primitives.URI) (*storage.Device, error) {
	return s.devices.Await(ctx, u.Device)
}
