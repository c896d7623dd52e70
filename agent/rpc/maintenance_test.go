// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	inService     = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_SERVICE
	preparing     = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_PREPARING
	blocked       = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_BLOCKED
	inMaintenance = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_MAINTENANCE
	failedFenced  = tenonv1.ErrorCode_ERROR_CODE_FENCED
	failedAway    = tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE
)

// settleTime bounds every wait of these tests.
const settleTime = 30 * time.Second

func (w *world) maintenances() tenonv1.MaintenanceServiceClient {
	return tenonv1.NewMaintenanceServiceClient(w.conn)
}

// until waits until a device stands as is wanted.
func (w *world) until(device, what string, is func(*tenonv1.Maintenance) bool) *tenonv1.Maintenance {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), settleTime)
	defer cancel()
	stream, err := w.maintenances().WatchMaintenance(ctx, &tenonv1.WatchMaintenanceRequest{Device: device})
	if err != nil {
		w.Fatal(err)
	}
	var last *tenonv1.Maintenance
	for {
		change, err := stream.Recv()
		if err != nil {
			w.Fatalf("watch of %s until %s = %v; it was last %v", device, what, err, last)
		}
		if last = change.GetMaintenance(); is(last) {
			return last
		}
	}
}

func (w *world) untilPhase(device string, p tenonv1.MaintenancePhase) *tenonv1.Maintenance {
	w.Helper()
	return w.until(device, p.String(), func(m *tenonv1.Maintenance) bool { return m.GetPhase() == p })
}

// prepare asks for a maintenance and returns its id.
func (w *world) prepare(device string, intent *tenonv1.MaintenanceIntent) string {
	w.Helper()
	resp, err := w.maintenances().PrepareMaintenance(w.Context(), &tenonv1.PrepareMaintenanceRequest{Device: device, Intent: intent})
	if err != nil {
		w.Fatal(err)
	}
	intents := resp.GetMaintenance().GetIntents()
	if len(intents) == 0 || intents[len(intents)-1].GetId() == "" {
		w.Fatalf("PrepareMaintenance = %v, want an intent with an id", resp)
	}
	return intents[len(intents)-1].GetId()
}

var askFirst = []*tenonv1.PolicyStep{{Action: tenonv1.PolicyAction_POLICY_ACTION_ASK}}

