// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// OrderMessage returns o as a manager sends it.
func OrderMessage(o protocol.Order) *tenonv1.MaintenanceOrder {
	out := &tenonv1.MaintenanceOrder{
		Device: o.Device, MaintenanceIds: o.IDs, Stamp: stampOf(o.Stamp), Phase: phaseOf(o.Phase),
		Gate: gateOf(o.Gate), Impact: impactOf(o.Impact), ExpectedDuration: during(o.Expected), NotBeforeIn: during(o.NotBefore),
		RespondWithin: during(o.Respond), DrainWithin: during(o.Drain), OnRespond: onDeadlineOf(o.OnRespond),
		OnDrain: onDeadlineOf(o.OnDrain), Permission: o.Permission, Reason: o.Reason, Alternatives: o.Alternatives,
		Policy: policyOf(o.Policy), ReturnHome: o.Return,
		LeaseDuration: during(o.Lease), HeardSeq: o.Heard, HeardAgentStartId: o.HeardFrom,
	}
	for _, v := range o.Overridden {
		out.Overrides = append(out.Overrides, &tenonv1.MaintenanceOverride{Subject: v.Subject, Permission: v.Permission, By: v.By, Reason: v.Reason})
	}
	for _, g := range o.Grants {
		out.Grants = append(out.Grants, &tenonv1.MaintenanceGrant{Id: g.ID, Subject: g.Subject, By: g.By})
	}
	return out
}

// OrderFromMessage reads an order. What it does not know is CodeInvalid: an order
// that is half understood must not be followed.
func OrderFromMessage(m *tenonv1.MaintenanceOrder) (protocol.Order, error) {
	var r reading
	o := protocol.Order{
		Device: m.GetDevice(), IDs: m.GetMaintenanceIds(), Stamp: r.stamp("stamp", m.GetStamp()),
		Phase: protocol.Phase(r.named("phase", m.GetPhase()) - 1), Gate: protocol.Gate(r.named("gate", m.GetGate()) - 1),
		Impact: protocol.Impact(r.known("impact", m.GetImpact())), Expected: r.during("expected_duration", m.GetExpectedDuration()),
		NotBefore: r.during("not_before_in", m.GetNotBeforeIn()), Respond: r.during("respond_within", m.GetRespondWithin()),
		Drain: r.during("drain_within", m.GetDrainWithin()), OnRespond: r.onDeadline("on_respond", m.GetOnRespond()),
		OnDrain: r.onDeadline("on_drain", m.GetOnDrain()), Permission: m.GetPermission(), Reason: m.GetReason(),
		Alternatives: m.GetAlternatives(), Return: m.GetReturnHome(), Lease: r.during("lease_duration", m.GetLeaseDuration()),
		Heard: m.GetHeardSeq(), HeardFrom: m.GetHeardAgentStartId(),
	}
	for _, v := range m.GetOverrides() {
		o.Overridden = append(o.Overridden, protocol.Override{Subject: v.GetSubject(), Permission: v.GetPermission(), By: v.GetBy(), Reason: v.GetReason()})
	}
	if o.Device == "" {
		r.problem("device", "it is empty")
	}
	policy, err := policyFrom("policy", m.GetPolicy())
	r.join(err)
	o.Policy = policy
	for _, g := range m.GetGrants() {
		o.Grants = append(o.Grants, protocol.Grant{ID: g.GetId(), Subject: g.GetSubject(), By: g.GetBy()})
	}
	return o, r.err("order of device " + o.Device)
}

// ReportMessage returns r as an agent sends it.
func ReportMessage(r protocol.Report) *tenonv1.MaintenanceReport {
	out := &tenonv1.MaintenanceReport{
		Device: r.Device, HostId: r.Host, BootId: r.Boot, AgentStartId: r.AgentStart, Seq: r.Seq, Seen: stampOf(r.Seen),
		Gate: gateOf(r.Gate), Phase: hostPhaseOf(r.Phase), UsesDigest: r.UsesDigest, LastError: r.Failure, Lapsed: r.Lapsed, Leased: r.Leased,
		Fence: &tenonv1.FenceState{Intended: r.Fence.Intended, Verified: r.Fence.Verified, Method: r.Fence.Method, Evidence: r.Fence.Evidence},
	}
	for _, u := range r.Uses {
		out.Uses = append(out.Uses, useOf(u))
	}
	for _, f := range r.Foreign {
		out.ForeignUses = append(out.ForeignUses, &tenonv1.ForeignUse{Name: f.Name, Pid: int32(f.PID), Path: f.Path})
	}
	return out
}

