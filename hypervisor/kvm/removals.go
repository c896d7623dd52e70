// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"sync"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// removals remembers which disks guests were asked to give back and did not yet.
// Its zero value is ready. It is memory only: whether a disk is there is for the
// XML to say.
type removals struct {
	mu  sync.Mutex // guards all and what is in it
	all map[removalKey]*removal
}

type removalKey struct {
	domain hypervisor.DomainID
	alias  string
}

// removal is one asking, over all its repeats.
type removal struct {
	asked   bool          // the request may have reached the guest
	refused bool          // the guest said no since
	news    chan struct{} // has room for one: an event came
}

// begin registers the waiter of a detach, before anything is asked.
func (r *removals) begin(d hypervisor.DomainID, alias string) *removal {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[removalKey]*removal{}
	}
	// A new one also for a disk that is leaving already: what an event said to an
	// earlier detach must not end this one.
	me := &removal{news: make(chan struct{}, 1)}
	if old := r.all[removalKey{d, alias}]; old != nil {
		me.asked = old.asked
	}
	r.all[removalKey{d, alias}] = me
	return me
}

// ask says that the guest is about to be asked; a refusal before does not count.
func (r *removals) ask(me *removal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	me.asked, me.refused = true, false
}

func (r *removals) refused(me *removal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return me.refused
}

// event takes libvirt's news of a device. It only wakes: the one waiting reads
// the XML.
func (r *removals) event(e virt.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := removalKey{hypervisor.DomainID(e.Domain), e.Device}
	for k, me := range r.all {
		concerns := k == key || e.Kind == virt.Changed && (e.Domain == "" || k.domain == key.domain)
		if !concerns {
			continue
		}
		if e.Kind == virt.RemovalFailed {
			me.refused = me.asked
		}
		select {
		case me.news <- struct{}{}:
		default:
		}
	}
}

// end forgets a removal that came to an end, unless a later one took its place.
func (r *removals) end(d hypervisor.DomainID, alias string, me *removal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key := (removalKey{d, alias}); r.all[key] == me {
		delete(r.all, key)
	}
}

// has reports whether a disk was asked for and did not go.
func (r *removals) has(d hypervisor.DomainID, alias string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	me := r.all[removalKey{d, alias}]
	return me != nil && me.asked && !me.refused
}

// settle forgets the removals of a domain whose disks are seen to be gone.
func (r *removals) settle(d hypervisor.DomainID, v view) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, me := range r.all {
		if key.domain == d && me.asked && !hasAlias(v.live, key.alias) {
			delete(r.all, key)
		}
	}
}
