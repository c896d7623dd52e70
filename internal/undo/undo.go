// SPDX-License-Identifier: Apache-2.0

// Package undo takes half-done work back. A function pushes the way back right
// after each step that succeeded and commits at its end:
//
//	var done undo.Stack
//	defer func() { err = errors.Join(err, done.Unwind(ctx)) }()
//	…step…
//	done.Push(func(ctx context.Context) error { …take the step back… })
//	done.Commit()
package undo

import (
	"context"
	"errors"
	"time"
)

// DefaultLimit bounds Unwind where Stack.Limit is zero.
const DefaultLimit = time.Minute

// Stack holds the ways back of the steps that succeeded so far. Its zero value
// is empty and ready. It belongs to one goroutine.
type Stack struct {
	// Limit bounds all of Unwind; zero means DefaultLimit.
	Limit time.Duration

	steps []func(context.Context) error
}

// Push adds the way back of a step that has just succeeded.
func (s *Stack) Push(takeBack func(context.Context) error) {
	s.steps = append(s.steps, takeBack)
}

// Commit keeps the work: a later Unwind does nothing.
func (s *Stack) Commit() { s.steps = nil }

// Unwind runs every step pushed since the last Commit or Unwind, the newest
// first, whether or not an earlier one failed, and joins their failures. The
// steps see ctx's values but not its end, because work is mostly taken back
// when the request was cancelled; Limit bounds them instead.
func (s *Stack) Unwind(ctx context.Context) error {
	steps := s.steps
	s.steps = nil
	if len(steps) == 0 {
		return nil
	}
	limit := s.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		errs = append(errs, steps[i](ctx))
	}
	return errors.Join(errs...)
}
