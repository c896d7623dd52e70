// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// A volume has three locks. "name" is held while its name is being given to
// something; "tree" stands for its existence and that of its snapshots, "data"
// for its bytes and size. Each snapshot has one of its own below the tree's. So a
// long read of a snapshot hinders the delink of the volume, but not the next
// snapshot, and a volume that is being made is not found rather than locked.

func treeKey(u primitives.URI, shared bool) keylock.Key {
	return keylock.Key{Name: "tree " + u.Volume, Shared: shared}
}

func tombKey(id string) keylock.Key { return keylock.Key{Name: "tombstone " + id} }

func mappingKey(id primitives.MappingID) keylock.Key {
	return keylock.Key{Name: "mapping " + string(id)}
}

// reading are the locks of who needs u as it is.
func reading(u primitives.URI) []keylock.Key { return touching(u, true) }

// changing are the locks of who changes u's bytes or size.
func changing(u primitives.URI) []keylock.Key { return touching(u, false) }

func touching(u primitives.URI, shared bool) []keylock.Key {
	own := "data " + u.Volume
	if u.IsSnapshot() {
		own = "snapshot " + u.Volume + "@" + u.Snapshot
	}
	return []keylock.Key{treeKey(u, true), {Name: own, Shared: shared}}
}

// naming are the locks of who gives a name to a volume, or to a snapshot that
// comes back.
func naming(u primitives.URI) []keylock.Key {
	if u.IsSnapshot() {
		return changing(u)
	}
	return []keylock.Key{{Name: "name " + u.Volume}}
}

// removing are the locks of who takes u out of the namespace.
func removing(u primitives.URI) []keylock.Key {
	if u.IsSnapshot() {
		return changing(u)
	}
	return append(naming(u), overturning(u)...)
}

// overturning are the locks of who changes a volume and maybe its snapshots.
func overturning(u primitives.URI) []keylock.Key {
	return []keylock.Key{treeKey(u, false), {Name: "data " + u.Volume}}
}

// Running is a call that is under way, or a Reader or Writer that is open.
type Running struct {
	Op    string
	URI   primitives.URI
	ID    string // of the request; may be empty
	Since time.Time

	stream bool // a Reader or Writer, which its owner may keep for hours
}

func (r Running) blocker() primitives.Blocker {
	if r.ID != "" {
		return primitives.Blocker{Kind: "operation", Name: r.ID}
	}
	name := r.Op
	if !r.URI.IsZero() {
		name += " of " + r.URI.Short()
	}
	return primitives.Blocker{Kind: "operation", Name: name}
}

// locks are a device's locks with the names of their holders.
type locks struct {
	set keylock.Set

	mu      sync.Mutex // guards everything below
	holders map[*Running][]keylock.Key
	alone   *Running      // who has the whole device; nobody holds anything meanwhile
	freed   chan struct{} // closed when something is let go; nil while nobody waits for that
}

var errLockWait = errors.New("the lock was not free in time")

// lock takes keys for r within wait and ctx. A lock that is not free in that
// time is CodeConflict, with its holders as blockers. unlock may be repeated.
func (l *locks) lock(ctx context.Context, wait time.Duration, r Running, keys []keylock.Key) (unlock func(), err error) {
	release, err := l.acquire(ctx, wait, keys)
	if err != nil {
		return nil, err
	}
	if err := l.enter(ctx, wait, &r, keys); err != nil {
		release()
		return nil, err
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		delete(l.holders, &r)
		l.letGo()
		l.mu.Unlock()
		release()
	}), nil
}

// enter makes r a holder once nobody has the device alone.
func (l *locks) enter(ctx context.Context, wait time.Duration, r *Running, keys []keylock.Key) error {
	return l.await(ctx, wait, wait, func() []primitives.Blocker {
		if l.alone != nil {
			return []primitives.Blocker{l.alone.blocker()}
		}
		if l.holders == nil {
			l.holders = make(map[*Running][]keylock.Key)
		}
		l.holders[r] = keys
		return nil
	})
}

