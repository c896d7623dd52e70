// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// watchers are the receivers of wakes. Its zero value is ready.
type watchers struct {
	mu  sync.Mutex // guards all, and every watcher's domains
	all map[*watcher]bool
}

// watcher collects the domains about which something happened. Many events on
// one domain are one wake, so it holds at most one entry per domain and never
// blocks or drops.
type watcher struct {
	domains map[hypervisor.DomainID]bool
	ready   chan struct{} // has room for one: "there is something in domains"
}

func (w *watchers) join() *watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*watcher]bool{}
	}
	me := &watcher{domains: map[hypervisor.DomainID]bool{}, ready: make(chan struct{}, 1)}
	w.all[me] = true
	return me
}

func (w *watchers) leave(me *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, me)
}

func (w *watchers) add(d hypervisor.DomainID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for each := range w.all {
		each.domains[d] = true
		select {
		case each.ready <- struct{}{}:
		default:
		}
	}
}

func (w *watchers) take(me *watcher) []hypervisor.DomainID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := slices.Sorted(maps.Keys(me.domains))
	clear(me.domains)
	return ids
}

// Pauses between attempts to connect.
const (
	reconnectFirst = time.Second
	reconnectMost  = 30 * time.Second
)

// Watch calls wake for each domain about which libvirt sent an event, and with
// "" each time it is connected.
func (a *Adapter) Watch(ctx context.Context, wake func(hypervisor.DomainID)) error {
	me := a.watchers.join()
	defer a.watchers.leave(me)
	var known virt.Conn
	pause := reconnectFirst
	for ctx.Err() == nil {
		conn, err := a.link.get(ctx)
		if err != nil {
			wait(ctx, pause)
			pause = min(2*pause, reconnectMost)
			continue
		}
		pause = reconnectFirst
		if conn != known {
			known = conn
			wake("")
		}
		select {
		case <-ctx.Done():
		case <-conn.Lost():
		case <-me.ready:
			for _, d := range a.watchers.take(me) {
				wake(d)
			}
		}
	}
	return context.Cause(ctx)
}

// wait returns after d, or when ctx has ended.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
