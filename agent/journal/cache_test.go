// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
)

// TestWhatIsReadIsWhatWasWritten changes uses and operations at random, aborts
// some of the transactions, and compares every reading with a model.
func TestWhatIsReadIsWhatWasWritten(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	random := rand.New(rand.NewPCG(1, 2))
	model := make(map[string]int)
	no := errors.New("no")
	read := func(tx *journal.Tx, want map[string]int) error {
		uses, err := tx.Uses()
		ops, err2 := tx.Operations()
		got, gotOps := make(map[string]int), make(map[string]int)
		for _, u := range uses {
			got[u.ID] = len(u.Domain)
		}
		for _, o := range ops {
			gotOps[o.ID] = o.Step
		}
		if d := cmp.Diff(want, got) + cmp.Diff(want, gotOps); d != "" {
			return fmt.Errorf("read (-want +got):\n%s", d)
		}
		for _, u := range uses {
			if same, err := tx.Use(u.ID); err != nil || same != u {
				return fmt.Errorf("Use(%s) = %+v, but Uses has %+v: %w", u.ID, same, u, err)
			}
		}
		for i := 1; i < len(uses); i++ {
			if uses[i-1].ID >= uses[i].ID {
				return fmt.Errorf("%s comes before %s", uses[i-1].ID, uses[i].ID)
			}
		}
		return errors.Join(err, err2)
	}
	for range 300 {
		next := make(map[string]int)
		for k, v := range model {
			next[k] = v
		}
		err := j.Update(func(tx *journal.Tx) error {
			for range random.IntN(4) {
				id := fmt.Sprint("u", random.IntN(12))
				if random.IntN(3) == 0 {
					delete(next, id)
					if err := errors.Join(tx.DeleteUse(id), tx.DeleteOperation(journal.Operation{ID: id, RequestID: id})); err != nil {
						return err
					}
					continue
				}
				next[id] = random.IntN(9)
				u := journal.Use{ID: id, Admitted: time.Now(), Domain: string(make([]byte, next[id]))}
				if err := errors.Join(tx.PutUse(u), tx.PutOperation(journal.Operation{ID: id, RequestID: id, Step: next[id]})); err != nil {
					return err
				}
			}
			if err := read(tx, next); err != nil {
				return err
			}
			if random.IntN(4) == 0 {
				return no
			}
			return nil
		})
		if err == nil {
			model = next
		} else if !errors.Is(err, no) {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			if err := j.View(func(tx *journal.Tx) error { return read(tx, model) }); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAReadingStaysAsItWas reads twice in one view while others write.
func TestAReadingStaysAsItWas(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 40 {
				_ = j.Update(func(tx *journal.Tx) error { return tx.PutUse(journal.Use{ID: fmt.Sprint(w, "-", i)}) })
			}
		})
	}
	for range 100 {
		err := j.View(func(tx *journal.Tx) error {
			first, err := tx.Uses()
			second, err2 := tx.Uses()
			if d := cmp.Diff(first, second); d != "" {
				t.Errorf("one view reads differently (-first +second):\n%s", d)
			}
			return errors.Join(err, err2)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	writers.Wait()
}

func TestWhatAReaderDoesToItsSliceHarmsNobody(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	if err := j.Update(func(tx *journal.Tx) error { return tx.PutUse(journal.Use{ID: "a"}) }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := j.View(func(tx *journal.Tx) error {
			uses, err := tx.Uses()
			if len(uses) != 1 || uses[0].ID != "a" {
				t.Errorf("Uses = %+v, want a", uses)
			}
			clear(uses)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
