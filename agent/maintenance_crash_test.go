// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// stage is one thing that somebody wants of a maintenance, repeated by whoever
// wanted it after the agent's death: with the same request id.
type stage struct {
	name string
	do   func(ctx context.Context, h *house) error
}

// errAgain says that a stage did not come to its end in this life.
var errAgain = errors.New("not in this life")

// arrives waits for a device to be as it should.
func arrives(ctx context.Context, h *house, device string, is func(maintenance.Maintenance) bool) error {
	for m, err := range h.upkeep.Watch(ctx, device) {
		if err != nil {
			return err
		}
		if is(m) {
			return nil
		}
	}
	return errAgain
}

// idles waits until a device is in service and nothing is on its way about it.
func idles(ctx context.Context, h *house, device string) error {
	if err := arrives(ctx, h, device, phase(protocol.InService)); err != nil {
		return err
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !h.upkeep.Idle(device) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// evacuation is a whole maintenance: one disk moves and comes home, one objects,
// withdraws and is detached; the device is fenced and returned.
func evacuation(staying string) []stage {
	return []stage{{"prepare", func(ctx context.Context, h *house) error {
		_, err := h.upkeep.Prepare(ctx, maintenance.PrepareRequest{RequestID: "r1", Device: "one", Intent: protocol.Intent{ID: "m1", Return: true}})
		return err
	}}, {"object", func(ctx context.Context, h *house) error {
		return h.upkeep.Object(ctx, maintenance.ObjectRequest{RequestID: "r2", Use: staying, Code: "busy", Text: "not now"})
	}}, {"blocked", func(ctx context.Context, h *house) error {
		return arrives(ctx, h, "one", phase(protocol.Blocked))
	}}, {"withdraw", func(ctx context.Context, h *house) error {
		return h.upkeep.Withdraw(ctx, maintenance.AnswerRequest{RequestID: "r3", Use: staying})
	}}, {"detach", func(ctx context.Context, h *house) error {
		op, err := h.engine.Start(ctx, operation.Request{
			RequestID: "r4", Kind: attach.KindDetach, Args: attach.DetachArgs{Domain: "guest", Disk: attach.DiskName(staying[len("disk-"):])},
		})
		if err == nil {
			op, err = h.engine.Wait(ctx, op.ID)
		}
		if err == nil {
			err = op.Err()
		}
		return err
	}}, {"in maintenance", func(ctx context.Context, h *house) error {
		return arrives(ctx, h, "one", phase(protocol.InMaintenance))
	}}, {"end", func(ctx context.Context, h *house) error {
		_, err := h.upkeep.End(ctx, maintenance.EndRequest{RequestID: "r5", Device: "one", ID: "m1"})
		return err
	}}, {"back", func(ctx context.Context, h *house) error { return idles(ctx, h, "one") }}}
}

// TestDeathAtEveryPointOfAMaintenance kills the agent after every event of a whole
// maintenance: each commit of the journal, each call that changes a device or a
// domain, each fence. It ends as if nothing had happened.
//
// Cases: E20, E21, E22, E23, E24, E25, E26
func TestDeathAtEveryPointOfAMaintenance(t *testing.T) {
	const together = 8
	for n := 0; n < 400; n += together {
		var ended atomic.Bool
		ok := t.Run(fmt.Sprintf("after %d and more", n), func(t *testing.T) {
			for k := range together {
				t.Run(fmt.Sprint(n+k), func(t *testing.T) {
					t.Parallel()
					if maintainAndDie(t, n+k) {
						ended.Store(true)
					}
				})
			}
		})
		if ended.Load() || !ok {
			return
		}
	}
	t.Fatal("it never comes to its end")
}

// maintainAndDie lets the agent die after n events. It reports whether the
// maintenance had come to its end before.
func maintainAndDie(t *testing.T, n int) (finished bool) {
	w := newWorld(t)
	h := boot(t, w, -1)
	twoOnFolders(h)
	staying := h.useOf("one/b")
	if err := h.upkeep.SetPolicy(t.Context(), maintenance.PolicyRequest{Subject: staying, Policy: asking()}); err != nil {
		t.Fatal(err)
	}
	stages := evacuation(staying)
	h.r.arm(n)
	at := h.live(stages)
	finished = h.r.finish()
	h.bury()
	if finished && at < len(stages) {
		t.Fatalf("nobody died and yet it ended at %q", stages[at].name)
	}
	h = boot(t, w, -1)
	defer h.bury()
	if rest := h.live(stages[at:]); rest < len(stages[at:]) {
		m, err := h.upkeep.Get(t.Context(), "one")
		t.Fatalf("in its second life it stays at %q: %+v, %v", stages[at+rest].name, m, err)
	}
	h.settled()
	h.on("one/a", 3)
	h.diskCount(1)
	h.content("one/b", 4)
	h.sound(-1)
	if door := h.door("one"); door.Gate != protocol.GateOpen {
		t.Errorf("the gate is %v after all, want open", door.Gate)
	}
	return finished
}

// live goes through the stages until the agent dies, and returns how many came to
// their end.
func (h *house) live(stages []stage) int {
	ctx, cancel := context.WithTimeout(h.t.Context(), reached)
	defer cancel()
	for i, s := range stages {
		done := make(chan error, 1)
		go func() { done <- s.do(ctx, h) }()
		select {
		case err := <-done:
			if h.r.alive() != nil {
				return i // what it said came from a dead agent
			}
			if err != nil {
				h.t.Errorf("%s: %v", s.name, err)
				return i
			}
		case <-h.r.died:
			cancel()
			<-done
			return i
		}
	}
	return len(stages)
}

func (h *house) door(name string) (door protocol.Door) {
	h.t.Helper()
	err := h.journal.View(func(tx *journal.Tx) (err error) {
		door, err = tx.Door(name)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return door
}
