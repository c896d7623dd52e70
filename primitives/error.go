// SPDX-License-Identifier: Apache-2.0

package primitives

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code says what a caller can do about an error. It is itself an error, so that
// errors.Is(err, CodeInUse) asks for the code of anything that wraps an [*Error].
type Code uint8

// The closed list of codes. The comment of each says when it is used and what a
// repeat of the same request can bring.
const (
	CodeInvalid     Code = iota + 1 // the request is wrong in itself; Problems names every field
	CodeNotFound                    // the object, device or tombstone does not exist
	CodeExists                      // the name is taken by something incompatible, which was left untouched
	CodeConflict                    // another operation holds the object, its generation moved, or the request id was used for something else
	CodeInUse                       // a mapping, reader or guest uses the object; Blocked names them
	CodeDependents                  // other objects need this one; Blocked names them
	CodeNoSpace                     // the device is full, or a limit of it is reached
	CodeUnsupported                 // this object, in this state, cannot do that; capabilities said so beforehand
	CodeNoOffload                   // the backend cannot copy by itself; stream instead
	CodeNoDelta                     // no difference to that base can be told; read everything
	CodeIncomplete                  // the object is an interrupted write or copy; resume or delink it
	CodeUnavailable                 // the device cannot be reached or does not answer in time
	CodeDenied                      // the backend, file system or peer refused for lack of permission, or is read-only
	CodeFenced                      // the device is closed for service; or the mapping leads, or may lead, to something else: drop it, never write again
	CodeCancelled                   // the caller's context ended before the operation did
	CodeInternal                    // a defect in tenon or a tool, or an error that nobody classified
)

var codeNames = [...]string{
	CodeInvalid: "invalid", CodeNotFound: "not found", CodeExists: "exists", CodeConflict: "conflict",
	CodeInUse: "in use", CodeDependents: "has dependents", CodeNoSpace: "no space", CodeUnsupported: "unsupported",
	CodeNoOffload: "no offload", CodeNoDelta: "no delta", CodeIncomplete: "incomplete", CodeUnavailable: "unavailable",
	CodeDenied: "denied", CodeFenced: "fenced", CodeCancelled: "cancelled", CodeInternal: "internal error",
}

// String returns the code in words, such as "in use".
func (c Code) String() string {
	if int(c) < len(codeNames) && codeNames[c] != "" {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Error makes a Code the target of errors.Is.
func (c Code) Error() string { return c.String() }

// Retry says whether the same request may succeed later.
type Retry uint8

const (
	RetryNever       Retry = iota // the same request fails again
	RetrySame                     // repeat the same request after a pause
	RetryAfterChange              // repeat once what Blocked names has changed
	RetryResume                   // repeat with the same Op.ID to go on, or delink
	RetryFallback                 // not a failure: take the slower way
)

// String returns the class in words.
func (r Retry) String() string {
	return [...]string{"never", "same request", "after change", "resume", "fallback"}[r]
}

// Retry returns the class that belongs to c.
func (c Code) Retry() Retry {
	switch c {
	case CodeUnavailable, CodeConflict, CodeCancelled:
		return RetrySame
	case CodeInUse, CodeDependents:
		return RetryAfterChange
	case CodeIncomplete:
		return RetryResume
	case CodeNoOffload, CodeNoDelta:
		return RetryFallback
	}
	return RetryNever
}

// Blocker names one thing that stands in the way of a request.
type Blocker struct {
	Kind string // "volume", "snapshot", "mapping", "domain", "disk", "operation", "device", "process"
	Name string // as its own list command prints it
}

// String prints b as "kind name".
func (b Blocker) String() string { return b.Kind + " " + b.Name }

// Problem is one mistake in a request or in a set of properties.
type Problem struct {
	Prop    string // the field or property, such as "size" or "properties.path"
	Message string // what was given and what was expected
	Fatal   bool   // false: a warning, which refuses nothing
}

// Error is the error of every call in this package's contracts.
type Error struct {
	Code     Code
	Op       string    // what was being done, such as "delink"; set once, by the caller's side
	URI      URI       // the object concerned; zero where none is
	Blocked  []Blocker // who stands in the way, for CodeInUse, CodeDependents and CodeConflict
	Problems []Problem // every mistake, for CodeInvalid
	Try      string    // what to do about it, as a whole sentence without a full stop; may be empty
	Err      error     // the cause
}

// Errorf returns an Error of that code whose cause is the formatted text.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// Invalid returns a CodeInvalid error about one field.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Problems: []Problem{{Prop: field, Message: fmt.Sprintf(format, args...), Fatal: true}}}
}

// On returns a copy of e that concerns u.
func (e *Error) On(u URI) *Error {
	c := *e
	c.URI = u
	return &c
}

// Trying returns a copy of e with that advice.
func (e *Error) Trying(format string, args ...any) *Error {
	c := *e
	c.Try = fmt.Sprintf(format, args...)
	return &c
}

// By returns a copy of e with those blockers added.
func (e *Error) By(b ...Blocker) *Error {
	c := *e
	c.Blocked = append(append([]Blocker(nil), e.Blocked...), b...)
	return &c
}

// Retry returns the retry class of e.
func (e *Error) Retry() Retry { return e.Code.Retry() }

// Error prints what was done to what, the code where the cause does not carry
// it, the cause, every problem and every blocker. It never prints Try, which is
// a line of its own where people read it.
func (e *Error) Error() string {
	var parts []string
	if head := strings.TrimSpace(e.Op + " " + e.subject()); head != "" {
		parts = append(parts, head)
	}
	parts = append(parts, e.Code.String())
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	for _, p := range e.Problems {
		parts = append(parts, strings.TrimPrefix(p.Prop+": "+p.Message, ": "))
	}
	if len(e.Blocked) > 0 {
		names := make([]string, len(e.Blocked))
		for i, b := range e.Blocked {
			names[i] = b.String()
		}
		parts = append(parts, "by "+strings.Join(names, ", "))
	}
	return strings.Join(parts, ": ")
}

func (e *Error) subject() string {
	if e.URI.IsZero() {
		return ""
	}
	return e.URI.Short()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is e's code.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// CodeOf returns the code of the outermost Error in err's chain. A context's end
// without one is CodeCancelled or, for a passed deadline, CodeUnavailable;
// anything else is CodeInternal; nil is 0.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled):
		return CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		return CodeUnavailable
	}
	return CodeInternal
}
