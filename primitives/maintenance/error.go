// SPDX-License-Identifier: Apache-2.0

package maintenance

import "fmt"

// ErrorCode says what a caller can do about an [Error]. It is itself an error, so
// that errors.Is asks for it.
type ErrorCode uint8

// The codes.
const (
	Stale       ErrorCode = iota + 1 // superseded; Current says by what
	Duplicate                        // known already; nothing to do
	Conflicting                      // the same stamp, revision or id with another content
	Denied                           // needs a permission, or is not the caller's to say
	Unknown                          // no such intent, use, host or device
	PlanChanged                      // the plan is not the one that was agreed to
	WrongPhase                       // not in this phase
	Invalid                          // wrong in itself
)

// String returns the code in words.
func (c ErrorCode) String() string {
	names := [...]string{"", "stale", "duplicate", "conflicting", "denied", "unknown", "plan changed", "wrong phase", "invalid"}
	if int(c) < len(names) && c > 0 {
		return names[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// Error makes an ErrorCode the target of errors.Is.
func (c ErrorCode) Error() string { return c.String() }

// Error is a refusal by one of the machines. Nothing changed.
type Error struct {
	Code    ErrorCode
	Text    string
	Try     string
	Current Stamp // what counts now
}

// Error says what is wrong.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the code.
func (e *Error) Unwrap() error { return e.Code }
