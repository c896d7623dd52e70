// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

var moving = []check{
	// Cases: E120, E123, E131, C3.10
	{"AMoveTakesTheContentAlongAndTheGuestSeesTheSameDisk", moveEverywhere},
	{"EveryCallOfAMoveCanBeRepeated", func(s *suite) {
		s.mover()
		r := s.moveOf(s.file())
		s.status(r, hypervisor.MoveNone)
		for range 2 {
			s.do("CancelMove of nothing", s.mover().CancelMove, r)
		}
		for range 2 {
			s.do("StartMove", s.mover().StartMove, r)
		}
		s.copied(r)
		s.do("StartMove of a copy that is ready", s.mover().StartMove, r)
		s.do("Converge of a copy that is ready", s.mover().Converge, r)
		for range 2 {
			s.do("FinishMove", s.mover().FinishMove, r)
			s.status(r, hypervisor.MoveDone)
		}
		s.do("StartMove of a move that is done", s.mover().StartMove, r)
		s.do("Converge of a move that is done", s.mover().Converge, r)
		for range 2 {
			s.code("CancelMove of a move that is done", s.mover().CancelMove(s.ctx, r), primitives.CodeConflict)
		}
		s.onTarget(r)
	}},
	// Cases: C3.3
	{"ACopyUnderWayIsNotFinished", func(s *suite) {
		s.mover()
		r := s.slowMove()
		s.do("StartMove", s.mover().StartMove, r)
		got := s.status(r, hypervisor.MoveCopying)
		if got.Done > got.Total {
			s.Errorf("MoveStatus = %d of %d bytes", got.Done, got.Total)
		}
		s.code("FinishMove", s.mover().FinishMove(s.ctx, r), primitives.CodeConflict)
		s.shows(r.Domain, r.Disk, r.From)
		if got, _ := s.disk(r.Domain, r.Disk); got.Job != "copy" {
			s.Errorf("the disk is shown with job %q, want copy", got.Job)
		}
		s.do("CancelMove", s.mover().CancelMove, r)
	}},
	// Cases: E83
	{"ACancelledMoveLeavesTheSourceAndNoJob", cancelMoves},
	// Cases: E115
	{"AMoveGoesOnUnderANewAdapter", moveOverRestarts},
	// Cases: E110, C3.7
	{"ATargetOfAnotherSizeIsRefused", func(s *suite) {
		s.mover()
		r := s.moveOf(s.file())
		const sector = 512
		for _, bytes := range []int64{size - sector, size + sector} {
			other := r
			other.To = s.h.Storages[0].New(s.T, bytes)
			s.code(fmt.Sprintf("StartMove to %d bytes", bytes), s.mover().StartMove(s.ctx, other), primitives.CodeInvalid)
			other.From.Size = bytes // as a caller that remembers another size
			s.code(fmt.Sprintf("StartMove of a disk that is said to have %d bytes", bytes), s.mover().StartMove(s.ctx, other), primitives.CodeInvalid)
		}
		s.untouched(r)
	}},
	{"ATargetThatAnotherDiskHasIsRefused", func(s *suite) {
		s.mover()
		r := s.moveOf(s.file())
		s.attach(request(s.h.Domain, s.id(), r.To))
		s.code("StartMove", s.mover().StartMove(s.ctx, r), primitives.CodeInUse)
		s.untouched(r)
	}},
	// Cases: E118, E119
	{"OneDiskMovesToOnePlaceAtATime", func(s *suite) {
		s.mover()
		r := s.slowMove()
		s.do("StartMove", s.mover().StartMove, r)
		other := r
		other.To = s.h.Storages[0].New(s.T, r.To.Size)
		s.code("StartMove to elsewhere", s.mover().StartMove(s.ctx, other), primitives.CodeConflict)
		s.status(other, hypervisor.MoveNone)
		s.do("CancelMove of the other", s.mover().CancelMove, other)
		s.status(r, hypervisor.MoveCopying)
		s.do("CancelMove", s.mover().CancelMove, r)
		other.Bandwidth = 0
		s.do("StartMove to elsewhere", s.mover().StartMove, other)
		s.copied(other)
		s.do("FinishMove", s.mover().FinishMove, other)
		s.onTarget(other)
	}},
	// Cases: E101, E117, C3.7
	{"ADiskThatMovesIsLeftAlone", func(s *suite) {
		s.mover()
		r := s.slowMove()
		s.do("StartMove", s.mover().StartMove, r)
		_, err := s.a.Detach(s.within(s.h.Brief), r.Domain, r.Disk)
		s.code("Detach", err, primitives.CodeInUse)
		if f := s.a.Facets().Resize; f != nil {
			s.code("ResizeDisk", f.ResizeDisk(s.ctx, r.Domain, r.Disk, 2*r.To.Size), primitives.CodeInUse)
		}
		if f := s.a.Facets().Snapshot; f != nil {
			_, err := f.CreateSnapshot(s.ctx, r.Domain, "during-a-move")
			s.code("CreateSnapshot", err, primitives.CodeInUse)
		}
		s.status(r, hypervisor.MoveCopying)
		s.do("CancelMove", s.mover().CancelMove, r)
	}},
	{"ADomainThatIsOffIsNotMoved", func(s *suite) {
		s.mover()
		r := s.move(s.h.Off, s.file(), s.file())
		s.code("StartMove", s.mover().StartMove(s.ctx, r), primitives.CodeUnsupported)
		s.status(r, hypervisor.MoveNone)
		s.do("CancelMove", s.mover().CancelMove, r)
		s.code("FinishMove", s.mover().FinishMove(s.ctx, r), primitives.CodeConflict)
		s.code("Converge", s.mover().Converge(s.ctx, r), primitives.CodeConflict)
		back := r
		back.From, back.To = r.To, r.From // as one that was shut down after its move
		s.status(back, hypervisor.MoveDone)
		s.do("FinishMove of a move that is done", s.mover().FinishMove, back)
	}},
	{"AnUnknownDiskIsNotMoved", func(s *suite) {
		s.mover()
		r := hypervisor.MoveRequest{Domain: s.h.Domain, Disk: s.id(), From: s.file(), To: s.file()}
		s.code("StartMove", s.mover().StartMove(s.ctx, r), primitives.CodeNotFound)
		_, err := s.mover().MoveStatus(s.ctx, r)
		s.code("MoveStatus", err, primitives.CodeNotFound)
		r.Domain = nobody
		s.code("StartMove of nobody's", s.mover().StartMove(s.ctx, r), primitives.CodeNotFound)
		_, err = s.mover().MoveStatus(s.ctx, r)
		s.code("MoveStatus of nobody's", err, primitives.CodeNotFound)
	}},
	{"ADiskThatIsOnNeitherSideIsNotMoved", func(s *suite) {
		s.mover()
		r := s.moveOf(s.file())
		wrong := r
		wrong.From = s.file()
		s.code("StartMove", s.mover().StartMove(s.ctx, wrong), primitives.CodeConflict)
		s.untouched(r)
	}},
	{"ADiskWithAnOverlayOfAHypervisorSnapshotIsNotMoved", func(s *suite) {
		s.mover()
		s.snapshotter()
		r := s.moveOf(s.file())
		s.snap("beneath-a-move")
		s.code("StartMove", s.mover().StartMove(s.ctx, r), primitives.CodeUnsupported)
	}},
	// Cases: E116
	{"ADomainThatEndsTakesItsCopyWithIt", func(s *suite) {
		s.mover()
		if s.h.Boot == nil || s.h.Kill == nil {
			s.lack(NoKill)
		}
		r := s.move(s.h.Off, s.file(), s.file())
		s.h.Boot(s.T)
		s.do("StartMove", s.mover().StartMove, r)
		s.h.Kill(s.T, s.h.Off)
		s.status(r, hypervisor.MoveNone)
		s.do("CancelMove", s.mover().CancelMove, r)
		s.want(r.Domain, r.Disk, false, true)
		s.shows(r.Domain, r.Disk, r.From)
	}},
	// Cases: E116
	{"ACopyGoesOnWhileItsDomainIsPaused", func(s *suite) {
		s.mover()
		p := s.pauser()
		r := s.moveOf(s.file())
		if err := p.Pause(s.ctx, r.Domain); err != nil {
			s.Fatalf("Pause = %v", err)
		}
		s.Cleanup(func() {
			if err := p.Resume(s.within(patience), r.Domain); err != nil {
				s.Errorf("after the case: Resume = %v", err)
			}
		})
		s.do("StartMove", s.mover().StartMove, r)
		s.copied(r)
		s.do("FinishMove", s.mover().FinishMove, r)
		s.onTarget(r)
	}},
	// Cases: E128
	{"ATransientDomainsDiskMoves", func(s *suite) {
		s.mover()
		if s.h.Transient == nil {
			s.lack(NoTransient)
		}
		r := s.move(s.h.Transient(s.T), s.file(), s.file())
		s.do("StartMove", s.mover().StartMove, r)
		s.copied(r)
		s.do("FinishMove", s.mover().FinishMove, r)
		s.status(r, hypervisor.MoveDone)
		s.shows(r.Domain, r.Disk, r.To)
	}},
	// Cases: E114, C3.19
	{"ACopyThatConvergesComesToItsEnd", func(s *suite) {
		s.mover()
		r := s.slowMove()
		r.Bandwidth = brisk
		s.do("StartMove", s.mover().StartMove, r)
		for range 2 {
			s.do("Converge", s.mover().Converge, r)
		}
		s.copied(r)
		s.do("FinishMove", s.mover().FinishMove, r)
		s.onTarget(r)
	}},
	// Cases: E126, C3.23
	{"NamesOfFilesMoveAsTheyAre", func(s *suite) {
		s.mover()
		if s.h.NamedFile == nil {
			s.lack(NoNames)
		}
		for _, name := range []string{"Mixed,Case and spaces.img", "ümläut-☃.img", `quote'"<&>.img`} {
			s.sub(name, func(s *suite) {
				r := s.move(s.h.Domain, s.file(), s.h.NamedFile(s.T, name, size))
				s.do("StartMove", s.mover().StartMove, r)
				s.copied(r)
				s.do("FinishMove", s.mover().FinishMove, r)
				s.onTarget(r)
			})
		}
	}},
}

