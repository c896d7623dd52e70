// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

type subscription = grpc.BidiStreamingClient[tenonv1.SubscribeRequest, tenonv1.SubscribeResponse]

// subscribe opens a subscription and waits for its registration.
func (w *world) subscribe(r *tenonv1.SubscribeRequest_Register) subscription {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), settleTime)
	w.Cleanup(cancel)
	stream, err := w.maintenances().Subscribe(ctx)
	if err != nil {
		w.Fatal(err)
	}
	w.say(stream, &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Register_{Register: r}})
	if m := w.hear(stream, "registered", func(m *tenonv1.SubscribeResponse) bool { return m.GetRegistered() != nil }); m.GetRegistered().GetId() != r.GetId() {
		w.Fatalf("registered as %v, want %s", m, r.GetId())
	}
	return stream
}

func (w *world) say(s subscription, m *tenonv1.SubscribeRequest) {
	w.Helper()
	if err := s.Send(m); err != nil {
		w.Fatal(err)
	}
}

// hear waits for a message.
func (w *world) hear(s subscription, what string, is func(*tenonv1.SubscribeResponse) bool) *tenonv1.SubscribeResponse {
	w.Helper()
	for {
		m, err := s.Recv()
		if err != nil {
			w.Fatalf("waiting to hear %s: %v", what, err)
		}
		if is(m) {
			return m
		}
	}
}

func isNotice(m *tenonv1.SubscribeResponse) bool  { return m.GetNotice() != nil }
func isRefused(m *tenonv1.SubscribeResponse) bool { return m.GetRefused() != nil }

var (
	sayReady = &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Ready_{
		Ready: &tenonv1.SubscribeRequest_Ready{How: tenonv1.ReadyHow_READY_HOW_CLOSED, Evidence: "files closed"},
	}}
	sayAccept = &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Accept_{
		Accept: &tenonv1.SubscribeRequest_Accept{Eta: durationpb.New(time.Minute)},
	}}
	sayObject = &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Object_{Object: &tenonv1.SubscribeRequest_Object{
		Reason: &tenonv1.UseReason{Code: "busy", Text: "tape runs", Retryable: true, RetryIn: durationpb.New(time.Hour)},
	}}}
	sayWithdraw = &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Withdraw_{Withdraw: &tenonv1.SubscribeRequest_Withdraw{}}}
)

func sayProgress(percent float64) *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Progress_{Progress: &tenonv1.SubscribeRequest_Progress{Percent: percent}}}
}

func TestASubscriberIsToldAndWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	s := w.subscribe(&tenonv1.SubscribeRequest_Register{Id: "backup-1", Name: "backup", Device: "fast", Blocking: true})
	id := w.prepare("fast", &tenonv1.MaintenanceIntent{Reason: "swap disk 3", DrainWithin: durationpb.New(time.Hour)})
	n := w.hear(s, "the notice", isNotice).GetNotice()
	if n.GetDevice() != "fast" || n.GetUseId() == "" || !slices.Contains(n.GetMaintenanceIds(), id) || n.GetReason() != "swap disk 3" ||
		n.GetImpact() != tenonv1.Impact_IMPACT_DISCONNECT || n.GetDrainWithin() == nil || n.GetStamp().GetEpoch() == 0 {
		t.Errorf("notice = %v, want it to say what is wanted of fast", n)
	}
	is := func(state tenonv1.UseState) func(*tenonv1.Maintenance) bool {
		return func(m *tenonv1.Maintenance) bool {
			return len(m.GetUses()) == 1 && m.GetUses()[0].GetId() == n.GetUseId() && m.GetUses()[0].GetState() == state
		}
	}
	w.say(s, sayAccept)
	if u := w.until("fast", "accepted", is(tenonv1.UseState_USE_STATE_ACCEPTED)).GetUses()[0]; u.GetKind() != "subscriber" || u.GetEta() == nil {
		t.Errorf("after accept the use is %v, want a subscriber with an ETA", u)
	}
	w.say(s, sayProgress(40))
	if u := w.until("fast", "working", is(tenonv1.UseState_USE_STATE_WORKING)).GetUses()[0]; u.GetPercent() != 40 {
		t.Errorf("after progress the use is %v, want 40 percent", u)
	}
	w.say(s, sayObject)
	m := w.until("fast", "objected", is(tenonv1.UseState_USE_STATE_OBJECTED))
	if r := m.GetUses()[0].GetReason(); r.GetCode() != "busy" || r.GetText() != "tape runs" || !r.GetRetryable() {
		t.Errorf("the objection's reason is %v, want the client's", r)
	}
	w.untilPhase("fast", blocked)
	w.say(s, sayWithdraw)
	w.untilPhase("fast", preparing)
	w.say(s, sayReady)
	w.untilPhase("fast", inMaintenance)
	if _, err := w.maintenances().EndMaintenance(t.Context(), &tenonv1.EndMaintenanceRequest{Device: "fast"}); err != nil {
		t.Fatal(err)
	}
	c := w.hear(s, "the cancellation", func(m *tenonv1.SubscribeResponse) bool { return m.GetCancellation() != nil }).GetCancellation()
	if c.GetDevice() != "fast" || c.GetStamp().GetEpoch() <= n.GetStamp().GetEpoch() {
		t.Errorf("cancellation = %v, want one of fast with a greater epoch than %d", c, n.GetStamp().GetEpoch())
	}
}

