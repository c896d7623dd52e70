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

const (
	// thawLimit is how long thawing is tried, however little time is left to the
	// caller.
	thawLimit = 30 * time.Second
	// thawAttempt bounds one attempt at it.
	thawAttempt = 10 * time.Second
	thawPause   = time.Second
)

// Freeze freezes the guest, runs during and thaws the guest whatever happened.
func (a *Adapter) Freeze(ctx context.Context, d hypervisor.DomainID, hold time.Duration, during func(context.Context) error) (hypervisor.FreezeReport, error) {
	if hold <= 0 {
		return hypervisor.FreezeReport{}, primitives.Invalid("hold", "%v: expected a positive duration", hold)
	}
	unlock, err := a.lock(ctx, freezeKey(d))
	if err != nil {
		return hypervisor.FreezeReport{}, err
	}
	defer unlock()
	if err := a.checkAgent(ctx, d, "freeze"); err != nil {
		return hypervisor.FreezeReport{}, err
	}
	start := time.Now()
	count, err := a.agent(ctx, d, "freeze", a.freezeLimit, virt.Conn.Freeze)
	report := hypervisor.FreezeReport{Filesystems: count}
	if err == nil {
		err = holding(ctx, hold, during)
	}
	// Also after a failed freeze: it may have frozen some file systems, or all of
	// them after libvirt had stopped waiting.
	report.ThawErr = a.thaw(ctx, d)
	report.Held = time.Since(start)
	return report, err
}

// holding runs during with its own deadline.
func holding(ctx context.Context, hold time.Duration, during func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	return during(ctx)
}

// Thaw undoes a freeze that a crash left behind.
func (a *Adapter) Thaw(ctx context.Context, d hypervisor.DomainID) error {
	unlock, err := a.lock(ctx, freezeKey(d))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := a.look(ctx, d)
	if err != nil || v.live == nil {
		return err // a domain that is off is not frozen
	}
	if err := a.checkAgent(ctx, d, "thaw"); err != nil {
		return err
	}
	_, err = a.agent(ctx, d, "thaw", thawAttempt, virt.Conn.Thaw)
	return err
}

// thaw tries until it succeeded, the domain ended or thawLimit has passed. It
// outlives ctx.
func (a *Adapter) thaw(ctx context.Context, d hypervisor.DomainID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawLimit)
	defer cancel()
	for {
		_, err := a.agent(ctx, d, "thaw", thawAttempt, virt.Conn.Thaw)
		if err == nil {
			return nil
		}
		if v, lookErr := a.look(ctx, d); errors.Is(lookErr, primitives.CodeNotFound) || lookErr == nil && v.live == nil {
			return nil // it ended, and the freeze with it
		}
		if wait(ctx, thawPause); ctx.Err() != nil {
			a.log.ErrorContext(ctx, "thaw failed", "domain", d, "err", err)
			return err
		}
	}
}

// checkAgent refuses where no agent can hear.
func (a *Adapter) checkAgent(ctx context.Context, d hypervisor.DomainID, what string) error {
	v, err := a.look(ctx, d)
	switch {
	case err != nil:
		return err
	case v.Run != virt.Running:
		return notRunning(v.Domain, what)
	case !agentConnected(v.live):
		return primitives.Errorf(primitives.CodeUnsupported, "%s: no guest agent answers in domain %s", what, v.Name).
			Trying("install and start qemu-guest-agent in the guest")
	}
	return nil
}

// agent runs one command of the guest agent. libvirt stops waiting for the guest
// a moment before this process stops waiting for libvirt, so that nothing hangs
// in there and the thaw gets through.
func (a *Adapter) agent(ctx context.Context, d hypervisor.DomainID, what string, limit time.Duration,
	command func(c virt.Conn, domain string, seconds int) (int, error),
) (int, error) {
	const margin = 10 * time.Second // libvirt first synchronises with the agent, for at most 5 s
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	seconds := max(1, int(limit/time.Second))
	q := ask{what: what, domain: d, waits: true, agent: true, limit: limit + margin}
	// ctx's end is no reason to leave libvirt hanging in the agent.
	return call(context.WithoutCancel(ctx), a, q, func(c virt.Conn) (int, error) { return command(c, string(d), seconds) })
}
