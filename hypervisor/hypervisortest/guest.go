// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

var freezing = []check{
	{"TheGuestIsFrozenDuringAndThawedAfter", func(s *suite) {
		f := s.freezer()
		dev := s.mounted()
		ran := false
		got, err := f.Freeze(s.ctx, s.h.Domain, patience, func(ctx context.Context) error {
			ran = true
			if _, ok := ctx.Deadline(); !ok {
				s.Errorf("what runs during a freeze has no deadline")
			}
			return nil
		})
		if err != nil || got.ThawErr != nil || !ran || got.Filesystems < 1 || got.Held <= 0 {
			s.Errorf("Freeze = %+v, %v, ran %v; want a file system frozen and thawed", got, err, ran)
		}
		s.writable(dev)
	}},
	{"AnErrorDuringTheFreezeComesBackAfterTheThaw", func(s *suite) {
		f, dev := s.freezer(), s.mounted()
		mine := errors.New("the storage said no")
		got, err := f.Freeze(s.ctx, s.h.Domain, patience, func(context.Context) error { return mine })
		if !errors.Is(err, mine) || got.ThawErr != nil {
			s.Errorf("Freeze = %+v, %v; want the callback's error and a thaw", got, err)
		}
		s.writable(dev)
	}},
	{"TheFreezeEndsWithItsHold", func(s *suite) { // E152
		f, dev := s.freezer(), s.mounted()
		_, err := f.Freeze(s.ctx, s.h.Domain, s.h.Brief, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("Freeze = %v, want the end of the hold", err)
		}
		s.writable(dev)
	}},
	{"ThawOfAGuestThatIsNotFrozenIsSuccess", func(s *suite) {
		f := s.freezer()
		if err := f.Thaw(s.ctx, s.h.Domain); err != nil {
			s.Errorf("Thaw = %v", err)
		}
		if err := f.Thaw(s.ctx, s.h.Off); err != nil {
			s.Errorf("Thaw of a domain that is off = %v", err)
		}
	}},
	{"ADomainWithoutAgentCannotFreeze", func(s *suite) {
		_, err := s.freezer().Freeze(s.ctx, s.h.Off, patience, func(context.Context) error {
			s.Errorf("the callback ran without a freeze")
			return nil
		})
		s.code("Freeze", err, primitives.CodeUnsupported)
	}},
	{"AHungAgentCostsNoMoreThanTheLimitAndIsThawed", func(s *suite) { // E152, E153, T33
		f := s.freezer()
		if s.h.HangAgent == nil {
			s.lack(NoHang)
		}
		dev := s.mounted()
		resume := s.h.HangAgent(s.T, s.h.Domain)
		// The agent comes back while the thaw is being tried.
		timer := time.AfterFunc(s.h.AgentLimit+s.h.Brief, resume)
		defer timer.Stop()
		got, err := f.Freeze(s.within(patience), s.h.Domain, s.h.Brief, func(context.Context) error {
			s.Errorf("the callback ran without a freeze")
			return nil
		})
		resume()
		s.code("Freeze", err, primitives.CodeUnavailable)
		if got.ThawErr != nil {
			s.Errorf("thaw after the failed freeze = %v", got.ThawErr)
		}
		s.writable(dev)
	}},
}

func (s *suite) freezer() hypervisor.Freezer {
	s.Helper()
	if s.a.Facets().Freeze == nil {
		s.lack(NoFreeze)
	}
	if !s.domain(s.h.Domain).Caps.Freeze {
		s.lack(NotLive)
	}
	return s.a.Facets().Freeze
}

// mounted mounts a file system in the guest and returns where, or "" where no
// guest can be looked into.
func (s *suite) mounted() string {
	s.Helper()
	if s.h.Guest == nil {
		return ""
	}
	r := request(s.h.Domain, s.id(), s.file())
	s.attach(r)
	dev := s.device(r.Domain, r.Disk)
	s.run("mkfs.ext4 -q %s && mkdir -p /mnt/suite && mount %s /mnt/suite", dev, dev)
	s.Cleanup(func() { s.run("umount /mnt/suite") })
	return "/mnt/suite"
}

// writable fails if a file system is still frozen.
func (s *suite) writable(dir string) {
	s.Helper()
	if dir == "" {
		return
	}
	ctx := s.within(patience)
	if _, err := s.h.Guest.Run(ctx, "echo x >"+dir+"/written && sync"); err != nil {
		s.Errorf("writing after the freeze: %v", err)
	}
}

