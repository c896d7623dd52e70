// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Cases: E75, E76, E77
func TestWhoRacesTheGateIsInAndToldOrOut(t *testing.T) {
	for slot, kind := range useKinds[:3] {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t)
			s.m.Alternatives = []string{"spare"}
			a := s.d.agents[0]
			s.prepare(disconnect("m"))
			s.use(0, slot, 2) // the order is under way
			s.run()
			o := s.state(a, useNames[slot], maintenance.UseNotified)
			if u := a.uses[0]; u.Admitted.Compare(a.h.Order.Stamp) >= 0 || !o.Waits {
				t.Errorf("it was let in at %s by the order %s, waited for: %t", u.Admitted, a.h.Order.Stamp, o.Waits)
			}
			s.release(0, a, useNames[slot], "")
			_, refusal := a.door.Admit("another", "v9")
			if refusal == nil {
				t.Fatal("the closed door lets it in")
			}
			for _, want := range []string{"m", "1h", "spare"} {
				if !strings.Contains(refusal.Error(), want) {
					t.Errorf("the refusal %q does not say %q", refusal.Error(), want)
				}
			}
		})
	}
}

// Cases: E79
func TestADeviceReturnsWhenTheLastIntentEnds(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("a"))
	s.prepare(disconnect("b"))
	s.run()
	s.phase(maintenance.InMaintenance)
	s.refused(maintenance.End{}, maintenance.Invalid)
	s.refused(maintenance.End{ID: "c"}, maintenance.Unknown)
	epoch := s.m.Epoch
	s.must(maintenance.End{ID: "a"})
	s.run()
	s.phase(maintenance.InMaintenance)
	if s.m.Epoch != epoch+1 {
		t.Errorf("the epoch is %d, want %d: an end costs one", s.m.Epoch, epoch+1)
	}
	if ids := s.d.agents[0].h.Order.IDs; !slices.Equal(ids, []string{"b"}) {
		t.Errorf("the host is told of %v, want b", ids)
	}
	s.must(maintenance.End{ID: "b"})
	s.run()
	s.phase(maintenance.InService)
}

