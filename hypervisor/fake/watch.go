// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"maps"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
)

// watcher collects the domains about which something happened: many changes of
// one domain are one wake, so it never blocks or drops.
type watcher struct {
	domains map[hypervisor.DomainID]bool // guarded by Host.mu
	ready   chan struct{}                // has room for one: "there is something in domains"
}

// add notes a change; Host.mu is held.
func (w *watcher) add(id hypervisor.DomainID) {
	w.domains[id] = true
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Watch calls wake with "" for each connection and for each domain that changed.
func (a *Adapter) Watch(ctx context.Context, wake func(hypervisor.DomainID)) error {
	h := a.host
	me := &watcher{domains: map[hypervisor.DomainID]bool{}, ready: make(chan struct{}, 1)}
	h.mu.Lock()
	h.watchers[me] = true
	me.add("")
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, me)
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.closed:
			return a.aliveNow()
		case <-me.ready:
		}
		for _, id := range a.take(me) {
			wake(id)
		}
	}
}

// take empties a watcher, unless the host is away: then what it holds waits.
func (a *Adapter) take(w *watcher) []hypervisor.DomainID {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if a.alive() != nil {
		return nil
	}
	ids := slices.Sorted(maps.Keys(w.domains))
	clear(w.domains)
	return ids
}
