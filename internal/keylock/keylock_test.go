// SPDX-License-Identifier: Apache-2.0

package keylock_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/internal/keylock"
)

func exclusive(name string) keylock.Key { return keylock.Key{Name: name} }
func shared(name string) keylock.Key    { return keylock.Key{Name: name, Shared: true} }

func mustLock(t *testing.T, s *keylock.Set, keys ...keylock.Key) (unlock func()) {
	t.Helper()
	unlock, err := s.Lock(t.Context(), keys...)
	if err != nil {
		t.Fatalf("Lock(%v) = %v, want nil", keys, err)
	}
	return unlock
}

// isFree reports, inside a synctest bubble, whether key can be had at once.
func isFree(t *testing.T, s *keylock.Set, key keylock.Key) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	unlock, err := s.Lock(ctx, key)
	if err != nil {
		return false
	}
	unlock()
	return true
}

func TestHoldersExcludeAsTheKeysSay(t *testing.T) {
	for name, c := range map[string]struct {
		held, wanted keylock.Key
		free         bool
	}{
		"exclusive after exclusive waits":      {exclusive("boot"), exclusive("boot"), false},
		"shared after exclusive waits":         {exclusive("boot"), shared("boot"), false},
		"exclusive after shared waits":         {shared("boot"), exclusive("boot"), false},
		"shared after shared comes in":         {shared("boot"), shared("boot"), true},
		"another name is never in the way":     {exclusive("boot"), exclusive("data"), true},
		"the empty name is a name like others": {exclusive(""), exclusive(""), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s keylock.Set
				unlock := mustLock(t, &s, c.held)
				if got := isFree(t, &s, c.wanted); got != c.free {
					t.Errorf("%v while %v is held: free = %v, want %v", c.wanted, c.held, got, c.free)
				}
				unlock()
				if !isFree(t, &s, exclusive(c.wanted.Name)) {
					t.Errorf("%v after unlock: not free", c.wanted)
				}
			})
		})
	}
}

func TestDuplicatesAreTakenOnceAndExclusiveWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s keylock.Set
		for _, keys := range [][]keylock.Key{
			{shared("a"), exclusive("a")},
			{exclusive("a"), shared("a"), shared("a")},
		} {
			unlock := mustLock(t, &s, keys...)
			if isFree(t, &s, shared("a")) {
				t.Errorf("Lock(%v) is shared, want exclusive", keys)
			}
			unlock()
			if !isFree(t, &s, exclusive("a")) {
				t.Errorf("unlock of %v left the lock held", keys)
			}
		}
	})
}

func TestLockGivesUpWhenContextEndsAndHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s keylock.Set
		unlock := mustLock(t, &s, exclusive("b"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := s.Lock(ctx, exclusive("c"), exclusive("b"), exclusive("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock = %v, want DeadlineExceeded", err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("Lock waited %v, want a minute", took)
		}
		unlock()
		for _, name := range []string{"a", "b", "c"} {
			if !isFree(t, &s, exclusive(name)) {
				t.Errorf("%q is still held after Lock gave up", name)
			}
		}
	})
}

func TestEndedContextTakesNoFreeLock(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s keylock.Set
	if _, err := s.Lock(ctx, exclusive("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Lock = %v, want Canceled", err)
	}
}

func TestWriterIsNotStarvedByReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s keylock.Set
		first := mustLock(t, &s, shared("a"))
		var order []string
		var mu sync.Mutex
		take := func(name string, k keylock.Key) {
			unlock := mustLock(t, &s, k)
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			unlock()
		}
		var wg sync.WaitGroup
		wg.Go(func() { take("writer", exclusive("a")) })
		synctest.Wait()
		wg.Go(func() { take("late reader", shared("a")) })
		synctest.Wait()
		first()
		wg.Wait()
		if len(order) != 2 || order[0] != "writer" {
			t.Errorf("order = %v, want the writer first", order)
		}
	})
}

func TestReadersBehindACancelledWriterComeIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s keylock.Set
		held := mustLock(t, &s, shared("a"))
		defer held()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Lock(ctx, exclusive("a")); !errors.Is(err, context.Canceled) {
				t.Errorf("writer's Lock = %v, want Canceled", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { mustLock(t, &s, shared("a"))() })
		synctest.Wait()
		cancel()
		wg.Wait() // synctest fails the test as deadlocked if the reader stays out
	})
}

func TestUnlockTwiceReleasesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s keylock.Set
		one, two := mustLock(t, &s, shared("a")), mustLock(t, &s, shared("a"))
		one()
		one()
		if isFree(t, &s, exclusive("a")) {
			t.Errorf("a second unlock released the other holder's lock")
		}
		two()
		if !isFree(t, &s, exclusive("a")) {
			t.Errorf("lock is held after both unlocked")
		}
	})
}

func TestOverlappingCallersNeverDeadlock(t *testing.T) {
	var s keylock.Set
	var holders [4]atomic.Int32 // exclusive adds 1000, shared adds 1
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(worker)))
			for range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(200))*time.Microsecond)
				keys := randomKeys(rnd)
				if unlock, err := s.Lock(ctx, keys...); err == nil {
					check(t, &holders, keys)
					unlock()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Lock = %v, want nil or DeadlineExceeded", err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	all := []keylock.Key{exclusive("0"), exclusive("1"), exclusive("2"), exclusive("3")}
	mustLock(t, &s, all...)()
}

// randomKeys returns distinct names in random order.
func randomKeys(rnd *rand.Rand) (keys []keylock.Key) {
	for _, n := range rnd.Perm(4)[:1+rnd.IntN(3)] {
		keys = append(keys, keylock.Key{Name: fmt.Sprint(n), Shared: rnd.IntN(2) == 0})
	}
	return keys
}

// check marks the keys as held for a moment and fails on an impossible holder.
func check(t *testing.T, holders *[4]atomic.Int32, keys []keylock.Key) {
	for _, k := range keys {
		h := &holders[k.Name[0]-'0']
		weight := int32(1000)
		if k.Shared {
			weight = 1
		}
		if got := h.Add(weight); got >= 1000 && got != 1000 {
			t.Errorf("key %v: holders = %d, want one exclusive or some shared", k, got)
		}
		defer h.Add(-weight)
	}
}
