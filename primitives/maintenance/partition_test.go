// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// cut plays a whole maintenance and returns, with one host cut off once stage is
// reached, and looks at what that host does meanwhile.
func (s *scene) cut(stage func() bool, away func(*agent)) {
	s.Helper()
	step := func() {
		if stage() {
			s.apart[1] = true
		}
		if len(s.net) > 0 {
			m := s.net[0]
			s.net = append(s.net[:0], s.net[1:]...)
			s.deliver(m)
		}
		if stage() {
			s.apart[1] = true
		}
		s.doAll()
	}
	for range 60 {
		step()
	}
	if !s.apart[1] {
		s.Fatal("the stage never came")
	}
	s.net = s.net[:0]
	before := s.d.agents[1].h.Gate
	for range 12 {
		s.pass(10 * time.Second)
		s.run()
		away(s.d.agents[1])
	}
	if after := s.d.agents[1].h.Gate; before != maintenance.GateOpen && after == maintenance.GateOpen {
		s.Errorf("cut off, the host's gate went from %s to %s", before, after)
	}
	s.apart[1] = false
	for range 3 {
		s.pass(6 * time.Second)
		s.run()
	}
}

// Cases: E40, E41, E42, E43
func TestAHostThatIsCutOffKeepsItsGateAndIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		stage func(*scene) bool
		while maintenance.Phase
		gate  maintenance.Gate
	}{
		"before the notice":  {func(*scene) bool { return true }, maintenance.Preparing, maintenance.GateOpen},
		"after it accepted":  {func(s *scene) bool { return s.d.agents[1].h.Phase == maintenance.HostDraining }, maintenance.Preparing, maintenance.GateClosed},
		"after it drained":   {func(s *scene) bool { return s.m.Phase == maintenance.Fencing }, maintenance.Fencing, maintenance.GateClosed},
		"while it is fenced": {func(s *scene) bool { return s.m.Phase == maintenance.InMaintenance }, maintenance.InMaintenance, maintenance.GateFenced},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.prepare(disconnect("m"))
			s.cut(func() bool { return c.stage(s) }, func(a *agent) {
				s.phase(c.while)
				if a.h.Gate != c.gate {
					t.Errorf("cut off, its gate is %s, want %s", a.h.Gate, c.gate)
				}
			})
			s.phase(maintenance.InMaintenance)
		})
	}
}

// Cases: E44
func TestAHostThatIsCutOffWhileReturningStaysFencedUntilTheOrderComes(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	s.run()
	s.must(maintenance.End{})
	s.cut(func() bool { return true }, func(a *agent) {
		s.phase(maintenance.Returning)
		if !a.fence || a.h.Gate != maintenance.GateFenced {
			t.Error("cut off, it unfenced")
		}
	})
	s.phase(maintenance.InService)
}

// Cases: E45
func TestACutThatHealsAfterTheDeadlineGoesOn(t *testing.T) {
	s := newScene(t)
	i := disconnect("m")
	i.Drain = 30 * time.Second
	s.prepare(i)
	s.cut(func() bool { return true }, func(*agent) {})
	s.phase(maintenance.InMaintenance)
}

