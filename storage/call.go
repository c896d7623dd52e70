// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// call is one request to the driver: what Device does around it.
type call struct {
	name  string
	uri   primitives.URI
	op    primitives.Op
	scope primitives.Scope // of the properties that op may carry, besides ScopeOp
	keys  []keylock.Key    // locks; none for calls that only look
	alone bool             // waits until no call holds anything and keeps others out
	long  bool             // moves bytes: bounded by its progress, not in time
	held  bool             // the result goes on holding the lease, until its owner lets go
	// args are the arguments by which a repeat of the same request id is known;
	// empty: the id is not looked at.
	args string
	// again lets the driver answer a repeat, because the answer ages.
	again bool
}

// lease is what a call holds: its locks, its context and its place among the
// requests. A Reader or Writer keeps it after the call.
type lease struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  *limit
	alone  func() bool // stops listening for the device's end
	unlock func()
	flight *flight // nil: not replayed
}

// perform runs a call to its end. Whoever asks waits no longer than ctx; the
// goroutine that runs the driver's method owns locks and request until the
// driver returns, however late, so that nobody overlaps with it.
func perform[T any](ctx context.Context, d *Device, c call, run func(context.Context, primitives.Op) (T, error)) (T, error) {
	v, l, err := hold(ctx, d, c, run, func(T) error { return nil })
	if l != nil {
		l.end(d, v, nil)
	}
	return v, err
}

// do is perform for calls that answer nothing.
func do(ctx context.Context, d *Device, c call, run func(context.Context, primitives.Op) error) error {
	_, err := perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (struct{}, error) { return struct{}{}, run(ctx, op) })
	return err
}

// hold is perform for calls whose result goes on holding the lease. The lease is
// nil when there is none to end: after an error, and when the answer is that of
// an earlier request. late takes a result that came after the caller had left:
// it lets it stand, or takes it back and returns why.
func hold[T any](ctx context.Context, d *Device, c call, run func(context.Context, primitives.Op) (T, error), late func(T) error) (T, *lease, error) {
	start := time.Now()
	v, l, err := attempt(ctx, d, c, run, late)
	err = classify(c.name, c.uri, err)
	d.stats.record(c.name, err, time.Since(start))
	d.logFailure(ctx, c, err, time.Since(start))
	return v, l, err
}

func attempt[T any](ctx context.Context, d *Device, c call, run func(context.Context, primitives.Op) (T, error), late func(T) error) (v T, l *lease, err error) {
	if err := d.usable(ctx); err != nil {
		return v, nil, err
	}
	op, err := d.effectiveOp(c)
	if err != nil {
		return v, nil, err
	}
	f, err := d.admit(ctx, c)
	if err != nil {
		return v, nil, err
	}
	if f != nil && f.place != nil && !c.again {
		v, _ := f.answer.(T) // the zero value beside an error
		return v, nil, f.err
	}
	return start(ctx, d, c, op, f, run, late)
}

// admit finds the request's place among the others of its id; nil means that the
// id is not looked at. It waits for a request of the same id and arguments.
func (d *Device) admit(ctx context.Context, c call) (*flight, error) {
	if c.op.ID == "" || c.args == "" {
		return nil, nil
	}
	for {
		f, own, err := d.replays.begin(c.op.ID, c.args)
		if err != nil || own {
			return f, err
		}
		again, err := d.join(ctx, c, f)
		if err != nil || !again {
			return f, err
		}
	}
}

// join waits for the request of the same id that runs already. For a Writer it
// waits only as long as for a lock: its owner may keep it open for hours.
func (d *Device) join(ctx context.Context, c call, f *flight) (again bool, err error) {
	if !c.held {
		return f.join(ctx)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, d.options.LockWait, errLockWait)
	defer cancel()
	again, err = f.join(waiting)
	if err != nil && ctx.Err() == nil {
		return false, primitives.Errorf(primitives.CodeConflict, "this request is under way already").
			By(primitives.Blocker{Kind: "operation", Name: f.id}).Trying("Repeat the request once that has ended")
	}
	return again, err
}

type answer[T any] struct {
	v   T
	err error
}

// start takes the locks and runs the driver's method in a goroutine of its own.
func start[T any](ctx context.Context, d *Device, c call, op primitives.Op, f *flight, run func(context.Context, primitives.Op) (T, error), late func(T) error) (v T, _ *lease, err error) {
	l := &lease{flight: f}
	if f != nil && f.place != nil {
		l.flight = nil // answered before, and asked again
	}
	if l.unlock, err = d.lock(ctx, c); err != nil {
		l.unlock = func() {}
		l.end(d, nil, err)
		return v, nil, err
	}
	d.bound(ctx, l, c.long)
	op.Report = l.reporting(op.Report)
	done := make(chan answer[T], 1)
	if !d.enter() {
		l.end(d, nil, errClosed)
		return v, nil, errClosed
	}
	go func() {
		defer d.calls.Done()
		v, err := protected(func() (T, error) { return run(l.ctx, op) })
		if err = l.verdict(err); err == nil {
			done <- answer[T]{v, nil}
			return
		}
		// The end of the context comes after the answer: on a busy host it would
		// else be taken for the answer.
		l.release(d, v, err)
		done <- answer[T]{v, err}
		l.drop()
	}()
	select {
	case a := <-done:
		return a.v, l.orNil(a.err), a.err
	case <-l.ctx.Done():
	}
	return lastWord(d, l, done, late)
}

