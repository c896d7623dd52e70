// SPDX-License-Identifier: Apache-2.0

// Package failure reads what a failed call of tenon.v1 said of itself: the code,
// the advice, every mistake and every blocker.
package failure

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Domain is the domain of every ErrorInfo that tenond sends.
const Domain = "tenon"

// Keys of the metadata in tenond's ErrorInfo.
const (
	MetadataURI   = "uri"   // the object concerned
	MetadataTry   = "try"   // what to try
	MetadataRetry = "retry" // the retry class, as Retry's name without its prefix
)

// ReasonWarning marks a field violation that refuses nothing.
const ReasonWarning = "WARNING"

const (
	codePrefix  = "ERROR_CODE_"
	retryPrefix = "RETRY_"
)

// Reason returns the reason that stands for code in an ErrorInfo, such as "IN_USE".
func Reason(code tenonv1.ErrorCode) string { return strings.TrimPrefix(code.String(), codePrefix) }

// RetryName returns the name of a retry class in the metadata, such as "SAME".
func RetryName(r tenonv1.Retry) string { return strings.TrimPrefix(r.String(), retryPrefix) }

// Error is a Failure as a Go error, for an operation that did not succeed.
type Error struct{ Failure *tenonv1.Failure }

// Error returns the failure's message.
func (e *Error) Error() string { return e.Failure.GetMessage() }

// Of returns what err says of itself: an [*Error]'s failure, the details of a
// gRPC status, or, where a status has none of tenond's details, a failure made
// from its code. It returns nil for nil.
func Of(err error) *tenonv1.Failure {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Failure
	}
	st, ok := status.FromError(err)
	if !ok {
		return &tenonv1.Failure{Code: codeOf(status.FromContextError(unwrapped(err)).Code()), Message: err.Error()}
	}
	f := &tenonv1.Failure{Code: codeOf(st.Code()), Message: st.Message()}
	for _, d := range st.Details() {
		read(f, d)
	}
	return f
}

// read adds one detail of a status to f.
func read(f *tenonv1.Failure, detail any) {
	switch d := detail.(type) {
	case *errdetails.ErrorInfo:
		if d.GetDomain() != Domain {
			return
		}
		f.Code = tenonv1.ErrorCode(tenonv1.ErrorCode_value[codePrefix+d.GetReason()])
		f.Uri = d.GetMetadata()[MetadataURI]
		f.Try = d.GetMetadata()[MetadataTry]
		f.Retry = tenonv1.Retry(tenonv1.Retry_value[retryPrefix+d.GetMetadata()[MetadataRetry]])
	case *errdetails.BadRequest:
		for _, v := range d.GetFieldViolations() {
			f.Problems = append(f.Problems, &tenonv1.Problem{
				Field: v.GetField(), Message: v.GetDescription(), Warning: v.GetReason() == ReasonWarning,
			})
		}
	case *errdetails.PreconditionFailure:
		for _, v := range d.GetViolations() {
			f.Blockers = append(f.Blockers, &tenonv1.Blocker{Kind: v.GetType(), Name: v.GetSubject()})
		}
	}
}

// unwrapped returns the context's error in err's chain, if there is one, since
// that is what status knows.
func unwrapped(err error) error {
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return end
		}
	}
	return err
}

// byStatus gives a code to statuses that tenond did not explain: those that gRPC
// itself made, on either side.
var byStatus = map[codes.Code]tenonv1.ErrorCode{
	codes.Canceled:           tenonv1.ErrorCode_ERROR_CODE_CANCELLED,
	codes.InvalidArgument:    tenonv1.ErrorCode_ERROR_CODE_INVALID,
	codes.OutOfRange:         tenonv1.ErrorCode_ERROR_CODE_INVALID,
	codes.DeadlineExceeded:   tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE,
	codes.NotFound:           tenonv1.ErrorCode_ERROR_CODE_NOT_FOUND,
	codes.AlreadyExists:      tenonv1.ErrorCode_ERROR_CODE_EXISTS,
	codes.PermissionDenied:   tenonv1.ErrorCode_ERROR_CODE_DENIED,
	codes.Unauthenticated:    tenonv1.ErrorCode_ERROR_CODE_DENIED,
	codes.ResourceExhausted:  tenonv1.ErrorCode_ERROR_CODE_NO_SPACE,
	codes.FailedPrecondition: tenonv1.ErrorCode_ERROR_CODE_CONFLICT,
	codes.Aborted:            tenonv1.ErrorCode_ERROR_CODE_CONFLICT,
	codes.Unimplemented:      tenonv1.ErrorCode_ERROR_CODE_UNSUPPORTED,
	codes.Unavailable:        tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE,
}

func codeOf(c codes.Code) tenonv1.ErrorCode {
	if code, ok := byStatus[c]; ok {
		return code
	}
	return tenonv1.ErrorCode_ERROR_CODE_INTERNAL
}

// Codes returns every code in order, the unspecified one left out.
func Codes() []tenonv1.ErrorCode {
	var all []tenonv1.ErrorCode
	for _, n := range slices.Sorted(maps.Keys(tenonv1.ErrorCode_name)) {
		if n != 0 {
			all = append(all, tenonv1.ErrorCode(n))
		}
	}
	return all
}
