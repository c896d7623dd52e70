// SPDX-License-Identifier: Apache-2.0

// Package operation runs the agent's long requests. An operation is a list of
// named steps; the journal holds a step's intent before its side effect and its
// result after, so that after a crash every operation goes on or is taken back
// and none is forgotten.
package operation

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// State is how far an operation has come.
type State string

// The closed list of states. The last three are final.
const (
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Finished reports whether s is final.
func (s State) Finished() bool { return s != Running }

// Operation is one long-running request as its callers see it.
type Operation struct {
	ID          string
	RequestID   string // the caller's; made up where the caller gave none
	Kind        string // such as "disk.attach"
	Subject     string // what it is about, as people write it, such as "fast/boot"
	Caller      string // who asked
	State       State
	Step        string // the step under way, or the last one
	Note        string // what holds it up, or what is left to do after a failure; empty: nothing
	Progress    primitives.Progress
	Created     time.Time
	Finished    time.Time // zero while running
	Failure     *Failure  // set when Failed or Cancelled
	Args        json.RawMessage
	Result      json.RawMessage // set when Succeeded, and beside a Kind's own Outcome
	CancelAsked bool
}

// Err returns why the operation did not succeed; nil while it runs and after it
// succeeded.
func (o Operation) Err() error {
	if o.Failure == nil {
		return nil
	}
	return o.Failure.AsError()
}

// Decode reads the operation's result into a value of its kind's result type.
// For an operation that did not succeed it returns Err.
func Decode[R any](o Operation) (R, error) {
	var r R
	if err := o.Err(); err != nil {
		return r, err
	}
	if o.State != Succeeded {
		return r, primitives.Errorf(primitives.CodeConflict, "operation %s is %s", o.ID, o.State)
	}
	if err := json.Unmarshal(o.Result, &r); err != nil {
		return r, fmt.Errorf("result of operation %s: %w", o.ID, err)
	}
	return r, nil
}

// Request asks for an operation.
type Request struct {
	RequestID string // the same id and arguments name the same operation; empty: a new one
	Kind      string
	Args      any // the kind's argument struct; never holds a secret
	Caller    string
}

// Filter selects operations. The zero value selects all of them.
type Filter struct {
	States  []State
	Kind    string
	Subject string
}

func (f Filter) selects(o Operation) bool {
	if f.Kind != "" && f.Kind != o.Kind || f.Subject != "" && f.Subject != o.Subject {
		return false
	}
	for _, s := range f.States {
		if s == o.State {
			return true
		}
	}
	return len(f.States) == 0
}

// Failure is an error as the journal keeps it and the API tells it.
type Failure struct {
	Code     primitives.Code
	Op       string // what was being done
	URI      string // the object concerned; may be empty
	Message  string // the whole error in one line
	Try      string
	Blocked  []primitives.Blocker
	Problems []primitives.Problem
}

// FailureOf returns err as a Failure; nil for nil.
func FailureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Code: primitives.CodeOf(err), Message: err.Error()}
	if e, ok := errors.AsType[*primitives.Error](err); ok {
		f.Op, f.Try, f.Blocked, f.Problems = e.Op, e.Try, e.Blocked, e.Problems
		if !e.URI.IsZero() {
			f.URI = e.URI.Short()
		}
	}
	return f
}

// AsError returns f as an error whose text is f.Message and which carries f's
// code, advice, blockers and problems.
func (f *Failure) AsError() error {
	u, err := primitives.ParseURI(f.URI)
	if err != nil {
		u = primitives.URI{}
	}
	return &told{
		text:  f.Message,
		cause: &primitives.Error{Code: f.Code, Op: f.Op, URI: u, Blocked: f.Blocked, Problems: f.Problems, Try: f.Try},
	}
}

// told is an error whose text was written down before.
type told struct {
	text  string
	cause *primitives.Error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.cause }

// failureJSON is Failure in the journal: the code by name, because its number
// may change between versions.
type failureJSON struct {
	Code     string               `json:"code"`
	Op       string               `json:"op,omitempty"`
	URI      string               `json:"uri,omitempty"`
	Message  string               `json:"message"`
	Try      string               `json:"try,omitempty"`
	Blocked  []primitives.Blocker `json:"blocked,omitempty"`
	Problems []primitives.Problem `json:"problems,omitempty"`
}

// MarshalJSON writes the code by name.
func (f Failure) MarshalJSON() ([]byte, error) {
	return json.Marshal(failureJSON{f.Code.String(), f.Op, f.URI, f.Message, f.Try, f.Blocked, f.Problems})
}

// UnmarshalJSON reads what MarshalJSON wrote. A code that this version does not
// know becomes CodeInternal.
func (f *Failure) UnmarshalJSON(data []byte) error {
	var j failureJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*f = Failure{codeNamed(j.Code), j.Op, j.URI, j.Message, j.Try, j.Blocked, j.Problems}
	return nil
}

func codeNamed(name string) primitives.Code {
	for c := primitives.CodeInvalid; !strings.HasPrefix(c.String(), "code "); c++ {
		if c.String() == name {
			return c
		}
	}
	return primitives.CodeInternal
}
