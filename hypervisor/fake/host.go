// SPDX-License-Identifier: Apache-2.0

// Package fake is a hypervisor for tests that keeps the contract of package
// hypervisor: it has domains with disks and no guests in them. A [Host] lives as
// long as the test, as a real hypervisor outlives the agent; adapters come and
// go on it. Guests that refuse, do not hear, hang or die, and answers that are
// lost, are scripted.
package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// slots is how many virtio disks a running domain has room for.
const slots = 24

// Point is the moment of a call at which Intercept is asked.
type Point uint8

// The moments.
const (
	Before Point = iota // nothing has happened yet
	After               // everything has happened; an error means that the answer is lost
)

// Host is a hypervisor. It is safe for concurrent use.
type Host struct {
	mu        sync.Mutex // guards everything below
	domains   map[hypervisor.DomainID]*domain
	changed   chan struct{} // closed and made anew at each change
	watchers  map[*watcher]struct{}
	intercept func(call string, at Point) error
	freezes   int // times that a guest was frozen
}

// domain is one domain.
type domain struct {
	id         hypervisor.DomainID
	name       string
	running    bool
	persistent bool
	agent      bool
	live       []*disk // of the running domain
	config     []*disk // of the persistent definition
	snapshots  []hypervisor.Snapshot

	deaf, refusing, stalled, agentHung, frozen bool
	gaveUp                                     bool // a call on the stalled domain ran out of time
}

// disk is one disk in one half of a domain.
type disk struct {
	hypervisor.Disk
	size  int64
	below []hypervisor.Source // what snapshots put overlays on, newest first
}

// Options describe a domain. The zero value is a running, persistent domain
// with a guest agent.
type Options struct {
	Off       bool
	Transient bool
	NoAgent   bool
}

// NewHost returns a host without domains.
func NewHost() *Host {
	return &Host{
		domains: make(map[hypervisor.DomainID]*domain), changed: make(chan struct{}), watchers: make(map[*watcher]struct{}),
	}
}

// Add makes a domain and returns its ID, which follows from its name.
func (h *Host) Add(name string, o Options) hypervisor.DomainID {
	sum := sha256.Sum256([]byte(name))
	id := hypervisor.DomainID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
	h.change(id, func() {
		h.domains[id] = &domain{id: id, name: name, running: !o.Off, persistent: !o.Transient, agent: !o.NoAgent}
	})
	return id
}

// Remove undefines a domain, with its disks.
func (h *Host) Remove(id hypervisor.DomainID) { h.change(id, func() { delete(h.domains, id) }) }

// AddForeign gives a domain a disk that is not tenon's.
func (h *Host) AddForeign(id hypervisor.DomainID, target string, s hypervisor.Source, a primitives.Access) {
	h.change(id, func() {
		d := h.domains[id]
		x := disk{Disk: hypervisor.Disk{Domain: id, Target: target, Bus: "virtio", Access: a, Source: s}}
		if d.running {
			live := x
			d.live = append(d.live, &live)
		}
		if d.persistent {
			d.config = append(d.config, &x)
		}
	})
}

// Drop takes a disk away from a domain behind everybody's back.
func (h *Host) Drop(id hypervisor.DomainID, diskID hypervisor.DiskID) {
	h.change(id, func() {
		d := h.domains[id]
		d.live, d.config = without(d.live, diskID), without(d.config, diskID)
	})
}

// Kill ends a domain as a crash does.
func (h *Host) Kill(id hypervisor.DomainID) { h.change(id, func() { h.end(h.domains[id]) }) }

// Deafen makes the guest ignore requests until hear is called.
func (h *Host) Deafen(id hypervisor.DomainID) (hear func()) {
	h.change(id, func() { h.domains[id].deaf = true })
	return sync.OnceFunc(func() {
		h.change(id, func() {
			d := h.domains[id]
			d.deaf = false
			d.live = slices.DeleteFunc(d.live, func(x *disk) bool { return x.Detaching })
		})
	})
}

