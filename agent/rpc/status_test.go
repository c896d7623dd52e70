// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// failing answers every question about the host with its error, or panics.
type failing struct {
	tenonv1.UnimplementedHostServiceServer
	tenonv1.UnimplementedOperationServiceServer
	err   error
	panic any
}

func (f *failing) GetHost(context.Context, *tenonv1.GetHostRequest) (*tenonv1.GetHostResponse, error) {
	if f.panic != nil {
		panic(f.panic)
	}
	return nil, f.err
}

func (f *failing) WatchOperations(*tenonv1.WatchOperationsRequest, grpc.ServerStreamingServer[tenonv1.WatchOperationsResponse]) error {
	if f.panic != nil {
		panic(f.panic)
	}
	return f.err
}

// call serves f and returns what a client gets of a unary call and of a stream.
func call(t *testing.T, f *failing, log *slog.Logger) (unary, stream error) {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	server := rpc.Guarded(log)
	tenonv1.RegisterHostServiceServer(server, f)
	tenonv1.RegisterOperationServiceServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, unary = tenonv1.NewHostServiceClient(conn).GetHost(t.Context(), &tenonv1.GetHostRequest{})
	watch, err := tenonv1.NewOperationServiceClient(conn).WatchOperations(t.Context(), &tenonv1.WatchOperationsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, stream = watch.Recv()
	return unary, stream
}

var quiet = slog.New(slog.DiscardHandler)

// statuses is the promise of the API: which status each code has.
var statuses = map[primitives.Code]struct {
	status codes.Code
	reason string
}{
	primitives.CodeInvalid:     {codes.InvalidArgument, "INVALID"},
	primitives.CodeNotFound:    {codes.NotFound, "NOT_FOUND"},
	primitives.CodeExists:      {codes.AlreadyExists, "EXISTS"},
	primitives.CodeConflict:    {codes.Aborted, "CONFLICT"},
	primitives.CodeInUse:       {codes.FailedPrecondition, "IN_USE"},
	primitives.CodeDependents:  {codes.FailedPrecondition, "DEPENDENTS"},
	primitives.CodeNoSpace:     {codes.ResourceExhausted, "NO_SPACE"},
	primitives.CodeUnsupported: {codes.FailedPrecondition, "UNSUPPORTED"},
	primitives.CodeNoOffload:   {codes.FailedPrecondition, "NO_OFFLOAD"},
	primitives.CodeNoDelta:     {codes.FailedPrecondition, "NO_DELTA"},
	primitives.CodeIncomplete:  {codes.FailedPrecondition, "INCOMPLETE"},
	primitives.CodeUnavailable: {codes.Unavailable, "UNAVAILABLE"},
	primitives.CodeDenied:      {codes.PermissionDenied, "DENIED"},
	primitives.CodeFenced:      {codes.FailedPrecondition, "FENCED"},
	primitives.CodeCancelled:   {codes.Canceled, "CANCELLED"},
	primitives.CodeInternal:    {codes.Internal, "INTERNAL"},
}

func TestEveryCodeComesBackOnTheOtherSide(t *testing.T) {
	for code := primitives.CodeInvalid; code <= primitives.CodeInternal; code++ {
		t.Run(code.String(), func(t *testing.T) {
			want, known := statuses[code]
			if !known {
				t.Fatalf("code %v has no status in the table of this test", code)
			}
			cause := &primitives.Error{
				Code: code, Op: "delink", URI: primitives.URI{Device: "fast", Volume: "vm1"}, Try: "look elsewhere", Err: errors.New("the cause"),
				Problems: []primitives.Problem{{Prop: "size", Message: "too small", Fatal: true}, {Prop: "format", Message: "old"}},
				Blocked:  []primitives.Blocker{{Kind: "domain", Name: "web01"}, {Kind: "snapshot", Name: "fast/vm1@a"}},
			}
			unary, stream := call(t, &failing{err: fmt.Errorf("at work: %w", cause)}, quiet)
			if diff := cmp.Diff(status.Convert(unary).Proto(), status.Convert(stream).Proto(), protocmp.Transform()); diff != "" {
				t.Errorf("stream's status differs from the unary call's (-unary +stream):\n%s", diff)
			}
			if got := status.Code(unary); got != want.status {
				t.Errorf("status of %v = %v, want %v", code, got, want.status)
			}
			f := failure.Of(unary)
			wantFailure := &tenonv1.Failure{
				Code: tenonv1.ErrorCode(tenonv1.ErrorCode_value["ERROR_CODE_"+want.reason]), Retry: tenonv1.Retry(code.Retry() + 1),
				Message: "at work: delink fast/vm1: " + code.String() + ": the cause", Try: "look elsewhere", Uri: "tenon://fast/vm1",
				Problems: []*tenonv1.Problem{{Field: "size", Message: "too small"}, {Field: "format", Message: "old", Warning: true}},
				Blockers: []*tenonv1.Blocker{{Kind: "domain", Name: "web01"}, {Kind: "snapshot", Name: "fast/vm1@a"}},
			}
			if diff := cmp.Diff(wantFailure, f, protocmp.Transform()); diff != "" {
				t.Errorf("failure.Of (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantFailure, rpc.FailureOf(operation.FailureOf(fmt.Errorf("at work: %w", cause))), protocmp.Transform()); diff != "" {
				t.Errorf("the failure of an operation differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryErrorCodeOfTheAPIIsOneOfOurs(t *testing.T) {
	reasons := map[string]bool{}
	for _, s := range statuses {
		reasons[s.reason] = true
	}
	for _, code := range failure.Codes() {
		if !reasons[failure.Reason(code)] {
			t.Errorf("%v is in the API, but no primitives.Code becomes it", code)
		}
		delete(reasons, failure.Reason(code))
	}
	for reason := range reasons {
		t.Errorf("%s has no ErrorCode in the API", reason)
	}
}

func TestOnlyTheSameRequestRetryTellsADelay(t *testing.T) {
	for code := primitives.CodeInvalid; code <= primitives.CodeInternal; code++ {
		delay := false
		for _, d := range status.Convert(rpc.StatusOf(primitives.Errorf(code, "x"))).Details() {
			if _, ok := d.(*errdetails.RetryInfo); ok {
				delay = true
			}
		}
		if want := code.Retry() == primitives.RetrySame; delay != want {
			t.Errorf("status of %v has RetryInfo: %v, want %v", code, delay, want)
		}
	}
}

func TestUnclassifiedErrorsAreInternal(t *testing.T) {
	unary, _ := call(t, &failing{err: errors.New("who knows")}, quiet)
	if got := failure.Of(unary).GetCode(); got != tenonv1.ErrorCode_ERROR_CODE_INTERNAL {
		t.Errorf("code of a plain error = %v, want internal", got)
	}
	if got := failure.Of(rpc.StatusOf(context.Canceled)).GetCode(); got != tenonv1.ErrorCode_ERROR_CODE_CANCELLED {
		t.Errorf("code of context.Canceled = %v, want cancelled", got)
	}
}

func TestPanicTellsTheClientNothingAndTheLogEverything(t *testing.T) {
	var text strings.Builder
	unary, stream := call(t, &failing{panic: "secret inner state"}, slog.New(slog.NewTextHandler(&text, nil)))
	for kind, err := range map[string]error{"unary": unary, "stream": stream} {
		st := status.Convert(err)
		if st.Code() != codes.Internal || strings.Contains(fmt.Sprint(st.Proto()), "inner state") || strings.Contains(fmt.Sprint(st.Proto()), ".go:") {
			t.Errorf("%s call that panicked = %v, want Internal without a word about it", kind, st.Proto())
		}
	}
	if got := text.String(); strings.Count(got, "call panicked") != 2 || !strings.Contains(got, "status_test.go") {
		t.Errorf("log = %s, want both panics with their stacks", got)
	}
}

func TestFailureOfOtherServersIsUnderstood(t *testing.T) {
	for code, want := range map[codes.Code]tenonv1.ErrorCode{
		codes.Unavailable: tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, codes.Unimplemented: tenonv1.ErrorCode_ERROR_CODE_UNSUPPORTED,
		codes.DeadlineExceeded: tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, codes.DataLoss: tenonv1.ErrorCode_ERROR_CODE_INTERNAL,
	} {
		f := failure.Of(status.Error(code, "gRPC's own"))
		if f.GetCode() != want || f.GetRetry() != tenonv1.Retry_RETRY_UNSPECIFIED || f.GetMessage() != "gRPC's own" {
			t.Errorf("failure.Of(%v) = %v, want %v with the message and no retry class", code, f, want)
		}
	}
	if failure.Of(nil) != nil {
		t.Error("failure.Of(nil) is not nil")
	}
}
