// SPDX-License-Identifier: Apache-2.0

package operation_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
)

type args struct {
	Name   string
	Shared bool
}

type memory struct{ Seen []string }

// world is where the steps have their effects. It outlives a crash.
type world struct {
	mu      sync.Mutex
	present map[string]bool
	log     []string
	fail    map[string]error         // "do NAME" or "undo NAME"
	block   map[string]chan struct{} // "do NAME" waits for it, or for its context
	entered chan string
	dead    func() error // an error means that the agent is dead: no effect any more
}

func newWorld() *world {
	return &world{present: map[string]bool{}, fail: map[string]error{}, block: map[string]chan struct{}{}, entered: make(chan string, 100)}
}

func (w *world) act(ctx context.Context, what, name string, present bool) error {
	w.mu.Lock()
	if w.dead != nil {
		if err := w.dead(); err != nil {
			w.mu.Unlock()
			return err
		}
	}
	w.log = append(w.log, what+" "+name)
	err, gate := w.fail[what+" "+name], w.block[what+" "+name]
	if err == nil && gate == nil {
		w.present[name] = present
	}
	w.mu.Unlock()
	w.entered <- what + " " + name
	if gate != nil {
		select {
		case <-gate:
			w.mu.Lock()
			w.present[name] = present
			w.mu.Unlock()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

func (w *world) set(f func()) { w.mu.Lock(); defer w.mu.Unlock(); f() }

func (w *world) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for n, p := range w.present {
		if p {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) step(name string) operation.Step[args, memory] {
	return operation.Step[args, memory]{
		Name: name,
		Do: func(ctx context.Context, r *operation.Run[args, memory]) error {
			r.Memory.Seen = append(r.Memory.Seen, name)
			return w.act(ctx, "do", name, true)
		},
		Undo: func(ctx context.Context, r *operation.Run[args, memory]) error {
			return w.act(ctx, "undo", name, false)
		},
	}
}

func (w *world) kind(name string, steps ...operation.Step[args, memory]) operation.Kind[args, memory] {
	return operation.Kind[args, memory]{
		Name:    name,
		Subject: func(a args) string { return a.Name },
		Check: func(_ context.Context, r *operation.Run[args, memory]) error {
			if r.Args.Name == "bad" {
				return primitives.Invalid("name", "it is bad")
			}
			return nil
		},
		Admit: func(tx *journal.Tx, r *operation.Run[args, memory]) error {
			r.Claim("thing "+r.Args.Name, r.Args.Shared)
			return tx.PutUse(journal.Use{ID: r.ID})
		},
		Steps:  steps,
		Result: func(r *operation.Run[args, memory]) any { return r.Memory.Seen },
		End: func(tx *journal.Tx, r *operation.Run[args, memory], s operation.State, left bool) error {
			if s != operation.Succeeded && !left {
				return tx.DeleteUse(r.ID)
			}
			return nil
		},
	}
}

func (w *world) register(e *operation.Engine) {
	joined := w.step("b")
	joined.Joined = true
	operation.Register(e, w.kind("abc", w.step("a"), joined, w.step("c")))
	final := w.step("y")
	final.Final = true
	operation.Register(e, w.kind("xyz", w.step("x"), final, w.step("z")))
}

func open(t *testing.T, path string, o journal.Options) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// engine returns a running engine over a new journal.
func engine(t *testing.T, w *world, o operation.Options) *operation.Engine {
	t.Helper()
	j := open(t, filepath.Join(t.TempDir(), "j"), journal.Options{})
	e := operation.New(j, o)
	w.register(e)
	if err := e.Resume(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.Stop(ctx)
		j.Close()
	})
	return e
}

func start(t *testing.T, e *operation.Engine, r operation.Request) operation.Operation {
	t.Helper()
	op, err := e.Start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func wait(t *testing.T, e *operation.Engine, id string) operation.Operation {
	t.Helper()
	op, err := e.Wait(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func TestStepsRunInOrderAndTheirMemoryIsTheResult(t *testing.T) {
	w := newWorld()
	e := engine(t, w, operation.Options{})
	op := wait(t, e, start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}, Caller: "me"}).ID)
	seen, err := operation.Decode[[]string](op)
	if err != nil || !cmp.Equal(seen, []string{"a", "b", "c"}) {
		t.Errorf("result = %v, %v", seen, err)
	}
	if op.State != operation.Succeeded || op.Subject != "n" || op.Caller != "me" || op.Finished.IsZero() {
		t.Errorf("operation = %+v", op)
	}
}

func TestSameRequestIDIsTheSameOperation(t *testing.T) {
	w := newWorld()
	e := engine(t, w, operation.Options{})
	r := operation.Request{RequestID: "r1", Kind: "abc", Args: args{Name: "n"}}
	first := start(t, e, r)
	wait(t, e, first.ID)
	again := start(t, e, r)
	if again.ID != first.ID || again.State != operation.Succeeded {
		t.Errorf("repeat = %s %s, want %s succeeded", again.ID, again.State, first.ID)
	}
	for what, r := range map[string]operation.Request{
		"arguments": {RequestID: "r1", Kind: "abc", Args: args{Name: "m"}},
		"kind":      {RequestID: "r1", Kind: "xyz", Args: args{Name: "n"}},
	} {
		if _, err := e.Start(t.Context(), r); !errors.Is(err, primitives.CodeConflict) {
			t.Errorf("the same id with another %s = %v, want conflict", what, err)
		}
	}
	if len(w.log) != 3 {
		t.Errorf("effects = %v, want each once", w.log)
	}
}

func TestTwinRequestsAtOnceAreOneOperation(t *testing.T) {
	w := newWorld()
	e := engine(t, w, operation.Options{})
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			op, err := e.Start(t.Context(), operation.Request{RequestID: "same", Kind: "abc", Args: args{Name: "n"}})
			if err != nil {
				t.Error(err)
			}
			ids[i] = op.ID
		})
	}
	group.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("operations = %v, want one", ids)
	}
}

