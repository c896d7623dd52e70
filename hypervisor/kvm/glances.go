// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// glanceLife is how long a glance serves at most. It is for what begins while the
// glance is taken, or right after it.
const glanceLife = 250 * time.Millisecond

// glances are looks at domains that were taken shortly before somebody needs one:
// whoever asks for a domain in order to change it then finds it read already. One
// serves once, and only if nothing is known to have happened to any domain since
// it began. Its zero value is ready.
//
// Somebody else may have changed the domain all the same, as between any look and
// what is done upon it; so whoever is refused upon a glance looks again.
type glances struct {
	changes atomic.Uint64 // events that came, changes that began or ended
	mu      sync.Mutex    // guards all
	all     map[hypervisor.DomainID]*glance
}

// glance is one look.
type glance struct {
	began   time.Time
	changes uint64        // that there had been
	done    chan struct{} // closed when what follows is set
	v       view
	err     error
}

// changed says that something happens, or may have happened, to a domain.
func (t *glances) changed() { t.changes.Add(1) }

// begin says that somebody looks at a domain from now on. One who names it by its
// ID can be waited for.
func (t *glances) begin(nameOrID string) *glance {
	g := &glance{began: time.Now(), changes: t.changes.Load(), done: make(chan struct{})}
	if d := hypervisor.DomainID(nameOrID); checkDomain(d) == nil {
		t.keep(d, g)
	}
	return g
}

// end says what was seen.
func (t *glances) end(g *glance, v view, err error) {
	g.v, g.err = v, err
	close(g.done)
	if err == nil {
		t.keep(hypervisor.DomainID(v.UUID), g)
	}
}

// keep makes g the newest glance at d, and drops the old of all domains.
func (t *glances) keep(d hypervisor.DomainID, g *glance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.all, func(_ hypervisor.DomainID, old *glance) bool { return !t.serves(old) })
	if !t.serves(g) {
		return
	}
	if t.all == nil {
		t.all = map[hypervisor.DomainID]*glance{}
	}
	t.all[d] = g
}

func (t *glances) serves(g *glance) bool {
	return g.changes == t.changes.Load() && time.Since(g.began) < glanceLife
}

// take returns what the newest glance at a running domain of that name saw, once;
// false: there is none that serves, or the domain was not running, where the next
// moment may bring the other half that counts. It waits for one under way.
func (t *glances) take(ctx context.Context, d hypervisor.DomainID, name string) (view, bool) {
	t.mu.Lock()
	g := t.all[d]
	delete(t.all, d)
	t.mu.Unlock()
	if g == nil || !t.serves(g) {
		return view{}, false
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		return view{}, false
	}
	if g.err != nil || !t.serves(g) || g.v.live == nil || name != "" && g.v.Name != name {
		return view{}, false
	}
	return g.v, true
}

// mayBeStale reports whether an attach upon a glance failed in a way that a change
// since may explain. A call whose end is not known explains itself.
func mayBeStale(res hypervisor.AttachResult, err error) bool {
	if err == nil {
		err = res.ConfigErr
	}
	switch primitives.CodeOf(err) {
	case primitives.CodeUnavailable, primitives.CodeCancelled:
		return false
	}
	return err != nil
}
