// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

func (h *house) subscribe(id, device string) *maintenance.Subscription {
	h.t.Helper()
	sub, err := h.upkeep.Subscribe(h.t.Context(), maintenance.SubscribeRequest{ID: id, Name: "backup", Device: device, Blocking: true})
	if err != nil {
		h.t.Fatal(err)
	}
	return sub
}

// told waits for a notice.
func (h *house) told(sub *maintenance.Subscription) maintenance.Notice {
	h.t.Helper()
	select {
	case n, open := <-sub.Notices():
		if !open {
			h.t.Fatal("the subscription ended")
		}
		return n
	case <-time.After(reached):
		h.t.Fatal("no notice came")
	}
	return maintenance.Notice{}
}

func good(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Cases: E56, E60
func TestASubscriberIsAskedAndWaitedFor(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	sub := h.subscribe("b1", "one")
	other := h.subscribe("b2", "one")
	h.prepare("one", protocol.Intent{ID: "m1", Reason: "new disks"})
	n := h.told(sub)
	if n.Device != "one" || n.Order.Reason != "new disks" || n.Use == "" {
		t.Errorf("notice = %+v, want the order and the use", n)
	}
	h.told(other)
	good(t, "Accept", sub.Accept(t.Context(), time.Minute))
	good(t, "Progress", sub.Progress(t.Context(), 40))
	m := h.until("one", "preparing with a working client", func(m maintenance.Maintenance) bool {
		return len(m.Uses) == 2 && m.Uses[0].State == protocol.UseWorking
	})
	if m.Uses[0].Percent != 40 || m.Uses[0].Kind != "subscriber" {
		t.Errorf("uses = %+v, want the client at 40 %%", m.Uses)
	}
	// Nobody else answers for it.
	err := h.upkeep.Ready(t.Context(), maintenance.ReadyRequest{Caller: "somebody", Use: n.Use, How: protocol.Closed})
	if !errors.Is(err, primitives.CodeDenied) {
		t.Errorf("Ready by another = %v, want denied", err)
	}
	good(t, "Object", sub.Object(t.Context(), protocol.Reason{Code: "busy", Text: "a backup runs", Retryable: true}))
	m = h.until("one", "blocked", phase(protocol.Blocked))
	if len(m.Blockers) == 0 || !strings.Contains(m.Blockers[0].Name, "a backup runs") {
		t.Errorf("blockers = %v, want the client's objection", m.Blockers)
	}
	good(t, "Withdraw", sub.Withdraw(t.Context()))
	good(t, "Ready", sub.Ready(t.Context(), protocol.Closed, "nothing open"))
	good(t, "Ready of the other", other.Ready(t.Context(), protocol.Closed, ""))
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	if got := h.upkeep.Metrics().Objections["busy"]; got != 1 {
		t.Errorf("metrics count %d objections, want 1", got)
	}
}

// Cases: E57
func TestASubscriberThatDiesIsLostAndMayComeBack(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	sub := h.subscribe("b1", "one")
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.told(sub)
	good(t, "Accept", sub.Accept(t.Context(), time.Minute))
	sub.Close()
	m := h.until("one", "blocked by who is away", phase(protocol.Blocked))
	if len(m.Blockers) == 0 || !strings.Contains(m.Blockers[0].Name, "went away") {
		t.Errorf("blockers = %v, want the client that went away", m.Blockers)
	}
	sub = h.subscribe("b1", "one")
	h.until("one", "preparing again", phase(protocol.Preparing))
	h.told(sub)
	good(t, "Ready", sub.Ready(t.Context(), protocol.Closed, ""))
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	good(t, "Leave", sub.Leave())
	h.prepare("one", protocol.Intent{ID: "m2"})
	h.until("one", "in maintenance without it", phase(protocol.InMaintenance))
}

// A client that is away for good while nothing is wanted of it is forgotten.
func TestASubscriberThatStaysAwayIsForgotten(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.subscribe("b1", "one").Close()
	h.eventually("the client is forgotten", func() bool {
		m, err := h.upkeep.Get(t.Context(), "one")
		return err == nil && len(m.Uses) == 0
	})
}

func TestANewSubscriberOfAGatedDeviceIsRefusedUnlessItOnlyListens(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.prepare("one", protocol.Intent{ID: "m1"})
	_, err := h.upkeep.Subscribe(t.Context(), maintenance.SubscribeRequest{ID: "late", Device: "one", Blocking: true})
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Code != primitives.CodeConflict && e.Code != primitives.CodeFenced {
		t.Errorf("Subscribe on a gated device = %v, want it refused", err)
	}
	sub, err := h.upkeep.Subscribe(t.Context(), maintenance.SubscribeRequest{ID: "ear", Device: "one"})
	good(t, "Subscribe", err)
	if n := h.told(sub); n.Use != "" || n.Order.IDs[0] != "m1" {
		t.Errorf("notice = %+v, want the order and no use", n)
	}
	if err := sub.Ready(t.Context(), protocol.Closed, ""); !errors.Is(err, primitives.CodeUnsupported) {
		t.Errorf("Ready of who only listens = %v, want unsupported", err)
	}
}

// Cases: E67, E83
func TestAPlanThatChangedIsRefusedWithTheDifference(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize})
	h.attach("one/a")
	intent := protocol.Intent{ID: "m1", Policy: protocol.Policy{{Action: protocol.Detach}}}
	plan, err := h.upkeep.Plan(t.Context(), maintenance.PlanRequest{Device: "one", Intent: intent})
	good(t, "Plan", err)
	if len(plan.Uses) != 1 || plan.Uses[0].Action != "detach" || plan.Uses[0].Domain != "guest" {
		t.Errorf("plan = %+v, want one detach from guest", plan)
	}
	h.attach("one/b")
	intent.PlanDigest = plan.Digest
	_, err = h.upkeep.Prepare(t.Context(), maintenance.PrepareRequest{Device: "one", Intent: intent})
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Code != primitives.CodeConflict || len(e.Blocked) != 1 || !strings.Contains(e.Blocked[0].Name, "one/b") {
		t.Fatalf("Prepare with an old plan = %v, want the disk that came", err)
	}
	if m, err := h.upkeep.Get(t.Context(), "one"); err != nil || m.Phase != protocol.InService {
		t.Errorf("after the refusal it is %s, %v", m.Phase, err)
	}
	plan, err = h.upkeep.Plan(t.Context(), maintenance.PlanRequest{Device: "one", Intent: intent})
	good(t, "Plan", err)
	intent.PlanDigest = plan.Digest
	h.prepare("one", intent)
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	if _, err := h.upkeep.Cancel(t.Context(), maintenance.EndRequest{Device: "one"}); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("Cancel in maintenance = %v, want conflict", err)
	}
	h.end("one")
	lines, err := h.upkeep.Audit(t.Context(), "m1")
	good(t, "Audit", err)
	var all []string
	for _, l := range lines {
		all = append(all, l.What)
	}
	for _, want := range []string{"prepare m1", "gate closed", "every host is fenced", "end m1"} {
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("the audit lacks %q:\n%s", want, strings.Join(all, "\n"))
		}
	}
}

