// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

var pausing = []check{
	{"APauseStopsTheGuestAndAResumeLetsItGoOn", func(s *suite) {
		p := s.pauser()
		r := request(s.h.Domain, s.id(), s.file())
		s.attach(r)
		s.Cleanup(func() {
			if err := p.Resume(s.within(patience), s.h.Domain); err != nil {
				s.Errorf("after the case: Resume = %v", err)
			}
		})
		for _, attempt := range []string{"first", "repeat"} {
			if err := p.Pause(s.ctx, s.h.Domain); err != nil {
				s.Errorf("Pause, %s = %v", attempt, err)
			}
			if got := s.domain(s.h.Domain); got.State != hypervisor.StatePaused || got.Caps.DetachLive {
				s.Errorf("after Pause, %s, the domain is %v; detach live: %v", attempt, got.State, got.Caps.DetachLive)
			}
		}
		if s.h.Guest != nil {
			if out, err := s.h.Guest.Run(s.within(s.h.Brief), "echo up"); err == nil {
				s.Errorf("a paused guest answers %q", out)
			}
		}
		s.want(r.Domain, r.Disk, true, true)
		for _, attempt := range []string{"first", "repeat"} {
			if err := p.Resume(s.ctx, s.h.Domain); err != nil {
				s.Errorf("Resume, %s = %v", attempt, err)
			}
			if got := s.domain(s.h.Domain); got.State != hypervisor.StateRunning {
				s.Errorf("after Resume, %s, the domain is %v", attempt, got.State)
			}
		}
		if s.h.Guest != nil {
			s.write(s.device(r.Domain, r.Disk), 5)
		}
	}},
	{"ADomainThatIsOffIsNeitherPausedNorResumed", func(s *suite) {
		p := s.pauser()
		s.code("Pause", p.Pause(s.ctx, s.h.Off), primitives.CodeConflict)
		s.code("Resume", p.Resume(s.ctx, s.h.Off), primitives.CodeConflict)
		s.code("Pause of nobody", p.Pause(s.ctx, nobody), primitives.CodeNotFound)
		s.code("Resume of nobody", p.Resume(s.ctx, nobody), primitives.CodeNotFound)
	}},
}

func (s *suite) pauser() hypervisor.Pauser {
	s.Helper()
	if s.a.Facets().Pause == nil {
		s.lack(NoPause)
	}
	return s.a.Facets().Pause
}
