// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"maps"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// breaker keeps calls from piling up behind one that hangs. A lane with a call
// that was given up and has not returned refuses further calls; when the call
// returns, the lane is open again. Its zero value is ready.
type breaker struct {
	mu    sync.Mutex // guards what follows, and the tickets' flags
	lanes map[lane]*jam
	stuck int                // calls that change a domain, given up and not returned
	free  map[lane]time.Time // when a call that changes a domain last succeeded; the old are dropped
}

// lane is what a call that hangs stands in the way of.
type lane struct {
	name    string
	changes bool // its calls change a domain
}

// jam is what is wrong in a lane.
type jam struct {
	stuck map[*ticket]bool
	late  bool // libvirt itself has timed out waiting for the domain
}

// ticket is one admitted call.
type ticket struct {
	b         *breaker
	lane      lane
	what      string
	start     time.Time
	finished  bool
	abandoned bool
}

const (
	// patience is how old a read that was given up must be before it counts as
	// hanging: a caller that went away says nothing about libvirt. A change that
	// was given up refuses others at once, because what it will have done is not
	// known before it returns.
	patience = time.Second
	// maxStuck bounds the goroutines and threads that hanging changes hold. Reads
	// need no bound: each lane has few, and hangs only if libvirt itself does.
	maxStuck = 64
	// fresh is how long a success says that a domain is free. A domain that was
	// free then cannot have been stuck for monitorLimit now.
	fresh = time.Second
)

// admit lets a call begin, or refuses it with CodeUnavailable.
func (b *breaker) admit(l lane, what string, now time.Time) (*ticket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.lanes[l]; j != nil {
		for t := range j.stuck {
			if age := now.Sub(t.start); age >= patience || l.changes {
				return nil, l.refusal(what, age).By(primitives.Blocker{Kind: "operation", Name: t.what})
			}
		}
	}
	if l.changes && b.stuck >= maxStuck {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "%s: %d calls to libvirt hang already", what, b.stuck)
	}
	return &ticket{b: b, lane: l, what: what, start: now}, nil
}

// at returns the jam of a lane; mu is held.
func (b *breaker) at(l lane) *jam {
	if b.lanes == nil {
		b.lanes = map[lane]*jam{}
	}
	j := b.lanes[l]
	if j == nil {
		j = &jam{stuck: map[*ticket]bool{}}
		b.lanes[l] = j
	}
	return j
}

// forget drops a lane in which nothing is wrong any more; mu is held.
func (b *breaker) forget(l lane) {
	if j := b.lanes[l]; j != nil && len(j.stuck) == 0 && !j.late {
		delete(b.lanes, l)
	}
}

// abandon says that nobody waits for the call any more.
func (t *ticket) abandon() {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if t.finished {
		return
	}
	t.abandoned = true
	t.b.at(t.lane).stuck[t] = true
	if t.lane.changes {
		t.b.stuck++
	}
}

// returned says that the call has returned, and reports whether it had been
// abandoned.
func (t *ticket) returned() bool {
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	t.finished = true
	if !t.abandoned {
		return false
	}
	delete(t.b.at(t.lane).stuck, t)
	if t.lane.changes {
		t.b.stuck--
	}
	t.b.forget(t.lane)
	return true
}

// trip remembers that libvirt could not get hold of a domain: somebody else's
// call hangs there.
func (b *breaker) trip(l lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at(l).late = true
}

func (b *breaker) tripped(l lane) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.lanes[l]
	return j != nil && j.late
}

// succeeded remembers that a lane was free.
func (b *breaker) succeeded(l lane, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.free == nil {
		b.free = map[lane]time.Time{}
	}
	maps.DeleteFunc(b.free, func(_ lane, at time.Time) bool { return now.Sub(at) >= fresh })
	b.free[l] = now
}

// wasFree reports whether a lane was free just now, and nothing went wrong there.
func (b *breaker) wasFree(l lane, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, known := b.free[l]
	return known && now.Sub(at) < fresh && b.lanes[l] == nil
}

// reset takes a trip back, because a probe found the domain free.
func (b *breaker) reset(l lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.lanes[l]; j != nil {
		j.late = false
		b.forget(l)
	}
}

// refusal is what is wrong where a call hangs: a domain, or, for what waits for none,
// libvirt.
func (l lane) refusal(what string, since time.Duration) *primitives.Error {
	if l.changes {
		return notAnswering(what, since)
	}
	return primitives.Errorf(primitives.CodeUnavailable, "%s: libvirt has not answered for %v now", what, since.Round(time.Second)).
		Trying("wait a little: a libvirt that has just started looks at every QEMU first; then look at libvirtd, or virtqemud")
}

// notAnswering is the error of a domain that does not answer.
func notAnswering(what string, since time.Duration) *primitives.Error {
	return primitives.Errorf(primitives.CodeUnavailable, "%s: no answer for %v now", what, since.Round(time.Second)).
		Trying("look at the domain's QEMU process: it is stopped, or its storage hangs")
}