// TestCancelTakesBackAMoveThatRuns: the copy is cancelled, the target is gone, the
// guest never noticed.
//
// Cases: E83, E114
func TestCancelTakesBackAMoveThatRuns(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	folders(h)
	defer h.w.host.Outrun(h.w.domain)()
	h.w.host.PaceMoves(1)
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.until("one", "copying", func(m maintenance.Maintenance) bool { return len(m.Uses) > 0 && m.Uses[0].Action == "move" })
	h.eventually("the copy runs", func() bool {
		disks := h.w.host.Disks(h.w.domain)
		return len(disks) == 1 && disks[0].Job != ""
	})
	if _, err := h.upkeep.Cancel(t.Context(), maintenance.EndRequest{Device: "one"}); err != nil {
		t.Fatal(err)
	}
	h.until("one", "in service", phase(protocol.InService))
	h.idle("one")
	h.settled()
	h.on("one/a", 3)
	h.absent("two/a")
}

// Cases: E69
func TestForceNeedsAPermissionAndIsWrittenDownFirst(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	intent := protocol.Intent{ID: "m1", Policy: asking(), Drain: 50 * time.Millisecond, OnDrain: protocol.OnDeadlineForce}
	_, err := h.upkeep.Prepare(t.Context(), maintenance.PrepareRequest{Device: "one", Intent: intent})
	if e, ok := errors.AsType[*primitives.Error](err); !ok || e.Code != primitives.CodeInvalid || e.Problems[0].Prop != "intent.permission" {
		t.Fatalf("force without permission = %v, want invalid", err)
	}
	defer h.w.host.Refuse(h.w.domain)() // the guest keeps the disk, so it is shut down
	intent.Permission = "ticket 7"
	h.prepare("one", intent)
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	lines, err := h.upkeep.Audit(t.Context(), "m1")
	good(t, "Audit", err)
	cut := false
	for _, l := range lines {
		cut = cut || strings.HasPrefix(l.What, "cut off") && l.Override == "ticket 7" && strings.Contains(l.Evidence, string(h.w.domain))
	}
	if !cut {
		t.Errorf("the audit has no line about who was cut off by ticket 7: %+v", lines)
	}
	if d, err := h.disks.Domain(t.Context(), "guest"); err != nil || d.State != hypervisor.StateOff {
		t.Errorf("the domain is %s, %v; want it off", d.State, err)
	}
}

