// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"slices"
	"sync"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Fault is one scripted misfortune.
type Fault struct {
	// Call is the name of what is struck, empty for everything: the reads domains, domain,
	// disks, snapshots and move-status, and the effects attach, attach-config, detach,
	// detach-config, switch, switch-config, resize, freeze, thaw, start, shutdown,
	// snapshot, snapshot-delete, pause, resume, move, converge, pivot, pivot-config,
	// pivot-back and cancel-move.
	Call   string
	Domain hypervisor.DomainID // empty: any
	Skip   int                 // calls that pass first
	Times  int                 // calls that are struck; 0: all until cleared

	After bool  // the effect happens and its answer is lost; false: nothing happens
	Hang  bool  // the call first blocks until its context ends or the fault is cleared
	Err   error // what the call returns; nil: CodeUnavailable, or, after Hang was cleared, success
}

// script is a fault with what it has seen.
type script struct {
	Fault
	seen    int
	cleared chan struct{}
}

// Fault adds f to the host's script. clear takes it out again and releases every
// call that it holds.
func (h *Host) Fault(f Fault) (clear func()) {
	s := &script{Fault: f, cleared: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, s)
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.faults = slices.DeleteFunc(h.faults, func(x *script) bool { return x == s })
		close(s.cleared)
	})
}

// strike returns the first fault that hits a call, or nil; mu is held.
func (h *Host) strike(c Call) (hit *script) {
	for _, s := range h.faults {
		if s.Call != "" && s.Call != c.Name || s.Domain != "" && s.Domain != c.Domain {
			continue
		}
		s.seen++
		if hit == nil && s.seen > s.Skip && (s.Times == 0 || s.seen <= s.Skip+s.Times) {
			hit = s
		}
	}
	return hit
}

// suffer is what a fault does to a call. An end of the context after the effect
// is CodeUnavailable, because something has happened.
func (a *Adapter) suffer(ctx context.Context, c Call, f *script) error {
	if f.Hang {
		select {
		case <-f.cleared:
			return f.Err
		case <-a.closed:
			return a.aliveNow()
		case <-ctx.Done():
		}
		if f.Err == nil && !f.After {
			return ended(ctx, c.String())
		}
	}
	if f.Err != nil {
		return f.Err
	}
	return primitives.Errorf(primitives.CodeUnavailable, "%v: the fake host was told not to answer", c)
}