// lock takes what c needs. What needs the whole device waits as long as a call
// may take, because the others are let finish.
func (d *Device) lock(ctx context.Context, c call) (unlock func(), err error) {
	r := Running{Op: c.name, URI: c.uri, ID: c.op.ID, Since: time.Now(), stream: c.held}
	switch {
	case c.alone:
		wait := d.options.CallTimeout
		if until, bounded := ctx.Deadline(); bounded {
			wait = time.Until(until)
		}
		return d.locks.lockAll(ctx, wait, d.options.LockWait, r)
	case len(c.keys) > 0:
		return d.locks.lock(ctx, d.options.LockWait, r, c.keys)
	}
	return func() {}, nil
}

// grace is how long a call whose context ended may still take to say how it
// ended. A driver that keeps the contract needs less.
const grace = 250 * time.Millisecond

// lastWord waits for the driver's own answer to the end of the context, which is
// worth more than ours, and leaves a driver that gives none to itself.
func lastWord[T any](d *Device, l *lease, done <-chan answer[T], late func(T) error) (v T, _ *lease, _ error) {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case a := <-done:
		return a.v, l.orNil(a.err), a.err
	case <-t.C:
	}
	err := l.verdict(ended(l.ctx))
	go func() { // ends when the driver does; d.calls counted it already
		if a := <-done; a.err == nil {
			l.end(d, a.v, late(a.v))
		}
	}()
	return v, nil, err
}

func (l *lease) orNil(err error) *lease {
	if err != nil {
		return nil // the runner ended it
	}
	return l
}

// bound makes the call's context: it ends with the caller's, with the device,
// and, where the caller gave no deadline, at the device's own limit. It is
// cancelled by end alone, so a driver may tie a Reader or Writer to it.
func (d *Device) bound(ctx context.Context, l *lease, long bool) {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.alone = context.AfterFunc(d.life, func() { l.cancel(errClosed) })
	if _, bounded := ctx.Deadline(); bounded {
		return
	}
	after := d.options.CallTimeout
	if long {
		after = d.options.StallTimeout
	}
	l.limit = &limit{after: after, timer: time.AfterFunc(after, func() { l.cancel(errTimeout) })}
}

// limit ends a call that shows no life for so long.
type limit struct {
	after time.Duration

	mu    sync.Mutex  // guards timer
	timer *time.Timer // nil once the limit is lifted
}

func (l *limit) extend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Reset(l.after)
	}
}

func (l *limit) lift() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// reporting passes progress on; each report gives the call its time again.
func (l *lease) reporting(report func(primitives.Progress)) func(primitives.Progress) {
	return func(p primitives.Progress) {
		if l.limit != nil {
			l.limit.extend()
		}
		if report != nil {
			report(p)
		}
	}
}

// answered lifts the limit of a call whose result lives on.
func (l *lease) answered() {
	if l.limit != nil {
		l.limit.lift()
	}
}

// verdict corrects what a driver makes of a context that we ended: it sees a
// cancellation, but the caller cancelled nothing.
func (l *lease) verdict(err error) error {
	if err == nil || !errors.Is(err, context.Canceled) && primitives.CodeOf(err) != primitives.CodeCancelled {
		return err
	}
	if cause := context.Cause(l.ctx); errors.Is(cause, errTimeout) || errors.Is(cause, errClosed) {
		return &primitives.Error{Code: primitives.CodeUnavailable, Err: cause}
	}
	return err
}

// end gives everything back and tells the request's outcome to its repeats.
func (l *lease) end(d *Device, answer any, err error) {
	l.drop()
	l.release(d, answer, err)
}

// drop ends the call's context.
func (l *lease) drop() {
	if l.cancel != nil {
		l.alone()
		l.cancel(nil)
	}
}

// release is end but for the context.
func (l *lease) release(d *Device, answer any, err error) {
	l.answered()
	l.unlock()
	if l.flight != nil {
		d.replays.finish(l.flight, answer, classify("", primitives.URI{}, err))
	}
}

// logFailure logs what somebody should look at: defects, and devices that do not
// answer. Everything else is the caller's to tell.
func (d *Device) logFailure(ctx context.Context, c call, err error, took time.Duration) {
	attrs := []any{"op", c.name, "uri", c.uri.Short(), "request", c.op.ID, "took", took, "err", err}
	switch primitives.CodeOf(err) {
	case primitives.CodeInternal:
		if p, ok := errors.AsType[*panicError](err); ok {
			attrs = append(attrs, "stack", string(p.stack))
		}
		d.options.Log.ErrorContext(ctx, "device call failed", attrs...)
	case primitives.CodeUnavailable, primitives.CodeFenced:
		d.options.Log.WarnContext(ctx, "device call failed", attrs...)
	default:
		d.options.Log.Log(ctx, slog.LevelDebug, "device call finished", attrs...)
	}
}
