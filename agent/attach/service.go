// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// callTime bounds a call of the hypervisor that does not wait for a guest.
const callTime = time.Minute

// glanceTime bounds a look that only saves time.
const glanceTime = time.Second

// usePrefix begins the ID of every disk's use, and so the Consumer of every
// mapping that serves a disk.
const usePrefix = "disk-"

// Options are the optional parts of New.
type Options struct {
	Log        *slog.Logger
	DetachTime time.Duration // how long a guest may take to let go of a disk; 0: 30 s
}

// Service hands volumes to domains. It is safe for concurrent use.
type Service struct {
	journal *journal.Journal
	engine  *operation.Engine
	devices *device.Registry
	adapter hypervisor.Adapter // nil: this host runs no domains
	options Options
	log     *slog.Logger

	stop context.CancelFunc
	work sync.WaitGroup
	wake chan struct{} // a reconciliation is wanted; holds one wish

	mu      sync.Mutex                   // guards what follows
	seen    map[string]hypervisor.Domain // by name and by ID, when they were looked at last
	stopped bool                         // nothing is added to work any more
}

// New returns the service and registers its kinds of operation. a is nil on a
// host without hypervisor. Call Start then.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, a hypervisor.Adapter, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DetachTime == 0 {
		o.DetachTime = 30 * time.Second
	}
	s := &Service{
		journal: j, engine: e, devices: devices, adapter: a, options: o, log: o.Log,
		stop: func() {}, wake: make(chan struct{}, 1),
	}
	operation.Register(e, s.attachKind())
	operation.Register(e, s.detachKind())
	operation.Register(e, s.resizeKind())
	return s
}

// Adapter returns the hypervisor of this host. CodeUnsupported where there is none.
func (s *Service) Adapter() (hypervisor.Adapter, error) {
	if s.adapter == nil {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "no hypervisor is configured on this host").
			Trying("set hypervisor.kvm.uri in tenond's configuration")
	}
	return s.adapter, nil
}

// Info describes the hypervisor; the zero Info where there is none.
func (s *Service) Info(ctx context.Context) hypervisor.Info {
	if s.adapter == nil {
		return hypervisor.Info{Note: "no hypervisor is configured on this host"}
	}
	return s.adapter.Info(ctx)
}

// Domains lists the domains of this host, in order of name.
func (s *Service) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	a, err := s.Adapter()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	domains, err := a.Domains(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = make(map[string]hypervisor.Domain, 2*len(domains))
	for _, d := range domains {
		s.remember(d)
	}
	return domains, nil
}

// remember keeps what was seen of a domain; mu is held.
func (s *Service) remember(d hypervisor.Domain) {
	if s.seen == nil {
		s.seen = make(map[string]hypervisor.Domain)
	}
	s.seen[d.Name], s.seen[string(d.ID)] = d, d
}

// Domain finds a domain by its name or ID. CodeNotFound, CodeInvalid.
func (s *Service) Domain(ctx context.Context, nameOrID string) (hypervisor.Domain, error) {
	a, err := s.Adapter()
	if err != nil {
		return hypervisor.Domain{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	d, err := a.Domain(ctx, nameOrID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.remember(d)
		return d, nil
	}
	if errors.Is(err, primitives.CodeNotFound) {
		delete(s.seen, nameOrID)
		err = primitives.Errorf(primitives.CodeNotFound, "domain %q does not exist on this host", nameOrID).
			Trying("see: tenonctl domain list")
	}
	return hypervisor.Domain{}, err
}

// recall is Domain that answers with what was seen last, where that names a
// domain. Nothing is changed on the strength of a memory: whoever acts on it has
// the hypervisor make sure of the name. The domain is looked at anew meanwhile, so
// that the hypervisor need not begin with that when it is asked to act.
func (s *Service) recall(ctx context.Context, nameOrID string) (hypervisor.Domain, error) {
	s.mu.Lock()
	d, remembered := s.seen[nameOrID]
	if remembered && !s.stopped {
		ctx := context.WithoutCancel(ctx)
		s.work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, glanceTime)
			defer cancel()
			// What goes wrong here, whoever acts on the domain finds out.
			_, _ = s.Domain(ctx, string(d.ID))
		})
	}
	s.mu.Unlock()
	if remembered {
		return d, nil
	}
	return s.Domain(ctx, nameOrID)
}

func (s *Service) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, name)
}