// moveEverywhere moves a disk from each kind of storage to each kind of target, while
// its guest writes.
func moveEverywhere(s *suite) {
	s.mover()
	targets := slices.DeleteFunc(slices.Concat(s.h.Storages, s.h.Targets), func(t Storage) bool { return t.Layered })
	for i, from := range slices.Concat(s.h.Storages, s.h.Targets) {
		to := targets[(i+1)%len(targets)]
		s.sub(from.Name+" to "+to.Name, func(s *suite) { moveContent(s, from, to) })
	}
}

func moveContent(s *suite, from, to Storage) {
	r := s.move(s.h.Domain, from.New(s.T, size), to.New(s.T, size))
	before, _ := s.disk(r.Domain, r.Disk)
	var dev, sum string
	if s.h.Guest != nil {
		dev = s.device(r.Domain, r.Disk)
		s.write(dev, 11)
		s.run("(cd /tmp; rm -f stop; n=0; while [ ! -e stop ]; do n=$((n+1)); seq $n 15000 | head -c 65536 | dd of=%s bs=64k seek=$((n %% 64 + 1)) conv=notrunc,fsync 2>/dev/null || echo failed; done; echo $n) >/tmp/writer.out 2>&1 &", dev)
	}
	s.do("StartMove", s.mover().StartMove, r)
	s.copied(r)
	s.do("FinishMove", s.mover().FinishMove, r)
	if s.h.Guest != nil {
		if out := s.run("touch /tmp/stop; wait; until tail -n1 /tmp/writer.out | grep -q '^[0-9]'; do sleep 0.1; done; cat /tmp/writer.out"); len(out) > 9 {
			s.Errorf("the guest's writer says %q", out)
		}
		sum = s.whole(dev)
	}
	s.onTarget(r)
	after, _ := s.disk(r.Domain, r.Disk)
	if after.Serial != before.Serial || after.Target != before.Target || after.Bus != before.Bus || after.Access != before.Access {
		s.Errorf("after the move the disk is %+v, before it was %+v", after, before)
	}
	if s.h.Guest == nil {
		return
	}
	if got := s.device(r.Domain, r.Disk); got != dev {
		s.Errorf("the guest has the disk at %s, before at %s", got, dev)
	}
	// What the guest reads from the target must be what was written, also through
	// another disk: only then it is on the target, and not in somebody's memory.
	s.detach(r.Domain, r.Disk, hypervisor.DetachResult{Live: hypervisor.Done, Config: hypervisor.Done})
	again := request(r.Domain, s.id(), r.To)
	s.attach(again)
	if got := s.whole(s.device(again.Domain, again.Disk)); got != sum {
		s.Errorf("the target has %s, the disk had %s", got, sum)
	}
}

