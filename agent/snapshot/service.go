// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Options are the optional parts of New.
type Options struct {
	Log        *slog.Logger
	FreezeTime time.Duration // how long a guest's file systems may stay frozen; 0: 8 s
}

// Service takes snapshots and reverts to them.
type Service struct {
	journal *journal.Journal
	devices *device.Registry
	disks   *attach.Service
	options Options
}

// New returns the service and registers its kinds of operation.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, disks *attach.Service, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.FreezeTime = cmp.Or(o.FreezeTime, 8*time.Second)
	s := &Service{journal: j, devices: devices, disks: disks, options: o}
	operation.Register(e, s.createKind())
	operation.Register(e, s.revertKind())
	return s
}

// memory is what the steps of snapshot.create remember.
type memory struct {
	Name   string
	Domain hypervisor.DomainID // whose disks write to the volumes; empty: none
	Freeze bool                // asked for, and the domain can
	Why    string              // why it cannot; empty: it can, or was not asked to
	Groups []group
	Uses   []journal.Use // of the disks that write

	Level    Level
	Note     string
	Held     time.Duration
	Made     map[string]primitives.Object // by short URI
	Switched bool                         // the way back found that the switch had happened after all
	Discard  []primitives.URI             // snapshots that the way back found to be this operation's
}

type run = operation.Run[CreateArgs, memory]

func nothing(context.Context, *run) error { return nil }

func (s *Service) createKind() operation.Kind[CreateArgs, memory] {
	return operation.Kind[CreateArgs, memory]{
		Name: KindCreate,
		Subject: func(a CreateArgs) string {
			if len(a.URIs) == 0 {
				return a.Domain
			}
			return a.URIs[0].Short()
		},
		Check: s.check,
		Admit: admit,
		Steps: []operation.Step[CreateArgs, memory]{
			{Name: "prepare", Do: s.prepare, Undo: s.unprepare},
			// The way back has two parts, so that what the first finds out is recorded
			// before the second acts on it.
			{Name: "arrange", Joined: true, Do: nothing, Undo: s.discardAll},
			{Name: "cut", Do: s.cut, Undo: s.judge, Resume: s.recover},
			{Name: "settle", Do: s.settle, Final: true},
		},
		Result: result,
	}
}

// check finds out what is to be snapshotted, and refuses what cannot be.
func (s *Service) check(ctx context.Context, r *run) error {
	r.Memory.Name = cmp.Or(r.Args.Name, time.Now().UTC().Format("20060102-150405"))
	if err := primitives.CheckSnapshotName(r.Memory.Name); err != nil {
		return err
	}
	var domain hypervisor.Domain
	if r.Args.Domain != "" {
		var err error
		if domain, err = s.disks.Domain(ctx, r.Args.Domain); err != nil {
			return err
		}
	}
	uris, err := s.volumes(r.Args.URIs, domain)
	if err != nil {
		return err
	}
	subjects, err := s.subjects(ctx, uris, r.Memory.Name)
	if err != nil {
		return err
	}
	if domain, err = s.oneDomain(ctx, domain, subjects); err != nil {
		return err
	}
	r.Memory.Groups = plan(subjects)
	for _, x := range subjects {
		if x.live() {
			r.Memory.Uses = append(r.Memory.Uses, x.Use)
		}
	}
	if domain.ID != "" {
		if err := s.checkDomain(ctx, r, domain); err != nil {
			return err
		}
	}
	return s.planFreeze(r, domain)
}

// volumes returns the volumes named, or else those that the domain writes to.
func (s *Service) volumes(named []primitives.URI, domain hypervisor.Domain) ([]primitives.URI, error) {
	seen := make(map[primitives.URI]bool)
	for _, u := range named {
		if err := u.Check(); err != nil {
			return nil, err
		}
		if !u.IsVolume() {
			return nil, primitives.Invalid("uris", "%s: expected a volume, DEVICE/VOLUME", u.Short())
		}
		if seen[u] {
			return nil, primitives.Invalid("uris", "%s is named twice", u.Short())
		}
		seen[u] = true
	}
	if len(named) > 0 {
		return named, nil
	}
	if domain.ID == "" {
		return nil, primitives.Invalid("uris", "none is named; expected volumes, or a domain whose volumes to take")
	}
	uses, err := s.disks.Uses("")
	if err != nil {
		return nil, err
	}
	var all []primitives.URI
	for _, u := range uses {
		if u.Kind == journal.UseDisk && u.Domain == string(domain.ID) && u.Access == primitives.ReadWrite {
			all = append(all, u.URI)
		}
	}
	if len(all) == 0 {
		return nil, primitives.Errorf(primitives.CodeNotFound, "domain %s writes to no volume of tenon's", domain.Name).
			Trying("see: tenonctl disk list %s", domain.Name)
	}
	return all, nil
}

// subjects looks at each volume's device and finds the disk that writes to it.
func (s *Service) subjects(ctx context.Context, uris []primitives.URI, name string) ([]subject, error) {
	uses, err := s.disks.Uses("")
	if err != nil {
		return nil, err
	}
	var subjects []subject
	for _, u := range uris {
		d, err := s.devices.Await(ctx, u.Device)
		if err != nil {
			return nil, err
		}
		o, err := d.Stat(ctx, u, primitives.Op{})
		if err != nil {
			return nil, err
		}
		if _, err := d.Stat(ctx, u.At(name), primitives.Op{}); err == nil {
			return nil, primitives.Errorf(primitives.CodeExists, "the snapshot exists").On(u.At(name)).Trying("choose another name")
		} else if !errors.Is(err, primitives.CodeNotFound) {
			return nil, err
		}
		desc, err := d.Describe(ctx)
		if err != nil {
			return nil, err
		}
		x := subject{URI: u, Caps: desc.Caps}
		for _, use := range uses {
			if use.Kind == journal.UseDisk && use.URI == u && use.Access == primitives.ReadWrite {
				x.Use = use
			}
		}
		if err := snapshottable(d.Facets(), o, x); err != nil {
			return nil, err
		}
		subjects = append(subjects, x)
	}
	return subjects, nil
}

