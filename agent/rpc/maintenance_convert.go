// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/tenon-storage/tenon/agent/maintenance"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// The protocol's enums begin with a value that means something; the API's do not.

func phaseOf(p protocol.Phase) tenonv1.MaintenancePhase { return tenonv1.MaintenancePhase(p + 1) }

func hostPhaseOf(p protocol.HostPhase) tenonv1.HostPhase { return tenonv1.HostPhase(p + 1) }

func gateOf(g protocol.Gate) tenonv1.Gate { return tenonv1.Gate(g + 1) }

func impactOf(i protocol.Impact) tenonv1.Impact { return tenonv1.Impact(i) }

func useStateOf(s protocol.UseState) tenonv1.UseState { return tenonv1.UseState(s + 1) }

func onDeadlineOf(d protocol.OnDeadline) tenonv1.OnDeadline { return tenonv1.OnDeadline(d + 1) }

// impactFrom reads an impact; unspecified is left to the maintenance to refuse.
func impactFrom(field string, i tenonv1.Impact) (protocol.Impact, error) {
	if _, known := tenonv1.Impact_name[int32(i)]; !known {
		return 0, primitives.Invalid(field, "%d is not an impact", i)
	}
	return protocol.Impact(i), nil
}

// onDeadlineFrom reads what follows a deadline; unspecified is hold.
func onDeadlineFrom(field string, d tenonv1.OnDeadline) (protocol.OnDeadline, error) {
	if _, known := tenonv1.OnDeadline_name[int32(d)]; !known {
		return 0, primitives.Invalid(field, "%d is not what can follow a deadline", d)
	}
	return protocol.OnDeadline(max(1, d) - 1), nil
}

var ways = map[protocol.How]tenonv1.ReadyHow{
	protocol.Moved:     tenonv1.ReadyHow_READY_HOW_MOVED,
	protocol.Detached:  tenonv1.ReadyHow_READY_HOW_DETACHED,
	protocol.Paused:    tenonv1.ReadyHow_READY_HOW_PAUSED,
	protocol.Stopped:   tenonv1.ReadyHow_READY_HOW_STOPPED,
	protocol.Closed:    tenonv1.ReadyHow_READY_HOW_CLOSED,
	protocol.Tolerates: tenonv1.ReadyHow_READY_HOW_TOLERATES,
	protocol.Removed:   tenonv1.ReadyHow_READY_HOW_REMOVED,
}

func howFrom(field string, wanted tenonv1.ReadyHow) (protocol.How, error) {
	for how, wire := range ways {
		if wire == wanted {
			return how, nil
		}
	}
	return "", primitives.Invalid(field, "%v is not a way of being ready", wanted)
}

var policyActions = map[protocol.Action]tenonv1.PolicyAction{
	protocol.Move:     tenonv1.PolicyAction_POLICY_ACTION_MOVE,
	protocol.Detach:   tenonv1.PolicyAction_POLICY_ACTION_DETACH,
	protocol.Pause:    tenonv1.PolicyAction_POLICY_ACTION_PAUSE,
	protocol.Shutdown: tenonv1.PolicyAction_POLICY_ACTION_SHUTDOWN,
	protocol.Ignore:   tenonv1.PolicyAction_POLICY_ACTION_IGNORE,
	protocol.Ask:      tenonv1.PolicyAction_POLICY_ACTION_ASK,
}

func policyOf(p protocol.Policy) []*tenonv1.PolicyStep {
	var out []*tenonv1.PolicyStep
	for _, s := range p {
		out = append(out, &tenonv1.PolicyStep{Action: policyActions[s.Action], Target: s.Target, Restart: s.Restart})
	}
	return out
}

func policyFrom(field string, steps []*tenonv1.PolicyStep) (protocol.Policy, error) {
	var p protocol.Policy
	for i, s := range steps {
		action, err := policyActionFrom(fmt.Sprintf("%s[%d].action", field, i), s.GetAction())
		if err != nil {
			return nil, err
		}
		p = append(p, protocol.PolicyStep{Action: action, Target: s.GetTarget(), Restart: s.GetRestart()})
	}
	return p, nil
}

func policyActionFrom(field string, wanted tenonv1.PolicyAction) (protocol.Action, error) {
	for action, wire := range policyActions {
		if wire == wanted {
			return action, nil
		}
	}
	return "", primitives.Invalid(field, "%v is not an action", wanted)
}

func stampOf(s protocol.Stamp) *tenonv1.Stamp {
	if s == (protocol.Stamp{}) {
		return nil
	}
	return &tenonv1.Stamp{Term: s.Term, Epoch: s.Epoch, Rank: uint32(s.Rank)}
}

// requesterOf names who wants something, for longer than the call: unlike
// callerOf's name it is the same when the request is repeated.
func requesterOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	if local, ok := p.AuthInfo.(PeerInfo); ok {
		return fmt.Sprintf("uid=%d", local.UID)
	}
	return callerOf(ctx)
}