func TestASubscriberThatComesBackIsToldAgain(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	r := &tenonv1.SubscribeRequest_Register{Id: "backup-1", Name: "backup", Device: "fast", Blocking: true}
	first := w.subscribe(r)
	w.prepare("fast", &tenonv1.MaintenanceIntent{})
	before := w.hear(first, "the notice", isNotice).GetNotice()
	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	again := w.hear(w.subscribe(r), "the notice again", isNotice).GetNotice()
	if again.GetUseId() != before.GetUseId() || again.GetStamp().GetEpoch() != before.GetStamp().GetEpoch() {
		t.Errorf("told again %v, want the use and epoch of %v", again, before)
	}
	m := w.until("fast", "one use", func(m *tenonv1.Maintenance) bool { return true })
	if len(m.GetUses()) != 1 {
		t.Errorf("uses = %v, want the one subscription", m.GetUses())
	}
}

func TestWrongAnswersAreRefusedAndTheStreamGoesOn(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	s := w.subscribe(&tenonv1.SubscribeRequest_Register{Id: "backup-1", Name: "backup", Device: "fast", Blocking: true})
	w.prepare("fast", &tenonv1.MaintenanceIntent{})
	w.hear(s, "the notice", isNotice)
	for name, m := range map[string]*tenonv1.SubscribeRequest{
		"more than all":   sayProgress(101),
		"less than none":  sayProgress(-1),
		"not a number":    sayProgress(math.NaN()),
		"ready by magic":  {Message: &tenonv1.SubscribeRequest_Ready_{Ready: &tenonv1.SubscribeRequest_Ready{How: 99}}},
		"ready, no how":   {Message: &tenonv1.SubscribeRequest_Ready_{Ready: &tenonv1.SubscribeRequest_Ready{}}},
		"a time too late": {Message: &tenonv1.SubscribeRequest_Accept_{Accept: &tenonv1.SubscribeRequest_Accept{Eta: durationpb.New(-1)}}},
		"registered anew": {Message: &tenonv1.SubscribeRequest_Register_{Register: &tenonv1.SubscribeRequest_Register{Id: "x"}}},
		"nothing":         {},
	} {
		w.say(s, m)
		if f := w.hear(s, "the refusal of "+name, isRefused).GetRefused().GetFailure(); f.GetCode() != failedInvalid {
			t.Errorf("%s = %v, want it invalid", name, f)
		}
	}
	w.say(s, sayReady)
	w.untilPhase("fast", inMaintenance)
}

func TestASubscriberRegistersFirst(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	for name, first := range map[string]*tenonv1.SubscribeRequest{
		"an answer first":   sayReady,
		"an empty id":       {Message: &tenonv1.SubscribeRequest_Register_{Register: &tenonv1.SubscribeRequest_Register{Name: "x", Device: "fast"}}},
		"an unknown device": {Message: &tenonv1.SubscribeRequest_Register_{Register: &tenonv1.SubscribeRequest_Register{Id: "x", Name: "x", Device: "nope"}}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), settleTime)
			defer cancel()
			s, err := w.maintenances().Subscribe(ctx)
			if err != nil {
				t.Fatal(err)
			}
			w.say(s, first)
			_, err = s.Recv()
			if code := failure.Of(err).GetCode(); code != failedInvalid && code != failedNotFound {
				t.Errorf("first answer = %v, want it refused", err)
			}
		})
	}
	s, err := w.maintenances().Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); failure.Of(err).GetCode() != failedInvalid {
		t.Errorf("a stream without a message = %v, want it invalid", err)
	}
}

func TestWatchersAndSubscribersAreToldThatTenondStops(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	s := w.subscribe(&tenonv1.SubscribeRequest_Register{Id: "backup-1", Name: "backup", Device: "fast"})
	watch, err := w.maintenances().WatchMaintenance(t.Context(), &tenonv1.WatchMaintenanceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	w.stop()
	for err == nil {
		_, err = s.Recv()
	}
	if code := failure.Of(err).GetCode(); code != failedAway {
		t.Errorf("subscription at the end = %v, want unavailable", err)
	}
	for err = nil; err == nil; {
		_, err = watch.Recv()
	}
	if code := failure.Of(err).GetCode(); code != failedAway {
		t.Errorf("watch at the end = %v, want unavailable", err)
	}
}