// Refuse makes the guest refuse to give disks back until relent is called.
func (h *Host) Refuse(id hypervisor.DomainID) (relent func()) {
	return h.set(id, func(d *domain, on bool) { d.refusing = on })
}

// Stall makes the domain stop answering until resume is called.
func (h *Host) Stall(id hypervisor.DomainID) (resume func()) {
	return h.set(id, func(d *domain, on bool) { d.stalled, d.gaveUp = on, false })
}

// HangAgent makes the guest agent stop answering until resume is called.
func (h *Host) HangAgent(id hypervisor.DomainID) (resume func()) {
	return h.set(id, func(d *domain, on bool) { d.agentHung = on })
}

func (h *Host) set(id hypervisor.DomainID, flag func(*domain, bool)) (reset func()) {
	h.change(id, func() { flag(h.domains[id], true) })
	return sync.OnceFunc(func() { h.change(id, func() { flag(h.domains[id], false) }) })
}

// Intercept has f asked before and after each call that changes something, by
// the name of its method; f's error becomes the answer. nil ends that.
func (h *Host) Intercept(f func(call string, at Point) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.intercept = f
}

// Frozen reports whether a guest's file systems are frozen now.
func (h *Host) Frozen(id hypervisor.DomainID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.domains[id].frozen
}

// Freezes returns how many times a guest was frozen.
func (h *Host) Freezes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.freezes
}

// change changes the host's state and tells everybody.
func (h *Host) change(id hypervisor.DomainID, f func()) {
	h.mu.Lock()
	f()
	h.tell(id)
	h.mu.Unlock()
}

// tell wakes those who wait and those who watch. The caller holds the lock.
func (h *Host) tell(id hypervisor.DomainID) {
	close(h.changed)
	h.changed = make(chan struct{})
	for w := range h.watchers {
		w.add(id)
	}
}

// end ends a domain. The caller holds the lock.
func (h *Host) end(d *domain) {
	d.running, d.frozen, d.live, d.stalled = false, false, nil, false
	if !d.persistent {
		delete(h.domains, d.id)
	}
}

// wait waits until done, which is asked under the lock, or ctx ends.
func (h *Host) wait(ctx context.Context, done func() bool) error {
	for {
		h.mu.Lock()
		ok, changed := done(), h.changed
		h.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func without(disks []*disk, id hypervisor.DiskID) []*disk {
	return slices.DeleteFunc(slices.Clone(disks), func(x *disk) bool { return x.ID == id })
}

func find(disks []*disk, id hypervisor.DiskID) *disk {
	for _, x := range disks {
		if x.ID == id {
			return x
		}
	}
	return nil
}

// shown merges both halves as Adapter.Disks shows them.
func (d *domain) shown() []hypervisor.Disk {
	var all []hypervisor.Disk
	for _, x := range d.live {
		out := x.Disk
		out.Live = true
		all = append(all, out)
	}
	for _, x := range d.config {
		at := slices.IndexFunc(all, func(have hypervisor.Disk) bool { return have.Target == x.Target })
		if at >= 0 {
			all[at].Config = true
			continue
		}
		out := x.Disk
		out.Config = true
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b hypervisor.Disk) int { return cmp.Compare(a.Target, b.Target) })
	return all
}

func (d *domain) target(bus string) string {
	prefix := map[string]string{"virtio": "vd", "scsi": "sd"}[bus]
	for c := 'a'; ; c++ {
		name := prefix + string(c)
		taken := func(x *disk) bool { return x.Target == name }
		if !slices.ContainsFunc(d.live, taken) && !slices.ContainsFunc(d.config, taken) {
			return name
		}
	}
}

// held is the time of something that began at start; never nothing.
func held(start time.Time) time.Duration { return max(time.Since(start), time.Nanosecond) }