// attached makes a volume of fast a disk of web01 and returns the id of its use.
func (w *world) attached() string {
	w.Helper()
	w.volume("fast/vm1", 1<<20)
	w.done(tenonv1.NewDiskServiceClient(w.conn).AttachDisk(w.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/vm1", Domain: "web01"}))
	resp, err := w.maintenances().GetMaintenance(w.Context(), &tenonv1.GetMaintenanceRequest{Device: "fast"})
	if err != nil || len(resp.GetMaintenance().GetUses()) != 1 {
		w.Fatalf("GetMaintenance = %v, %v, want one use", resp, err)
	}
	return resp.GetMaintenance().GetUses()[0].GetId()
}

func names(blockers []*tenonv1.Blocker) []string {
	var all []string
	for _, b := range blockers {
		all = append(all, b.GetKind()+" "+b.GetName())
	}
	return all
}

// Cases: E68
func TestADeviceGoesIntoMaintenanceAndComesBack(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.device("slow")
	w.volume("fast/vm1", 1<<20)
	id := w.prepare("fast", &tenonv1.MaintenanceIntent{Reason: "swap disk 3", ExpectedDuration: durationpb.New(2 * time.Hour)})
	m := w.untilPhase("fast", inMaintenance)
	if m.GetGate() != tenonv1.Gate_GATE_FENCED || !m.GetFence().GetVerified() || m.GetFence().GetMethod() == "" {
		t.Errorf("in maintenance it is %v, want it fenced, verified and by a method", m)
	}
	if in := m.GetIntents()[0]; in.GetReason() != "swap disk 3" || in.GetImpact() != tenonv1.Impact_IMPACT_DISCONNECT ||
		in.GetExpectedDuration().AsDuration() != 2*time.Hour || in.GetRequester() == "" || m.GetSinceTime() == nil || m.GetManagedBy() != "this host" {
		t.Errorf("in maintenance it is %v, want the intent as it was given", m)
	}

	disks := tenonv1.NewDiskServiceClient(w.conn)
	refused := w.refused(disks.AttachDisk(t.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/vm1", Domain: "web01"}))
	if !slices.Contains([]tenonv1.ErrorCode{failedConflict, failedFenced}, refused.GetCode()) ||
		!slices.Contains(names(refused.GetBlockers()), "maintenance "+id) || !strings.Contains(refused.GetTry(), "slow") {
		t.Errorf("attach to a device in maintenance = %v, want it refused by maintenance %s, with slow as the alternative", refused, id)
	}

	if _, err := w.maintenances().CancelMaintenance(t.Context(), &tenonv1.CancelMaintenanceRequest{Device: "fast"}); failure.Of(err).GetCode() != failedConflict {
		t.Errorf("cancel in maintenance = %v, want a conflict", err)
	}
	if _, err := w.maintenances().EndMaintenance(t.Context(), &tenonv1.EndMaintenanceRequest{Device: "fast", MaintenanceId: id}); err != nil {
		t.Fatal(err)
	}
	if m = w.untilPhase("fast", inService); m.GetGate() != tenonv1.Gate_GATE_OPEN || len(m.GetIntents()) != 0 {
		t.Errorf("back in service it is %v, want it open and nothing wanted of it", m)
	}
	w.done(disks.AttachDisk(t.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/vm1", Domain: "web01"}))
}

func TestTheRecordOfAMaintenanceIsPaged(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	id := w.prepare("fast", &tenonv1.MaintenanceIntent{})
	w.untilPhase("fast", inMaintenance)
	whole, err := w.maintenances().ListAuditLines(t.Context(), &tenonv1.ListAuditLinesRequest{MaintenanceId: id})
	if err != nil || len(whole.GetLines()) < 3 || whole.GetNextPageToken() != "" {
		t.Fatalf("ListAuditLines = %v, %v, want several lines on one page", whole, err)
	}
	if l := whole.GetLines()[0]; l.GetDevice() != "fast" || l.GetTime() == nil || l.GetWho() == "" || l.GetWhat() == "" {
		t.Errorf("first line = %v, want who did what, when", l)
	}
	var paged []*tenonv1.MaintenanceAuditLine
	for token := ""; ; {
		page, err := w.maintenances().ListAuditLines(t.Context(), &tenonv1.ListAuditLinesRequest{MaintenanceId: id, PageSize: 2, PageToken: token})
		if err != nil || len(page.GetLines()) > 2 {
			t.Fatalf("page = %v, %v, want two lines at most", page, err)
		}
		paged = append(paged, page.GetLines()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if diff := cmp.Diff(whole.GetLines(), paged, protocmp.Transform()); diff != "" {
		t.Errorf("pages differ from the whole (-whole +pages):\n%s", diff)
	}
}

// Cases: E56
func TestAnObjectionBlocksUntilItIsWithdrawn(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	use := w.attached()
	w.prepare("fast", &tenonv1.MaintenanceIntent{Policy: askFirst})
	ctx := t.Context()
	_, err := w.maintenances().ObjectUse(ctx, &tenonv1.ObjectUseRequest{
		RequestId: "no-1", UseId: use, Code: "backup-running", Text: "the nightly backup runs", Retryable: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	m := w.untilPhase("fast", blocked)
	u := m.GetUses()[0]
	if u.GetState() != tenonv1.UseState_USE_STATE_OBJECTED || u.GetReason().GetCode() != "backup-running" || u.GetReason().GetText() != "the nightly backup runs" {
		t.Errorf("the use is %v, want it objecting with the reason", u)
	}
	if all := names(m.GetBlockers()); !slices.ContainsFunc(all, func(n string) bool { return strings.Contains(n, use) }) {
		t.Errorf("blockers = %q, want the use %s", all, use)
	}
	if _, err := w.maintenances().WithdrawObjection(ctx, &tenonv1.WithdrawObjectionRequest{UseId: use}); err != nil {
		t.Fatal(err)
	}
	w.untilPhase("fast", preparing)
	w.done(tenonv1.NewDiskServiceClient(w.conn).DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: "web01", Disk: "fast/vm1"}))
	w.untilPhase("fast", inMaintenance)
}

// Cases: E50, E55, E60
func TestAnAnswerCountsForItsOwnUseAndEpochOnly(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	disk := w.attached()
	s := w.subscribe(&tenonv1.SubscribeRequest_Register{Id: "backup-1", Name: "backup", Device: "fast", Blocking: true})
	w.prepare("fast", &tenonv1.MaintenanceIntent{Policy: askFirst})
	n := w.hear(s, "the notice", isNotice).GetNotice()
	ctx, c := t.Context(), w.maintenances()
	object := func(use string, epoch uint64) tenonv1.ErrorCode {
		_, err := c.ObjectUse(ctx, &tenonv1.ObjectUseRequest{UseId: use, Epoch: epoch, Code: "no", Text: "never"})
		return failure.Of(err).GetCode()
	}
	if got := object(disk, n.GetStamp().GetEpoch()-1); got != failedConflict {
		t.Errorf("an objection of the epoch before = %v, want a conflict", got)
	}
	if got := object(n.GetUseId(), 0); got != tenonv1.ErrorCode_ERROR_CODE_DENIED {
		t.Errorf("an objection in the name of a subscriber = %v, want it denied", got)
	}
	_, err := c.ReportUseReady(ctx, &tenonv1.ReportUseReadyRequest{UseId: n.GetUseId(), How: tenonv1.ReadyHow_READY_HOW_CLOSED})
	if got := failure.Of(err).GetCode(); got != tenonv1.ErrorCode_ERROR_CODE_DENIED {
		t.Errorf("ready in the name of a subscriber = %v, want it denied", err)
	}
	m := w.until("fast", "anything", func(*tenonv1.Maintenance) bool { return true })
	for _, u := range m.GetUses() {
		if u.GetState() == tenonv1.UseState_USE_STATE_OBJECTED || u.GetState() == tenonv1.UseState_USE_STATE_READY {
			t.Errorf("after answers that do not count a use is %v, want it untouched", u)
		}
	}
	w.say(s, sayReady)
	w.done(tenonv1.NewDiskServiceClient(w.conn).DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: "web01", Disk: "fast/vm1"}))
	w.untilPhase("fast", inMaintenance)
	w.say(s, sayObject)
	if f := w.hear(s, "the refusal of a late objection", isRefused).GetRefused().GetFailure(); f.GetCode() != failedConflict {
		t.Errorf("an objection once it is fenced = %v, want a conflict", f)
	}
}

func TestAPlanThatChangedIsRefusedWithTheDifference(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	ctx := t.Context()
	intent := &tenonv1.MaintenanceIntent{Policy: askFirst}
	plan, err := w.maintenances().PlanMaintenance(ctx, &tenonv1.PlanMaintenanceRequest{Device: "fast", Intent: intent})
	if err != nil || plan.GetPlan().GetDigest() == "" || len(plan.GetPlan().GetUses()) != 0 {
		t.Fatalf("PlanMaintenance = %v, %v, want a digest and no uses", plan, err)
	}
	use := w.attached()
	intent.PlanDigest = plan.GetPlan().GetDigest()
	_, err = w.maintenances().PrepareMaintenance(ctx, &tenonv1.PrepareMaintenanceRequest{Device: "fast", Intent: intent})
	f := failure.Of(err)
	if f.GetCode() != failedConflict || !slices.ContainsFunc(names(f.GetBlockers()), func(n string) bool { return strings.Contains(n, use) }) {
		t.Errorf("prepare with an old digest = %v, want a conflict that names %s", f, use)
	}
	again, err := w.maintenances().PlanMaintenance(ctx, &tenonv1.PlanMaintenanceRequest{Device: "fast", Intent: &tenonv1.MaintenanceIntent{Policy: askFirst}})
	if err != nil || len(again.GetPlan().GetUses()) != 1 {
		t.Fatalf("PlanMaintenance = %v, %v, want one use", again, err)
	}
	if u := again.GetPlan().GetUses()[0]; u.GetId() != use || u.GetAction() != "ask" || u.GetDomain() != "web01" || u.GetKind() != "disk" {
		t.Errorf("planned use = %v, want %s of web01 to be asked", u, use)
	}
	intent.PlanDigest = again.GetPlan().GetDigest()
	if _, err := w.maintenances().PrepareMaintenance(ctx, &tenonv1.PrepareMaintenanceRequest{Device: "fast", Intent: intent}); err != nil {
		t.Errorf("prepare with the present digest = %v, want success", err)
	}
}

// Cases: E78
func TestARepeatedRequestIsTheSameMaintenance(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.attached()
	request := &tenonv1.PrepareMaintenanceRequest{RequestId: "r-1", Device: "fast", Intent: &tenonv1.MaintenanceIntent{Policy: askFirst}}
	first, err := w.maintenances().PrepareMaintenance(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.maintenances().PrepareMaintenance(t.Context(), request)
	if err != nil || len(second.GetMaintenance().GetIntents()) != 1 ||
		second.GetMaintenance().GetIntents()[0].GetId() != first.GetMaintenance().GetIntents()[0].GetId() ||
		second.GetMaintenance().GetStamp().GetEpoch() != first.GetMaintenance().GetStamp().GetEpoch() {
		t.Errorf("repeat = %v, %v, want what the first answered: %v", second, err, first)
	}
	request.Intent.Reason = "another"
	if _, err := w.maintenances().PrepareMaintenance(t.Context(), request); failure.Of(err).GetCode() != failedConflict {
		t.Errorf("another request with the same id = %v, want a conflict", err)
	}
}

// Cases: E67
func TestDeadlinesAreExtendedAndUsesOverridden(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	use := w.attached()
	id := w.prepare("fast", &tenonv1.MaintenanceIntent{Policy: askFirst, DrainWithin: durationpb.New(time.Hour)})
	ctx := t.Context()
	before := w.until("fast", "a deadline", func(m *tenonv1.Maintenance) bool { return m.GetDeadlineTime() != nil })
	resp, err := w.maintenances().ExtendMaintenance(ctx, &tenonv1.ExtendMaintenanceRequest{Device: "fast", MaintenanceId: id, DrainWithin: durationpb.New(3 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if more := resp.GetMaintenance().GetDeadlineTime().AsTime().Sub(before.GetDeadlineTime().AsTime()); more < 100*time.Minute || more > 130*time.Minute {
		t.Errorf("the deadline moved by %v, want about two hours", more)
	}
	_, err = w.maintenances().OverrideMaintenance(ctx, &tenonv1.OverrideMaintenanceRequest{Device: "fast", Subject: use, Reason: "because"})
	if f := failure.Of(err); f.GetCode() != failedInvalid || len(f.GetProblems()) != 1 || f.GetProblems()[0].GetField() != "permission" {
		t.Errorf("override without a permission = %v, want permission to be invalid", f)
	}
	_, err = w.maintenances().OverrideMaintenance(ctx, &tenonv1.OverrideMaintenanceRequest{Device: "fast", Subject: use, Permission: "Jo, ticket 4711", Reason: "gone for good"})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := w.maintenances().ListAuditLines(ctx, &tenonv1.ListAuditLinesRequest{MaintenanceId: id})
	if err != nil || !slices.ContainsFunc(lines.GetLines(), func(l *tenonv1.MaintenanceAuditLine) bool {
		return strings.Contains(l.String(), "Jo, ticket 4711")
	}) {
		t.Errorf("record = %v, %v, want who allowed the override", lines, err)
	}
}

func TestAPolicyIsKept(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	ctx := t.Context()
	policy := []*tenonv1.PolicyStep{
		{Action: tenonv1.PolicyAction_POLICY_ACTION_MOVE, Target: "slow"},
		{Action: tenonv1.PolicyAction_POLICY_ACTION_SHUTDOWN, Restart: true},
		{Action: tenonv1.PolicyAction_POLICY_ACTION_ASK},
	}
	set, err := w.maintenances().SetMaintenancePolicy(ctx, &tenonv1.SetMaintenancePolicyRequest{Subject: "fast", Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.maintenances().GetMaintenancePolicy(ctx, &tenonv1.GetMaintenancePolicyRequest{Subject: "fast"})
	if err != nil {
		t.Fatal(err)
	}
	for name, have := range map[string][]*tenonv1.PolicyStep{"SetMaintenancePolicy": set.GetPolicy(), "GetMaintenancePolicy": got.GetPolicy()} {
		if diff := cmp.Diff(policy, have, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := w.maintenances().SetMaintenancePolicy(ctx, &tenonv1.SetMaintenancePolicyRequest{Subject: "fast"}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.maintenances().GetMaintenancePolicy(ctx, &tenonv1.GetMaintenancePolicyRequest{Subject: "fast"}); err != nil || len(got.GetPolicy()) != 0 {
		t.Errorf("a forgotten policy = %v, %v, want none", got, err)
	}
}

// Cases: E4
func TestWrongRequestsOfMaintenanceAreToldByTheirField(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	ctx, c := t.Context(), w.maintenances()
	negative := durationpb.New(-time.Second)
	intent := func(in *tenonv1.MaintenanceIntent) error {
		_, err := c.PrepareMaintenance(ctx, &tenonv1.PrepareMaintenanceRequest{Device: "fast", Intent: in})
		return err
	}
	for name, is := range map[string]struct {
		err   error
		code  tenonv1.ErrorCode
		field string
	}{
		"an unknown device":      {errorOf(c.GetMaintenance(ctx, &tenonv1.GetMaintenanceRequest{Device: "nope"})), failedNotFound, ""},
		"a plan of an unknown":   {errorOf(c.PlanMaintenance(ctx, &tenonv1.PlanMaintenanceRequest{Device: "nope"})), failedNotFound, ""},
		"prepare of an unknown":  {errorOf(c.PrepareMaintenance(ctx, &tenonv1.PrepareMaintenanceRequest{Device: "nope"})), failedNotFound, ""},
		"nothing to cancel":      {errorOf(c.CancelMaintenance(ctx, &tenonv1.CancelMaintenanceRequest{Device: "fast"})), failedNotFound, ""},
		"nothing to extend":      {errorOf(c.ExtendMaintenance(ctx, &tenonv1.ExtendMaintenanceRequest{Device: "fast"})), failedNotFound, ""},
		"an unknown impact":      {intent(&tenonv1.MaintenanceIntent{Impact: 99}), failedInvalid, "intent.impact"},
		"an unknown deadline":    {intent(&tenonv1.MaintenanceIntent{OnDrain: 99}), failedInvalid, "intent.on_drain"},
		"an unknown action":      {intent(&tenonv1.MaintenanceIntent{Policy: []*tenonv1.PolicyStep{{Action: 99}}}), failedInvalid, "intent.policy[0].action"},
		"no action":              {intent(&tenonv1.MaintenanceIntent{Policy: []*tenonv1.PolicyStep{{}}}), failedInvalid, "intent.policy[0].action"},
		"a time below zero":      {intent(&tenonv1.MaintenanceIntent{DrainWithin: negative}), failedInvalid, "intent.drain_within"},
		"force without leave":    {intent(&tenonv1.MaintenanceIntent{OnDrain: tenonv1.OnDeadline_ON_DEADLINE_FORCE}), failedInvalid, "intent.permission"},
		"an objection of nobody": {errorOf(c.ObjectUse(ctx, &tenonv1.ObjectUseRequest{UseId: "nope", Code: "x", Text: "y"})), failedNotFound, ""},
		"ready by magic":         {errorOf(c.ReportUseReady(ctx, &tenonv1.ReportUseReadyRequest{UseId: "nope"})), failedInvalid, "how"},
		"until below zero":       {errorOf(c.ObjectUse(ctx, &tenonv1.ObjectUseRequest{UseId: "nope", Until: negative})), failedInvalid, "until"},
		"a policy of nobody":     {errorOf(c.GetMaintenancePolicy(ctx, &tenonv1.GetMaintenancePolicyRequest{Subject: "nope"})), failedNotFound, ""},
		"the record of nothing":  {errorOf(c.ListAuditLines(ctx, &tenonv1.ListAuditLinesRequest{MaintenanceId: "nope"})), failedNotFound, ""},
		"a policy in vain":       {errorOf(c.SetMaintenancePolicy(ctx, &tenonv1.SetMaintenancePolicyRequest{Subject: "fast", Policy: append(slices.Clone(askFirst), askFirst...)})), failedInvalid, "policy"},
		"pages below zero":       {errorOf(c.ListMaintenances(ctx, &tenonv1.ListMaintenancesRequest{PageSize: -1})), failedInvalid, "page_size"},
	} {
		t.Run(name, func(t *testing.T) {
			f := failure.Of(is.err)
			if f.GetCode() != is.code {
				t.Fatalf("failure = %v, want %v", f, is.code)
			}
			if is.field != "" && (len(f.GetProblems()) != 1 || f.GetProblems()[0].GetField() != is.field) {
				t.Errorf("problems = %v, want one of %s", f.GetProblems(), is.field)
			}
		})
	}
}

// errorOf drops an answer.
func errorOf[R any](_ R, err error) error { return err }

func TestDevicesAreListedByPage(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"c", "a", "b"} {
		w.device(name)
	}
	var got []string
	for token := ""; ; {
		page, err := w.maintenances().ListMaintenances(t.Context(), &tenonv1.ListMaintenancesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.GetMaintenances() {
			if m.GetPhase() != inService || m.GetGate() != tenonv1.Gate_GATE_OPEN {
				t.Errorf("%s is %v, want it in service", m.GetDevice(), m)
			}
			got = append(got, m.GetDevice())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

// Every value of the protocol has the value of its name on the wire.
func TestTheProtocolsWordsAreTheWires(t *testing.T) {
	for want, got := range map[string]string{
		"MAINTENANCE_PHASE_IN_SERVICE":     rpc.PhaseOf(protocol.InService).String(),
		"MAINTENANCE_PHASE_ANNOUNCED":      rpc.PhaseOf(protocol.Announced).String(),
		"MAINTENANCE_PHASE_PREPARING":      rpc.PhaseOf(protocol.Preparing).String(),
		"MAINTENANCE_PHASE_BLOCKED":        rpc.PhaseOf(protocol.Blocked).String(),
		"MAINTENANCE_PHASE_FENCING":        rpc.PhaseOf(protocol.Fencing).String(),
		"MAINTENANCE_PHASE_IN_MAINTENANCE": rpc.PhaseOf(protocol.InMaintenance).String(),
		"MAINTENANCE_PHASE_RETURNING":      rpc.PhaseOf(protocol.Returning).String(),
		"MAINTENANCE_PHASE_RETURN_FAILED":  rpc.PhaseOf(protocol.ReturnFailed).String(),
		"HOST_PHASE_UNKNOWN":               rpc.HostPhaseOf(protocol.HostUnknown).String(),
		"HOST_PHASE_OPEN":                  rpc.HostPhaseOf(protocol.HostOpen).String(),
		"HOST_PHASE_NOTICED":               rpc.HostPhaseOf(protocol.HostNoticed).String(),
		"HOST_PHASE_DRAINING":              rpc.HostPhaseOf(protocol.HostDraining).String(),
		"HOST_PHASE_DRAINED":               rpc.HostPhaseOf(protocol.HostDrained).String(),
		"HOST_PHASE_FENCING":               rpc.HostPhaseOf(protocol.HostFencing).String(),
		"HOST_PHASE_FENCED":                rpc.HostPhaseOf(protocol.HostFenced).String(),
		"HOST_PHASE_VERIFYING":             rpc.HostPhaseOf(protocol.HostVerifying).String(),
		"HOST_PHASE_RETURN_FAILED":         rpc.HostPhaseOf(protocol.HostReturnFailed).String(),
		"GATE_UNKNOWN":                     rpc.GateOf(protocol.GateUnknown).String(),
		"GATE_OPEN":                        rpc.GateOf(protocol.GateOpen).String(),
		"GATE_CLOSED":                      rpc.GateOf(protocol.GateClosed).String(),
		"GATE_FENCED":                      rpc.GateOf(protocol.GateFenced).String(),
		"IMPACT_IO_STALL":                  rpc.ImpactOf(protocol.IOStall).String(),
		"IMPACT_DISCONNECT":                rpc.ImpactOf(protocol.Disconnect).String(),
		"IMPACT_DATA_LOSS":                 rpc.ImpactOf(protocol.DataLoss).String(),
		"USE_STATE_NOTIFIED":               rpc.UseStateOf(protocol.UseNotified).String(),
		"USE_STATE_ACCEPTED":               rpc.UseStateOf(protocol.UseAccepted).String(),
		"USE_STATE_WORKING":                rpc.UseStateOf(protocol.UseWorking).String(),
		"USE_STATE_READY":                  rpc.UseStateOf(protocol.UseReady).String(),
		"USE_STATE_OBJECTED":               rpc.UseStateOf(protocol.UseObjected).String(),
		"USE_STATE_LOST":                   rpc.UseStateOf(protocol.UseLost).String(),
		"USE_STATE_ROLLING_BACK":           rpc.UseStateOf(protocol.UseRollingBack).String(),
		"ON_DEADLINE_HOLD":                 rpc.OnDeadlineOf(protocol.OnDeadlineHold).String(),
		"ON_DEADLINE_ESCALATE":             rpc.OnDeadlineOf(protocol.OnDeadlineEscalate).String(),
		"ON_DEADLINE_FORCE":                rpc.OnDeadlineOf(protocol.OnDeadlineForce).String(),
	} {
		if got != want {
			t.Errorf("on the wire it is %s, want %s", got, want)
		}
	}
	for wire, want := range map[tenonv1.OnDeadline]protocol.OnDeadline{
		tenonv1.OnDeadline_ON_DEADLINE_UNSPECIFIED: protocol.OnDeadlineHold, tenonv1.OnDeadline_ON_DEADLINE_HOLD: protocol.OnDeadlineHold,
		tenonv1.OnDeadline_ON_DEADLINE_ESCALATE: protocol.OnDeadlineEscalate, tenonv1.OnDeadline_ON_DEADLINE_FORCE: protocol.OnDeadlineForce,
	} {
		if got, err := rpc.OnDeadlineFrom("f", wire); err != nil || got != want {
			t.Errorf("OnDeadlineFrom(%v) = %v, %v, want %v", wire, got, err, want)
		}
	}
}

// Cases: E75, E76
func TestADomainIsCheckedAgainstTheGate(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.attached()
	ctx := t.Context()
	check := func(r *tenonv1.CheckDomainRequest) *tenonv1.CheckDomainResponse {
		t.Helper()
		resp, err := w.maintenances().CheckDomain(ctx, r)
		if err != nil {
			t.Fatalf("CheckDomain(%v) = %v, want an answer", r, err)
		}
		return resp
	}
	of := &tenonv1.CheckDomainRequest{DomainId: string(w.domain), Name: "web01"}
	if r := check(of); !r.GetAllowed() || r.GetRefusal() != nil {
		t.Errorf("in service a domain is %v, want it allowed", r)
	}
	id := w.prepare("fast", &tenonv1.MaintenanceIntent{Policy: askFirst})
	for name, incoming := range map[string]bool{"start": false, "incoming migration": true} {
		of.Incoming = incoming
		r := check(of)
		if r.GetAllowed() || !slices.Contains(names(r.GetRefusal().GetBlockers()), "maintenance "+id) {
			t.Errorf("%s of a domain with a disk on a closed device = %v, want it refused by maintenance %s", name, r, id)
		}
	}
	if r := check(&tenonv1.CheckDomainRequest{DomainId: "6f2c0f3a-0000-4000-8000-00000000beef", Name: "other", Sources: []string{"/srv/other.img"}}); !r.GetAllowed() {
		t.Errorf("a domain that uses nothing of tenon = %v, want it allowed", r)
	}
}
