// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"testing"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// movable returns a house with a disk of one/a, on a folder, and a folder two.
func movable(t *testing.T) *house {
	t.Helper()
	h := boot(t, newWorld(t), -1)
	t.Cleanup(h.bury)
	folders(h)
	return h
}

// copying begins a move of one/a to two that does not come to its end, and
// returns when the hypervisor copies.
func (h *house) copying() operation.Operation {
	h.t.Helper()
	h.w.host.PaceMoves(0)
	op, err := startMove("two")(h)
	if err != nil {
		h.t.Fatal(err)
	}
	for now, err := range h.engine.Watch(h.t.Context(), op.ID) {
		if err != nil || now.State.Finished() {
			h.t.Fatalf("the move is %+v, %v; want it to copy", now, err)
		}
		if now.Step == "copy" && now.Progress.Total > 0 {
			break
		}
	}
	return op
}

// ended waits for the end of an operation and returns why it did not succeed.
func (h *house) ended(op operation.Operation) error {
	h.t.Helper()
	op, err := h.engine.Wait(h.t.Context(), op.ID)
	if err != nil {
		h.t.Fatal(err)
	}
	return op.Err()
}

// untouched fails unless the disk is on one/a and nothing is left of a move.
func (h *house) untouched() {
	h.t.Helper()
	h.sound(0)
	h.on("one/a", 3)
	h.absent("two/a")
}

func TestAMoveThatIsCancelledLeavesNothing(t *testing.T) {
	h := movable(t)
	op := h.copying()
	if _, err := h.engine.Cancel(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	wants(t, h.ended(op), primitives.CodeCancelled)
	h.untouched()
}

// Cases: E117
func TestWhileADiskMovesNothingElseIsDoneToIt(t *testing.T) {
	h := movable(t)
	op := h.copying()
	h.reconcile() // sees the disk on one side and mappings on two
	disk := h.disk("one/a")
	for kind, args := range map[string]any{
		attach.KindResize:   attach.ResizeArgs{Domain: "guest", Disk: disk, Size: 2 * volumeSize},
		attach.KindDetach:   attach.DetachArgs{Domain: "guest", Disk: disk},
		snapshot.KindCreate: snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "s"},
		move.KindMove:       move.Args{Domain: "guest", Disk: disk, To: uri("two/b")},
		device.KindRemove:   device.RemoveArgs{Name: "two"},
	} {
		if err := h.try(kind, args); err == nil {
			t.Errorf("%s succeeded beside a move", kind)
		}
	}
	h.w.host.PaceMoves(volumeSize)
	if err := h.ended(op); err != nil {
		t.Fatal(err)
	}
	h.sound(1)
	h.on("two/a", 3)
}

// Cases: E116
func TestADomainThatEndsWhileItsDiskIsCopiedKeepsItsSource(t *testing.T) {
	for how, end := range map[string]func(*house){
		"shut down": func(h *house) { h.w.host.Stop(h.w.domain) },
		"crashed":   func(h *house) { h.w.host.Kill(h.w.domain) },
	} {
		t.Run(how, func(t *testing.T) {
			h := movable(t)
			op := h.copying()
			end(h)
			wants(t, h.ended(op), primitives.CodeConflict, "one/a", "the domain ended", "nothing was moved")
			if err := h.w.host.Start(h.w.domain); err != nil {
				t.Fatal(err)
			}
			h.untouched()
		})
	}
}

// Cases: E116
func TestADiskOfAPausedDomainMoves(t *testing.T) {
	h := movable(t)
	resume := h.w.host.Pause(h.w.domain)
	h.run(move.KindMove, move.Args{Domain: "guest", Disk: "one/a", To: uri("two")})
	resume()
	h.sound(1)
	h.on("two/a", 3)
}

