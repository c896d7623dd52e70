// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Call is one entry of the log: a read, or an attempt at one effect. A call of
// the contract that finds nothing to do attempts none.
type Call struct {
	Name   string // as in Fault.Call
	Domain hypervisor.DomainID
	Disks  []hypervisor.DiskID
}

// String prints c as "attach DOMAIN DISK".
func (c Call) String() string {
	words := []string{c.Name, string(c.Domain)}
	for _, id := range c.Disks {
		words = append(words, string(id))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// Calls returns the log, oldest first.
func (h *Host) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// Hook has hook called before and after each effect, with "before" or "after"
// and the call's name, such as "before attach-config". An effect that failed has
// no after. The hook runs in the caller's goroutine and without any lock: it may
// use the host, close the adapter, or never return. nil takes it away.
func (h *Host) Hook(hook func(moment string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hook = hook
}

// reach tells the hooks of a moment; an error is the answer of the call.
func (h *Host) reach(at Point, c Call) error {
	h.mu.Lock()
	hook, intercept := h.hook, h.intercept
	h.mu.Unlock()
	if hook != nil {
		hook(at.String() + " " + c.Name)
	}
	if intercept != nil {
		return intercept(methodOf(c.Name), at)
	}
	return nil
}

// enter logs a call and lets it pass, unless its context has ended, the host is
// away or a fault says otherwise.
func (a *Adapter) enter(ctx context.Context, c Call) error {
	f, err := a.admit(ctx, c)
	if err == nil && f != nil {
		err = a.suffer(ctx, c, f)
	}
	return err
}

func (a *Adapter) admit(ctx context.Context, c Call) (*script, error) {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	a.host.calls = append(a.host.calls, c)
	if ctx.Err() != nil {
		return nil, ended(ctx, c.String())
	}
	if err := a.alive(); err != nil {
		return nil, err
	}
	return a.host.strike(c), nil
}

// act makes one effect happen, between the hooks and with the fault that is due.
// effect runs with host.mu held; it changes everything or, with an error, nothing.
func (a *Adapter) act(ctx context.Context, c Call, effect func(*domain) error) error {
	f, err := a.admit(ctx, c)
	if err != nil {
		return err
	}
	if f != nil && !f.After {
		if err := a.suffer(ctx, c, f); err != nil {
			return err
		}
	}
	if err := a.host.reach(Before, c); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ended(ctx, c.String())
	}
	if err := a.apply(ctx, c, effect); err != nil {
		return err
	}
	if err := a.host.reach(After, c); err != nil {
		return err
	}
	if f != nil && f.After {
		return a.suffer(ctx, c, f)
	}
	return a.aliveNow()
}

// late is an effect that waits for a stalled domain.
type late struct {
	call   Call
	effect func(*domain) error
	done   chan error // has room for the one result
	left   bool       // the caller has given up
}

// apply makes the effect happen as soon as the domain answers.
func (a *Adapter) apply(ctx context.Context, c Call, effect func(*domain) error) error {
	l, err := a.begin(c, effect)
	if l == nil {
		return err
	}
	select {
	case err := <-l.done:
		return err
	case <-ctx.Done():
	case <-a.closed:
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	select {
	case err := <-l.done: // just now
		return err
	default:
	}
	l.left = true
	return primitives.Errorf(primitives.CodeUnavailable, "%v: the domain does not answer", c)
}

// begin makes the effect happen now, or returns what there is to wait for.
func (a *Adapter) begin(c Call, effect func(*domain) error) (*late, error) {
	h := a.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := a.alive(); err != nil {
		return nil, err
	}
	d := h.domains[c.Domain]
	if d == nil {
		return nil, noDomain(c.Domain)
	}
	if !d.stalled {
		err := effect(d)
		h.settle(d)
		h.changed(d.id)
		return nil, err
	}
	if i := slices.IndexFunc(d.late, func(l *late) bool { return l.left }); i >= 0 {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "%v: domain %s does not answer", c, d.name).
			By(primitives.Blocker{Kind: "operation", Name: d.late[i].call.Name})
	}
	l := &late{call: c, effect: effect, done: make(chan error, 1)}
	d.late = append(d.late, l)
	return l, nil
}