func TestWrongArgumentsBeginNothing(t *testing.T) {
	w := newWorld()
	e := engine(t, w, operation.Options{})
	for what, r := range map[string]operation.Request{
		"refused by the kind": {Kind: "abc", Args: args{Name: "bad"}},
		"unknown kind":        {Kind: "nope", Args: args{}},
		"unknown field":       {Kind: "abc", Args: map[string]string{"Nome": "x"}},
		"request id":          {Kind: "abc", Args: args{}, RequestID: "a\nb"},
		"long request id":     {Kind: "abc", Args: args{}, RequestID: strings.Repeat("x", 129)},
	} {
		if _, err := e.Start(t.Context(), r); !errors.Is(err, primitives.CodeInvalid) {
			t.Errorf("%s: Start = %v, want invalid", what, err)
		}
	}
	if list, err := e.List(t.Context(), operation.Filter{}); len(list) != 0 || err != nil {
		t.Errorf("List = %v, %v; want nothing", list, err)
	}
}

func TestFailureTakesBackNewestFirst(t *testing.T) {
	w := newWorld()
	w.fail["do c"] = primitives.Errorf(primitives.CodeNoSpace, "full").Trying("buy more")
	e := engine(t, w, operation.Options{})
	op := wait(t, e, start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}}).ID)
	if want := []string{"do a", "do b", "do c", "undo c", "undo b", "undo a"}; !cmp.Equal(w.log, want) {
		t.Errorf("effects = %v, want %v", w.log, want)
	}
	if op.State != operation.Failed || op.Failure.Code != primitives.CodeNoSpace || op.Failure.Try != "buy more" || op.Note != "" {
		t.Errorf("operation = %+v, failure %+v", op, op.Failure)
	}
	if _, err := operation.Decode[any](op); !errors.Is(err, primitives.CodeNoSpace) || err.Error() != "no space: full" {
		t.Errorf("Decode = %v", err)
	}
}

func TestPanicFailsTheOperationOnly(t *testing.T) {
	w := newWorld()
	e := operation.New(open(t, filepath.Join(t.TempDir(), "j"), journal.Options{}), operation.Options{})
	operation.Register(e, operation.Kind[args, memory]{
		Name: "p", Subject: func(args) string { return "" },
		Steps: []operation.Step[args, memory]{w.step("a"), {Name: "boom", Do: func(context.Context, *operation.Run[args, memory]) error { panic("boom") }}},
	})
	op := wait(t, e, start(t, e, operation.Request{Kind: "p", Args: args{}}).ID)
	if op.Failure == nil || op.Failure.Code != primitives.CodeInternal || len(w.names()) != 0 {
		t.Errorf("failure = %+v, present %v", op.Failure, w.names())
	}
}