// Disks lists the disks of a domain as the hypervisor shows them now, with the
// volumes beneath those that tenon knows.
func (s *Service) Disks(ctx context.Context, nameOrID string) ([]Disk, error) {
	domain, err := s.Domain(ctx, nameOrID)
	if err != nil {
		return nil, err
	}
	shown, err := s.disks(ctx, domain.ID)
	if err != nil {
		return nil, err
	}
	uses, err := s.Uses("")
	if err != nil {
		return nil, err
	}
	list := make([]Disk, 0, len(shown))
	for _, d := range shown {
		known := Disk{Disk: d, DomainName: domain.Name}
		for _, u := range uses {
			if serves(u, d) {
				known.URI, known.Use = u.URI, u.ID
				known.Size = s.sizeOf(ctx, u.URI)
			}
		}
		list = append(list, known)
	}
	return list, nil
}

func (s *Service) disks(ctx context.Context, d hypervisor.DomainID) ([]hypervisor.Disk, error) {
	a, err := s.Adapter()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return a.Disks(ctx, d)
}

// serves reports whether u is the record of the disk d.
func serves(u journal.Use, d hypervisor.Disk) bool {
	if u.Kind != journal.UseDisk || u.Domain != string(d.Domain) {
		return false
	}
	if u.Disk != "" {
		return u.Disk == string(d.ID)
	}
	return d.ID == "" && u.Target == d.Target
}

// sizeOf asks an open device for a volume's size; 0 where that is not known.
func (s *Service) sizeOf(ctx context.Context, u primitives.URI) int64 {
	d, err := s.devices.Device(u.Device)
	if err != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	o, err := d.Stat(ctx, u, primitives.Op{})
	if err != nil {
		return 0
	}
	return o.Size
}

// Uses lists the recorded uses of a device, or of all with an empty name.
func (s *Service) Uses(device string) ([]journal.Use, error) {
	var list []journal.Use
	err := s.journal.View(func(tx *journal.Tx) error {
		uses, err := tx.Uses()
		for _, u := range uses {
			if device == "" || u.URI.Device == device {
				list = append(list, u)
			}
		}
		return err
	})
	return list, err
}

// DiskUses lists the disks that use a volume or one of its snapshots.
func DiskUses(tx *journal.Tx, volume primitives.URI) ([]journal.Use, error) {
	uses, err := tx.Uses()
	var list []journal.Use
	for _, u := range uses {
		if u.Kind == journal.UseDisk && u.URI.Parent() == volume.Parent() {
			list = append(list, u)
		}
	}
	return list, err
}

// useOf finds the use of a disk. The zero Use: none is recorded.
func (s *Service) useOf(domain hypervisor.DomainID, disk hypervisor.DiskID) (journal.Use, error) {
	var found journal.Use
	err := s.journal.View(func(tx *journal.Tx) error {
		u, err := tx.Use(usePrefix + string(disk))
		if errors.Is(err, primitives.CodeNotFound) {
			return nil
		}
		if err == nil && u.Domain == string(domain) {
			found = u
		}
		return err
	})
	return found, err
}

// Shown lists the disks of a domain as the hypervisor shows them now.
func (s *Service) Shown(ctx context.Context, d hypervisor.DomainID) ([]hypervisor.Disk, error) {
	return s.disks(ctx, d)
}

// RefuseOverlay reports CodeInUse when a hypervisor's own snapshot put an
// overlay on one of the disks: a storage snapshot or revert beneath it would not
// be what the guest sees. It names both.
func (s *Service) RefuseOverlay(ctx context.Context, domain hypervisor.DomainID, uses []journal.Use) error {
	if s.adapter == nil || s.adapter.Facets().Snapshot == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	snapshots, err := s.adapter.Facets().Snapshot.Snapshots(ctx, domain)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // the domain is gone, and its overlays with it
	}
	if err != nil {
		return err
	}
	for _, snap := range snapshots {
		for _, id := range snap.Disks {
			for _, u := range uses {
				if u.Disk == string(id) {
					return primitives.Errorf(primitives.CodeInUse, "the hypervisor's own snapshot %q of the domain lies upon the disk", snap.Name).On(u.URI).
						By(primitives.Blocker{Kind: "snapshot", Name: snap.Name + " of domain " + string(domain)}, device.Blocker(u)).
						Trying("delete the hypervisor's snapshot first")
				}
			}
		}
	}
	return nil
}
