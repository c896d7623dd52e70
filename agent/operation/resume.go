// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
)

// tendEvery is how often the engine forgets old operations and tries again what
// could not be taken back.
const tendEvery = time.Minute

// Resume lets every operation that the journal holds as unfinished go on, or be
// taken back further, and tends the journal until Stop. Call it once, when all
// kinds are registered.
func (e *Engine) Resume() error {
	var recs []journal.Operation
	err := e.journal.View(func(tx *journal.Tx) (err error) {
		recs, err = tx.Operations()
		return err
	})
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if !State(rec.State).Finished() || rec.Left != "" {
			e.resume(rec)
		}
	}
	e.work.Go(e.tend)
	return nil
}

// resume makes a recorded operation live again. One that this version does not
// understand stays in the journal for one that does.
func (e *Engine) resume(rec journal.Operation) {
	log := e.log.With("operation", rec.ID, "kind", rec.Kind)
	h := e.kinds[rec.Kind]
	if h == nil || rec.Step > len(h.steps) {
		log.Error("operation cannot be resumed by this version of tenond", "step", rec.StepName)
		return
	}
	t := &task{handler: h, engine: e, id: rec.ID, done: make(chan struct{}), rec: rec, step: rec.Step, log: log, resumed: true}
	var err error
	if t.bound, err = h.bind(t, rec.Args, rec.Memory); err != nil {
		log.Error("operation cannot be resumed by this version of tenond", "err", err)
		return
	}
	e.mu.Lock()
	conflict := e.claims.conflict(rec.ID, rec.Claims)
	e.mu.Unlock()
	if conflict != nil { // only for what is left of a finished operation
		log.Info("taking back waits for another operation", "err", conflict)
		e.mu.Lock()
		e.left[rec.ID] = true
		e.mu.Unlock()
		return
	}
	log.Info("operation resumed", "step", rec.StepName, "direction", rec.Direction)
	e.launch(t)
}

// retire takes a task whose goroutine ends out of the live ones.
func (e *Engine) retire(t *task) {
	e.mu.Lock()
	delete(e.tasks, t.id)
	e.claims.release(t.id, t.rec.Claims)
	if t.rec.Left != "" {
		e.left[t.id] = true
	}
	e.mu.Unlock()
	t.cancel(nil)
	close(t.done)
	e.changed(t.id)
}

func (e *Engine) tend() {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		if err := e.forget(time.Now()); err != nil {
			e.log.Error("old operations could not be forgotten", "err", err)
		}
		select {
		case <-ticker.C:
		case <-e.ctx.Done():
			return
		}
		e.RetryLeft()
	}
}

// RetryLeft tries again to take back what finished operations left.
func (e *Engine) RetryLeft() {
	e.mu.Lock()
	ids := make([]string, 0, len(e.left))
	for id := range e.left {
		ids = append(ids, id)
	}
	e.mu.Unlock()
	for _, id := range ids {
		var rec journal.Operation
		err := e.journal.View(func(tx *journal.Tx) (err error) {
			rec, err = tx.Operation(id)
			return err
		})
		if err != nil {
			e.log.Error("operation with something left could not be read", "operation", id, "err", err)
			continue
		}
		e.resume(rec)
	}
}

// forget deletes finished operations that are older than KeepFor, from the
// oldest on, as long as more than Keep are there. One with something left to
// take back stays.
func (e *Engine) forget(now time.Time) error {
	var old []journal.Operation
	err := e.journal.View(func(tx *journal.Tx) error {
		recs, err := tx.Operations()
		if err != nil {
			return err
		}
		old = forgettable(recs, e.options.Keep, now.Add(-e.options.KeepFor))
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return e.journal.Update(func(tx *journal.Tx) error {
		for _, rec := range old {
			if err := tx.DeleteOperation(rec); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgettable picks, of records in order of age, what forget deletes.
func forgettable(recs []journal.Operation, keep int, before time.Time) []journal.Operation {
	finished := 0
	for _, rec := range recs {
		if State(rec.State).Finished() {
			finished++
		}
	}
	var old []journal.Operation
	for _, rec := range recs {
		if finished-len(old) <= keep {
			break
		}
		if State(rec.State).Finished() && rec.Left == "" && rec.Finished.Before(before) {
			old = append(old, rec)
		}
	}
	return old
}
