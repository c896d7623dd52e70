// SPDX-License-Identifier: Apache-2.0

package undo_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/undo"
)

func record(log *[]string, name string, err error) func(context.Context) error {
	return func(context.Context) error {
		*log = append(*log, name)
		return err
	}
}

func TestUnwindRunsEveryStepNewestFirst(t *testing.T) {
	var log []string
	var s undo.Stack
	for _, name := range []string{"map", "activate", "attach"} {
		s.Push(record(&log, name, nil))
	}
	if err := s.Unwind(t.Context()); err != nil {
		t.Errorf("Unwind = %v, want nil", err)
	}
	if diff := cmp.Diff([]string{"attach", "activate", "map"}, log); diff != "" {
		t.Errorf("steps run (-want +got):\n%s", diff)
	}
}

func TestUnwindGoesOnAfterAFailureAndJoinsFailures(t *testing.T) {
	var log []string
	first, third := errors.New("first"), errors.New("third")
	var s undo.Stack
	s.Push(record(&log, "1", first))
	s.Push(record(&log, "2", nil))
	s.Push(record(&log, "3", third))
	err := s.Unwind(t.Context())
	if !errors.Is(err, first) || !errors.Is(err, third) {
		t.Errorf("Unwind = %v, want both failures", err)
	}
	if len(log) != 3 {
		t.Errorf("steps run = %v, want all three", log)
	}
}

func TestCommitKeepsTheWork(t *testing.T) {
	var log []string
	var s undo.Stack
	s.Push(record(&log, "1", nil))
	s.Commit()
	if err := s.Unwind(t.Context()); err != nil || len(log) != 0 {
		t.Errorf("Unwind after Commit = %v and ran %v, want nil and nothing", err, log)
	}
}

func TestUnwindTwiceRunsStepsOnce(t *testing.T) {
	var log []string
	var s undo.Stack
	s.Push(record(&log, "1", nil))
	for range 2 {
		if err := s.Unwind(t.Context()); err != nil {
			t.Errorf("Unwind = %v, want nil", err)
		}
	}
	if len(log) != 1 {
		t.Errorf("steps run = %v, want one", log)
	}
}

func TestStepsOutliveTheCancelledRequestAndAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := undo.Stack{Limit: 5 * time.Second}
		start := time.Now()
		s.Push(func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("a step began with %v, want a live context", ctx.Err())
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if err := s.Unwind(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Unwind = %v, want DeadlineExceeded", err)
		}
		if took := time.Since(start); took != s.Limit {
			t.Errorf("Unwind took %v, want %v", took, s.Limit)
		}
	})
}
