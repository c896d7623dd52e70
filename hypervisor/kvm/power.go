// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// Start starts a defined domain.
func (a *Adapter) Start(ctx context.Context, d hypervisor.DomainID) error {
	v, err := a.look(ctx, d)
	if err != nil || v.live != nil {
		return err
	}
	q := ask{what: "start domain " + v.Name, domain: d, waits: true, limit: startLimit}
	err = a.do(ctx, q, func(c virt.Conn) error { return c.Start(string(d)) })
	if errors.Is(err, primitives.CodeConflict) {
		if v, again := a.look(ctx, d); again == nil && v.live != nil {
			return nil // somebody else started it first
		}
	}
	return err
}

// startLimit bounds a start: libvirt may probe QEMU first, which takes seconds.
const startLimit = 2 * time.Minute

// Shutdown asks the guest to power off and waits until the domain has ended. It
// asks again now and then: a guest that is booting hears no power button.
func (a *Adapter) Shutdown(ctx context.Context, d hypervisor.DomainID) error {
	v, err := a.look(ctx, d)
	if err != nil || v.live == nil {
		return err
	}
	me := a.watchers.join()
	defer a.watchers.leave(me)
	for pause := askAgainFirst; ; pause = min(2*pause, askAgainMost) {
		q := ask{what: "shut domain " + v.Name + " down", domain: d, waits: true, agent: true}
		asked := a.do(ctx, q, func(c virt.Conn) error { return c.Shutdown(string(d)) })
		up, err := a.awaitEnd(ctx, d, me, pause)
		switch {
		case err != nil || !up:
			return err
		case ctx.Err() != nil:
			return primitives.Errorf(primitives.CodeUnavailable, "domain %s is still up: %w", v.Name, errors.Join(context.Cause(ctx), asked)).
				By(primitives.Blocker{Kind: "domain", Name: v.Name}).Trying("repeat when the guest has booted and responds")
		case asked != nil && !errors.Is(asked, primitives.CodeConflict) && !errors.Is(asked, primitives.CodeUnavailable):
			return asked
		}
	}
}

// awaitEnd looks, again at each event, until the domain has ended, it is time to
// ask again, or ctx has ended.
func (a *Adapter) awaitEnd(ctx context.Context, d hypervisor.DomainID, me *watcher, pause time.Duration) (up bool, err error) {
	again := time.NewTimer(pause)
	defer again.Stop()
	for {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
		v, err := a.look(last, d)
		cancel()
		switch {
		case errors.Is(err, primitives.CodeNotFound):
			return false, nil // transient
		case err == nil && v.live == nil:
			return false, nil
		case err != nil && !errors.Is(err, primitives.CodeUnavailable):
			return true, err
		case ctx.Err() != nil:
			return true, nil
		}
		select {
		case <-me.ready:
			a.watchers.take(me)
		case <-ctx.Done():
		case <-again.C:
			return true, nil
		}
	}
}
