// SPDX-License-Identifier: Apache-2.0

// Package keylock locks by key: one lock per name, made when first wanted and
// forgotten when nobody holds or awaits it.
package keylock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// Key names one lock and how it is wanted.
type Key struct {
	Name   string
	Shared bool // several holders at once, all of them shared; else one alone
}

// Set is a set of locks by name. Its zero value is ready. Each lock is granted
// in the order of asking, so neither writers nor readers starve; the price is
// that a holder which asks for the same name again waits for itself.
type Set struct {
	mu    sync.Mutex // guards locks and everything below it
	locks map[string]*lock
}

// lock is one name's state. It is in Set.locks while held or awaited.
type lock struct {
	exclusive bool // held by one holder alone
	shared    int  // shared holders
	queue     []*waiter
}

// waiter is one Lock call in one lock's queue. granted is closed, under Set.mu,
// at the moment the waiter leaves the queue as a holder.
type waiter struct {
	shared  bool
	granted chan struct{}
}

// Lock takes every key, or none: when ctx ends first, it gives back what it
// took and returns an error that wraps ctx's. A name given twice is taken once,
// exclusively if either asks for that. Keys are always taken in the order of
// their names, so that two callers with overlapping keys cannot block each
// other. Calling unlock again does nothing.
func (s *Set) Lock(ctx context.Context, keys ...Key) (unlock func(), err error) {
	keys = merge(keys)
	release := func(keys []Key) {
		for _, k := range slices.Backward(keys) {
			s.release(k)
		}
	}
	for i, k := range keys {
		if err := s.acquire(ctx, k); err != nil {
			release(keys[:i])
			return nil, fmt.Errorf("wait for the lock of %q: %w", k.Name, err)
		}
	}
	return sync.OnceFunc(func() { release(keys) }), nil
}

// merge sorts keys by name and joins those of one name; exclusive wins.
func merge(keys []Key) []Key {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b Key) int {
		if c := cmp.Compare(a.Name, b.Name); c != 0 || a.Shared == b.Shared {
			return c
		}
		if b.Shared {
			return -1 // the exclusive one first: CompactFunc keeps the first
		}
		return 1
	})
	return slices.CompactFunc(keys, func(a, b Key) bool { return a.Name == b.Name })
}

func (s *Set) acquire(ctx context.Context, k Key) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	w := &waiter{shared: k.Shared, granted: make(chan struct{})}
	s.mu.Lock()
	if s.locks == nil {
		s.locks = make(map[string]*lock)
	}
	l := s.locks[k.Name]
	if l == nil {
		l = new(lock)
		s.locks[k.Name] = l
	}
	l.queue = append(l.queue, w)
	l.grant()
	s.mu.Unlock()

	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
		s.withdraw(k, w)
		return context.Cause(ctx)
	}
}

// withdraw takes w out of its queue, or gives the lock back if it was granted
// while ctx ended. Those behind w may have waited for w only.
func (s *Set) withdraw(k Key, w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[k.Name]
	if i := slices.Index(l.queue, w); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	} else {
		l.drop(k.Shared)
	}
	s.settle(k.Name, l)
}

func (s *Set) release(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[k.Name]
	l.drop(k.Shared)
	s.settle(k.Name, l)
}

// settle lets in whoever can now come in, and forgets a lock nobody wants.
func (s *Set) settle(name string, l *lock) {
	l.grant()
	if !l.exclusive && l.shared == 0 && len(l.queue) == 0 {
		delete(s.locks, name)
	}
}

func (l *lock) drop(shared bool) {
	if shared {
		l.shared--
	} else {
		l.exclusive = false
	}
}

// grant makes holders of those at the head of the queue who can be.
func (l *lock) grant() {
	for len(l.queue) > 0 {
		w := l.queue[0]
		if l.exclusive || (!w.shared && l.shared > 0) {
			return
		}
		if w.shared {
			l.shared++
		} else {
			l.exclusive = true
		}
		l.queue = l.queue[1:]
		close(w.granted)
	}
}