// Cases: E45
func TestACutBeyondTheDeadlineBlocksAndNamesTheHost(t *testing.T) {
	s := newScene(t)
	i := disconnect("m")
	i.Drain = 30 * time.Second
	s.prepare(i)
	s.apart[1] = true
	s.run()
	s.pass(time.Minute)
	s.phase(maintenance.Blocked)
	s.blocker(func(b maintenance.Blocker) bool { return b.Host == "h1" })
	s.must(maintenance.Overrule{Override: maintenance.Override{Subject: "h1", Permission: "ticket", By: "admin", Reason: "powered off"}})
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E46
func TestALeaseFencesTheHostBeforeManagementCountsOnIt(t *testing.T) {
	s := sceneOf(t, newWorld(1, 20*time.Second, 0, 0))
	for range 4 {
		s.pass(4 * time.Second)
		s.run()
	}
	a := s.use(1, 0, 2)
	s.apart[1] = true
	s.prepare(disconnect("m"))
	counted, closed := time.Duration(0), time.Duration(0)
	for at := time.Second; at < time.Minute && counted == 0; at += time.Second {
		s.pass(time.Second)
		s.deliverAll()
		if closed == 0 && a.h.Gate != maintenance.GateOpen {
			closed = at
		}
		if s.m.Phase == maintenance.InMaintenance {
			counted = at
		}
		if at%7 == 0 {
			s.doAll() // what is in flight takes its time
		}
		s.doAll()
	}
	if closed == 0 || counted < closed+5*time.Second {
		t.Errorf("the host closed after %s, and management counted on it after %s: want the skew of 5s between", closed, counted)
	}
	if !a.h.Lapsed || a.find("u0") >= 0 || !a.fence {
		t.Errorf("the host did not fence itself: %+v", a.h)
	}
	s.apart[1] = false
	s.must(maintenance.End{})
	for range 6 {
		s.pass(4 * time.Second)
		s.run()
	}
	s.phase(maintenance.InService)
	s.host(1, maintenance.HostOpen)
}

func TestAHostThatIsHeardOfKeepsItsLease(t *testing.T) {
	s := sceneOf(t, newWorld(1, 20*time.Second, 0, 0))
	for range 60 {
		s.pass(3 * time.Second)
		s.run()
	}
	s.host(0, maintenance.HostOpen)
	s.host(1, maintenance.HostOpen)
}

// Cases: E47
func TestAFenceOfTheStorageCoversAHostThatLives(t *testing.T) {
	s := newScene(t)
	a := s.use(1, 2, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.phase(maintenance.Preparing)
	s.must(maintenance.StorageFenced{Host: "h1", By: "array", Evidence: "export withdrawn"})
	s.run()
	s.phase(maintenance.InMaintenance)
	s.must(maintenance.StorageFenced{Host: "h1", By: "array", Lifted: true})
	s.run()
	s.phase(maintenance.Fencing) // it is not fenced by itself yet
	s.release(0, a, "u2", "")
	s.run()
	s.phase(maintenance.InMaintenance)
}

// wholeMaintenance plays a maintenance with uses, an objection and a return.
func wholeMaintenance(s *scene) {
	s.use(0, 0, 1)
	s.use(1, 3, 2)
	i := disconnect("m")
	i.Return = true
	s.prepare(i)
	for range 60 {
		s.pass(6 * time.Second)
		s.run()
		s.withJoined()
		s.obey()
		switch {
		case s.m.Phase == maintenance.InMaintenance:
			s.must(maintenance.End{ID: "m"})
		case s.m.Phase == maintenance.InService && s.m.Epoch > 1:
			s.run()
			return
		}
	}
}

// withJoined has agents that were started since join.
func (s *scene) withJoined() {
	for h, a := range s.d.agents {
		if a.joined && !a.met {
			s.join(0, h)
		}
	}
}

// A host is killed after each step was made durable, before anything of it was
// done; what was not durable is as if the event had not come, which E1 has.
// Cases: E20, E22, E23
func TestAHostThatDiesAtAnyStepGoesOnWhereItWas(t *testing.T) {
	for at := 1; ; at++ {
		w := newWorld(1, 0, 0, 0)
		w.crashAt = w.steps + at
		s := sceneOf(t, w)
		wholeMaintenance(s)
		if w.trouble != "" || s.m.Phase != maintenance.InService || s.d.agents[0].h.Gate != maintenance.GateOpen || s.d.agents[0].fence {
			t.Fatalf("killed at step %d the device is %s, h0 %s; %s", at, s.m.Phase, s.d.agents[0].h.Phase, w.trouble)
		}
		if w.steps < w.crashAt {
			t.Logf("%d steps", at-1)
			return
		}
	}
}

// Cases: E29
func TestManagementThatDiesAtAnyStepGoesOnWhereItWas(t *testing.T) {
	for at := 1; ; at++ {
		w := newWorld(1, 0, 0, 0)
		w.forgetAt = w.manageSteps + at
		s := sceneOf(t, w)
		wholeMaintenance(s)
		if w.trouble != "" || s.m.Phase != maintenance.InService {
			t.Fatalf("killed at step %d the device is %s; %s", at, s.m.Phase, w.trouble)
		}
		if w.manageSteps < w.forgetAt {
			t.Logf("%d steps", at-1)
			return
		}
	}
}

// Cases: E22, E23
func TestAFenceWhoseResultIsNotKnownIsMadeAgain(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	for s.m.Phase != maintenance.Fencing || s.d.agents[0].h.Phase != maintenance.HostFencing {
		s.deliverAll()
		if len(s.d.agents[0].todo) > 0 && s.d.agents[0].h.Phase != maintenance.HostFencing {
			s.do(0, s.d.agents[0], 2)
		}
		s.do(0, s.d.agents[1], 2)
	}
	a := s.d.agents[0]
	a.fence = true // it was carried out, and the agent died before it could say so
	s.restart(0, false)
	s.join(0, 0)
	s.run()
	s.host(0, maintenance.HostFenced)
	s.phase(maintenance.InMaintenance)
}

// Cases: E28
func TestAHostWithoutItsJournalIsClosedUntilAnOrderComes(t *testing.T) {
	s := newScene(t)
	a := s.use(1, 0, 2)
	s.apart[1] = true
	s.loseJournal(0, 1)
	s.join(0, 1)
	s.run()
	s.host(1, maintenance.HostUnknown)
	if s.admit(0, a, 1, 0) {
		t.Error("a use came in")
	}
	if a.find("u0") < 0 {
		t.Error("the use that was there is gone")
	}
	s.apart[1] = false
	s.pass(6 * time.Second)
	s.run()
	s.host(1, maintenance.HostOpen)
}

func TestBothMachinesAreTheSameAfterTheirJournal(t *testing.T) {
	for seed := range uint64(2000) {
		s := scheduleOf(seed, nil)
		w := newWorld(1, s.lease, 0, 0)
		for _, o := range s.ops {
			w.apply(o)
		}
		d := w.devices[0]
		for _, a := range d.agents {
			var again maintenance.Host
			through(t, a.h, &again)
			if diff := cmp.Diff(a.h, again, cmpopts.IgnoreUnexported(maintenance.Host{}), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %#x, a host:\n%s", seed, diff)
			}
		}
		var again maintenance.Management
		through(t, d.m, &again)
		d.m.LoseMemory()
		if diff := cmp.Diff(*d.m, again, cmpopts.IgnoreUnexported(maintenance.Management{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %#x, management:\n%s", seed, diff)
		}
	}
}

func through(t *testing.T, from, to any) {
	t.Helper()
	text, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, to); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", text, err))
	}
}
