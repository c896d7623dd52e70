// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/semaphore"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// maxRequestID is the longest request id, in bytes.
const maxRequestID = 128

// Options are the optional parts of New; zero values mean the defaults.
type Options struct {
	Log     *slog.Logger
	Running int           // operations at once; more are refused. 256
	Bulk    int           // bulk operations at once; more wait. 4
	Keep    int           // finished operations kept. 1000
	KeepFor time.Duration // how long each is kept at least. 24 h
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Running == 0 {
		o.Running = 256
	}
	if o.Bulk == 0 {
		o.Bulk = 4
	}
	if o.Keep == 0 {
		o.Keep = 1000
	}
	if o.KeepFor == 0 {
		o.KeepFor = 24 * time.Hour
	}
	return o
}

// Engine runs operations. It is safe for concurrent use.
type Engine struct {
	journal *journal.Journal
	options Options
	log     *slog.Logger
	kinds   map[string]*handler // complete before Resume
	bulk    *semaphore.Weighted

	ctx  context.Context // ends when the engine stops
	stop context.CancelCauseFunc
	work sync.WaitGroup // every goroutine of the engine

	starting sync.Mutex // one Start at a time decides and records

	mu       sync.Mutex // guards what follows
	tasks    map[string]*task
	claims   claims
	left     map[string]bool // finished operations with something left to take back
	watchers map[*watcher]struct{}
	closed   bool
	lastID   int64 // microseconds; the time part of the newest identity
}

// errStopping is the cause of the end of every operation's context when the
// engine stops. It leaves them to be resumed at the next start.
var errStopping = errors.New("tenond is stopping")

// New returns an engine over j. Register the kinds, then Resume.
func New(j *journal.Journal, o Options) *Engine {
	o = o.withDefaults()
	e := &Engine{
		journal: j, options: o, log: o.Log,
		kinds:    make(map[string]*handler),
		bulk:     semaphore.NewWeighted(int64(o.Bulk)),
		tasks:    make(map[string]*task),
		claims:   make(claims),
		left:     make(map[string]bool),
		watchers: make(map[*watcher]struct{}),
	}
	e.ctx, e.stop = context.WithCancelCause(context.Background())
	return e
}

// Start begins an operation and returns it as it was just after. A request id
// that is known with the same kind and arguments returns its operation, in
// whatever state it is; with others it is CodeConflict. An error means that
// nothing began. The operation outlives ctx.
func (e *Engine) Start(ctx context.Context, r Request) (Operation, error) {
	h := e.kinds[r.Kind]
	if h == nil {
		return Operation{}, primitives.Invalid("kind", "%q is not a kind of operation", r.Kind)
	}
	if err := checkRequestID(r.RequestID); err != nil {
		return Operation{}, err
	}
	args, err := json.Marshal(r.Args)
	if err != nil {
		return Operation{}, primitives.Invalid("args", "of %s: %v", r.Kind, err)
	}
	t := e.newTask(h, r)
	if t.bound, err = h.bind(t, args, nil); err != nil {
		return Operation{}, err
	}
	t.rec.Subject, t.rec.Args = t.bound.subject, t.bound.args
	if op, err := e.replay(t); err != nil || op.ID != "" {
		return op, err
	}
	if err := t.bound.check(ctx); err != nil {
		return Operation{}, err
	}
	return e.begin(ctx, t)
}

// newTask makes a task that is not known to anybody yet.
func (e *Engine) newTask(h *handler, r Request) *task {
	id := e.newID()
	if r.RequestID == "" {
		r.RequestID = id
	}
	t := &task{handler: h, engine: e, id: id, done: make(chan struct{})}
	t.rec = journal.Operation{
		ID: id, RequestID: r.RequestID, Kind: r.Kind, Caller: r.Caller,
		State: string(Running), Created: time.Now().UTC(),
	}
	t.log = e.log.With("operation", id, "kind", r.Kind)
	return t
}

// replay returns the operation that t's request id names already; none has no ID.
func (e *Engine) replay(t *task) (Operation, error) {
	var rec journal.Operation
	err := e.journal.View(func(tx *journal.Tx) (err error) {
		rec, err = tx.OperationByRequest(t.rec.RequestID)
		return err
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return Operation{}, nil
	}
	if err != nil {
		return Operation{}, err
	}
	then, err := t.handler.bind(t, rec.Args, nil)
	if rec.Kind != t.rec.Kind || err != nil || !bytes.Equal(then.args, t.rec.Args) {
		return Operation{}, primitives.Errorf(primitives.CodeConflict,
			"the request id %q was used for %s of %s with other arguments", rec.RequestID, rec.Kind, rec.Subject).
			By(primitives.Blocker{Kind: "operation", Name: rec.ID}).Trying("use a new request id for a new request")
	}
	return e.show(rec), nil
}

// begin records t and lets it run.
func (e *Engine) begin(ctx context.Context, t *task) (Operation, error) {
	e.starting.Lock()
	defer e.starting.Unlock()
	if op, err := e.replay(t); err != nil || op.ID != "" { // a twin was quicker
		return op, err
	}
	if err := ctx.Err(); err != nil {
		return Operation{}, &primitives.Error{Code: primitives.CodeCancelled, Op: t.rec.Kind, Err: err}
	}
	if err := e.room(); err != nil {
		return Operation{}, err
	}
	err := e.journal.Update(func(tx *journal.Tx) error {
		if err := t.bound.admit(tx); err != nil {
			return err
		}
		e.mu.Lock()
		err := e.claims.conflict(t.id, t.rec.Claims)
		e.mu.Unlock()
		if err != nil {
			return err
		}
		if err := t.remember(0); err != nil {
			return err
		}
		return tx.PutOperation(t.rec)
	})
	if err != nil {
		return Operation{}, err
	}
	op := t.show()
	if !e.launch(t) {
		return op, nil // stopping: recorded, so it goes on at the next start
	}
	e.changed(t.id)
	return op, nil
}

// room reports CodeUnavailable when no further operation can run.
func (e *Engine) room() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping").Trying("repeat the request when tenond runs again")
	}
	if len(e.tasks) >= e.options.Running {
		return primitives.Errorf(primitives.CodeUnavailable, "%d operations are running, which is the limit", len(e.tasks)).
			Trying("repeat the request later, or raise limits.operations")
	}
	return nil
}

