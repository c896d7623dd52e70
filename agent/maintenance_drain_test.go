// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// useOf is the id of the use of a volume's disk.
func (h *house) useOf(u string) string { return "disk-" + string(h.disk(u)) }

func asking() protocol.Policy { return protocol.Policy{{Action: protocol.Ask}} }

// try starts an operation that nothing is to come of.
func (h *house) tries(kind string, args any) error {
	op, err := h.engine.Start(h.t.Context(), operation.Request{Kind: kind, Args: args})
	if err == nil {
		op, err = h.engine.Wait(h.t.Context(), op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	return err
}

// TestOneDiskMovesAndOneObjects takes a device through everything: one disk moves
// away live, the other's owner objects, is named, withdraws, and detaches.
//
// Cases: E56
func TestOneDiskMovesAndOneObjects(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	twoOnFolders(h)
	moving, staying := h.useOf("one/a"), h.useOf("one/b")
	err := h.upkeep.SetPolicy(t.Context(), maintenance.PolicyRequest{Subject: staying, Policy: asking()})
	if err != nil {
		t.Fatal(err)
	}
	h.prepare("one", protocol.Intent{ID: "m1", Return: true})
	h.until("one", "left by the disk that moves", func(m maintenance.Maintenance) bool {
		for _, u := range m.Uses {
			if u.ID == moving {
				return false
			}
		}
		return true
	})
	h.on("two/a", 3)
	err = h.upkeep.Object(t.Context(), maintenance.ObjectRequest{Caller: "owner", Use: staying, Code: "busy", Text: "the month is being closed"})
	if err != nil {
		t.Fatal(err)
	}
	m := h.until("one", "blocked", phase(protocol.Blocked))
	if len(m.Blockers) == 0 || !strings.Contains(m.Blockers[0].Name, staying) || !strings.Contains(m.Blockers[0].Name, "the month is being closed") {
		t.Errorf("blockers = %v, want the objection of %s", m.Blockers, staying)
	}
	if err := h.upkeep.Withdraw(t.Context(), maintenance.AnswerRequest{Caller: "owner", Use: staying}); err != nil {
		t.Fatal(err)
	}
	h.until("one", "preparing", phase(protocol.Preparing))
	h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/b")})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	h.idle("one")
	h.on("one/a", 13) // the guest wrote while it was away
	if m := h.upkeep.Metrics(); m.Moved != 1 || m.MovedBytes == 0 || m.Objections["busy"] != 1 || m.Return.Sum <= 0 || len(m.Devices) != 2 {
		t.Errorf("metrics = %+v, want one move, one objection, one return of two devices", m)
	}
}

// Cases: E75, E77, E88
func TestAClosedGateRefusesWhatIsNewAndLetsLeave(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.addMem("two", "two", nil)
	h.create("two/x", 5)
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri("one/rest"), Size: volumeSize})
	h.run(snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "s"})
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: asking(), Expected: time.Hour})
	for what, c := range map[string]struct {
		kind string
		args any
	}{
		"create":        {volume.KindCreate, volume.CreateArgs{URI: uri("one/new"), Size: volumeSize}},
		"clone":         {volume.KindClone, volume.CloneArgs{From: uri("one/a@s"), To: uri("one/new")}},
		"resize":        {volume.KindResize, volume.ResizeArgs{URI: uri("one/rest"), Size: 2 * volumeSize}},
		"snapshot":      {snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/rest")}, Name: "t"}},
		"copy to it":    {transfer.KindCopy, transfer.CopyArgs{From: uri("two/x"), To: uri("one/new")}},
		"copy from it":  {transfer.KindCopy, transfer.CopyArgs{From: uri("one/rest"), To: uri("two/new")}},
		"attach":        {attach.KindAttach, attach.AttachArgs{URI: uri("one/rest"), Domain: "guest"}},
		"snapshot disk": {attach.KindAttach, attach.AttachArgs{URI: uri("one/a@s"), Domain: "guest"}},
	} {
		err := h.tries(c.kind, c.args)
		h.refuses(what, err, primitives.CodeConflict, "m1")
		if !strings.Contains(err.Error(), "1h0m0s") {
			t.Errorf("%s: %v does not say how long it is expected to take", what, err)
		}
		if e, ok := errors.AsType[*primitives.Error](err); ok && !strings.Contains(e.Try, "two") {
			t.Errorf("%s: advice %q does not name the other device", what, e.Try)
		}
	}
	if got := h.upkeep.Metrics().Refused; got < 8 {
		t.Errorf("metrics count %d refusals, want at least 8", got)
	}
	_, err := h.volumes.Read(t.Context(), uri("one/rest"))
	h.refuses("read", err, primitives.CodeConflict, "m1")
	err = h.upkeep.AdmitDomain(t.Context(), maintenance.AdmitDomainRequest{Domain: string(h.w.domain), Name: "guest"})
	h.refuses("start of a domain", err, primitives.CodeConflict, "m1")

	h.run(volume.KindDelink, volume.DelinkArgs{URI: uri("one/rest")})
	h.run(volume.KindDestroy, volume.DestroyArgs{Device: "one", Tombstone: h.tombstone("one")})
	h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.refuses("delink on a fenced device", h.tries(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")}), primitives.CodeFenced, "m1")
	h.end("one")
	h.attach("one/a")
	if err := h.upkeep.AdmitDomain(t.Context(), maintenance.AdmitDomainRequest{Domain: string(h.w.domain)}); err != nil {
		t.Errorf("AdmitDomain in service = %v", err)
	}
}

// Cases: E166
func TestADomainThatWasShutDownForItStartsOnceAndOnlyIfNobodyElseHadIt(t *testing.T) {
	for name, meddle := range map[string]bool{"left alone": false, "started and stopped by a person": true} {
		t.Run(name, func(t *testing.T) {
			h := boot(t, newWorld(t), -1)
			defer h.bury()
			oneVolume(h)
			h.attach("one/a")
			var starts atomic.Int32
			h.w.host.Hook(func(moment string) {
				if moment == "after start" {
					starts.Add(1)
				}
			})
			defer h.w.host.Hook(nil)
			h.prepare("one", protocol.Intent{ID: "m1", Policy: protocol.Policy{{Action: protocol.Shutdown, Restart: true}}})
			h.until("one", "in maintenance", phase(protocol.InMaintenance))
			if d, err := h.disks.Domain(t.Context(), "guest"); err != nil || d.State != hypervisor.StateOff {
				t.Fatalf("the domain is %v, %v; want it off", d.State, err)
			}
			if meddle {
				h.w.host.CheckImages(func(string) error { return nil })
				if err := h.w.host.Start(h.w.domain); err != nil {
					t.Fatal(err)
				}
				h.eventually("the start is noted", func() bool { return h.upkeep.Noted(h.w.domain) })
				h.w.host.Stop(h.w.domain)
			}
			h.end("one")
			h.idle("one")
			d, err := h.disks.Domain(t.Context(), "guest")
			if want := map[bool]hypervisor.DomainState{false: hypervisor.StateRunning, true: hypervisor.StateOff}[meddle]; err != nil || d.State != want {
				t.Errorf("after the return the domain is %s, %v; want %s", d.State, err, want)
			}
			if want := map[bool]int32{false: 1, true: 0}[meddle]; starts.Load() != want {
				t.Errorf("tenon started it %d times, want %d", starts.Load(), want)
			}
			if !meddle {
				h.guestReads(h.disk("one/a"), 1)
			}
		})
	}
}

// idle waits until nothing is on its way about a device.
func (h *house) idle(device string) {
	h.t.Helper()
	h.eventually(device+" is at rest", func() bool { return h.upkeep.Idle(device) })
}

// eventually polls a condition until its deadline.
func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(reached)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			h.t.Fatalf("it never came to be that %s", what)
		}
	}
}

