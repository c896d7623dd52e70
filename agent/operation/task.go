// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

const (
	undoLimit     = 2 * time.Minute        // for taking one step back
	firstPause    = 250 * time.Millisecond // before a repeat; doubles
	longestPause  = time.Minute
	progressEvery = 100 * time.Millisecond // at most, to watchers
)

// errCancelAsked is the cause of the end of a task's context on Cancel.
var errCancelAsked = errors.New("cancelled on request")

// task is a live operation. Its goroutine alone changes rec, under mu.
type task struct {
	engine  *Engine
	handler *handler
	id      string
	bound   bound
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the goroutine ended
	resumed bool          // begun by an earlier tenond

	mu       sync.Mutex // guards what follows against readers
	rec      journal.Operation
	step     int    // the step under way; rec.Step is the recorded one, the first of a joined group
	note     string // what holds it up
	progress primitives.Progress
	told     time.Time // when watchers last heard of progress
	final    bool      // cannot be taken back any more
}

func (t *task) show() Operation {
	t.mu.Lock()
	defer t.mu.Unlock()
	op := show(t.rec)
	op.Progress = t.progress
	if t.note != "" {
		op.Note = t.note
	}
	if op.State == Running && t.step < len(t.handler.steps) {
		op.Step = t.handler.steps[t.step].name
	}
	return op
}

func (t *task) report(p primitives.Progress) {
	now := time.Now()
	t.mu.Lock()
	t.progress = p
	tell := now.Sub(t.told) >= progressEvery || p.Total > 0 && p.Done == p.Total
	if tell {
		t.told = now
	}
	t.mu.Unlock()
	if tell {
		t.engine.changed(t.id)
	}
}

func (t *task) setNote(note string) {
	t.mu.Lock()
	same := t.note == note
	t.note = note
	t.mu.Unlock()
	if !same {
		t.engine.changed(t.id)
	}
}

// askCancel records the wish and interrupts the step under way.
func (t *task) askCancel() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if State(t.rec.State).Finished() || t.rec.CancelAsked {
		return nil
	}
	if t.final {
		return primitives.Errorf(primitives.CodeConflict, "operation %s is past the point where it can be taken back", t.id)
	}
	// The wish alone is written: the rest of the record belongs to the goroutine.
	err := t.engine.journal.Update(func(tx *journal.Tx) error {
		rec, err := tx.Operation(t.id)
		if err != nil {
			return err
		}
		rec.CancelAsked = true
		return tx.PutOperation(rec)
	})
	if err != nil {
		return err
	}
	t.rec.CancelAsked = true
	t.cancel(errCancelAsked)
	return nil
}

func (t *task) cancelAsked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.CancelAsked
}

// remember puts the memory and the intent of the step into the record.
func (t *task) remember(step int) error {
	memory, err := t.bound.memory()
	if err != nil {
		return fmt.Errorf("memory of operation %s: %w", t.id, err)
	}
	t.rec.Memory, t.rec.Step = memory, step
	t.rec.StepName = ""
	if step < len(t.handler.steps) {
		t.rec.StepName = t.handler.steps[step].name
	}
	return nil
}

// commit writes the record as edit changes it, and repeats that while the
// journal refuses: the side effect has happened, so it must be told. It fails
// only when the engine stops; then the operation goes on from the older record.
func (t *task) commit(edit func(*journal.Operation), with func(*journal.Tx) error) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := t.tryCommit(edit, with)
		if err == nil {
			t.engine.changed(t.id)
			return nil
		}
		t.log.Error("journal refused a record", "err", err)
		t.setNote("the journal cannot be written: " + err.Error())
		if !t.pause(pause) {
			return errStopping
		}
	}
}

func (t *task) tryCommit(edit func(*journal.Operation), with func(*journal.Tx) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.rec
	if err := t.remember(t.step); err != nil {
		return err
	}
	edit(&t.rec)
	err := t.engine.journal.Update(func(tx *journal.Tx) error {
		if with != nil {
			if err := with(tx); err != nil {
				return err
			}
		}
		return tx.PutOperation(t.rec)
	})
	if err != nil {
		t.rec = before
	}
	return err
}