var powering = []check{
	{"StartAndShutdownCanBeRepeated", func(s *suite) {
		p := s.powerer()
		if s.h.Boot == nil {
			s.lack(NoBoot)
		}
		s.Cleanup(s.endOff)
		r := request(s.h.Off, s.id(), s.file())
		s.attach(r)
		for _, attempt := range []string{"first", "repeat"} {
			if err := p.Start(s.ctx, s.h.Off); err != nil {
				s.Fatalf("Start, %s = %v", attempt, err)
			}
		}
		if got := s.domain(s.h.Off).State; got != hypervisor.StateRunning {
			s.Errorf("after Start the domain is %v", got)
		}
		s.want(s.h.Off, r.Disk, true, true) // a disk of the definition is there from the start
		for _, attempt := range []string{"first", "repeat"} {
			if err := p.Shutdown(s.ctx, s.h.Off); err != nil {
				s.Fatalf("Shutdown, %s = %v", attempt, err)
			}
		}
		if got := s.domain(s.h.Off).State; got != hypervisor.StateOff {
			s.Errorf("after Shutdown the domain is %v", got)
		}
	}},
	{"PowerOfAnUnknownDomainIsNotFound", func(s *suite) {
		s.code("Start", s.powerer().Start(s.ctx, nobody), primitives.CodeNotFound)
		s.code("Shutdown", s.powerer().Shutdown(s.ctx, nobody), primitives.CodeNotFound)
	}},
}

func (s *suite) powerer() hypervisor.Powerer {
	s.Helper()
	if s.a.Facets().Power == nil {
		s.lack(NoPower)
	}
	return s.a.Facets().Power
}

// endOff brings Off back to being off.
func (s *suite) endOff() {
	s.Helper()
	if s.h.Kill != nil && s.domain(s.h.Off).State != hypervisor.StateOff {
		s.h.Kill(s.T, s.h.Off)
	}
}

var troubling = []check{
	{"WatchWakesAtTheConnectionAndAtChanges", func(s *suite) {
		ctx, stop := context.WithCancelCause(s.ctx)
		wakes, done := make(chan hypervisor.DomainID, 100), make(chan error, 1)
		go func() { done <- s.a.Watch(ctx, func(d hypervisor.DomainID) { wakes <- d }) }()
		s.wake(wakes, "")
		s.attach(request(s.h.Domain, s.id(), s.file()))
		s.wake(wakes, s.h.Domain)
		enough := errors.New("enough")
		stop(enough)
		if err := <-done; !errors.Is(err, enough) {
			s.Errorf("Watch = %v, want the cause of its context's end", err)
		}
	}},
	{"AStalledDomainHoldsUpNobodyElse", stalled}, // E92
	{"ACallEndsWithItsContext", func(s *suite) {
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		_, err := s.a.Disks(ctx, s.h.Domain)
		s.code("Disks", err, primitives.CodeCancelled)
	}},
	{"AClosedAdapterIsUnavailable", func(s *suite) {
		a := s.h.Open(s.T)
		for _, attempt := range []string{"first", "repeat"} {
			if err := a.Close(); err != nil {
				s.Errorf("Close, %s = %v", attempt, err)
			}
		}
		_, err := a.Domains(s.ctx)
		s.code("Domains", err, primitives.CodeUnavailable)
		if info := a.Info(s.ctx); info.Connected || info.Note == "" {
			s.Errorf("Info = %+v, want not connected and why", info)
		}
	}},
}

// wake waits for that wake, whatever others come.
func (s *suite) wake(wakes <-chan hypervisor.DomainID, want hypervisor.DomainID) {
	s.Helper()
	for {
		select {
		case got := <-wakes:
			if got == want {
				return
			}
		case <-s.ctx.Done():
			s.Fatalf("no wake for %q", want)
		}
	}
}

// stalled stops what runs a domain and sees who notices.
func stalled(s *suite) {
	if s.h.Stall == nil {
		s.lack(NoStall)
	}
	m := s.file()
	r := request(s.h.Domain, s.id(), m)
	s.Cleanup(func() { s.clear(r.Domain, r.Disk) })
	resume := s.h.Stall(s.T, s.h.Domain)
	defer resume()
	start := time.Now()
	_, err := s.a.Attach(s.within(stallBrief), r)
	s.code("Attach to a stalled domain", err, primitives.CodeUnavailable)
	if took := time.Since(start); took > 2*stallBrief {
		s.Errorf("Attach took %v of %v", took, stallBrief)
	}
	start = time.Now()
	_, err = s.a.Attach(s.ctx, r)
	s.code("Attach again", err, primitives.CodeUnavailable)
	if took := time.Since(start); took > stallBrief {
		s.Errorf("Attach took %v to say that the domain does not answer, want less than %v", took, stallBrief)
	}
	if _, err := s.a.Domains(s.ctx); err != nil {
		s.Errorf("Domains = %v", err)
	}
	if _, err := s.a.Disks(s.ctx, s.h.Domain); err != nil {
		s.Errorf("Disks of the stalled domain = %v", err)
	}
	s.attach(request(s.h.Off, s.id(), s.file()))
	resume()
	// What was given up may have been done; a repeat finds out.
	for s.ctx.Err() == nil {
		if _, err = s.a.Attach(s.ctx, r); !errors.Is(err, primitives.CodeUnavailable) {
			break
		}
	}
	if err != nil {
		s.Errorf("Attach after the stall = %v", err)
	}
	s.shows(r.Domain, r.Disk, m)
}