// ReportFromMessage reads a report. What it does not know is CodeInvalid.
func ReportFromMessage(m *tenonv1.MaintenanceReport) (protocol.Report, error) {
	var r reading
	f := m.GetFence()
	out := protocol.Report{
		Device: m.GetDevice(), Host: m.GetHostId(), Boot: m.GetBootId(), AgentStart: m.GetAgentStartId(), Seq: m.GetSeq(),
		Seen: r.stamp("seen", m.GetSeen()), Gate: protocol.Gate(r.named("gate", m.GetGate()) - 1),
		Phase: protocol.HostPhase(r.named("phase", m.GetPhase()) - 1), UsesDigest: m.GetUsesDigest(), Failure: m.GetLastError(), Lapsed: m.GetLapsed(), Leased: m.GetLeased(),
		Fence: protocol.FenceState{Intended: f.GetIntended(), Verified: f.GetVerified(), Method: f.GetMethod(), Evidence: f.GetEvidence()},
	}
	for _, u := range m.GetUses() {
		out.Uses = append(out.Uses, r.use(u))
	}
	for _, f := range m.GetForeignUses() {
		out.Foreign = append(out.Foreign, protocol.Foreign{Name: f.GetName(), PID: int(f.GetPid()), Path: f.GetPath()})
	}
	return out, r.err("report of device " + out.Device)
}

// reading reads the parts of one message and collects what is wrong with it.
type reading struct{ problems []primitives.Problem }

func (r *reading) problem(field, message string) {
	r.problems = append(r.problems, primitives.Problem{Prop: field, Message: message, Fatal: true})
}

// join adds what another reader found.
func (r *reading) join(err error) {
	if e, ok := errors.AsType[*primitives.Error](err); ok {
		r.problems = append(r.problems, e.Problems...)
	}
}

// err is nil, or says everything that is wrong with what.
func (r *reading) err(what string) error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortFunc(r.problems, func(a, b primitives.Problem) int { return strings.Compare(a.Prop, b.Prop) })
	e := primitives.Errorf(primitives.CodeInvalid, "%s", what)
	e.Problems = r.problems
	return e.Trying("compare the versions of tenond and of its manager")
}

// known returns the number of an enum's value that this build knows.
func (r *reading) known(field string, e protoreflect.Enum) uint8 {
	if e.Descriptor().Values().ByNumber(e.Number()) == nil {
		r.problem(field, "its value is not known to this version")
		return 0
	}
	return uint8(e.Number())
}

// named is known, and not unspecified.
func (r *reading) named(field string, e protoreflect.Enum) uint8 {
	n := r.known(field, e)
	if n == 0 && e.Number() == 0 {
		r.problem(field, "it is not said")
	}
	return max(n, 1)
}

func (r *reading) onDeadline(field string, d tenonv1.OnDeadline) protocol.OnDeadline {
	return protocol.OnDeadline(max(r.known(field, d), 1) - 1)
}

func (r *reading) during(field string, d *durationpb.Duration) time.Duration {
	if d != nil && (d.CheckValid() != nil || d.AsDuration() < 0) {
		r.problem(field, "it is no time of 0 or more")
		return 0
	}
	return d.AsDuration()
}

func (r *reading) stamp(field string, s *tenonv1.Stamp) protocol.Stamp {
	if s.GetRank() > math.MaxUint8 {
		r.problem(field, "its rank is not known to this version")
	}
	return protocol.Stamp{Term: s.GetTerm(), Epoch: s.GetEpoch(), Rank: uint8(s.GetRank())}
}

func (r *reading) use(m *tenonv1.MaintenanceUse) protocol.UseReport {
	u := protocol.UseReport{
		ID: m.GetId(), Kind: m.GetKind(), Subject: m.GetSubject(), Domain: m.GetDomain(), Disk: m.GetDisk(), Writer: m.GetWriter(),
		Admitted: r.stamp("uses.admitted", m.GetAdmitted()), Grant: m.GetGrant(), State: protocol.UseState(r.named("uses.state", m.GetState()) - 1),
		Action: m.GetAction(), Percent: m.GetPercent(), ETA: r.during("uses.eta", m.GetEta()), Silent: r.during("uses.silent", m.GetSilent()),
	}
	if m.GetHow() != tenonv1.ReadyHow_READY_HOW_UNSPECIFIED {
		how, err := howFrom("uses.how", m.GetHow())
		r.join(err)
		u.How = how
	}
	if m.GetReason() != nil {
		reason, err := reasonFrom("uses.reason", m.GetReason())
		r.join(err)
		u.Reason = &reason
	}
	return u
}

// RefusalMessage ends a session from the manager's side.
func RefusalMessage(why tenonv1.SessionRefusal, reason string, retryIn time.Duration) *tenonv1.SessionResponse {
	return &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Refusal{
		Refusal: &tenonv1.ManagerRefusal{Refusal: why, Reason: reason, RetryIn: during(retryIn)},
	}}
}
