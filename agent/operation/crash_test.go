// SPDX-License-Identifier: Apache-2.0

package operation_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
)

var errDead = errors.New("the agent is dead")

// reaper kills the agent after a number of events, an event being a commit to
// the journal or an effect on the world: nothing that comes later happens.
type reaper struct{ left atomic.Int64 }

func (r *reaper) event() error {
	if r.left.Add(-1) < 0 {
		return errDead
	}
	return nil
}

// TestOperationIsWholeOrGoneWhereverTheAgentDies kills the agent after every
// commit and every effect, of an operation that succeeds and of one that is
// taken back, and starts it again.
func TestOperationIsWholeOrGoneWhereverTheAgentDies(t *testing.T) {
	for kind, whole := range map[string][]string{"abc": {"a", "b", "c"}, "xyz": {"x", "y", "z"}} {
		for _, failing := range []string{"", "do a", "do b", "do c", "do x"} {
			for n := int64(0); ; n++ {
				name := fmt.Sprintf("%s failing at %q dead after %d", kind, failing, n)
				w := newWorld()
				if failing != "" {
					w.fail[failing] = errors.New("no")
				}
				if finished := crashOnce(t, name, w, kind, n, whole, failing); finished {
					break
				}
				if n > 30 {
					t.Fatalf("%s: never came to its end", name)
				}
			}
		}
	}
}

func crashOnce(t *testing.T, name string, w *world, kind string, n int64, whole []string, failing string) (finished bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "j")
	open(t, path, journal.Options{}).Close()
	var death reaper
	death.left.Store(n)
	w.dead = death.event
	j := open(t, path, journal.Options{Before: death.event})
	e := operation.New(j, operation.Options{})
	w.register(e)
	op, startErr := e.Start(t.Context(), operation.Request{RequestID: "r", Kind: kind, Args: args{Name: "n"}})
	if startErr == nil {
		ended := make(chan struct{})
		go func(e *operation.Engine) { // it ends when dead, by Stop
			defer close(ended)
			_, _ = e.Wait(context.Background(), op.ID)
		}(e)
		for alive := true; alive; {
			select {
			case <-ended:
				alive = false
			case <-w.entered:
			default:
				alive = death.left.Load() >= 0
			}
		}
	}
	finished = death.left.Load() >= 0
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	e.Stop(stopped)
	j.Close()

	w.set(func() { w.dead = nil })
	for len(w.entered) > 0 {
		<-w.entered
	}
	j = open(t, path, journal.Options{})
	defer j.Close()
	e = operation.New(j, operation.Options{})
	w.register(e)
	if err := e.Resume(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(t.Context())
	again, err := e.Start(t.Context(), operation.Request{RequestID: "r", Kind: kind, Args: args{Name: "n"}})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if startErr == nil && again.ID != op.ID {
		t.Errorf("%s: the operation was forgotten", name)
	}
	if again, err = e.Wait(t.Context(), again.ID); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	uses := 0
	if err := j.View(func(tx *journal.Tx) error { u, err := tx.Uses(); uses = len(u); return err }); err != nil {
		t.Fatal(err)
	}
	switch again.State {
	case operation.Succeeded:
		if d := cmp.Diff(whole, w.names()); d != "" || uses != 1 {
			t.Errorf("%s: succeeded with %d uses and (-want +present):\n%s", name, uses, d)
		}
	default:
		if got := w.names(); len(got) > 0 || uses != 0 {
			t.Errorf("%s: %s and left %v, %d uses", name, again.State, got, uses)
		}
		if failing == "" {
			t.Errorf("%s: %s without a reason: %v", name, again.State, again.Err())
		}
	}
	return finished
}