// pause waits; false means that the engine stops.
func (t *task) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.engine.ctx.Done():
		return false
	}
}

// drive runs the operation to its end, or until the engine stops. Those who wait
// for it are told before the log is.
func (t *task) drive() {
	start := time.Now()
	t.admitted(t.run)
	t.engine.retire(t)
	if State(t.rec.State).Finished() {
		t.log.Info("operation finished", "subject", t.rec.Subject, "state", t.rec.State, "took", time.Since(start), "err", show(t.rec).Err())
	}
}

// admitted calls run when there is room for the operation, unless the engine stops first.
func (t *task) admitted(run func()) {
	if t.handler.bulk {
		if err := t.engine.bulk.Acquire(t.ctx, 1); err != nil && t.stopping() {
			return
		} else if err == nil {
			defer t.engine.bulk.Release(1)
		}
	}
	run()
}

func (t *task) run() {
	if t.rec.Direction == journal.Back {
		t.takeBack()
		return
	}
	err := t.forward()
	switch {
	case err == nil:
		t.conclude()
	case t.stopping():
		// Left as it is recorded; the next start resumes it.
	default:
		t.fail(err)
	}
}

// conclude ends an operation whose steps are all done.
func (t *task) conclude() {
	cause := t.guard(t.bound.outcome)
	if cause == nil {
		t.finish(Succeeded)
		return
	}
	failure, err := json.Marshal(FailureOf(cause))
	if err != nil {
		failure = nil
	}
	t.mu.Lock()
	t.rec.Failure = failure // recorded with the final state
	t.mu.Unlock()
	t.finish(Failed)
}

func (t *task) stopping() bool { return t.engine.ctx.Err() != nil }