// Cases: E65, E66, E67
func TestADeadlineThatPassesBlocksAndCanBeExtended(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: asking(), Drain: 50 * time.Millisecond})
	m := h.until("one", "blocked", phase(protocol.Blocked))
	if len(m.Blockers) == 0 || !strings.Contains(m.Blockers[0].Name, "one/a") {
		t.Errorf("blockers = %v, want the disk", m.Blockers)
	}
	m, err := h.upkeep.Extend(t.Context(), maintenance.ExtendRequest{Device: "one", Drain: time.Hour})
	good(t, "Extend", err)
	if m.Phase != protocol.Preparing || time.Until(m.Deadline) < 50*time.Minute {
		t.Errorf("after Extend it is %s until %v, want an hour", m.Phase, m.Deadline)
	}
	h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
}

func TestAnObjectionForAWhileWithdrawsItself(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: asking()})
	err := h.upkeep.Object(t.Context(), maintenance.ObjectRequest{Use: h.useOf("one/a"), Code: "busy", Until: 300 * time.Millisecond})
	good(t, "Object", err)
	h.until("one", "blocked", phase(protocol.Blocked))
	h.until("one", "preparing again", phase(protocol.Preparing))
}

// TestADeviceFoundFencedIsVerifiedWhenItIsAddedAnew: the journal was lost while
// the device was in maintenance.
//
// Cases: E28
func TestADeviceFoundFencedIsVerifiedWhenItIsAddedAnew(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	oneVolume(h)
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.bury()
	remove(t, filepath.Join(w.folder, "state", "journal.db"))
	h = boot(t, w, -1)
	defer h.bury()
	h.addMem("one", "one", nil)
	h.until("one", "open", func(m maintenance.Maintenance) bool {
		return m.Gate == protocol.GateOpen && m.Phase == protocol.InService
	})
	h.content("one/a", 1)
}

// TestOneGuestWithDisksOnTwoDevicesInMaintenance is shut down once and started
// once, when the last of them is back.
//
// Cases: E88
func TestOneGuestWithDisksOnTwoDevicesInMaintenance(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.addMem("two", "two", nil)
	h.create("two/b", 2)
	h.attach("one/a")
	h.attach("two/b")
	var starts atomic.Int32
	h.w.host.Hook(func(moment string) {
		if moment == "after start" {
			starts.Add(1)
		}
	})
	defer h.w.host.Hook(nil)
	down := protocol.Policy{{Action: protocol.Shutdown, Restart: true}}
	h.prepare("one", protocol.Intent{ID: "m1", Policy: down})
	h.prepare("two", protocol.Intent{ID: "m2", Policy: down})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.until("two", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	h.idle("one")
	if starts.Load() != 0 {
		t.Error("the guest was started while its other disk is in maintenance")
	}
	h.end("two")
	h.idle("two")
	if starts.Load() != 1 {
		t.Errorf("the guest was started %d times, want once", starts.Load())
	}
	h.guestReads(h.disk("one/a"), 1)
	h.guestReads(h.disk("two/b"), 2)
}

// Cases: E79, E84
func TestADeviceReturnsWhenEveryIntentEnded(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.prepare("one", protocol.Intent{ID: "m2"})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	if _, err := h.upkeep.End(t.Context(), maintenance.EndRequest{Device: "one"}); !errors.Is(err, primitives.CodeInvalid) {
		t.Errorf("End of one of two without its id = %v, want invalid", err)
	}
	_, err := h.upkeep.End(t.Context(), maintenance.EndRequest{Device: "one", ID: "m1"})
	good(t, "End", err)
	if m := h.until("one", "in maintenance for the other", phase(protocol.InMaintenance)); len(m.Intents) != 1 || m.Intents[0].ID != "m2" {
		t.Errorf("intents = %+v, want m2", m.Intents)
	}
	h.end("one")
	h.prepare("one", protocol.Intent{ID: "m3"})
	h.until("one", "in maintenance again", phase(protocol.InMaintenance))
	h.end("one")
	h.content("one/a", 1)
}

// TestAnAttachCostsTwoCommits: what asks the gate does not cost one of its own.
func TestAnAttachCostsTwoCommits(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	least := uint64(math.MaxUint64)
	for range 5 { // a look at the devices may write beside one
		before := h.journal.Commits()
		h.attach("one/a")
		least = min(least, h.journal.Commits()-before)
		h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
	}
	if least != 2 {
		t.Errorf("an attach costs %d commits, want 2: its beginning, with the use and the gate, and its end", least)
	}
}

// Cases: E78
func TestARepeatedRequestGivesTheSameAnswerWhateverTheGateSaysNow(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	r := operation.Request{RequestID: "again", Kind: attach.KindAttach, Args: attach.AttachArgs{URI: uri("one/a"), Domain: "guest"}}
	first, err := h.engine.Start(t.Context(), r)
	good(t, "attach", err)
	_, err = h.engine.Wait(t.Context(), first.ID)
	good(t, "attach", err)
	ask := maintenance.PrepareRequest{RequestID: "p", Device: "one", Intent: protocol.Intent{ID: "m1", Policy: asking()}}
	_, err = h.upkeep.Prepare(t.Context(), ask)
	good(t, "Prepare", err)
	again, err := h.engine.Start(t.Context(), r)
	if err != nil || again.ID != first.ID || again.State != operation.Succeeded {
		t.Errorf("the repeated attach = %+v, %v; want the first one's outcome", again, err)
	}
	if _, err = h.upkeep.Prepare(t.Context(), ask); err != nil {
		t.Errorf("a repeated Prepare = %v", err)
	}
	ask.Intent.Reason = "something else"
	if _, err = h.upkeep.Prepare(t.Context(), ask); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("Prepare of something else with the same request id = %v, want conflict", err)
	}
}

