// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// patience is how long a tenond that went away while an operation ran is waited
// for. The operation goes on when it is back.
const patience = time.Minute

// retryPause is how soon it is asked again.
const retryPause = 200 * time.Millisecond

// change makes one changing request and sees it through to the end.
func change[Q any, R interface{ GetOperation() *tenonv1.Operation }](
	ctx context.Context, a *app, do func(context.Context, Q, ...grpc.CallOption) (R, error), request Q,
) error {
	resp, err := do(ctx, request)
	if err != nil {
		return a.unanswered(ctx, err)
	}
	return a.follow(ctx, resp.GetOperation())
}

// unanswered adds to an error that left open whether the operation began how to
// find out.
func (a *app) unanswered(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED,
		fmt.Sprintf("repeat the command with --request-id %s: what has begun goes on, and nothing is done twice", a.requestID),
		"%s before tenond answered; the operation may have begun", ended(ctx))
}

// follow waits for the end of op, unless told otherwise, and prints what came of it.
func (a *app) follow(ctx context.Context, op *tenonv1.Operation) error {
	if !a.async {
		var err error
		if op, err = a.wait(ctx, op); err != nil {
			return err
		}
	}
	return a.printOutcome(op)
}

// printOutcome prints what came of op, or that it still runs. An operation that
// did not succeed is an error, and for programs the whole of it is printed too.
func (a *app) printOutcome(op *tenonv1.Operation) error {
	bad := op.GetFailure() != nil
	if !bad || a.output != "table" {
		err := a.print(op, func() string {
			if op.GetState() == tenonv1.OperationState_OPERATION_STATE_SUCCEEDED {
				return show.Outcome(op)
			}
			return fmt.Sprintf("operation %s is running: %s %s\n", op.GetId(), op.GetKind(), show.Short(op.GetSubject()))
		})
		if err != nil {
			return err
		}
	}
	if bad {
		return &failure.Error{Failure: op.GetFailure()}
	}
	return nil
}

// wait follows op to its end, through a restart of tenond if need be.
func (a *app) wait(ctx context.Context, op *tenonv1.Operation) (*tenonv1.Operation, error) {
	meter := a.meter()
	defer meter.close()
	lastSeen := a.env.Now()
	for !finished(op) {
		latest, err := a.watch(ctx, op.GetId(), func(now *tenonv1.Operation) {
			op, lastSeen = now, a.env.Now()
			meter.show(now)
		})
		if latest != nil {
			op = latest
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			meter.close()
			return nil, interrupted(ctx, op)
		case !isAway(err) || a.env.Now().Sub(lastSeen) > patience:
			meter.close()
			return nil, err
		default:
			meter.away()
			pause(ctx, retryPause)
		}
	}
	return op, nil
}

// watch calls each for every change of an operation and returns its last state.
func (a *app) watch(ctx context.Context, id string, each func(*tenonv1.Operation)) (*tenonv1.Operation, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := tenonv1.NewOperationServiceClient(conn).WatchOperations(ctx, &tenonv1.WatchOperationsRequest{Id: id})
	if err != nil {
		return nil, err
	}
	var op *tenonv1.Operation
	for {
		change, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return op, nil
		}
		if err != nil {
			return op, err
		}
		op = change.GetOperation()
		each(op)
	}
}

// interrupted says that the waiting ended and the operation did not.
func interrupted(ctx context.Context, op *tenonv1.Operation) error {
	return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED,
		fmt.Sprintf("tenonctl operation wait %s to follow it again, or tenonctl operation cancel %s to end it", op.GetId(), op.GetId()),
		"%s; %s %s goes on in tenond", ended(ctx), op.GetKind(), show.Short(op.GetSubject()))
}

// ended says why ctx did.
func ended(ctx context.Context) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "the time given with --timeout is over"
	}
	return "interrupted"
}

func finished(op *tenonv1.Operation) bool {
	return op.GetState() != tenonv1.OperationState_OPERATION_STATE_RUNNING
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