// Cases: E79
func TestAnAnnouncedIntentLetsTheDeviceReturnUntilItsTime(t *testing.T) {
	s := newScene(t)
	later := disconnect("later")
	later.NotBefore = time.Hour
	s.prepare(disconnect("now"))
	s.prepare(later)
	s.run()
	s.phase(maintenance.InMaintenance)
	s.must(maintenance.End{ID: "now"})
	s.run()
	s.run()
	s.phase(maintenance.Announced)
	s.host(0, maintenance.HostNoticed)
	s.pass(time.Hour + time.Second)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// A pool's intent is expanded to its devices by management: on a device that is
// ordered itself too it is one more intent, and the strictest wins.
// Cases: E80
func TestOfSeveralIntentsTheStrictestWins(t *testing.T) {
	s := newScene(t)
	pool := maintenance.Intent{ID: "pool", Impact: maintenance.IOStall, NotBefore: time.Hour, Respond: time.Minute, Drain: time.Hour, Expected: time.Minute}
	own := maintenance.Intent{ID: "own", Impact: maintenance.DataLoss, NotBefore: time.Minute, Respond: time.Hour, Drain: 2 * time.Hour, Expected: time.Hour, Return: true}
	s.prepare(pool)
	s.prepare(own)
	o := s.m.OrderFor("h0")
	if o.Impact != maintenance.DataLoss || o.NotBefore != time.Minute || o.Respond != time.Minute || o.Drain != time.Hour || o.Expected != time.Hour || !o.Return {
		t.Errorf("the order is %+v", o)
	}
	if o.Gate != maintenance.GateOpen {
		t.Errorf("announced, the gate is %s", o.Gate)
	}
}

func TestAnAnnouncementLetsUsesInAndTellsThemAtOnce(t *testing.T) {
	s := newScene(t)
	i := disconnect("m")
	i.NotBefore = time.Minute
	s.prepare(i)
	s.run()
	a := s.use(0, 3, 2)
	s.state(a, "u3", maintenance.UseNotified)
	s.counts(s.answer(a, "u3", maintenance.Object, nil))
	s.run()
	s.phase(maintenance.Announced)
	s.pass(time.Minute + time.Second)
	s.run()
	s.phase(maintenance.Blocked) // what it said to the notice counts for the epoch
	s.counts(s.answer(a, "u3", maintenance.Withdraw, nil))
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
}

func TestAnAnnouncedMaintenanceBeginsEarlyWhenEverybodyIsReady(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 3, 2)
	i := disconnect("m")
	i.NotBefore = time.Hour
	s.prepare(i)
	s.run()
	s.phase(maintenance.Announced)
	s.counts(s.answer(a, "u3", maintenance.Ready, nil))
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E82
func TestAHostThatJoinsLateIsClosedAndFollows(t *testing.T) {
	s := newScene(t)
	a := s.d.agents[2]
	if s.admit(0, a, 0, 0) {
		t.Error("a host that knows nothing lets a use in")
	}
	s.prepare(disconnect("m"))
	s.run()
	s.phase(maintenance.InMaintenance)
	s.join(0, 2)
	s.run()
	s.phase(maintenance.InMaintenance)
	s.host(2, maintenance.HostFenced)
	s.must(maintenance.End{})
	s.run()
	s.phase(maintenance.InService)
	s.host(2, maintenance.HostOpen)
}

// Cases: E82
func TestAHostThatIsRemovedIsNotWaitedForAndOneThatIsReinstalledIs(t *testing.T) {
	s := newScene(t)
	s.apart[1] = true
	s.prepare(disconnect("m"))
	s.run()
	s.phase(maintenance.Preparing)
	s.pass(24 * time.Hour)
	s.run()
	s.phase(maintenance.Preparing) // no time-out removes it
	s.must(maintenance.HostLeft{Host: "h1", By: "admin"})
	s.run()
	s.phase(maintenance.InMaintenance)
	s.refused(maintenance.HostLeft{Host: "h1"}, maintenance.Unknown)
	s.apart[1] = false
	s.loseJournal(0, 1) // it was reinstalled
	s.join(0, 1)
	s.run()
	s.host(1, maintenance.HostFenced)
}

// Cases: E83, E84
func TestCancelIsLegalInEveryPhaseAndANewMaintenanceRightAfter(t *testing.T) {
	reached := map[maintenance.Phase]bool{}
	for at := range 40 {
		s := newScene(t)
		a := s.use(0, 3, 2)
		i := disconnect("m")
		i.NotBefore = time.Duration(at%4) * 3 * time.Second
		s.prepare(i)
		for n := range at / 2 {
			s.deliverAll()
			s.doAll()
			if n == 2 {
				s.answer(a, "u3", maintenance.Ready, nil)
			}
			s.pass(time.Second)
		}
		reached[s.m.Phase] = true
		s.must(maintenance.End{ID: "m", By: "somebody"})
		i.ID, i.NotBefore = "again", 0
		s.prepare(i)
		s.run()
		s.answer(a, "u3", maintenance.Ready, nil)
		s.run()
		s.phase(maintenance.InMaintenance)
		s.must(maintenance.End{ID: "again"})
		s.run()
		s.phase(maintenance.InService)
	}
	for _, phase := range []maintenance.Phase{maintenance.Announced, maintenance.Preparing, maintenance.InMaintenance} {
		if !reached[phase] {
			t.Errorf("never cancelled while %s", phase)
		}
	}
}

// Cases: E83
func TestCancelTakesBackWhatIsDoneAboutUses(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1)
	s.prepare(disconnect("m"))
	s.run()
	if len(a.running) != 1 {
		t.Fatal("nothing is done about the disk")
	}
	s.must(maintenance.End{})
	s.deliverAll()
	s.state(a, "u0", maintenance.UseRollingBack)
	s.run()
	s.phase(maintenance.InService)
	if len(a.running) != 0 || len(a.h.Outcomes) != 0 {
		t.Errorf("after the cancel there is %+v %+v", a.running, a.h.Outcomes)
	}
}

// Cases: E83
func TestACancelAfterThePointOfNoReturnFinishesTheMove(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 1)
	i := disconnect("m")
	i.Return = true
	s.prepare(i)
	s.run()
	s.must(maintenance.End{})
	s.deliverAll()
	s.finish(0, a, 0, true) // it was past the pivot
	s.run()
	if a.find("u0") >= 0 || a.restored != 0 && len(a.h.Owed) != 0 {
		t.Errorf("the use is still there, or still owed: %+v", a.h.Owed)
	}
	s.phase(maintenance.InService)
}

