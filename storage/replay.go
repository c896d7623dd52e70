// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"container/list"
	"context"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// replays remembers requests by id: those under way, which a repeat joins, and a
// bounded number of those that ended, which a repeat is answered from. Only what
// would end alike again is remembered: success, and errors that lie in the
// request itself. A request that was cancelled or that the device's state
// refused runs again.
type replays struct {
	limit int

	mu   sync.Mutex // guards everything below
	byID map[string]*flight
	done *list.List // of *flight, the most recently used first
}

// flight is one request. answer and err are set before ended is closed.
type flight struct {
	id, args string
	ended    chan struct{}
	answer   any
	err      error
	place    *list.Element // in done; nil while under way
}

func newReplays(limit int) *replays {
	return &replays{limit: limit, byID: make(map[string]*flight), done: list.New()}
}

// begin returns the request of that id. own says that the caller must run it and
// call finish. Other arguments are CodeConflict.
func (r *replays) begin(id, args string) (f *flight, own bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f = r.byID[id]
	switch {
	case f == nil:
		f = &flight{id: id, args: args, ended: make(chan struct{})}
		r.byID[id] = f
		return f, true, nil
	case f.args != args:
		return nil, false, primitives.Errorf(primitives.CodeConflict, "request id %q was given to %q and cannot be given to %q", id, f.args, args).
			By(primitives.Blocker{Kind: "operation", Name: id}).Trying("Use a new request id for a new request")
	case f.place != nil:
		r.done.MoveToFront(f.place)
	}
	return f, false, nil
}

// finish ends a request. One that is not worth remembering is forgotten.
func (r *replays) finish(f *flight, answer any, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.answer, f.err = answer, err
	defer close(f.ended) // after place is set
	if !lasting(err) {
		delete(r.byID, f.id)
		return
	}
	f.place = r.done.PushFront(f)
	if r.done.Len() > r.limit {
		oldest := r.done.Remove(r.done.Back()).(*flight)
		delete(r.byID, oldest.id)
	}
}

// lasting reports whether a repeat would end in the same way, whatever happened
// to the device meanwhile.
func lasting(err error) bool {
	switch primitives.CodeOf(err) {
	case 0, primitives.CodeInvalid, primitives.CodeUnsupported:
		return true
	}
	return false
}

// join waits for a request that somebody else runs. again means that it ended in
// a way that is not replayed, so that the caller must begin anew.
func (f *flight) join(ctx context.Context) (again bool, err error) {
	select {
	case <-f.ended:
		return !lasting(f.err), nil
	case <-ctx.Done():
		return false, ended(ctx)
	}
}
