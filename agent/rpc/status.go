// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// wire is what becomes of one primitives.Code. Unimplemented is left to gRPC, so
// that a client can tell "this volume cannot" from "this tenond is older".
type wire struct {
	status codes.Code
	code   tenonv1.ErrorCode
}

var wires = map[primitives.Code]wire{
	primitives.CodeInvalid:     {codes.InvalidArgument, tenonv1.ErrorCode_ERROR_CODE_INVALID},
	primitives.CodeNotFound:    {codes.NotFound, tenonv1.ErrorCode_ERROR_CODE_NOT_FOUND},
	primitives.CodeExists:      {codes.AlreadyExists, tenonv1.ErrorCode_ERROR_CODE_EXISTS},
	primitives.CodeConflict:    {codes.Aborted, tenonv1.ErrorCode_ERROR_CODE_CONFLICT},
	primitives.CodeInUse:       {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_IN_USE},
	primitives.CodeDependents:  {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_DEPENDENTS},
	primitives.CodeNoSpace:     {codes.ResourceExhausted, tenonv1.ErrorCode_ERROR_CODE_NO_SPACE},
	primitives.CodeUnsupported: {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_UNSUPPORTED},
	primitives.CodeNoOffload:   {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_NO_OFFLOAD},
	primitives.CodeNoDelta:     {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_NO_DELTA},
	primitives.CodeIncomplete:  {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_INCOMPLETE},
	primitives.CodeUnavailable: {codes.Unavailable, tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE},
	primitives.CodeDenied:      {codes.PermissionDenied, tenonv1.ErrorCode_ERROR_CODE_DENIED},
	primitives.CodeFenced:      {codes.FailedPrecondition, tenonv1.ErrorCode_ERROR_CODE_FENCED},
	primitives.CodeCancelled:   {codes.Canceled, tenonv1.ErrorCode_ERROR_CODE_CANCELLED},
	primitives.CodeInternal:    {codes.Internal, tenonv1.ErrorCode_ERROR_CODE_INTERNAL},
}

var retries = map[primitives.Retry]tenonv1.Retry{
	primitives.RetryNever:       tenonv1.Retry_RETRY_NEVER,
	primitives.RetrySame:        tenonv1.Retry_RETRY_SAME,
	primitives.RetryAfterChange: tenonv1.Retry_RETRY_AFTER_CHANGE,
	primitives.RetryResume:      tenonv1.Retry_RETRY_RESUME,
	primitives.RetryFallback:    tenonv1.Retry_RETRY_FALLBACK,
}

// retryDelay is how long a client should pause before it repeats a request that
// may succeed later.
const retryDelay = 2 * time.Second

// statusOf is the one way from an error to a status. A status stays what it is.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	f := failureOf(operation.FailureOf(err))
	st := status.New(wires[primitives.CodeOf(err)].status, f.GetMessage())
	detailed, detailErr := st.WithDetails(details(f)...)
	if detailErr != nil {
		return errors.Join(err, detailErr)
	}
	return detailed.Err()
}

// details spells f out in the messages that gRPC clients know.
func details(f *tenonv1.Failure) []protoadapt.MessageV1 {
	info := &errdetails.ErrorInfo{
		Reason: failure.Reason(f.GetCode()), Domain: failure.Domain,
		Metadata: map[string]string{failure.MetadataRetry: failure.RetryName(f.GetRetry())},
	}
	if f.GetUri() != "" {
		info.Metadata[failure.MetadataURI] = f.GetUri()
	}
	if f.GetTry() != "" {
		info.Metadata[failure.MetadataTry] = f.GetTry()
	}
	all := []protoadapt.MessageV1{info}
	if len(f.GetProblems()) > 0 {
		bad := new(errdetails.BadRequest)
		for _, p := range f.GetProblems() {
			v := &errdetails.BadRequest_FieldViolation{Field: p.GetField(), Description: p.GetMessage()}
			if p.GetWarning() {
				v.Reason = failure.ReasonWarning
			}
			bad.FieldViolations = append(bad.FieldViolations, v)
		}
		all = append(all, bad)
	}
	if len(f.GetBlockers()) > 0 {
		pre := new(errdetails.PreconditionFailure)
		for _, b := range f.GetBlockers() {
			pre.Violations = append(pre.Violations, &errdetails.PreconditionFailure_Violation{
				Type: b.GetKind(), Subject: b.GetName(), Description: b.GetKind() + " " + b.GetName() + " stands in the way",
			})
		}
		all = append(all, pre)
	}
	if f.GetRetry() == tenonv1.Retry_RETRY_SAME {
		all = append(all, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryDelay)})
	}
	return all
}

// failureOf returns f as the API tells it; nil for nil.
func failureOf(f *operation.Failure) *tenonv1.Failure {
	if f == nil {
		return nil
	}
	out := &tenonv1.Failure{
		Code: wires[f.Code].code, Retry: retries[f.Code.Retry()], Message: headline(f), Try: f.Try, Uri: fullURI(f.URI),
	}
	for _, p := range f.Problems {
		out.Problems = append(out.Problems, problemOf(p))
	}
	for _, b := range f.Blocked {
		out.Blockers = append(out.Blockers, &tenonv1.Blocker{Kind: b.Kind, Name: b.Name})
	}
	return out
}

// headline is f's message without its problems and blockers, which have fields
// of their own.
func headline(f *operation.Failure) string {
	text := f.Message
	bare := &primitives.Error{Code: f.Code, Problems: f.Problems, Blocked: f.Blocked}
	tail := strings.TrimPrefix(bare.Error(), f.Code.String())
	if tail != "" {
		text = strings.Replace(text, tail, "", 1)
	}
	return text
}

// fullURI returns the URI that people abbreviate as short.
func fullURI(short string) string {
	u, err := primitives.ParseURI(short)
	if err != nil {
		return ""
	}
	return u.String()
}

func problemOf(p primitives.Problem) *tenonv1.Problem {
	return &tenonv1.Problem{Field: p.Prop, Message: p.Message, Warning: !p.Fatal}
}