func TestWhatCannotBeTakenBackIsToldAndTriedAgain(t *testing.T) {
	w := newWorld()
	w.fail["do c"], w.fail["undo b"] = errors.New("no"), errors.New("stuck")
	e := engine(t, w, operation.Options{})
	op := wait(t, e, start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}}).ID)
	if op.State != operation.Failed || !strings.Contains(op.Note, "b could not be taken back yet: stuck") {
		t.Fatalf("operation = %+v", op)
	}
	if got := w.names(); !cmp.Equal(got, []string{"a", "b"}) {
		t.Errorf("present = %v; nothing below what is stuck may be taken back", got)
	}
	w.set(func() { delete(w.fail, "undo b") })
	e.RetryLeft()
	op = wait(t, e, op.ID)
	if op.Note != "" || len(w.names()) != 0 || op.State != operation.Failed {
		t.Errorf("after the retry: %+v, present %v", op, w.names())
	}
}

func TestCancelTakesBack(t *testing.T) {
	w := newWorld()
	w.block["do c"] = make(chan struct{})
	e := engine(t, w, operation.Options{})
	op := start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	for s := range w.entered {
		if s == "do c" {
			break
		}
	}
	if _, err := e.Cancel(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	op = wait(t, e, op.ID)
	if op.State != operation.Cancelled || !op.CancelAsked || !errors.Is(op.Err(), primitives.CodeCancelled) || len(w.names()) != 0 {
		t.Errorf("operation = %+v %v, present %v", op, op.Err(), w.names())
	}
	if again, err := e.Cancel(t.Context(), op.ID); err != nil || again.State != operation.Cancelled {
		t.Errorf("Cancel of a cancelled one = %v, %v", again.State, err)
	}
}

func TestFinalStepIsRepeatedUntilItSucceedsAndCannotBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail["do y"] = errors.New("away")
		e := engine(t, w, operation.Options{})
		op := start(t, e, operation.Request{Kind: "xyz", Args: args{Name: "n"}})
		for s := range w.entered {
			if s == "do y" {
				break
			}
		}
		synctest.Wait()
		if _, err := e.Cancel(t.Context(), op.ID); !errors.Is(err, primitives.CodeConflict) {
			t.Errorf("Cancel past the point of no return = %v, want conflict", err)
		}
		if op, _ := e.Get(t.Context(), op.ID); !strings.Contains(op.Note, "away") {
			t.Errorf("note = %q, want what holds it up", op.Note)
		}
		w.set(func() { delete(w.fail, "do y") })
		if op = wait(t, e, op.ID); op.State != operation.Succeeded {
			t.Errorf("state = %s", op.State)
		}
	})
}

func TestOfTwoOperationsOnOneThingTheSecondConflicts(t *testing.T) {
	w := newWorld()
	w.block["do a"] = make(chan struct{})
	e := engine(t, w, operation.Options{})
	first := start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	for _, a := range []args{{Name: "n"}, {Name: "n", Shared: true}} {
		_, err := e.Start(t.Context(), operation.Request{Kind: "xyz", Args: a})
		pe, ok := errors.AsType[*primitives.Error](err)
		if !ok || pe.Code != primitives.CodeConflict || len(pe.Blocked) != 1 || pe.Blocked[0].Name != first.ID {
			t.Errorf("Start = %v, want a conflict that names %s", err, first.ID)
		}
	}
	start(t, e, operation.Request{Kind: "abc", Args: args{Name: "m", Shared: true}})
	start(t, e, operation.Request{Kind: "abc", Args: args{Name: "m", Shared: true}})
	close(w.block["do a"])
	wait(t, e, first.ID)
	if _, err := e.Start(t.Context(), operation.Request{Kind: "xyz", Args: args{Name: "n"}}); err != nil {
		t.Errorf("Start after the first ended = %v", err)
	}
}