// launch makes t live. It reports false when the engine is stopping, or the
// operation is live already.
func (e *Engine) launch(t *task) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.tasks[t.id] != nil {
		return false
	}
	t.ctx, t.cancel = context.WithCancelCause(e.ctx)
	e.claims.take(t.id, t.rec.Claims)
	e.tasks[t.id] = t
	delete(e.left, t.id)
	e.work.Go(func() { t.drive() })
	return true
}

// Get returns an operation. CodeNotFound.
func (e *Engine) Get(_ context.Context, id string) (Operation, error) {
	if t := e.task(id); t != nil {
		return t.show(), nil
	}
	var rec journal.Operation
	err := e.journal.View(func(tx *journal.Tx) (err error) {
		rec, err = tx.Operation(id)
		return err
	})
	if err != nil {
		return Operation{}, err
	}
	return e.show(rec), nil
}

func (e *Engine) task(id string) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tasks[id]
}

// List returns the operations that f selects, oldest first.
func (e *Engine) List(_ context.Context, f Filter) ([]Operation, error) {
	var recs []journal.Operation
	err := e.journal.View(func(tx *journal.Tx) (err error) {
		recs, err = tx.Operations()
		return err
	})
	if err != nil {
		return nil, err
	}
	var list []Operation
	for _, rec := range recs {
		if op := e.show(rec); f.selects(op) {
			list = append(list, op)
		}
	}
	return list, nil
}

// show returns a record as callers see it, with what a live task knows better.
func (e *Engine) show(rec journal.Operation) Operation {
	if t := e.task(rec.ID); t != nil {
		return t.show()
	}
	return show(rec)
}

func show(rec journal.Operation) Operation {
	op := Operation{
		ID: rec.ID, RequestID: rec.RequestID, Kind: rec.Kind, Subject: rec.Subject, Caller: rec.Caller,
		State: State(rec.State), Step: rec.StepName, Note: rec.Left, Created: rec.Created, Finished: rec.Finished,
		Args: rec.Args, Result: rec.Result, CancelAsked: rec.CancelAsked,
	}
	if len(rec.Failure) > 0 && string(rec.Failure) != "null" { // an absent RawMessage comes back as null
		op.Failure = new(Failure)
		if err := json.Unmarshal(rec.Failure, op.Failure); err != nil {
			op.Failure = FailureOf(fmt.Errorf("failure of operation %s: %w", rec.ID, err))
		}
	}
	return op
}

// Wait returns the operation when it is finished. An error means that ctx ended
// or tenond stops; the operation's own failure is in the operation.
func (e *Engine) Wait(ctx context.Context, id string) (Operation, error) {
	t := e.task(id)
	if t == nil {
		return e.Get(ctx, id)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return t.show(), &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Op: "wait for operation " + id, Err: ctx.Err()}
	}
	op := t.show()
	if !op.State.Finished() {
		return op, primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping; operation %s goes on when it runs again", id)
	}
	return op, nil
}

// Cancel asks an operation to be taken back. It returns at once; an operation
// that is finished, or that cannot be taken back any more, stays as it is.
func (e *Engine) Cancel(ctx context.Context, id string) (Operation, error) {
	if t := e.task(id); t != nil {
		if err := t.askCancel(); err != nil {
			return Operation{}, err
		}
	}
	return e.Get(ctx, id)
}

// Stop ends the engine: no operation begins any more, those that run get until
// ctx ends to come to their end and are then left as they are, to be resumed at
// the next start. Stop returns when none runs.
func (e *Engine) Stop(ctx context.Context) {
	e.mu.Lock()
	e.closed = true
	running := make([]*task, 0, len(e.tasks))
	for _, t := range e.tasks {
		running = append(running, t)
	}
	e.mu.Unlock()
	for _, t := range running {
		select {
		case <-t.done:
		case <-ctx.Done():
		}
	}
	e.stop(errStopping)
	e.work.Wait()
}

func checkRequestID(id string) error {
	if len(id) > maxRequestID || strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return primitives.Invalid("request_id", "expected at most %d printable bytes", maxRequestID)
	}
	return nil
}

// newID returns an identity that sorts by time and is never used again.
func (e *Engine) newID() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastID = max(e.lastID+1, time.Now().UnixMicro())
	return fmt.Sprintf("%014x-%s", e.lastID, strings.ToLower(rand.Text()[:8]))
}