// lockAll waits until nobody holds anything, then keeps all others out: for
// calls as long as wait, for Readers and Writers no longer than patience. While
// it waits it is in nobody's way: a copy that reads and has yet to open its
// writer would otherwise wait for who waits for it.
func (l *locks) lockAll(ctx context.Context, wait, patience time.Duration, r Running) (unlock func(), err error) {
	err = l.await(ctx, wait, patience, func() []primitives.Blocker {
		if l.alone != nil {
			return []primitives.Blocker{l.alone.blocker()}
		}
		if len(l.holders) > 0 {
			return l.named(func([]keylock.Key) bool { return true })
		}
		l.alone = &r
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.alone = nil
		l.letGo()
	}), nil
}

// await asks try, which runs under mu and names who is in the way, again and
// again until nobody is, or the time is over: wait, or, where only Readers and
// Writers are in the way, patience.
func (l *locks) await(ctx context.Context, wait, patience time.Duration, try func() []primitives.Blocker) error {
	waiting, cancel := context.WithTimeoutCause(ctx, wait, errLockWait)
	defer cancel()
	patient := time.NewTimer(patience)
	defer patient.Stop()
	for out := false; ; {
		l.mu.Lock()
		by := try()
		if len(by) > 0 && l.freed == nil {
			l.freed = make(chan struct{})
		}
		freed, hopeless := l.freed, out && l.onlyStreams()
		l.mu.Unlock()
		if len(by) == 0 {
			return nil
		}
		if hopeless {
			return errHeld(by)
		}
		select {
		case <-freed:
		case <-patient.C:
			out = true
		case <-waiting.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ended(ctx)
			}
			return errHeld(by)
		}
	}
}

// onlyStreams reports whether no call is under way. mu is held.
func (l *locks) onlyStreams() bool {
	for r := range l.holders {
		if !r.stream {
			return false
		}
	}
	return l.alone == nil
}

// letGo wakes those who wait. mu is held.
func (l *locks) letGo() {
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

func errHeld(by []primitives.Blocker) error {
	return primitives.Errorf(primitives.CodeConflict, "another call holds it").By(by...).
		Trying("Repeat the request once that has ended")
}

// acquire waits for the keys. On a busy host the time can be over before a free
// lock was even looked at, so that a conflict with nobody is tried again.
func (l *locks) acquire(ctx context.Context, wait time.Duration, keys []keylock.Key) (release func(), err error) {
	for {
		waiting, cancel := context.WithTimeoutCause(ctx, wait, errLockWait)
		release, err := l.set.Lock(waiting, keys...)
		cancel()
		if err == nil {
			return release, nil
		}
		by := l.holding(keys)
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return nil, ended(ctx)
		case ctx.Err() != nil || len(by) > 0:
			return nil, errHeld(by)
		}
	}
}

// holding names who holds any of those keys in a way that excludes the asker.
func (l *locks) holding(keys []keylock.Key) []primitives.Blocker {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.named(func(held []keylock.Key) bool {
		return slices.ContainsFunc(held, func(h keylock.Key) bool { return excludes(h, keys) })
	})
}

// named lists the holders that choose takes, by name. mu is held.
func (l *locks) named(choose func(held []keylock.Key) bool) []primitives.Blocker {
	var by []primitives.Blocker
	for r, held := range l.holders {
		if choose(held) {
			by = append(by, r.blocker())
		}
	}
	slices.SortFunc(by, func(a, b primitives.Blocker) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return by
}

func excludes(held keylock.Key, keys []keylock.Key) bool {
	return slices.ContainsFunc(keys, func(k keylock.Key) bool {
		return k.Name == held.Name && (!k.Shared || !held.Shared)
	})
}

func (l *locks) running() []Running {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Running, 0, len(l.holders)+1)
	if l.alone != nil {
		out = append(out, *l.alone)
	}
	for r := range l.holders {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Running) int { return a.Since.Compare(b.Since) })
	return out
}
