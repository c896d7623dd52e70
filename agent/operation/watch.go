// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// watcher is one Watch under way. It collects what changed, so that a slow
// receiver sees the newest state of each operation and never all of them.
type watcher struct {
	id    string          // "": all
	dirty map[string]bool // guarded by Engine.mu
	wake  chan struct{}
}

// changed tells the watchers that an operation changed.
func (e *Engine) changed(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		if w.id != "" && w.id != id {
			continue
		}
		w.dirty[id] = true
		select {
		case w.wake <- struct{}{}:
		default: // it is awake
		}
	}
}

// Watch yields the present state of one operation, or with an empty id of all
// that run, and then each change; changes that come faster than they are
// received are joined. Of one operation the last item is its final state. An
// error ends the sequence: CodeNotFound, or ctx's end.
func (e *Engine) Watch(ctx context.Context, id string) iter.Seq2[Operation, error] {
	return func(yield func(Operation, error) bool) {
		w := &watcher{id: id, dirty: make(map[string]bool), wake: make(chan struct{}, 1)}
		e.mu.Lock()
		e.watchers[w] = struct{}{}
		for running := range e.tasks {
			if id == "" {
				w.dirty[running] = true
			}
		}
		if id != "" {
			w.dirty[id] = true
		}
		e.mu.Unlock()
		defer e.unwatch(w)
		w.wake <- struct{}{}
		for {
			select {
			case <-w.wake:
			case <-ctx.Done():
				yield(Operation{}, &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Op: "watch operations", Err: context.Cause(ctx)})
				return
			case <-e.ctx.Done():
				yield(Operation{}, primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping"))
				return
			}
			if !e.deliver(ctx, w, yield) {
				return
			}
		}
	}
}

func (e *Engine) unwatch(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
}

// deliver yields the newest state of what changed, oldest operation first. It
// reports false at the end of the sequence.
func (e *Engine) deliver(ctx context.Context, w *watcher, yield func(Operation, error) bool) bool {
	e.mu.Lock()
	dirty := slices.Sorted(maps.Keys(w.dirty))
	clear(w.dirty)
	e.mu.Unlock()
	for _, id := range dirty {
		op, err := e.Get(ctx, id)
		if err != nil && w.id == "" && errors.Is(err, primitives.CodeNotFound) {
			continue // forgotten meanwhile
		}
		if !yield(op, err) || err != nil {
			return false
		}
		if w.id != "" && op.State.Finished() {
			return false
		}
	}
	return true
}
