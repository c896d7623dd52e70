// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"context"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

func (s *suite) mover() hypervisor.Mover {
	s.Helper()
	if s.a.Facets().Move == nil {
		s.lack(NoMove)
	}
	return s.a.Facets().Move
}

// move attaches a disk on from and returns its move to to.
func (s *suite) move(d hypervisor.DomainID, from, to primitives.Mapping) hypervisor.MoveRequest {
	s.Helper()
	r := hypervisor.MoveRequest{Domain: d, Disk: s.id(), From: from, To: to, ToIsZero: true}
	s.attach(request(d, r.Disk, from))
	// Before it is detached: what a case that failed left behind would hold it.
	s.Cleanup(func() {
		if s.Failed() {
			_ = s.mover().CancelMove(s.within(patience), r)
		}
	})
	return r
}

func (s *suite) moveOf(from primitives.Mapping) hypervisor.MoveRequest {
	s.Helper()
	return s.move(s.h.Domain, from, s.h.Storages[0].New(s.T, from.Size))
}

// Bandwidths of a copy that is to be caught under way: the disks of the suite take so
// many seconds, or looks.
const (
	slow  = size / 16
	brisk = size / 4
)

// slowMove is a move that takes a while, of a disk full of data.
func (s *suite) slowMove() hypervisor.MoveRequest {
	s.Helper()
	r := s.moveOf(s.file())
	r.Bandwidth = slow
	if s.h.Guest != nil {
		const mebibyte = 1 << 20
		s.run(`yes tenon | head -c %d >/tmp/mebibyte
			for n in $(seq 0 %d); do dd if=/tmp/mebibyte of=%s bs=64k seek=$((n * 16)) conv=notrunc 2>/dev/null; done; sync`,
			mebibyte, size/mebibyte-1, s.device(r.Domain, r.Disk))
	}
	return r
}

// do makes one call and wants success.
func (s *suite) do(what string, call func(context.Context, hypervisor.MoveRequest) error, r hypervisor.MoveRequest) {
	s.Helper()
	if err := call(s.ctx, r); err != nil {
		s.Fatalf("%s = %v", what, err)
	}
}

// status fails unless the move is in that phase.
func (s *suite) status(r hypervisor.MoveRequest, want hypervisor.MovePhase) hypervisor.MoveStatus {
	s.Helper()
	got, err := s.mover().MoveStatus(s.ctx, r)
	if err != nil || got.Phase != want {
		s.Errorf("MoveStatus = %v (%s), %v; want %v", got.Phase, got.Failure, err, want)
	}
	return got
}

// copied waits until a copy is ready.
func (s *suite) copied(r hypervisor.MoveRequest) {
	s.Helper()
	const pause = 20 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		got, err := s.mover().MoveStatus(s.ctx, r)
		if err != nil || got.Phase != hypervisor.MoveCopying && got.Phase != hypervisor.MoveReady {
			s.Fatalf("MoveStatus = %v (%s), %v; want it copying or ready", got.Phase, got.Failure, err)
		}
		if got.Phase == hypervisor.MoveReady {
			return
		}
		s.shows(r.Domain, r.Disk, r.From)
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.Fatalf("the copy did not become ready: %d of %d bytes", got.Done, got.Total)
		}
	}
}

// onTarget fails unless all halves of the domain show the target, and no job.
func (s *suite) onTarget(r hypervisor.MoveRequest) {
	s.Helper()
	s.status(r, hypervisor.MoveDone)
	s.settled(r, r.To)
}

// untouched fails unless all halves of the domain show the source, and no job.
func (s *suite) untouched(r hypervisor.MoveRequest) {
	s.Helper()
	s.status(r, hypervisor.MoveNone)
	s.settled(r, r.From)
}

func (s *suite) settled(r hypervisor.MoveRequest, on primitives.Mapping) {
	s.Helper()
	s.shows(r.Domain, r.Disk, on)
	if got, _ := s.disk(r.Domain, r.Disk); got.Job != "" {
		s.Errorf("the disk is shown with a job (%s)", got.Job)
	}
	for _, half := range []hypervisor.Where{hypervisor.LiveOnly, hypervisor.ConfigOnly} {
		again := request(r.Domain, r.Disk, on)
		again.Where = half
		if got, err := s.a.Attach(s.ctx, again); err != nil || max(got.Live, got.Config) != hypervisor.Already {
			s.Errorf("half %d is not on %v: Attach = live %v, config %v, %v", half, on.Form, got.Live, got.Config, err)
		}
	}
}
