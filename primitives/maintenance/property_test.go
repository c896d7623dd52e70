// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// run has a schedule happen, and returns the first thing that did not hold.
func run(s *schedule, flaws maintenance.Flaw, wrong misdeed, trace func(string)) string {
	return runIn(newWorld(s.devices, s.lease, flaws, wrong), s, trace)
}

func runIn(w *world, s *schedule, trace func(string)) string {
	w.skewed, w.trace = s.skewed, trace
	for _, o := range s.ops {
		w.apply(o)
		if w.trouble != "" {
			return w.trouble
		}
	}
	switch s.goal {
	case 1:
		w.returns()
	case 2:
		w.reaches()
	case 3:
		w.blocks()
	}
	return w.trouble
}

// returns looks at L1: the device can come back.
func (w *world) returns() bool {
	back := func() bool {
		for _, d := range w.devices {
			if d.m.Phase != maintenance.InService {
				return false
			}
			for _, mb := range d.m.Members {
				a := d.agents[mb.Host[1]-'0']
				if a.h.Gate != maintenance.GateOpen || a.fence {
					return false
				}
			}
		}
		return true
	}
	end := func() {
		for i, d := range w.devices {
			for _, p := range slices.Clone(d.m.Intents) {
				w.manage(i, maintenance.End{ID: p.Intent.ID})
			}
			if d.m.Phase == maintenance.ReturnFailed {
				w.manage(i, maintenance.End{})
			}
		}
	}
	if !w.fair(rounds, true, end, back) {
		w.fail("L1: the device does not come back; it is", w.devices[0].m.Phase.String())
		return false
	}
	return true
}

// reaches looks at L2: with willing clients and fair delivery maintenance is reached.
func (w *world) reaches() {
	for i := range w.devices {
		w.manage(i, maintenance.Prepare{Intent: maintenance.Intent{ID: "l2", Impact: maintenance.Disconnect}})
	}
	there := func() bool {
		for _, d := range w.devices {
			if d.m.Phase != maintenance.InMaintenance {
				return false
			}
		}
		return true
	}
	// Who came back from a failed return may be asked to return once more.
	if !w.fair(rounds, false, func() {}, there) {
		w.fail("L2: maintenance is not reached; the device is", w.devices[0].m.Phase.String())
	}
}

// blocks looks at L3: an unwilling client keeps the device blocked, and is named.
func (w *world) blocks() {
	if !w.returns() {
		return
	}
	d := w.devices[0]
	at := slices.IndexFunc(d.agents[:], func(a *agent) bool { return a.joined })
	if at < 0 {
		return
	}
	a := d.agents[at]
	if a.find("u3") >= 0 {
		w.release(0, a, "u3", "")
	}
	w.admit(0, a, 3, 2)
	w.manage(0, maintenance.Prepare{Intent: maintenance.Intent{ID: "l3", Impact: maintenance.Disconnect, OnDrain: maintenance.OnDeadlineEscalate, Drain: 5 * time.Second}})
	object := func() {
		w.step(0, a, maintenance.Answered{
			Use: "u3", By: theClient, Stamp: a.h.Order.Stamp, Boot: a.h.Boot, Answer: maintenance.Object,
			Reason: maintenance.Reason{Code: "no", Text: "never"},
		})
	}
	if !w.fair(rounds, true, object, func() bool { return d.m.Phase == maintenance.Blocked }) {
		w.fail("L3: an unwilling client does not block; the device is", d.m.Phase.String())
		return
	}
	w.fair(4, true, object, func() bool { return false })
	named := slices.ContainsFunc(d.m.Blockers(), func(b maintenance.Blocker) bool { return b.Use == "u3" && b.Host == a.h.ID })
	if d.m.Phase != maintenance.Blocked || !named {
		w.fail("L3: the device is", d.m.Phase.String(), "and does not name who is unwilling")
	}
}

// shrink takes out what is not needed for a schedule to fail.
func shrink(s schedule, flaws maintenance.Flaw, wrong misdeed) schedule {
	s.ops = slices.Clone(s.ops)
	for size := len(s.ops) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(s.ops); {
			try := s
			try.ops = slices.Delete(slices.Clone(s.ops), at, at+size)
			if run(&try, flaws, wrong, nil) != "" {
				s = try
			} else {
				at += size
			}
		}
	}
	return s
}

// tell shows a failing schedule, shrunk.
func tell(t *testing.T, s schedule, flaws maintenance.Flaw, wrong misdeed) {
	t.Helper()
	s = shrink(s, flaws, wrong)
	trouble := run(&s, flaws, wrong, func(line string) { t.Log(line) })
	t.Logf("seed %#x, %d ops: %s", s.seed, len(s.ops), trouble)
}

// TestEveryInvariantHoldsInAMillionSchedules has messages lost, repeated and
// reordered, hosts and management crash, clocks jump, hosts join late and leave,
// clients refuse, and several intents come and go, at random.
// Cases: E1, E2, E3, E11, E29, E40, E41, E42, E43, E44, E45, E75, E76, E77, E82, E83, E84
func TestEveryInvariantHoldsInAMillionSchedules(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(2000)) // schedules are litter, and nothing else is on the heap
	var (
		buffer  []op
		reached [maintenance.ReturnFailed + 1]int
	)
	for seed := range uint64(schedules) {
		s := scheduleOf(seed, buffer)
		buffer = s.ops
		w := newWorld(s.devices, s.lease, 0, 0)
		if runIn(w, &s, nil) != "" {
			tell(t, s, 0, 0)
			t.FailNow()
		}
		for phase, once := range w.reached {
			if once {
				reached[phase]++
			}
		}
	}
	for phase, n := range reached {
		t.Logf("%s in %d of %d schedules", maintenance.Phase(phase), n, schedules)
		if n < schedules/500 {
			t.Errorf("too few schedules come to see a device %s", maintenance.Phase(phase))
		}
	}
}
