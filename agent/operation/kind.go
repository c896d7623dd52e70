// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// Kind is one kind of operation. A are its arguments; M is what its steps
// remember, which the journal keeps between them. Both travel as JSON.
type Kind[A, M any] struct {
	Name    string
	Subject func(A) string
	// Check refuses wrong arguments before anything is recorded. It may look at
	// devices and domains and put what it found into the memory; it changes
	// nothing. May be nil.
	Check func(ctx context.Context, r *Run[A, M]) error
	// Admit runs in the transaction that records the operation: it claims names,
	// records uses and fills the memory. Its error means that nothing began. May be nil.
	Admit func(tx *journal.Tx, r *Run[A, M]) error
	Steps []Step[A, M]
	// Result makes the result from the memory. May be nil.
	Result func(r *Run[A, M]) any
	// Outcome looks at the memory after the last step: its error makes the operation
	// Failed, with its result beside it and nothing taken back. It is for kinds whose
	// final steps may come out in several ways. May be nil.
	Outcome func(r *Run[A, M]) error
	// End runs in the transaction that records the final state. left says that
	// something could not be taken back yet; End runs again when it is. It changes
	// nothing but the transaction, which may fail after it. May be nil.
	End func(tx *journal.Tx, r *Run[A, M], s State, left bool) error
	// Bulk says that it moves many bytes; only some of these run at once.
	Bulk bool
}

// Step is one named step. Do and Undo are repeated after a crash, with the same
// Run.Op, so both must be safe to repeat.
type Step[A, M any] struct {
	Name string
	Do   func(ctx context.Context, r *Run[A, M]) error
	// Undo takes the step back, whether or not it was done. nil: there is
	// nothing to take back, and Cancel waits for the step's end.
	Undo func(ctx context.Context, r *Run[A, M]) error
	// Joined steps have their intent recorded together with the step before:
	// a crash repeats both. It saves a commit where the two are quick.
	Joined bool
	// Resume looks, after a crash during the step, at what became of it. nil: Repeat.
	Resume func(ctx context.Context, r *Run[A, M]) (Verdict, error)
	// Interrupt lets Cancel end a step without Undo: what it leaves behind is
	// seen and cared for by others.
	Interrupt bool
	// Final steps are never taken back, nor is anything before them once they
	// began: they are repeated until they succeed.
	Final bool
}

// Verdict is what Resume found.
type Verdict uint8

const (
	Repeat   Verdict = iota // do the step again
	Done                    // the step was done; the memory holds its outcome
	TakeBack                // take the operation back
)

// Run is one operation as its steps see it.
type Run[A, M any] struct {
	ID     string
	Caller string
	Args   A
	Memory M // recorded after each step
	Log    *slog.Logger

	task *task
}

// Op returns what a call of a storage device carries for the part of the
// operation called part: the same for each repeat.
func (r *Run[A, M]) Op(part string) primitives.Op {
	return primitives.Op{ID: r.ID + "/" + part, Report: r.Report}
}

// Report tells how far the operation is. It is quick and writes nothing.
func (r *Run[A, M]) Report(p primitives.Progress) { r.task.report(p) }

// Resumed reports whether an earlier tenond began the operation.
func (r *Run[A, M]) Resumed() bool { return r.task.resumed }

// Claim reserves a name while the operation runs: of two operations that claim
// one name, and not both shared, the later one is refused. Only for Admit.
func (r *Run[A, M]) Claim(name string, shared bool) {
	r.task.rec.Claims = append(r.task.rec.Claims, journal.Claim{Name: name, Shared: shared})
}

// Register makes e able to run operations of kind k. A name that is taken is a
// programming error.
func Register[A, M any](e *Engine, k Kind[A, M]) {
	if _, taken := e.kinds[k.Name]; taken {
		panic(fmt.Sprintf("operation: kind %q is registered twice", k.Name))
	}
	h := &handler{name: k.Name, bulk: k.Bulk, bind: k.bind}
	for _, s := range k.Steps {
		h.steps = append(h.steps, stepInfo{
			name: s.Name, joined: s.Joined, final: s.Final, undo: s.Undo != nil, resume: s.Resume != nil,
			interrupt: s.Undo != nil || s.Interrupt,
		})
	}
	e.kinds[k.Name] = h
}

// handler is a Kind without its types.
type handler struct {
	name  string
	bulk  bool
	steps []stepInfo
	bind  func(t *task, args, memory json.RawMessage) (bound, error)
}

type stepInfo struct {
	name                                   string
	joined, final, undo, resume, interrupt bool
}

// bound is a Kind's functions applied to one operation.
type bound struct {
	subject string
	args    json.RawMessage // as this version writes them
	check   func(context.Context) error
	admit   func(*journal.Tx) error
	do      func(context.Context, int) error
	undo    func(context.Context, int) error
	resume  func(context.Context, int) (Verdict, error)
	memory  func() (json.RawMessage, error)
	result  func() (json.RawMessage, error)
	outcome func() error
	end     func(*journal.Tx, State, bool) error
}

func (k Kind[A, M]) bind(t *task, args, memory json.RawMessage) (bound, error) {
	r := &Run[A, M]{ID: t.id, Caller: t.rec.Caller, Log: t.log, task: t}
	decoder := json.NewDecoder(bytes.NewReader(args))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r.Args); err != nil {
		return bound{}, primitives.Invalid("args", "of %s: %v", k.Name, err)
	}
	if len(memory) > 0 {
		if err := json.Unmarshal(memory, &r.Memory); err != nil {
			return bound{}, primitives.Errorf(primitives.CodeInternal, "memory of operation %s: %w", r.ID, err)
		}
	}
	canonical, err := json.Marshal(r.Args)
	if err != nil {
		return bound{}, fmt.Errorf("arguments of %s: %w", k.Name, err)
	}
	b := bound{
		subject: k.Subject(r.Args),
		args:    canonical,
		check:   func(context.Context) error { return nil },
		admit:   func(*journal.Tx) error { return nil },
		do:      func(ctx context.Context, i int) error { return k.Steps[i].Do(ctx, r) },
		undo:    func(ctx context.Context, i int) error { return k.Steps[i].Undo(ctx, r) },
		resume:  func(ctx context.Context, i int) (Verdict, error) { return k.Steps[i].Resume(ctx, r) },
		memory:  func() (json.RawMessage, error) { return json.Marshal(r.Memory) },
		result:  func() (json.RawMessage, error) { return nil, nil },
		outcome: func() error { return nil },
		end:     func(*journal.Tx, State, bool) error { return nil },
	}
	if k.Check != nil {
		b.check = func(ctx context.Context) error { return k.Check(ctx, r) }
	}
	if k.Admit != nil {
		b.admit = func(tx *journal.Tx) error { return k.Admit(tx, r) }
	}
	if k.Result != nil {
		b.result = func() (json.RawMessage, error) { return json.Marshal(k.Result(r)) }
	}
	if k.Outcome != nil {
		b.outcome = func() error { return k.Outcome(r) }
	}
	if k.End != nil {
		b.end = func(tx *journal.Tx, s State, left bool) error { return k.End(tx, r, s, left) }
	}
	return b, nil
}
