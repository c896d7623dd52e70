// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"iter"
	"time"

	"github.com/tenon-storage/tenon/agent/maintenance"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Maintainer is the room of the agent that takes devices into maintenance.
type Maintainer interface {
	Plan(ctx context.Context, r maintenance.PlanRequest) (maintenance.Plan, error)
	Prepare(ctx context.Context, r maintenance.PrepareRequest) (maintenance.Maintenance, error)
	Get(ctx context.Context, device string) (maintenance.Maintenance, error)
	List(ctx context.Context) ([]maintenance.Maintenance, error)
	Watch(ctx context.Context, device string) iter.Seq2[maintenance.Maintenance, error]
	Extend(ctx context.Context, r maintenance.ExtendRequest) (maintenance.Maintenance, error)
	Override(ctx context.Context, r maintenance.OverrideRequest) (maintenance.Maintenance, error)
	Cancel(ctx context.Context, r maintenance.EndRequest) (maintenance.Maintenance, error)
	End(ctx context.Context, r maintenance.EndRequest) (maintenance.Maintenance, error)
	Object(ctx context.Context, r maintenance.ObjectRequest) error
	Withdraw(ctx context.Context, r maintenance.AnswerRequest) error
	Ready(ctx context.Context, r maintenance.ReadyRequest) error
	Subscribe(ctx context.Context, r maintenance.SubscribeRequest) (Subscription, error)
	SetPolicy(ctx context.Context, r maintenance.PolicyRequest) error
	Policy(ctx context.Context, subject string) (protocol.Policy, error)
	Audit(ctx context.Context, id string) ([]maintenance.AuditLine, error)
	AdmitDomain(ctx context.Context, r maintenance.AdmitDomainRequest) error
}

// Subscription is one client that is told.
type Subscription interface {
	Notices() <-chan maintenance.Notice
	Accept(ctx context.Context, eta time.Duration) error
	Progress(ctx context.Context, percent float64) error
	Ready(ctx context.Context, how protocol.How, evidence string) error
	Object(ctx context.Context, reason protocol.Reason) error
	Withdraw(ctx context.Context) error
	Close()
}