func snapshottable(f primitives.Facets, o primitives.Object, x subject) error {
	switch {
	case f.Snapshots != nil && o.State == primitives.Incomplete: // whose capabilities are none, which says nothing of its device
		return primitives.Errorf(primitives.CodeIncomplete, "its write was interrupted").On(x.URI).
			Trying("resume that operation, or delink the volume")
	case f.Snapshots == nil || !o.Caps.Snapshot:
		return primitives.Errorf(primitives.CodeUnsupported, "it cannot be snapshotted").On(x.URI).
			Trying("copy it to a device that has snapshots")
	case x.live() && x.Caps.SnapshotLive == primitives.LiveNone:
		return primitives.Errorf(primitives.CodeInUse, "its device cannot snapshot a volume that is in use").On(x.URI).
			By(device.Blocker(x.Use)).Trying("detach the disk first")
	case x.live() && x.Caps.SnapshotLive == primitives.LiveRemap && x.Use.Disk == "":
		return primitives.Errorf(primitives.CodeUnsupported, "tenon did not attach the disk that uses it, so it cannot be switched to another file").On(x.URI).
			By(device.Blocker(x.Use)).Trying("detach the disk and attach the volume with tenon, then snapshot it")
	}
	return nil
}

// oneDomain returns the domain whose disks write to the volumes. Only one can be
// frozen or switched at one moment.
func (s *Service) oneDomain(ctx context.Context, asked hypervisor.Domain, subjects []subject) (hypervisor.Domain, error) {
	var writer string
	for _, x := range subjects {
		if !x.live() {
			continue
		}
		if writer != "" && writer != x.Use.Domain || asked.ID != "" && string(asked.ID) != x.Use.Domain {
			return asked, primitives.Invalid("uris", "%s is a disk of another domain, %s; volumes of one domain are snapshotted together", x.URI.Short(), x.Use.Domain)
		}
		writer = x.Use.Domain
	}
	if asked.ID != "" || writer == "" {
		return asked, nil
	}
	return s.disks.Domain(ctx, writer)
}

func (s *Service) checkDomain(ctx context.Context, r *run, domain hypervisor.Domain) error {
	r.Memory.Domain = domain.ID
	if err := s.disks.RefuseOverlay(ctx, domain.ID, r.Memory.Uses); err != nil {
		return err
	}
	a, err := s.disks.Adapter()
	if err != nil {
		return err
	}
	switches := slices.ContainsFunc(r.Memory.Groups, func(g group) bool { return g.Way == remap })
	if switches && a.Facets().Switch == nil || switches && domain.State == hypervisor.StateRunning && !domain.Caps.Switch {
		return primitives.Errorf(primitives.CodeUnsupported, "domain %s cannot switch its disks to other files while it runs", domain.Name).
			Trying("shut the domain down, or use a device whose snapshots need no switch")
	}
	return nil
}

// planFreeze decides whether the guest can be frozen. Where it was asked for and
// is not possible, the snapshot is taken without, and says so.
func (s *Service) planFreeze(r *run, domain hypervisor.Domain) error {
	if !r.Args.Freeze {
		return nil
	}
	if domain.ID == "" {
		return primitives.Invalid("freeze", "no domain writes to the volumes; name the domain to freeze, or leave freeze out")
	}
	a, err := s.disks.Adapter()
	switch {
	case err != nil:
		return err
	case domain.State != hypervisor.StateRunning:
		r.Memory.Why = "the domain is " + domain.State.String()
	case !domain.Caps.Freeze || a.Facets().Freeze == nil:
		r.Memory.Why = "the domain has no guest agent that could freeze its file systems"
	default:
		r.Memory.Freeze = true
	}
	return nil
}

// admit holds the volumes and disks, and refuses when their use changed since check.
func admit(tx *journal.Tx, r *run) error {
	known := make(map[string]bool)
	for _, u := range r.Memory.Uses {
		known[u.ID] = true
		if u.Disk != "" {
			r.Claim(operation.OnDisk(u.Disk), false)
		}
	}
	for _, g := range r.Memory.Groups {
		if err := device.Enter(tx, primitives.URI{Device: g.Device}); err != nil {
			return err
		}
		r.Claim(operation.OnDevice(g.Device), true)
		for _, u := range g.URIs {
			r.Claim(operation.OnVolume(u), false)
			uses, err := attach.DiskUses(tx, u)
			if err != nil {
				return err
			}
			writers := 0
			for _, use := range uses {
				if use.URI == u && use.Access == primitives.ReadWrite {
					writers++
					if !known[use.ID] {
						return changed(u)
					}
				}
			}
			if g.Live && writers == 0 {
				return changed(u)
			}
		}
	}
	return nil
}

func changed(u primitives.URI) error {
	return primitives.Errorf(primitives.CodeConflict, "a disk was attached or detached at this moment").On(u).Trying("repeat the request")
}

func result(r *run) any {
	set := Set{Name: r.Memory.Name, Level: r.Memory.Level, Note: r.Memory.Note, Domain: string(r.Memory.Domain), Held: r.Memory.Held}
	for _, g := range r.Memory.Groups {
		out := Group{Device: g.Device}
		for _, u := range g.URIs {
			out.Snapshots = append(out.Snapshots, r.Memory.Made[u.Short()])
		}
		set.Groups = append(set.Groups, out)
	}
	return set
}
