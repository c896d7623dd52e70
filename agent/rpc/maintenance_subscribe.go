// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Subscribe tells a client of maintenances and takes its answers.
func (s *maintenances) Subscribe(stream grpc.BidiStreamingServer[tenonv1.SubscribeRequest, tenonv1.SubscribeResponse]) error {
	ctx := stream.Context()
	said := listen(ctx, stream)
	first, err := next(ctx, said)
	if err != nil {
		return err
	}
	r := first.GetRegister()
	if r == nil {
		return primitives.Invalid("register", "the first message has to register the subscription")
	}
	sub, err := s.service.Subscribe(ctx, maintenance.SubscribeRequest{
		ID: r.GetId(), Caller: callerOf(ctx), Name: r.GetName(), Device: r.GetDevice(), Blocking: r.GetBlocking(),
	})
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := stream.Send(registered(r.GetId())); err != nil {
		return err
	}
	for {
		select {
		case n, ok := <-sub.Notices():
			if !ok {
				return primitives.Errorf(primitives.CodeConflict, "the subscription %q was registered anew by another client", r.GetId())
			}
			if err := stream.Send(noticeOf(n)); err != nil {
				return err
			}
		case m, ok := <-said:
			if !ok || errors.Is(m.err, io.EOF) {
				return ctx.Err() // the client has said all it wanted to
			}
			if m.err != nil {
				return m.err
			}
			if err := answer(ctx, sub, m.request); err != nil {
				if err := stream.Send(refusedBy(err)); err != nil {
					return err
				}
			} else if m.request.GetLeave() != nil {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// message is what a subscriber said, or why it said no more.
type message struct {
	request *tenonv1.SubscribeRequest
	err     error
}

// listen receives until the stream ends, which is soon after its handler returned
// at the latest.
func listen(ctx context.Context, stream grpc.BidiStreamingServer[tenonv1.SubscribeRequest, tenonv1.SubscribeResponse]) <-chan message {
	said := make(chan message)
	go func() {
		defer close(said)
		for {
			r, err := stream.Recv()
			select {
			case said <- message{r, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return said
}

// next returns the next message.
func next(ctx context.Context, said <-chan message) (*tenonv1.SubscribeRequest, error) {
	select {
	case m := <-said:
		if errors.Is(m.err, io.EOF) {
			return nil, primitives.Invalid("register", "the stream ended before the subscription was registered")
		}
		return m.request, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer passes an answer on.
func answer(ctx context.Context, sub *maintenance.Subscription, r *tenonv1.SubscribeRequest) error {
	switch m := r.GetMessage().(type) {
	case *tenonv1.SubscribeRequest_Accept_:
		eta, err := durationFrom("accept.eta", m.Accept.GetEta())
		if err != nil {
			return err
		}
		return sub.Accept(ctx, eta)
	case *tenonv1.SubscribeRequest_Progress_:
		if p := m.Progress.GetPercent(); !(p >= 0 && p <= 100) { // NaN is neither
			return primitives.Invalid("progress.percent", "%v: expected 0 to 100", p)
		}
		return sub.Progress(ctx, m.Progress.GetPercent())
	case *tenonv1.SubscribeRequest_Ready_:
		how, err := howFrom("ready.how", m.Ready.GetHow())
		if err != nil {
			return err
		}
		return sub.Ready(ctx, how, m.Ready.GetEvidence())
	case *tenonv1.SubscribeRequest_Object_:
		reason, err := reasonFrom("object.reason", m.Object.GetReason())
		if err != nil {
			return err
		}
		return sub.Object(ctx, reason)
	case *tenonv1.SubscribeRequest_Withdraw_:
		return sub.Withdraw(ctx)
	case *tenonv1.SubscribeRequest_Leave_:
		return sub.Leave()
	case *tenonv1.SubscribeRequest_Register_:
		return primitives.Invalid("register", "the subscription is registered; open another stream for another one")
	}
	return primitives.Invalid("message", "it is none that this tenond knows")
}

func registered(id string) *tenonv1.SubscribeResponse {
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Registered_{
		Registered: &tenonv1.SubscribeResponse_Registered{Id: id},
	}}
}

func refusedBy(err error) *tenonv1.SubscribeResponse {
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Refused_{
		Refused: &tenonv1.SubscribeResponse_Refused{Failure: failureOf(operation.FailureOf(err))},
	}}
}

// noticeOf returns a notice, or a cancellation where nothing is wanted any more.
func noticeOf(n maintenance.Notice) *tenonv1.SubscribeResponse {
	o := n.Order
	if o.Phase == protocol.InService || o.Phase == protocol.Returning {
		return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Cancellation{
			Cancellation: &tenonv1.MaintenanceCancellation{Device: n.Device, UseId: n.Use, Stamp: stampOf(o.Stamp), Phase: phaseOf(o.Phase)},
		}}
	}
	return &tenonv1.SubscribeResponse{Message: &tenonv1.SubscribeResponse_Notice{Notice: &tenonv1.MaintenanceNotice{
		Device: n.Device, UseId: n.Use, MaintenanceIds: o.IDs, Stamp: stampOf(o.Stamp), Phase: phaseOf(o.Phase), Gate: gateOf(o.Gate),
		Impact: impactOf(o.Impact), ExpectedDuration: during(o.Expected), NotBeforeIn: during(o.NotBefore),
		RespondWithin: during(o.Respond), DrainWithin: during(o.Drain), OnRespond: onDeadlineOf(o.OnRespond), OnDrain: onDeadlineOf(o.OnDrain),
		Reason: o.Reason, Alternatives: o.Alternatives,
	}}}
}
