// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// maintenances serves MaintenanceService.
type maintenances struct {
	tenonv1.UnimplementedMaintenanceServiceServer
	service *maintenance.Service
	domains *domainNames
}

// shown returns where a device stands as the API tells it.
func (s *maintenances) shown(ctx context.Context, m maintenance.Maintenance) *tenonv1.Maintenance {
	out := maintenanceOf(m)
	s.domains.put(ctx, out)
	return out
}

// PlanMaintenance says what a maintenance would do.
func (s *maintenances) PlanMaintenance(ctx context.Context, r *tenonv1.PlanMaintenanceRequest) (*tenonv1.PlanMaintenanceResponse, error) {
	intent, err := intentFrom(r.GetIntent(), requesterOf(ctx))
	if err != nil {
		return nil, err
	}
	plan, err := s.service.Plan(ctx, maintenance.PlanRequest{Device: r.GetDevice(), Intent: intent})
	if err != nil {
		return nil, err
	}
	return &tenonv1.PlanMaintenanceResponse{Plan: planOf(plan)}, nil
}

// PrepareMaintenance asks for a maintenance.
func (s *maintenances) PrepareMaintenance(ctx context.Context, r *tenonv1.PrepareMaintenanceRequest) (*tenonv1.PrepareMaintenanceResponse, error) {
	intent, err := intentFrom(r.GetIntent(), requesterOf(ctx))
	if err != nil {
		return nil, err
	}
	m, err := s.service.Prepare(ctx, maintenance.PrepareRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Device: r.GetDevice(), Intent: intent,
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.PrepareMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// GetMaintenance tells where one device stands.
func (s *maintenances) GetMaintenance(ctx context.Context, r *tenonv1.GetMaintenanceRequest) (*tenonv1.GetMaintenanceResponse, error) {
	m, err := s.service.Get(ctx, r.GetDevice())
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// ListMaintenances pages through the devices.
func (s *maintenances) ListMaintenances(ctx context.Context, r *tenonv1.ListMaintenancesRequest) (*tenonv1.ListMaintenancesResponse, error) {
	all, err := s.service.List(ctx)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(all, func(m maintenance.Maintenance) string { return m.Device }, ascending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListMaintenancesResponse{NextPageToken: next}
	for _, m := range page {
		resp.Maintenances = append(resp.Maintenances, maintenanceOf(m))
	}
	s.domains.put(ctx, resp.GetMaintenances()...)
	return resp, nil
}

// WatchMaintenance sends changes.
func (s *maintenances) WatchMaintenance(r *tenonv1.WatchMaintenanceRequest, stream grpc.ServerStreamingServer[tenonv1.WatchMaintenanceResponse]) error {
	for m, err := range s.service.Watch(stream.Context(), r.GetDevice()) {
		if err != nil {
			return err
		}
		if err := stream.Send(&tenonv1.WatchMaintenanceResponse{Maintenance: s.shown(stream.Context(), m)}); err != nil {
			return err
		}
	}
	return stream.Context().Err()
}

// ExtendMaintenance gives other deadlines.
func (s *maintenances) ExtendMaintenance(ctx context.Context, r *tenonv1.ExtendMaintenanceRequest) (*tenonv1.ExtendMaintenanceResponse, error) {
	asked := maintenance.ExtendRequest{RequestID: r.GetRequestId(), Caller: callerOf(ctx), Device: r.GetDevice(), ID: r.GetMaintenanceId()}
	err := times(
		span{"respond_within", r.GetRespondWithin(), &asked.Respond},
		span{"drain_within", r.GetDrainWithin(), &asked.Drain},
		span{"expected_duration", r.GetExpectedDuration(), &asked.Expected},
	)
	if err != nil {
		return nil, err
	}
	m, err := s.service.Extend(ctx, asked)
	if err != nil {
		return nil, err
	}
	return &tenonv1.ExtendMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// OverrideMaintenance overrules a use or a host.
func (s *maintenances) OverrideMaintenance(ctx context.Context, r *tenonv1.OverrideMaintenanceRequest) (*tenonv1.OverrideMaintenanceResponse, error) {
	m, err := s.service.Override(ctx, maintenance.OverrideRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Device: r.GetDevice(), ID: r.GetMaintenanceId(),
		Subject: r.GetSubject(), Permission: r.GetPermission(), Reason: r.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.OverrideMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// CancelMaintenance takes an intent back.
func (s *maintenances) CancelMaintenance(ctx context.Context, r *tenonv1.CancelMaintenanceRequest) (*tenonv1.CancelMaintenanceResponse, error) {
	m, err := s.service.Cancel(ctx, maintenance.EndRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Device: r.GetDevice(), ID: r.GetMaintenanceId(),
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.CancelMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// EndMaintenance says that the service is done.
func (s *maintenances) EndMaintenance(ctx context.Context, r *tenonv1.EndMaintenanceRequest) (*tenonv1.EndMaintenanceResponse, error) {
	m, err := s.service.End(ctx, maintenance.EndRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Device: r.GetDevice(), ID: r.GetMaintenanceId(),
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.EndMaintenanceResponse{Maintenance: s.shown(ctx, m)}, nil
}

// ObjectUse objects.
func (s *maintenances) ObjectUse(ctx context.Context, r *tenonv1.ObjectUseRequest) (*tenonv1.ObjectUseResponse, error) {
	asked := maintenance.ObjectRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Use: r.GetUseId(), Epoch: r.GetEpoch(),
		Code: r.GetCode(), Text: r.GetText(), Retryable: r.GetRetryable(),
	}
	if err := times(span{"until", r.GetUntil(), &asked.Until}); err != nil {
		return nil, err
	}
	if err := s.service.Object(ctx, asked); err != nil {
		return nil, err
	}
	return &tenonv1.ObjectUseResponse{}, nil
}

// WithdrawObjection takes an objection back.
func (s *maintenances) WithdrawObjection(ctx context.Context, r *tenonv1.WithdrawObjectionRequest) (*tenonv1.WithdrawObjectionResponse, error) {
	err := s.service.Withdraw(ctx, maintenance.AnswerRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Use: r.GetUseId(), Epoch: r.GetEpoch(),
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.WithdrawObjectionResponse{}, nil
}

// ReportUseReady says that a use is ready.
func (s *maintenances) ReportUseReady(ctx context.Context, r *tenonv1.ReportUseReadyRequest) (*tenonv1.ReportUseReadyResponse, error) {
	how, err := howFrom("how", r.GetHow())
	if err != nil {
		return nil, err
	}
	err = s.service.Ready(ctx, maintenance.ReadyRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Use: r.GetUseId(), Epoch: r.GetEpoch(), How: how, Evidence: r.GetEvidence(),
	})
	if err != nil {
		return nil, err
	}
	return &tenonv1.ReportUseReadyResponse{}, nil
}

// SetMaintenancePolicy sets a policy.
func (s *maintenances) SetMaintenancePolicy(ctx context.Context, r *tenonv1.SetMaintenancePolicyRequest) (*tenonv1.SetMaintenancePolicyResponse, error) {
	policy, err := policyFrom("policy", r.GetPolicy())
	if err != nil {
		return nil, err
	}
	err = s.service.SetPolicy(ctx, maintenance.PolicyRequest{
		RequestID: r.GetRequestId(), Caller: callerOf(ctx), Subject: r.GetSubject(), Policy: policy,
	})
	if err != nil {
		return nil, err
	}
	inForce, err := s.service.Policy(ctx, r.GetSubject())
	if err != nil {
		return nil, err
	}
	return &tenonv1.SetMaintenancePolicyResponse{Policy: policyOf(inForce)}, nil
}

// GetMaintenancePolicy returns a policy.
func (s *maintenances) GetMaintenancePolicy(ctx context.Context, r *tenonv1.GetMaintenancePolicyRequest) (*tenonv1.GetMaintenancePolicyResponse, error) {
	policy, err := s.service.Policy(ctx, r.GetSubject())
	if err != nil {
		return nil, err
	}
	return &tenonv1.GetMaintenancePolicyResponse{Policy: policyOf(policy)}, nil
}

// ListAuditLines pages through the record of one maintenance, or of all. Lines are only ever
// added, so that a line's number names it.
func (s *maintenances) ListAuditLines(ctx context.Context, r *tenonv1.ListAuditLinesRequest) (*tenonv1.ListAuditLinesResponse, error) {
	all, err := s.service.Audit(ctx, r.GetMaintenanceId())
	if err != nil {
		return nil, err
	}
	numbers := make([]int, len(all))
	for i := range numbers {
		numbers[i] = i
	}
	page, next, err := pageOf(numbers, func(n int) string { return fmt.Sprintf("%012d", n) }, ascending, r.GetPageToken(), r.GetPageSize())
	if err != nil {
		return nil, err
	}
	resp := &tenonv1.ListAuditLinesResponse{NextPageToken: next}
	for _, n := range page {
		resp.Lines = append(resp.Lines, auditLineOf(all[n]))
	}
	return resp, nil
}

// CheckDomain says whether a domain may come. What the gate refuses is an answer.
func (s *maintenances) CheckDomain(ctx context.Context, r *tenonv1.CheckDomainRequest) (*tenonv1.CheckDomainResponse, error) {
	err := s.service.AdmitDomain(ctx, maintenance.AdmitDomainRequest{
		Domain: r.GetDomainId(), Name: r.GetName(), Sources: r.GetSources(), Incoming: r.GetIncoming(),
	})
	switch {
	case err == nil:
		return &tenonv1.CheckDomainResponse{Allowed: true}, nil
	case errors.Is(err, primitives.CodeConflict), errors.Is(err, primitives.CodeFenced):
		return &tenonv1.CheckDomainResponse{Refusal: failureOf(operation.FailureOf(err))}, nil
	}
	return nil, err
}

// span is a duration of a request and where it goes.
type span struct {
	field string
	from  *durationpb.Duration
	to    *time.Duration
}

// times reads durations until one is wrong.
func times(all ...span) error {
	for _, s := range all {
		d, err := durationFrom(s.field, s.from)
		if err != nil {
			return err
		}
		*s.to = d
	}
	return nil
}
