// SPDX-License-Identifier: Apache-2.0

// Package fake is a hypervisor in memory that keeps the contract, for tests of
// what is above it. A [Host] is the machine: its domains and their disks outlive
// every [Adapter] to it, as they outlive an agent. Guests can be made to misbehave
// and calls to fail at will; a hook sees the moments before and after each effect,
// at which a test can end an agent. Nothing carries a guest's bytes but a move
// between raw files; images must exist, no two disks write to one, and growing a disk
// grows its file.
//
// A domain that was defined so reconnects: its network disks grow, and move to
// another address of the same volume, while it runs. The contract promises neither
// and QEMU does neither; it stands for hypervisors to come, and for tests over
// storage that has network mappings only.
//
// A name of a domain that a control of Host does not know is a mistake of the
// test, and panics.
package fake

import (
	"fmt"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
)

// Host is a machine with domains. It is safe for concurrent use.
type Host struct {
	mu          sync.Mutex // guards what follows, every domain, and the moment an adapter is closed
	domains     map[hypervisor.DomainID]*domain
	watchers    map[*watcher]bool
	news        chan struct{} // closed and made anew at each change
	away        string        // why the hypervisor does not answer; empty: it does
	faults      []*script
	hook        func(string)
	intercept   func(string, Point) error
	calls       []Call
	check       func(path string) error
	overlays    map[string]bool // files that hypervisor snapshots made, which exist nowhere else
	instances   int             // a count of disks plugged in, of connections and of copies that failed: their order
	pace        int64           // bytes that a copy does each time somebody looks at it
	agentLimit  time.Duration
	frozenTimes int // how often a guest was frozen
}

// NewHost returns a machine without domains.
func NewHost() *Host {
	return &Host{
		domains: map[hypervisor.DomainID]*domain{}, watchers: map[*watcher]bool{}, news: make(chan struct{}),
		check: imageExists, overlays: map[string]bool{}, pace: wholeCopy,
	}
}

// DomainOptions are the optional parts of Define.
type DomainOptions struct {
	Running    bool
	Persistent bool // it stays when it ends; one that does not run is persistent always
	Agent      bool // its guest has an agent
	Slots      int  // how many virtio disks a running domain can have; 0: 16, negative: nobody knows
	Reconnects bool // its network disks grow and move while it runs, see the package
}

const defaultSlots = 16

// Define adds a domain, or replaces one of that ID.
func (h *Host) Define(name string, id hypervisor.DomainID, o DomainOptions) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.Slots == 0 {
		o.Slots = defaultSlots
	}
	d := &domain{id: id, name: name, persistent: o.Persistent || !o.Running, agent: o.Agent, slots: o.Slots, reconnects: o.Reconnects, state: hypervisor.StateOff}
	if o.Running {
		d.up, d.state = true, hypervisor.StateRunning
	}
	h.domains[id] = d
	h.changed(id)
}

// Undefine makes a domain and its disks vanish.
func (h *Host) Undefine(id hypervisor.DomainID) {
	h.at(id, func(d *domain) {
		h.end(d, "destroyed")
		delete(h.domains, id)
	})
}

// Start boots a domain with the disks of its definition. A running one is
// success; an image that is missing or in use is an error.
func (h *Host) Start(id hypervisor.DomainID) (err error) {
	h.at(id, func(d *domain) { err = h.start(d) })
	return err
}

// Stop ends a domain as its guest's own shutdown does.
func (h *Host) Stop(id hypervisor.DomainID) {
	h.at(id, func(d *domain) { h.end(d, "shutdown") })
}

// Kill ends a domain as a crash does.
func (h *Host) Kill(id hypervisor.DomainID) {
	h.at(id, func(d *domain) { h.end(d, "crashed") })
}

// Pause stops a domain's processors until resume is called. A paused guest gives
// nothing back.
func (h *Host) Pause(id hypervisor.DomainID) (resume func()) {
	return h.manner(id, func(d *domain, on bool) {
		switch {
		case on && d.state == hypervisor.StateRunning:
			d.state = hypervisor.StatePaused
		case !on && d.state == hypervisor.StatePaused:
			d.state = hypervisor.StateRunning
		}
	})
}

// Leave takes the hypervisor away until back is called: every call is
// CodeUnavailable, while domains run on.
func (h *Host) Leave(why string) (back func()) {
	set := func(why string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.away = why
		h.changed("")
	}
	set(why)
	return sync.OnceFunc(func() { set("") })
}

// CheckImages replaces the check that a disk's image exists, which looks at the
// host's files. It is called for paths of files, block devices and sockets.
func (h *Host) CheckImages(check func(path string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.check = check
}

// LimitAgents sets how long a guest agent may take to freeze; without it, as long as the
// freeze is to be held.
func (h *Host) LimitAgents(limit time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agentLimit = limit
}

// at changes a domain, lets its guest act on it and tells who waits.
func (h *Host) at(id hypervisor.DomainID, change func(*domain)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[id]
	if d == nil {
		panic(fmt.Sprintf("the fake host has no domain %q", id))
	}
	change(d)
	h.settle(d)
	h.changed(id)
}

// changed wakes everybody who watches or waits; mu is held.
func (h *Host) changed(id hypervisor.DomainID) {
	close(h.news)
	h.news = make(chan struct{})
	for w := range h.watchers {
		w.add(id)
	}
}