// Cases: E85, E86
func TestADiskMovesNowhereWhileItsTargetGoesIntoMaintenanceToo(t *testing.T) {
	s := sceneOf(t, newWorld(2, 0, 0, 0))
	a := s.use(0, 0, 1) // move, detach
	for i := range 2 {
		if err := s.manage(i, maintenance.Prepare{Intent: disconnect("m")}); err != nil {
			t.Fatal(err)
		}
	}
	s.run()
	s.finish(0, a, 0, true) // the target's door refuses
	s.run()
	if a.find("u0") < 0 || len(a.running) != 1 || a.running[0].Step.Action != maintenance.Detach {
		t.Fatalf("want the disk there and the next step begun; uses %+v, running %+v", a.uses, a.running)
	}
	s.finish(0, a, 0, false)
	s.run()
	s.phase(maintenance.Blocked)
	s.blocker(byUse("u0"))
}

// Cases: E87
func TestADiskSharedByTwoHostsIsWaitedForOnBoth(t *testing.T) {
	s := newScene(t)
	one, two := s.use(0, 0, 2), s.use(1, 0, 2)
	s.prepare(disconnect("m"))
	s.run()
	s.release(0, one, "u0", maintenance.Closed)
	s.run()
	s.phase(maintenance.Preparing)
	s.blocker(func(b maintenance.Blocker) bool { return b.Host == "h1" && b.Use == "u0" })
	s.release(0, two, "u0", maintenance.Closed)
	s.run()
	s.phase(maintenance.InMaintenance)
}

// Cases: E88
func TestADomainWithDisksOnTwoDevicesHoldsEachForItself(t *testing.T) {
	s := sceneOf(t, newWorld(2, 0, 0, 0))
	for i, d := range s.devices {
		if !s.admit(i, d.agents[0], 0, 2) {
			t.Fatal("not let in")
		}
		if err := s.manage(i, maintenance.Prepare{Intent: disconnect("m")}); err != nil {
			t.Fatal(err)
		}
	}
	s.run()
	s.release(0, s.d.agents[0], "u0", maintenance.Closed)
	s.run()
	s.phase(maintenance.InMaintenance)
	if other := s.devices[1].m; other.Phase != maintenance.Preparing || len(other.Blockers()) != 1 {
		t.Errorf("the other device is %s, blockers %+v", other.Phase, other.Blockers())
	}
}

// Cases: E165
func TestAHostThatFindsAnotherDeviceKeepsItsGateClosed(t *testing.T) {
	s := newScene(t)
	s.prepare(disconnect("m"))
	s.run()
	bad := s.d.agents[1]
	bad.changed = true
	s.must(maintenance.End{})
	s.run()
	s.phase(maintenance.ReturnFailed)
	s.host(0, maintenance.HostOpen)
	s.host(1, maintenance.HostReturnFailed)
	s.blocker(func(b maintenance.Blocker) bool {
		return b.Host == "h1" && strings.Contains(b.Reason, "another device")
	})
	if s.admit(0, bad, 0, 0) {
		t.Error("it lets a use in")
	}
	s.must(maintenance.End{By: "somebody"}) // try again
	s.run()
	s.phase(maintenance.ReturnFailed)
	bad.changed = false
	s.pass(16 * time.Second)
	s.run()
	s.phase(maintenance.InService)
	s.host(1, maintenance.HostOpen)
}

// Cases: E166
func TestWhatMaintenanceStoppedIsStartedOnce(t *testing.T) {
	s := newScene(t)
	a := s.use(0, 0, 3) // pause, shutdown with restart
	other := s.use(1, 0, 3)
	s.prepare(disconnect("m"))
	s.run()
	s.finish(0, a, 0, true)
	s.release(0, other, "u0", "") // its user was faster
	s.run()
	s.restart(1, false)
	s.join(0, 1)
	s.run()
	s.phase(maintenance.InMaintenance)
	if len(a.h.Owed) != 1 || len(other.h.Owed) != 0 {
		t.Fatalf("owed is %+v and %+v, want one start", a.h.Owed, other.h.Owed)
	}
	s.restart(0, false)
	s.join(0, 0)
	s.run()
	if a.restored != 0 {
		t.Error("it is started while the device is in maintenance")
	}
	s.must(maintenance.End{})
	s.run()
	s.restart(0, false)
	s.join(0, 0)
	s.run()
	if a.restored != 1 || len(a.h.Owed) != 0 {
		t.Errorf("it was started %d times, want once; owed: %+v", a.restored, a.h.Owed)
	}
}