// whole returns the checksum of a whole disk, read from the disk.
func (s *suite) whole(dev string) string {
	s.Helper()
	return s.run("sync; blockdev --flushbufs %[1]s && dd if=%[1]s bs=64k 2>/dev/null | md5sum | cut -d' ' -f1", dev)
}

func cancelMoves(s *suite) {
	s.mover()
	for _, when := range []string{"copying", "ready"} {
		s.sub(when, func(s *suite) {
			var r hypervisor.MoveRequest
			if when == "copying" {
				r = s.slowMove()
			} else {
				r = s.moveOf(s.file())
			}
			s.do("StartMove", s.mover().StartMove, r)
			if when == "ready" {
				s.copied(r)
			}
			for range 2 {
				s.do("CancelMove", s.mover().CancelMove, r)
				s.untouched(r)
			}
			// The target is free.
			s.attach(request(r.Domain, s.id(), r.To))
			if s.h.Guest != nil {
				s.write(s.device(r.Domain, r.Disk), 7)
			}
		})
	}
}

// moveOverRestarts moves a disk with a new adapter for each call, and with one after
// each step.
func moveOverRestarts(s *suite) {
	s.mover()
	for _, when := range []string{"copying", "ready", "done"} {
		s.sub(when, func(s *suite) {
			var r hypervisor.MoveRequest
			if when == "copying" {
				r = s.slowMove()
				r.Bandwidth = brisk
			} else {
				r = s.moveOf(s.file())
			}
			s.do("StartMove", s.mover().StartMove, r)
			if when == "copying" {
				s.anew()
				s.status(r, hypervisor.MoveCopying)
				s.do("StartMove", s.mover().StartMove, r)
			}
			s.copied(r)
			if when == "ready" {
				s.anew()
				s.status(r, hypervisor.MoveReady)
			}
			s.do("FinishMove", s.mover().FinishMove, r)
			if when == "done" {
				s.anew()
			}
			s.onTarget(r)
			s.do("FinishMove", s.mover().FinishMove, r)
		})
	}
}

// anew gives the case an adapter that knows nothing of what the last one did.
func (s *suite) anew() {
	s.Helper()
	a, old := s.h.Open(s.T), s.a
	s.Cleanup(func() {
		s.a = old
		if err := a.Close(); err != nil {
			s.Errorf("Close = %v", err)
		}
	})
	s.a = a
}