// Cases: E111, E112, E113
func TestACopyThatFailsIsTakenBackAndNamesTheSide(t *testing.T) {
	for why, want := range map[string]struct {
		code  primitives.Code
		names []string
	}{
		"No space left on device": {primitives.CodeNoSpace, []string{"two/a: no space"}},
		"Input/output error":      {primitives.CodeUnavailable, []string{"one/a", "two/a", "Input/output error"}},
		"":                        {primitives.CodeUnavailable, []string{"does not say why"}},
	} {
		t.Run(why, func(t *testing.T) {
			h := movable(t)
			op := h.copying()
			h.w.host.FailMove(h.w.domain, h.disk("one/a"), why)
			wants(t, h.ended(op), want.code, want.names...)
			h.untouched()
		})
	}
}

// Cases: E114
func TestACopyThatTheGuestOutrunsComesToItsEnd(t *testing.T) {
	h := movable(t)
	h.w.host.PaceMoves(volumeSize / 16)
	rest := h.w.host.Outrun(h.w.domain)
	defer rest()
	op, err := startMove("two")(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ended(op); err != nil {
		t.Fatal(err)
	}
	converged := false
	for _, c := range h.w.host.Calls() {
		converged = converged || c.Name == "converge"
	}
	if !converged {
		t.Error("the copy was never made to converge")
	}
	h.sound(1)
	h.on("two/a", 3)
}

// close puts a device into maintenance, as far as its gate.
func (h *house) close(name string) {
	h.t.Helper()
	err := h.journal.Update(func(tx *journal.Tx) error {
		return tx.PutDoor(name, maintenance.Door{Gate: maintenance.GateClosed, IDs: []string{"m-7"}})
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// Cases: E85, E86
func TestADiskMovesOutOfAMaintenanceAndNotIntoOne(t *testing.T) {
	h := movable(t)
	h.close("two")
	_, err := h.engine.Start(t.Context(), operation.Request{Kind: move.KindMove, Args: move.Args{Domain: "guest", Disk: "one/a", To: uri("two")}})
	wants(t, err, primitives.CodeConflict, "m-7")
	h.untouched()

	out := movable(t)
	out.close("one")
	out.run(move.KindMove, move.Args{Domain: "guest", Disk: "one/a", To: uri("two")})
	out.sound(1)
	out.on("two/a", 3)
	if uses, err := out.disks.Uses("one"); err != nil || len(uses) > 0 {
		t.Errorf("uses of the device that was left = %v, %v; want none", uses, err)
	}
}

// Cases: E126, E128
func TestADiskOfATransientDomainMovesToAnyName(t *testing.T) {
	h := movable(t)
	h.w.host.Add("passing", fake.Options{Transient: true})
	h.create("one/p", 5)
	h.run(attach.KindAttach, attach.AttachArgs{URI: uri("one/p"), Domain: "passing"})
	disk := h.disk("one/p")
	const name = "two/Größe, MIT Komma"
	r := result[move.Result](t, h.run(move.KindMove, move.Args{Domain: "passing", Disk: disk, To: uri(name)}))
	if len(r.Disks) != 1 || r.Disks[0].Disk.URI != uri(name) || r.Disks[0].Disk.ID != disk {
		t.Errorf("result = %+v, want disk %s on %s", r, disk, name)
	}
	h.reconcile()
	if got := h.disk(name); got != disk {
		t.Errorf("the disk of %s is %s, want %s", name, got, disk)
	}
}

// A switch that is refused for good leaves the disk where it is, and the copy as
// a tombstone.
// Cases: E118
func TestADiskWhoseSwitchIsRefusedStays(t *testing.T) {
	h := movable(t)
	h.w.host.Intercept(func(call string, at fake.Point) error {
		if call == "FinishMove" && at == fake.Before {
			return primitives.Errorf(primitives.CodeDenied, "never")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	op, err := startMove("two")(h)
	if err != nil {
		t.Fatal(err)
	}
	noted := false
	for now, err := range h.engine.Watch(ctx, op.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if now.Step == "switch" && now.Note != "" && !noted {
			noted = true
			if _, err := h.engine.Cancel(ctx, op.ID); err == nil {
				t.Error("a move was cancelled after its switch began")
			}
		}
	}
	if !noted {
		t.Error("nothing tells that the switch is repeated")
	}
	wants(t, h.ended(op), primitives.CodeDenied, "stayed on one/a", "never", "tombstone")
	h.sound(1)
	h.on("one/a", 3)
	h.absent("two/a")
}
