// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

var detaching = []check{
	{"DetachOfAnAbsentDiskIsSuccess", func(s *suite) {
		s.detach(s.h.Domain, s.id(), hypervisor.DetachResult{Live: hypervisor.Already, Config: hypervisor.Already})
		s.detach(s.h.Off, s.id(), hypervisor.DetachResult{Live: hypervisor.NotAsked, Config: hypervisor.Already})
	}},
	{"DetachFindsADiskOfOneHalf", func(s *suite) { // E99
		live, config := request(s.h.Domain, s.id(), s.file()), request(s.h.Domain, s.id(), s.file())
		live.Where, config.Where = hypervisor.LiveOnly, hypervisor.ConfigOnly
		s.attach(live)
		s.attach(config)
		s.detach(s.h.Domain, live.Disk, hypervisor.DetachResult{Live: hypervisor.Done, Config: hypervisor.Already})
		s.detach(s.h.Domain, config.Disk, hypervisor.DetachResult{Live: hypervisor.Already, Config: hypervisor.Done})
	}},
	{"AGuestThatRefusesKeepsItsDisk", func(s *suite) { // E90
		if s.h.Refuse == nil {
			s.lack(NoRefuse)
		}
		r := request(s.h.Domain, s.id(), s.file())
		s.attach(r)
		relent := s.h.Refuse(s.T, s.h.Domain)
		_, err := s.a.Detach(s.ctx, r.Domain, r.Disk)
		relent()
		s.code("Detach", err, primitives.CodeInUse)
		s.want(r.Domain, r.Disk, true, true)
		if got, _ := s.disk(r.Domain, r.Disk); got.Detaching {
			s.Errorf("the disk is shown as detaching after the guest refused")
		}
	}},
	{"AGuestThatDoesNotHearKeepsItsDiskUntilItDoes", deafGuest}, // E92, E95, C3.1
	{"ADiskThatIsLeavingCannotBeAttached", func(s *suite) { // C3.2, C3.11
		r := s.leaving()
		_, err := s.a.Attach(s.ctx, r)
		s.code("Attach of the leaving disk", err, primitives.CodeConflict)
		other := request(r.Domain, s.id(), s.file())
		other.Where = hypervisor.ConfigOnly
		was, _ := s.disk(r.Domain, r.Disk)
		if got := s.attach(other).Disk.Target; got == was.Target {
			s.Errorf("another disk got target %s before the first had left it", got)
		}
	}},
	{"ABootingGuestGivesTheDiskBackOnceItIsUp", func(s *suite) { // E91
		if s.h.Boot == nil || s.a.Facets().Power == nil {
			s.lack(NoBoot)
		}
		s.Cleanup(s.endOff)
		s.h.Boot(s.T)
		r := request(s.h.Off, s.id(), s.file())
		s.attach(r)
		s.detach(r.Domain, r.Disk, hypervisor.DetachResult{Live: hypervisor.Done, Config: hypervisor.Done})
		s.want(r.Domain, r.Disk, false, false)
	}},
	{"ADomainThatEndsGivesItsDisksBack", func(s *suite) { // E96
		if s.h.Boot == nil || s.h.Kill == nil {
			s.lack(NoKill)
		}
		s.h.Boot(s.T)
		r := request(s.h.Off, s.id(), s.file())
		s.attach(r)
		if s.h.Deafen != nil {
			s.h.Deafen(s.T, s.h.Off)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.a.Detach(s.ctx, r.Domain, r.Disk)
			done <- err
		}()
		s.awaitDetaching(r.Domain, r.Disk)
		s.h.Kill(s.T, s.h.Off)
		if err := <-done; err != nil {
			s.Errorf("Detach while the domain ended = %v, want success", err)
		}
		s.want(r.Domain, r.Disk, false, false)
	}},
}

// deafGuest asks a guest that does not hear, gives up, lets the guest hear, and
// asks again.
func deafGuest(s *suite) {
	if s.h.Deafen == nil {
		s.lack(NoDeafen)
	}
	r := request(s.h.Domain, s.id(), s.file())
	s.attach(r)
	hear := s.h.Deafen(s.T, s.h.Domain)
	start := time.Now()
	_, err := s.a.Detach(s.within(s.h.Brief), r.Domain, r.Disk)
	s.code("Detach", err, primitives.CodeUnavailable)
	if took := time.Since(start); took > s.h.Brief+stallBrief {
		s.Errorf("Detach took %v of %v", took, s.h.Brief)
	}
	s.want(r.Domain, r.Disk, true, true)
	if got, _ := s.disk(r.Domain, r.Disk); !got.Detaching {
		s.Errorf("the disk is not shown as detaching")
	}
	hear()
	if _, err := s.a.Detach(s.ctx, r.Domain, r.Disk); err != nil {
		s.Fatalf("Detach when the guest hears = %v", err)
	}
	s.want(r.Domain, r.Disk, false, false)
	// The same disk can come again, and does not look as if it were leaving.
	if got := s.attach(r); got.Live != hypervisor.Done || got.Disk.Detaching {
		s.Errorf("Attach after the detach = %+v", got)
	}
}

// leaving attaches a disk to a deaf guest and gives up detaching it. The guest
// hears again at the end of the case.
func (s *suite) leaving() hypervisor.AttachRequest {
	s.Helper()
	if s.h.Deafen == nil {
		s.lack(NoDeafen)
	}
	r := request(s.h.Domain, s.id(), s.file())
	s.attach(r)
	s.Cleanup(s.h.Deafen(s.T, s.h.Domain))
	if _, err := s.a.Detach(s.within(s.h.Brief), r.Domain, r.Disk); !errors.Is(err, primitives.CodeUnavailable) {
		s.Fatalf("Detach from a deaf guest = %v, want unavailable", err)
	}
	return r
}

// awaitDetaching returns when the disk is shown as detaching.
func (s *suite) awaitDetaching(d hypervisor.DomainID, id hypervisor.DiskID) {
	s.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, _ := s.disk(d, id); got.Detaching {
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.Fatalf("disk %s is never shown as detaching", id)
		}
	}
}
