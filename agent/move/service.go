// SPDX-License-Identifier: Apache-2.0

package move

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

const (
	// callTime bounds a call of the hypervisor that only looks, begins or cancels.
	callTime = time.Minute
	// switchTime bounds the switch: what is under way to both sides has to end.
	switchTime = 2 * time.Minute
)

// Options are the optional parts of New.
type Options struct {
	Log *slog.Logger
	// Poll is how often a copy is looked at; 0: 200 ms.
	Poll time.Duration
	// Stall is how long a copy may show no progress at all, and the hypervisor not
	// answer, before the move is given up; 0: 15 minutes.
	Stall time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Poll = cmp.Or(o.Poll, 200*time.Millisecond)
	o.Stall = cmp.Or(o.Stall, 15*time.Minute)
	return o
}

// Service moves disks.
type Service struct {
	journal *journal.Journal
	devices *device.Registry
	disks   *attach.Service
	options Options
}

// New returns the service and registers its kind of operation.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, disks *attach.Service, o Options) *Service {
	s := &Service{journal: j, devices: devices, disks: disks, options: o.withDefaults()}
	operation.Register(e, s.kind())
	return s
}

// memory is what the steps of disk.move remember.
type memory struct {
	Domain     hypervisor.DomainID
	DomainName string
	Accept     []primitives.Acceptable
	Disks      []disk
	Resumed    bool // a crash came while targets were made: some may be there
}

// disk is one disk that moves.
type disk struct {
	ID     hypervisor.DiskID
	Target string      // in the domain, such as "vdb"
	Use    journal.Use // as it was before
	To     primitives.URI
	Size   int64             // exactly, of both volumes
	Format primitives.Format // of the target; empty: the device's default
	IsZero bool              // a new volume of the target reads as zero
	Source primitives.Handle // the source's incarnation
	Made   primitives.Handle // the target's; empty: not known to be there

	// OnSource and OnTarget are the mappings, without secrets.
	OnSource, OnTarget primitives.Mapping

	Bytes     int64
	Moved     bool               // the record says so
	Stayed    *operation.Failure // why the switch did not happen; nil: it did, or is to come
	Tombstone *primitives.Tombstone
	Note      string
	Shown     attach.Disk

	// Of this life alone.
	mapped   *primitives.Mapping // the target's, with what secrets it has
	attempts int                 // switches that were refused
	begun    int                 // copies that were begun anew for a switch
	buried   int                 // delinks that failed in passing
}

type run = operation.Run[Args, memory]

func (s *Service) kind() operation.Kind[Args, memory] {
	return operation.Kind[Args, memory]{
		Name:    KindMove,
		Subject: func(a Args) string { return a.Domain + " " + string(a.Disk) },
		Check:   s.check,
		Admit:   admit,
		Steps: []operation.Step[Args, memory]{
			{Name: "create", Do: s.create, Resume: createdPartly, Undo: s.discard},
			{Name: "map", Do: s.serve, Undo: s.unserve},
			// The intent to copy is on record before a job is begun, and the intent
			// to switch before the first disk is.
			{Name: "copy", Do: s.copy, Undo: s.cancel},
			{Name: "switch", Do: s.switchOver, Final: true},
			{Name: "release", Do: s.release, Final: true},
			{Name: "bury", Do: s.bury, Final: true},
		},
		Result:  func(r *run) any { return result(r) },
		Outcome: outcome,
		End: func(tx *journal.Tx, r *run, _ operation.State, left bool) error {
			if left {
				return nil
			}
			for i := range r.Memory.Disks {
				if err := tx.DeleteUse(toID(r, i)); err != nil {
					return err
				}
				if err := tx.DeleteUse(fromID(r, i)); err != nil {
					return err
				}
			}
			return nil
		},
		Bulk: true,
	}
}

// mover returns the hypervisor's way to move disks.
func (s *Service) mover() (hypervisor.Mover, error) {
	a, err := s.disks.Adapter()
	if err != nil {
		return nil, err
	}
	m := a.Facets().Move
	if m == nil {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "this hypervisor cannot move the disks of running domains").
			Trying("detach the disk, copy its volume and attach the copy")
	}
	return m, nil
}

// mapper returns the mappings of a device.
func (s *Service) mapper(ctx context.Context, device string) (primitives.Mapper, error) {
	d, err := s.devices.Await(ctx, device)
	if err != nil {
		return nil, err
	}
	m := d.Facets().Map
	if m == nil {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "the device cannot be mapped on a host").On(primitives.URI{Device: device})
	}
	return m, nil
}