func TestMoreThanTheLimitIsRefused(t *testing.T) {
	w := newWorld()
	w.block["do a"] = make(chan struct{})
	e := engine(t, w, operation.Options{Running: 1})
	start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	if _, err := e.Start(t.Context(), operation.Request{Kind: "abc", Args: args{Name: "m"}}); !errors.Is(err, primitives.CodeUnavailable) {
		t.Errorf("Start over the limit = %v, want unavailable", err)
	}
}

func TestWatchEndsWithTheFinalState(t *testing.T) {
	w := newWorld()
	w.block["do b"] = make(chan struct{})
	e := engine(t, w, operation.Options{})
	op := start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	var states []operation.State
	for got, err := range e.Watch(t.Context(), op.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if len(states) == 0 {
			close(w.block["do b"])
		}
		states = append(states, got.State)
	}
	if len(states) < 2 || states[len(states)-1] != operation.Succeeded {
		t.Errorf("states = %v", states)
	}
	for _, err := range e.Watch(t.Context(), "nobody") {
		if !errors.Is(err, primitives.CodeNotFound) {
			t.Errorf("Watch of an unknown one = %v", err)
		}
	}
}

func TestWatchOfAllSeesWhatBeginsLater(t *testing.T) {
	w := newWorld()
	w.block["do a"] = make(chan struct{})
	e := engine(t, w, operation.Options{})
	first := start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	var later operation.Operation
	seen := make(map[string]operation.State)
	for op, err := range e.Watch(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 {
			if op.ID != first.ID {
				t.Errorf("the first item is %s, want the one that runs", op.ID)
			}
			later = start(t, e, operation.Request{Kind: "abc", Args: args{Name: "m"}})
			close(w.block["do a"])
		}
		seen[op.ID] = op.State
		if seen[first.ID] == operation.Succeeded && seen[later.ID] == operation.Succeeded {
			break
		}
	}
}

// pass lets time go by on a bubble's clock, and everybody do what is due then.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestFinishedOperationsAreForgottenOnlyWhenOldAndMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		e := engine(t, w, operation.Options{Keep: 2, KeepFor: time.Hour})
		var first operation.Operation
		for i := range 5 {
			op := start(t, e, operation.Request{RequestID: fmt.Sprint("r", i), Kind: "abc", Args: args{Name: "n"}})
			wait(t, e, op.ID)
			for len(w.entered) > 0 {
				<-w.entered
			}
			if i == 0 {
				first = op
			}
		}
		pass(59 * time.Minute)
		if op := start(t, e, operation.Request{RequestID: "r0", Kind: "abc", Args: args{Name: "n"}}); op.ID != first.ID {
			t.Error("a request id was forgotten too early")
		}
		pass(3 * time.Minute)
		if list, _ := e.List(t.Context(), operation.Filter{}); len(list) != 2 {
			t.Errorf("%d operations are kept, want 2", len(list))
		}
		if _, err := e.Get(t.Context(), first.ID); !errors.Is(err, primitives.CodeNotFound) {
			t.Errorf("Get of a forgotten one = %v", err)
		}
	})
}

func TestStopLeavesOperationsForTheNextStart(t *testing.T) {
	w := newWorld()
	w.block["do b"] = make(chan struct{})
	path := filepath.Join(t.TempDir(), "j")
	j := open(t, path, journal.Options{})
	e := operation.New(j, operation.Options{})
	w.register(e)
	op := start(t, e, operation.Request{Kind: "abc", Args: args{Name: "n"}})
	for s := range w.entered {
		if s == "do b" {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Stop(ctx)
	if _, err := e.Start(t.Context(), operation.Request{Kind: "abc", Args: args{Name: "m"}}); !errors.Is(err, primitives.CodeUnavailable) {
		t.Errorf("Start after Stop = %v, want unavailable", err)
	}
	j.Close()
	if slices.Contains(w.log, "undo b") {
		t.Error("Stop took the operation back")
	}
	delete(w.block, "do b")

	j = open(t, path, journal.Options{})
	defer j.Close()
	e = operation.New(j, operation.Options{})
	w.register(e)
	if err := e.Resume(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(t.Context())
	if op = wait(t, e, op.ID); op.State != operation.Succeeded {
		t.Errorf("after the restart the operation is %s: %v", op.State, op.Err())
	}
}