// intentFrom reads what a caller wants; who wants it is the connection's to say.
func intentFrom(m *tenonv1.MaintenanceIntent, requester string) (protocol.Intent, error) {
	in := protocol.Intent{
		ID: m.GetId(), Revision: m.GetRevision(), Requester: requester, Reason: m.GetReason(),
		Permission: m.GetPermission(), PlanDigest: m.GetPlanDigest(), Return: m.GetReturnHome(),
	}
	var err error
	if in.Impact, err = impactFrom("intent.impact", m.GetImpact()); err != nil {
		return in, err
	}
	if in.OnRespond, err = onDeadlineFrom("intent.on_respond", m.GetOnRespond()); err != nil {
		return in, err
	}
	if in.OnDrain, err = onDeadlineFrom("intent.on_drain", m.GetOnDrain()); err != nil {
		return in, err
	}
	if in.Policy, err = policyFrom("intent.policy", m.GetPolicy()); err != nil {
		return in, err
	}
	return in, times(
		span{"intent.expected_duration", m.GetExpectedDuration(), &in.Expected},
		span{"intent.not_before_in", m.GetNotBeforeIn(), &in.NotBefore},
		span{"intent.respond_within", m.GetRespondWithin(), &in.Respond},
		span{"intent.drain_within", m.GetDrainWithin(), &in.Drain},
	)
}

func intentOf(in protocol.Intent) *tenonv1.MaintenanceIntent {
	return &tenonv1.MaintenanceIntent{
		Id: in.ID, Revision: in.Revision, Requester: in.Requester, Reason: in.Reason, Impact: impactOf(in.Impact),
		ExpectedDuration: during(in.Expected), NotBeforeIn: during(in.NotBefore), RespondWithin: during(in.Respond), DrainWithin: during(in.Drain),
		OnRespond: onDeadlineOf(in.OnRespond), OnDrain: onDeadlineOf(in.OnDrain), Permission: in.Permission,
		Policy: policyOf(in.Policy), PlanDigest: in.PlanDigest, ReturnHome: in.Return,
	}
}

// maintenanceOf returns where a device stands as the API tells it.
func maintenanceOf(m maintenance.Maintenance) *tenonv1.Maintenance {
	out := &tenonv1.Maintenance{
		Device: m.Device, Phase: phaseOf(m.Phase), HostPhase: hostPhaseOf(m.Host), Gate: gateOf(m.Gate), Stamp: stampOf(m.Stamp),
		SinceTime: at(m.Since), DeadlineTime: at(m.Deadline), Blockers: blockersOf(m.Blockers),
		Fence: &tenonv1.FenceState{
			Intended: m.Fence.Intended, Verified: m.Fence.Verified, Method: m.Fence.Method, Evidence: m.Fence.Evidence,
		},
		Failure: m.Failure, ManagedBy: m.ManagedBy,
	}
	for _, in := range m.Intents {
		out.Intents = append(out.Intents, intentOf(in))
	}
	for _, u := range m.Uses {
		out.Uses = append(out.Uses, useOf(u))
	}
	for _, f := range m.Foreign {
		out.ForeignUses = append(out.ForeignUses, &tenonv1.ForeignUse{Name: f.Name, Pid: int32(f.PID), Path: f.Path})
	}
	return out
}

func useOf(u protocol.UseReport) *tenonv1.MaintenanceUse {
	return &tenonv1.MaintenanceUse{
		Id: u.ID, Kind: u.Kind, Subject: u.Subject, Domain: u.Domain, Disk: u.Disk, Writer: u.Writer,
		Admitted: stampOf(u.Admitted), Grant: u.Grant, State: useStateOf(u.State), Action: u.Action, How: ways[u.How],
		Percent: u.Percent, Eta: during(u.ETA), Silent: during(u.Silent), Reason: reasonOf(u.Reason),
	}
}

func reasonOf(r *protocol.Reason) *tenonv1.UseReason {
	if r == nil {
		return nil
	}
	return &tenonv1.UseReason{Code: r.Code, Text: r.Text, Retryable: r.Retryable, RetryIn: during(r.RetryIn)}
}

func reasonFrom(field string, m *tenonv1.UseReason) (protocol.Reason, error) {
	r := protocol.Reason{Code: m.GetCode(), Text: m.GetText(), Retryable: m.GetRetryable()}
	return r, times(span{field + ".retry_in", m.GetRetryIn(), &r.RetryIn})
}

func blockersOf(all []primitives.Blocker) []*tenonv1.Blocker {
	var out []*tenonv1.Blocker
	for _, b := range all {
		out = append(out, &tenonv1.Blocker{Kind: b.Kind, Name: b.Name})
	}
	return out
}

func planOf(p maintenance.Plan) *tenonv1.MaintenancePlan {
	out := &tenonv1.MaintenancePlan{Device: p.Device, Digest: p.Digest}
	for _, u := range p.Uses {
		out.Uses = append(out.Uses, &tenonv1.PlannedUse{
			Id: u.ID, Kind: u.Kind, Subject: u.Subject, Domain: u.Domain, Disk: u.Disk, Action: strings.ToLower(u.Action), Target: u.Target,
			SizeBytes: u.Bytes, Duration: during(time.Duration(u.Seconds * float64(time.Second))),
			Blockers: blockersOf(u.Blockers), Notes: u.Notes,
		})
	}
	return out
}

func auditLineOf(l maintenance.AuditLine) *tenonv1.MaintenanceAuditLine {
	return &tenonv1.MaintenanceAuditLine{
		Time: at(l.At), Device: l.Device, MaintenanceId: l.Maintenance, Who: l.Who, What: l.What, Before: l.Before, After: l.After,
		Evidence: l.Evidence, Override: l.Override, Stamp: stampOf(l.Stamp),
	}
}