// forward does the steps from the recorded one on.
func (t *task) forward() error {
	resumed := t.resumed // the step under way may have been begun already
	for t.step < len(t.handler.steps) {
		s := t.handler.steps[t.step]
		if err := t.enter(s, resumed); err != nil {
			return err
		}
		if err := t.doStep(s, resumed); err != nil {
			return err
		}
		resumed = false
		t.mu.Lock()
		t.step++
		next := t.step
		t.note = ""
		t.mu.Unlock()
		if next < len(t.handler.steps) && !t.handler.steps[next].joined {
			if err := t.commit(func(*journal.Operation) {}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// enter refuses a further step after Cancel, and passes the point of no return
// before a final one. A step that may have been done, and cannot be taken back,
// is entered all the same to learn what became of it.
func (t *task) enter(s stepInfo, begun bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec.CancelAsked && !t.final && (s.undo || !begun) {
		return errCancelAsked
	}
	t.final = t.final || s.final
	return nil
}

// doStep does the step, repeatedly if it is final.
func (t *task) doStep(s stepInfo, resumed bool) error {
	ctx := t.ctx
	if !s.interrupt {
		ctx = t.engine.ctx
	}
	if resumed && s.resume {
		var verdict Verdict
		err := t.guard(func() (err error) {
			verdict, err = t.bound.resume(ctx, t.step)
			return err
		})
		switch {
		case err != nil && !s.final:
			return err
		case err == nil && verdict == Done:
			return nil
		case err == nil && verdict == TakeBack:
			return primitives.Errorf(primitives.CodeCancelled, "tenond ended during the step %q, which was taken back", s.name).
				Trying("repeat the request with a new request id")
		}
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		start := time.Now()
		err := t.guard(func() error { return t.bound.do(ctx, t.step) })
		t.log.Debug("step ended", "step", s.name, "took", time.Since(start), "err", err)
		if err == nil || !s.final || t.stopping() {
			return err
		}
		t.log.Warn("step is repeated", "step", s.name, "err", err)
		t.setNote(fmt.Sprintf("%s did not succeed yet and is repeated: %v", s.name, err))
		if !t.pause(pause) {
			return errStopping
		}
	}
}

// guard turns a panic into an error: one bad operation must not take the agent
// down, and again at each start.
func (t *task) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("operation panicked", "panic", p, "stack", string(debug.Stack()))
			err = primitives.Errorf(primitives.CodeInternal, "tenond met a defect of its own: %v", p)
		}
	}()
	return f()
}

// fail records why the operation is taken back, and takes it back.
func (t *task) fail(cause error) {
	if t.cancelAsked() {
		cause = &primitives.Error{Code: primitives.CodeCancelled, Op: t.rec.Kind, Err: cause}
	}
	failure, err := json.Marshal(FailureOf(cause))
	if err != nil {
		failure = nil
	}
	if t.undoable() {
		err = t.commit(func(rec *journal.Operation) { rec.Direction, rec.Failure = journal.Back, failure }, nil)
		if err != nil {
			return
		}
	} else {
		t.mu.Lock()
		t.rec.Failure = failure // recorded with the final state
		t.mu.Unlock()
	}
	t.takeBack()
}

func (t *task) undoable() bool {
	for _, s := range t.handler.steps[:min(t.step+1, len(t.handler.steps))] {
		if s.undo {
			return true
		}
	}
	return false
}

// takeBack undoes the steps, the newest first. It stops at the first that cannot
// be undone, because what lies below may still be needed by it.
func (t *task) takeBack() {
	t.mu.Lock()
	t.final = true
	t.mu.Unlock()
	for i := min(t.step, len(t.handler.steps)-1); i >= 0; i-- {
		s := t.handler.steps[i]
		if !s.undo {
			continue
		}
		ctx, cancel := context.WithTimeout(t.engine.ctx, undoLimit)
		err := t.guard(func() error { return t.bound.undo(ctx, i) })
		cancel()
		if err == nil {
			if !t.takenBack(i) {
				return
			}
			continue
		}
		if t.stopping() {
			return
		}
		t.mu.Lock()
		t.step = i
		t.mu.Unlock()
		t.leave(s.name, err)
		return
	}
	t.mu.Lock()
	t.rec.Left = ""
	t.mu.Unlock()
	if t.cancelAsked() {
		t.finish(Cancelled)
		return
	}
	t.finish(Failed)
}

// takenBack records that the step was taken back, where others are still to be,
// so that they see in the memory what it found out. false: the engine stops.
func (t *task) takenBack(step int) bool {
	if !slices.ContainsFunc(t.handler.steps[:step], func(s stepInfo) bool { return s.undo }) {
		return true // the final state is recorded next
	}
	t.mu.Lock()
	t.step = step - 1
	t.mu.Unlock()
	return t.commit(func(*journal.Operation) {}, nil) == nil
}

// leave ends the operation with something left to take back, which the engine
// retries.
func (t *task) leave(step string, undoErr error) {
	left := fmt.Sprintf("%s could not be taken back yet: %v", step, undoErr)
	t.log.Warn("operation left something to take back", "step", step, "err", undoErr)
	state := Failed
	if t.cancelAsked() {
		state = Cancelled
	}
	_ = t.commit(func(rec *journal.Operation) {
		if rec.Finished.IsZero() {
			rec.Finished = time.Now().UTC()
		}
		rec.State, rec.Left, rec.Direction = string(state), left, journal.Back
	}, func(tx *journal.Tx) error { return t.bound.end(tx, state, true) })
}

// finish records the final state, and the result where all steps were done.
func (t *task) finish(s State) {
	var result json.RawMessage
	if t.step == len(t.handler.steps) {
		err := t.guard(func() (err error) {
			result, err = t.bound.result()
			return err
		})
		if err != nil {
			t.log.Error("result could not be made", "err", err)
		}
	}
	_ = t.commit(func(rec *journal.Operation) {
		rec.State, rec.Direction, rec.Result = string(s), journal.Forward, result
		if rec.Finished.IsZero() {
			rec.Finished = time.Now().UTC()
		}
	}, func(tx *journal.Tx) error { return t.bound.end(tx, s, false) })
}
