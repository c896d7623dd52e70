// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Point is the moment of a call at which a fault strikes.
type Point uint8

const (
	Before Point = iota // nothing has happened yet
	After               // everything has happened, the answer is lost
)

// Fault is one scripted misfortune of a store. Of a fault's parts, Delay comes
// first, then Dead, Crash and Err. A fault with none of them only counts calls.
type Fault struct {
	// Op is the call's name, empty for every call: open, describe, stat, list,
	// read, write, clone, copy-to, delink, relink, destroy, snapshot, settle,
	// revert, resize, extents, map, activate, deactivate, unmap, mappings, and
	// read-at, write-at, zero-at, commit, abort of readers and writers.
	Op    string
	Point Point
	Skip  int // calls that pass first
	Times int // calls that are struck; 0: all until cleared

	Delay time.Duration // ends early when the call's context does
	Dead  bool          // the call blocks until its context ends: CodeUnavailable
	Crash bool          // the store crashes at this point, see Driver.Crash
	Err   error         // returned as it is, even if it is no *primitives.Error
}

// script is a fault with what it has seen.
type script struct {
	Fault
	seen    int
	cleared chan struct{}
}

// faults are the scripts of one store.
type faults struct {
	onCrash func()

	mu      sync.Mutex // guards scripts and their counts
	scripts []*script
}

// Fault adds f to the store's script. Clear takes it out again and releases
// every call that it holds; a repeat does nothing.
func (d *Driver) Fault(store string, f Fault) (clear func()) {
	return d.store(store).faults.add(f)
}

func (fs *faults) add(f Fault) (clear func()) {
	sc := &script{Fault: f, cleared: make(chan struct{})}
	fs.mu.Lock()
	fs.scripts = append(fs.scripts, sc)
	fs.mu.Unlock()
	return sync.OnceFunc(func() {
		fs.mu.Lock()
		fs.scripts = slices.DeleteFunc(fs.scripts, func(x *script) bool { return x == sc })
		fs.mu.Unlock()
		close(sc.cleared)
	})
}

// strike returns the scripts that hit this call.
func (fs *faults) strike(op string, at Point) []*script {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var hit []*script
	for _, sc := range fs.scripts {
		if sc.Point != at || (sc.Op != "" && sc.Op != op) {
			continue
		}
		sc.seen++
		if sc.seen > sc.Skip && (sc.Times == 0 || sc.seen <= sc.Skip+sc.Times) {
			hit = append(hit, sc)
		}
	}
	return hit
}

// gate lets a call pass, or delays, holds or fails it.
func (fs *faults) gate(ctx context.Context, op string, at Point) error {
	if err := ended(ctx); err != nil {
		return err
	}
	for _, sc := range fs.strike(op, at) {
		if err := fs.suffer(ctx, sc); err != nil {
			return err
		}
	}
	return nil
}

func (fs *faults) suffer(ctx context.Context, sc *script) error {
	if sc.Delay > 0 {
		t := time.NewTimer(sc.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-sc.cleared:
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	if sc.Dead {
		select {
		case <-sc.cleared:
		case <-ctx.Done():
			return primitives.Errorf(primitives.CodeUnavailable, "no answer: %w", context.Cause(ctx))
		}
	}
	if sc.Crash {
		fs.onCrash()
		if sc.Err == nil {
			return errGone()
		}
	}
	return sc.Err
}

// ended returns the error of a context that ended, else nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if e, ok := errors.AsType[*primitives.Error](cause); ok {
		return e // the backend's end, which is told as a cause
	}
	return &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Err: cause}
}

func errGone() error {
	return primitives.Errorf(primitives.CodeUnavailable, "the device is closed").Trying("Open the device again")
}
