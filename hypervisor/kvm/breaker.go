// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// breaker keeps calls from piling up behind one that hangs. It knows lanes, one
// for each domain and one, without a name, for what does not wait for QEMU. A
// lane with a call that was given up and has not returned refuses further calls;
// when the call returns, the lane is open again. Its zero value is ready.
type breaker struct {
	mu    sync.Mutex // guards what follows, and the tickets' flags
	lanes map[string]*lane
	stuck int // calls given up and not returned, over all lanes
}

type lane struct {
	stuck map[*ticket]bool
	late  bool // libvirt itself has timed out waiting for the domain
}

// ticket is one admitted call.
type ticket struct {
	b         *breaker
	lane      string
	what      string
	start     time.Time
	finished  bool
	abandoned bool
}

const (
	// patience is how old a call that was given up must be before it counts as
	// hanging in the lane without a name: a caller that went away says nothing
	// about libvirt. In a domain's lane any such call refuses others, because
	// what it will have done is not known before it returns.
	patience = time.Second
	// maxStuck bounds the goroutines and threads that hanging calls hold. Reading
	// goes on beyond it: it hangs only if libvirt itself does.
	maxStuck = 64
)

// admit lets a call begin, or refuses it with CodeUnavailable.
func (b *breaker) admit(name, what string, now time.Time) (*ticket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lanes[name]; l != nil {
		for t := range l.stuck {
			if age := now.Sub(t.start); age >= patience || name != "" {
				return nil, notAnswering(what, age).By(primitives.Blocker{Kind: "operation", Name: t.what})
			}
		}
	}
	if b.stuck >= maxStuck && name != "" {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "%s: %d calls to libvirt hang already", what, b.stuck)
	}
	return &ticket{b: b, lane: name, what: what, start: now}, nil
}

// at returns the lane of that name; mu is held.
func (b *breaker) at(name string) *lane {
	if b.lanes == nil {
		b.lanes = map[string]*lane{}
	}
	l := b.lanes[name]
	if l == nil {
		l = &lane{stuck: map[*ticket]bool{}}
		b.lanes[name] = l
	}
	return l
}

// forget drops a lane about which nothing is to be remembered; mu is held.
func (b *breaker) forget(name string) {
	if l := b.lanes[name]; l != nil && len(l.stuck) == 0 && !l.late {
		delete(b.lanes, name)
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
	t.b.stuck++
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
	t.b.stuck--
	t.b.forget(t.lane)
	return true
}

// trip remembers that libvirt could not get hold of a domain: somebody else's
// call hangs there.
func (b *breaker) trip(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at(name).late = true
}

func (b *breaker) tripped(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lanes[name]
	return l != nil && l.late
}

// reset takes a trip back, because a probe found the domain free.
func (b *breaker) reset(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lanes[name]; l != nil {
		l.late = false
		b.forget(name)
	}
}

func notAnswering(what string, since time.Duration) *primitives.Error {
	return primitives.Errorf(primitives.CodeUnavailable, "%s: the domain does not answer, for %v now", what, since.Round(time.Second)).
		Trying("look at the domain's QEMU process: it is stopped, or its storage hangs")
}
