// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	settleTime  = 500 * time.Millisecond // wakes that come together are one
	yieldTime   = 10 * time.Second       // operations that run, and may be quick, go first that long
	lookEvery   = time.Minute            // without any wake: a lost event costs no more than that
	passTime    = 5 * time.Minute
	rewatchTime = 5 * time.Second
)

// Start begins to keep the record of uses true: at once, whenever the hypervisor
// says that something changed, and now and then. It waits for nothing.
func (s *Service) Start() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if s.adapter != nil {
		s.work.Go(func() { s.watch(ctx) })
	}
	s.work.Go(func() { s.tend(ctx) })
	s.Wake()
}

// Stop ends what Start began.
func (s *Service) Stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
}

// Wake asks for a reconciliation soon.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default: // one is wanted already
	}
}

func (s *Service) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.adapter.Watch(ctx, func(hypervisor.DomainID) { s.Wake() })
		if ctx.Err() != nil {
			return
		}
		s.log.WarnContext(ctx, "hypervisor cannot be watched", "err", err)
		pause(ctx, rewatchTime)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (s *Service) tend(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.wake:
			s.settle(ctx)
		}
		pass, cancel := context.WithTimeout(ctx, passTime)
		if err := s.Reconcile(pass); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "record of uses could not be made true", "err", err)
		}
		cancel()
	}
}

// settle waits until what caused a wake has probably come to its end.
func (s *Service) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, yieldTime)
	defer cancel()
	pause(ctx, settleTime)
	for ctx.Err() == nil && s.engine.Running() > 0 {
		pause(ctx, settleTime)
	}
}

// Reconcile looks at the journal, the hypervisor and the devices once and makes
// the record of uses and the mappings true to what it saw.
func (s *Service) Reconcile(ctx context.Context) error {
	o, err := s.observe(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range decide(o) {
		err := s.do(ctx, d)
		s.log.InfoContext(ctx, "record of uses corrected", "deed", d.What, "use", d.Use.ID, "mapping", d.Mapping.ID, "err", err)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// observe looks at everything, at the uses first and last: what was changed by
// an operation meanwhile is left to the next pass.
func (s *Service) observe(ctx context.Context) (observed, error) {
	before, err := s.quiet()
	if err != nil {
		return observed{}, err
	}
	o := observed{
		Known: make(map[string]bool), Elsewhere: make(map[string]bool),
		Mappings: s.seeMappings(ctx), // before the disks: a disk's mapping is made first
	}
	o.Domains, o.Complete = s.seeDisks(ctx, before)
	after, err := s.quiet()
	if err != nil {
		return observed{}, err
	}
	for id, u := range after {
		if before[id] == u {
			o.Uses = append(o.Uses, u)
		}
	}
	for id := range o.adopted() {
		o.Elsewhere[id] = true
	}
	all, err := s.Uses("")
	for _, u := range all {
		o.Known[u.ID] = true
	}
	if err == nil {
		o.Closed, err = s.closed()
	}
	return o, err
}

// closed returns the devices whose gate is not open.
func (s *Service) closed() (map[string]bool, error) {
	closed := make(map[string]bool)
	err := s.journal.View(func(tx *journal.Tx) error {
		for _, name := range s.devices.Names() {
			door, err := tx.Door(name)
			if err != nil {
				return err
			}
			closed[name] = door.Gate != maintenance.GateOpen
		}
		return nil
	})
	return closed, err
}

// quiet returns the disks' uses that no operation holds now.
func (s *Service) quiet() (map[string]journal.Use, error) {
	all, err := s.Uses("")
	quiet := make(map[string]journal.Use)
	for _, u := range all {
		if u.Kind == journal.UseDisk && !s.busy(u) {
			quiet[u.ID] = u
		}
	}
	return quiet, err
}

func (s *Service) busy(u journal.Use) bool {
	return u.Disk != "" && s.engine.Claimed(operation.OnDisk(u.Disk)) || s.engine.Claimed(operation.OnVolume(u.URI))
}

// seeDisks reads the disks of every domain. One that does not answer is left
// out, and what was seen is then not complete; one that a use names and that
// does not exist has no disks.
func (s *Service) seeDisks(ctx context.Context, uses map[string]journal.Use) (seen map[hypervisor.DomainID][]hypervisor.Disk, complete bool) {
	if s.adapter == nil {
		return nil, false
	}
	domains, err := s.Domains(ctx)
	if err != nil {
		s.log.DebugContext(ctx, "domains could not be listed", "err", err)
		return nil, false
	}
	complete = true
	seen = make(map[hypervisor.DomainID][]hypervisor.Disk)
	exists := make(map[hypervisor.DomainID]bool)
	for _, d := range domains {
		exists[d.ID] = true
		disks, err := s.disks(ctx, d.ID)
		if err != nil {
			s.log.DebugContext(ctx, "disks could not be listed", "domain", d.Name, "err", err)
			complete = false
			continue
		}
		seen[d.ID] = disks
	}
	for _, u := range uses {
		if id := hypervisor.DomainID(u.Domain); !exists[id] {
			seen[id] = nil
		}
	}
	return seen, complete
}

// seeMappings reads the mappings of every device that answers.
func (s *Service) seeMappings(ctx context.Context) map[string][]primitives.Mapping {
	seen := make(map[string][]primitives.Mapping)
	for _, name := range s.devices.Names() {
		d, err := s.devices.Device(name)
		if err != nil || d.Facets().Map == nil {
			continue
		}
		mappings, err := d.Facets().Map.Mappings(ctx)
		if err != nil {
			s.log.DebugContext(ctx, "mappings could not be listed", "device", name, "err", err)
			continue
		}
		seen[name] = mappings
	}
	return seen
}

// adopted returns the adopted uses whose target shows another file now.
func (o observed) adopted() map[string]bool {
	elsewhere := make(map[string]bool)
	for _, u := range o.Uses {
		if u.Target == "" {
			continue
		}
		for _, d := range o.Domains[hypervisor.DomainID(u.Domain)] {
			for _, m := range o.Mappings[u.URI.Device] {
				if serves(u, d) && m.Consumer == u.ID && m.File != nil && !sameFile(d.Source.Path, m.File.Path) {
					elsewhere[u.ID] = true
				}
			}
		}
	}
	return elsewhere
}

// sameFile reports whether two paths lead to one file. What cannot be looked at
// is taken to be the same: nothing is concluded from it.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return true
	}
	other, err := os.Stat(b)
	return err != nil || os.SameFile(one, other)
}

func (s *Service) do(ctx context.Context, d deed) error {
	switch d.What {
	case forget:
		if err := s.release(ctx, d.Use); err != nil {
			return err
		}
		return s.journal.Update(func(tx *journal.Tx) error {
			now, err := tx.Use(d.Use.ID)
			if errors.Is(err, primitives.CodeNotFound) {
				return nil // somebody else was quicker
			}
			if err != nil {
				return err
			}
			if now != d.Use || s.busy(now) {
				return nil // somebody else is at it; the next pass looks again
			}
			return tx.DeleteUse(d.Use.ID)
		})
	case restore:
		return s.Serve(ctx, d.Use, primitives.Op{}, primitives.Op{})
	case drop:
		dev, err := s.devices.Device(d.Device)
		if err != nil {
			return err
		}
		return unmap(ctx, dev.Facets().Map, d.Mapping.ID)
	case record:
		return s.journal.Update(func(tx *journal.Tx) error { return device.Record(tx, d.Use) })
	}
	return nil
}