// Cases: E167
func TestADomainDeletedMeanwhileKeepsNothingWaiting(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: protocol.Policy{{Action: protocol.Shutdown, Restart: true}}})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.w.host.Remove(h.w.domain)
	h.end("one")
	h.idle("one")
	h.content("one/a", 1)
}

// Cases: E168
func TestADomainWithoutItsRootDiskIsLeftOffAndOnRecord(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: protocol.Policy{{Action: protocol.Shutdown, Restart: true}}})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	const gone = "its root disk is gone"
	h.w.host.CheckImages(func(string) error { return errors.New(gone) })
	h.end("one")
	h.idle("one")
	h.until("one", "in service", phase(protocol.InService))
	if d, err := h.disks.Domain(t.Context(), "guest"); err != nil || d.State != hypervisor.StateOff {
		t.Errorf("the domain is %s, %v; want it off", d.State, err)
	}
	lines, err := h.upkeep.Audit(t.Context(), "m1")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(lines, func(l maintenance.AuditLine) bool {
		return strings.HasPrefix(l.What, "undone: stopped") && strings.Contains(l.Evidence, gone)
	}) {
		t.Errorf("no line of the record tells that the domain could not be started: %+v", lines)
	}
	if !slices.ContainsFunc(lines, func(l maintenance.AuditLine) bool { return l.After == "in service" }) {
		t.Errorf("the record of the maintenance ends before the device is back: %+v", lines)
	}
	h.content("one/a", 1)
}

// A domain that is off holds nothing: nobody is asked about it.
func TestADomainThatIsOffBlocksNothing(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.w.host.Stop(h.w.domain)
	h.prepare("one", protocol.Intent{ID: "m1", Policy: asking()})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	err := h.upkeep.AdmitDomain(t.Context(), maintenance.AdmitDomainRequest{Domain: string(h.w.domain)})
	h.refuses("start", err, primitives.CodeFenced, "m1")
	h.end("one")
	if err := h.disks.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.w.host.Start(h.w.domain); err != nil {
		t.Fatal(err)
	}
	h.guestReads(h.disk("one/a"), 1)
}

func TestAStallOnlyPausesTheGuest(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Impact: protocol.IOStall, Policy: protocol.Policy{{Action: protocol.Pause}}})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	state := func() hypervisor.DomainState {
		d, err := h.disks.Domain(t.Context(), "guest")
		if err != nil {
			t.Fatal(err)
		}
		return d.State
	}
	if state() != hypervisor.StatePaused {
		t.Errorf("in maintenance the domain is %s, want paused", state())
	}
	h.end("one")
	h.idle("one")
	if state() != hypervisor.StateRunning {
		t.Errorf("after it the domain is %s, want running", state())
	}
	h.guestReads(h.disk("one/a"), 1)
}

// Cases: E143
func TestADomainPausedByAPersonStaysPaused(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	defer h.w.host.Pause(h.w.domain)()
	h.prepare("one", protocol.Intent{ID: "m1", Impact: protocol.IOStall, Policy: protocol.Policy{{Action: protocol.Pause}}})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	h.idle("one")
	if d, err := h.disks.Domain(t.Context(), "guest"); err != nil || d.State != hypervisor.StatePaused {
		t.Errorf("the domain is %s, %v; want paused as its owner left it", d.State, err)
	}
}