// Cases: E50, E54, E55
func TestAnAnswerCountsForItsEpochAndUntilTheFence(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	sub, other := h.subscribe("b1", "one"), h.subscribe("b2", "one")
	m := h.prepare("one", protocol.Intent{ID: "m1"})
	n := h.told(sub)
	h.told(other)
	old := maintenance.ObjectRequest{Use: n.Use, Code: "late", Epoch: m.Stamp.Epoch - 1}
	if err := h.upkeep.Object(t.Context(), old); !errors.Is(err, primitives.CodeDenied) && !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("Object to an earlier epoch = %v, want it not counted", err)
	}
	good(t, "Ready", sub.Ready(t.Context(), protocol.Closed, ""))
	good(t, "Object after Ready", sub.Object(t.Context(), protocol.Reason{Code: "again", Text: "it was opened again"}))
	h.until("one", "blocked", phase(protocol.Blocked))
	good(t, "Withdraw", sub.Withdraw(t.Context()))
	good(t, "Ready again", sub.Ready(t.Context(), protocol.Closed, ""))
	good(t, "Ready of the other", other.Ready(t.Context(), protocol.Closed, ""))
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	if err := sub.Object(t.Context(), protocol.Reason{Code: "late"}); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("Object once it is fenced = %v, want conflict", err)
	}
}

// TestAGateThatClosesBesideAnAttachSeesItOrRefusesIt races the two many times: an
// attach that was admitted is a use that the maintenance waits for.
//
// Cases: E21, E75, E77
func TestAGateThatClosesBesideAnAttachSeesItOrRefusesIt(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	admitted, refused := 0, 0
	for i := range 12 {
		attached := make(chan error, 1)
		go func() { attached <- h.tries(attach.KindAttach, attach.AttachArgs{URI: uri("one/a"), Domain: "guest"}) }()
		m, err := h.upkeep.Prepare(t.Context(), maintenance.PrepareRequest{Device: "one", Intent: protocol.Intent{Policy: asking()}})
		good(t, "Prepare", err)
		if err = <-attached; err != nil {
			refused++
			if primitives.CodeOf(err) != primitives.CodeConflict && primitives.CodeOf(err) != primitives.CodeFenced {
				t.Errorf("round %d: attach = %v, want it refused for maintenance %s", i, err, m.Intents[0].ID)
			}
			h.until("one", "in maintenance", phase(protocol.InMaintenance))
			h.end("one")
			continue
		}
		admitted++
		m = h.until("one", "waiting for the disk", func(m maintenance.Maintenance) bool { return len(m.Uses) == 1 && m.Uses[0].Kind == "disk" })
		if m.Phase == protocol.InMaintenance || m.Uses[0].Admitted.Compare(m.Stamp) >= 0 {
			t.Errorf("round %d: a use admitted at %v beside an order of %v: %+v", i, m.Uses[0].Admitted, m.Stamp, m)
		}
		_, err = h.upkeep.Cancel(t.Context(), maintenance.EndRequest{Device: "one"})
		good(t, "Cancel", err)
		h.until("one", "in service", phase(protocol.InService))
		h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
	}
	t.Logf("%d attaches were admitted, %d refused", admitted, refused)
	h.sound(0)
}
