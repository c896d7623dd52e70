// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is a testing.TB that keeps what a check reports to itself, so that a
// driver can be found wanting without failing the test that runs it. It embeds
// the outer TB because nothing else can be one; everything that a check calls is
// its own.
type recorder struct {
	testing.TB
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	failed  bool
	skipped bool
	said    []string
	cleanup []func()
}

// patience bounds a recorded check, so that a bug that makes one wait is found
// soon.
const patience = 5 * time.Second

// record runs f with a recorder in a goroutine of its own, which FailNow and
// SkipNow end, and returns what was recorded. A panic is a failure.
func record(t testing.TB, f func(r *recorder)) *recorder {
	r := &recorder{TB: t}
	r.ctx, r.cancel = context.WithTimeout(t.Context(), patience)
	protected := func(what string, f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			f()
		}()
		select {
		case <-done:
		case <-time.After(2 * patience):
			r.Errorf("%s does not end although its context did", what)
		}
	}
	protected("the check", func() { f(r) })
	r.cancel()
	for {
		r.mu.Lock()
		if len(r.cleanup) == 0 {
			r.mu.Unlock()
			return r
		}
		last := len(r.cleanup) - 1
		next := r.cleanup[last]
		r.cleanup = r.cleanup[:last]
		r.mu.Unlock()
		protected("the cleanup", next)
	}
}

func (r *recorder) say(failed bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = r.failed || failed
	r.said = append(r.said, strings.TrimSpace(text))
}

// first returns the first thing said.
func (r *recorder) first() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.said) == 0 {
		return ""
	}
	return r.said[0]
}

// Cleanup keeps f for the end.
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanup = append(r.cleanup, f)
}

// Context ends before the cleanup, as a test's does.
func (r *recorder) Context() context.Context { return r.ctx }

// Helper does nothing: no line numbers are recorded.
func (r *recorder) Helper() {}

// Log says something that is no failure; only failures are kept.
func (r *recorder) Log(...any) {}

// Logf is Log.
func (r *recorder) Logf(string, ...any) {}

// Error records a failure.
func (r *recorder) Error(args ...any) { r.say(true, fmt.Sprintln(args...)) }

// Errorf records a failure.
func (r *recorder) Errorf(format string, args ...any) { r.say(true, fmt.Sprintf(format, args...)) }

// Fail records a failure without words.
func (r *recorder) Fail() { r.say(true, "failed") }

// FailNow ends the check.
func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

// Fatal records a failure and ends the check.
func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

// Fatalf records a failure and ends the check.
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Failed reports whether there was a failure.
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Skip ends the check without a failure.
func (r *recorder) Skip(...any) { r.SkipNow() }

// Skipf is Skip.
func (r *recorder) Skipf(string, ...any) { r.SkipNow() }

// SkipNow is Skip.
func (r *recorder) SkipNow() {
	r.mu.Lock()
	r.skipped = true
	r.mu.Unlock()
	runtime.Goexit()
}

// Skipped reports whether the check was left out.
func (r *recorder) Skipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// TempDir returns a folder that vanishes with the check.
func (r *recorder) TempDir() string {
	dir, err := os.MkdirTemp("", "tenon")
	if err != nil {
		r.Fatalf("make a folder: %v", err)
	}
	r.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Outcome is what came of a recorded run of the suite.
type Outcome struct {
	Check   string   // the first check that failed; empty where none did
	Message string   // the first thing it said
	Passed  int      // checks before it that passed
	LeftOut []string // checks before it that were left out
}

// Try runs the suite against h's driver up to the first failure, without failing
// t. With a mutant it answers whether the suite is worth anything.
func Try(t testing.TB, h Harness) Outcome {
	t.Helper()
	var out Outcome
	profiles := make([]profile, len(h.variants()))
	for i, v := range h.variants() {
		r := record(t, func(r *recorder) { profiles[i] = examine(r, h, v) })
		if r.Failed() {
			return out.failed(v, check{name: "opening a store and making a volume"}, r)
		}
	}
	for _, k := range h.soonest() {
		for i, v := range h.variants() {
			r := record(t, func(r *recorder) { newC(r, h, v, profiles[i], new(leftOut), k).perform(k) })
			switch {
			case r.Failed():
				return out.failed(v, k, r)
			case r.Skipped():
				out.LeftOut = append(out.LeftOut, v.Name+"/"+k.String())
			default:
				out.Passed++
			}
		}
	}
	slices.Sort(out.LeftOut)
	return out
}

// soonest returns all checks in an order that soon finds a failure: those that
// are likely to before the others, the cheap before the costly.
func (h Harness) soonest() []check {
	likely := map[string]bool{}
	for _, k := range h.first {
		likely[k.String()] = true
	}
	rank := func(k check) int {
		n := 0
		if k.costly {
			n++
		}
		if !likely[k.String()] {
			n += 2
		}
		return n
	}
	all := checks()
	slices.SortStableFunc(all, func(a, b check) int { return rank(a) - rank(b) })
	return all
}

func (o Outcome) failed(v Variant, k check, r *recorder) Outcome {
	o.Check, o.Message = v.Name+"/"+k.String(), r.first()
	return o
}
