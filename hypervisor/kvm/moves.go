// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"sync"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// maxCopies bounds what copies remembers.
const maxCopies = 256

// copies remembers of the copies that this adapter has seen what libvirt does not
// show. Its zero value is ready. Where a move is, the XML says; after a restart
// nothing is known here, and nothing depends on it.
type copies struct {
	mu  sync.Mutex // guards all
	all map[copyKey]copyMemory
}

type copyKey struct {
	domain hypervisor.DomainID
	target string
}

type copyMemory struct {
	to          string // what it was begun to
	synchronous bool   // writes of the guest wait for both sides
	failed      bool
	why         string // what the hypervisor says of its failure, if it does
}

// begin remembers a copy that is about to begin; what is known of an earlier one of
// that disk is forgotten.
func (c *copies) begin(d hypervisor.DomainID, target, to string, synchronous bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(copyKey{d, target}, copyMemory{to: to, synchronous: synchronous})
}

// put bounds the memory; mu is held.
func (c *copies) put(key copyKey, m copyMemory) {
	if c.all == nil || len(c.all) >= maxCopies {
		c.all = map[copyKey]copyMemory{}
	}
	c.all[key] = m
}

// synchronous reports whether the copy to that place is known to keep both sides
// the same.
func (c *copies) synchronous(d hypervisor.DomainID, target, to string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.all[copyKey{d, target}]
	return m.synchronous && m.to == to && !m.failed
}

// failure says how the copy to that place failed; "": it is not known to have.
func (c *copies) failure(d hypervisor.DomainID, target, to string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m := c.all[copyKey{d, target}]; {
	case !m.failed || m.to != "" && m.to != to:
		return ""
	case m.why == "":
		return "the hypervisor gave no reason"
	default:
		return m.why
	}
}

// event takes the news that a copy failed. It comes twice, once with a reason.
func (c *copies) event(e virt.Event) {
	if e.Kind != virt.CopyFailed {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := copyKey{hypervisor.DomainID(e.Domain), e.Device}
	m := c.all[key]
	m.failed = true
	if e.Text != "" {
		m.why = e.Text
	}
	c.put(key, m)
}
