// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// thawLimit is how long a thaw waits for an agent, however little time is left to
// the caller.
const thawLimit = 30 * time.Second

// Freeze freezes the guest, runs during and thaws the guest whatever happened.
func (a *Adapter) Freeze(ctx context.Context, id hypervisor.DomainID, hold time.Duration, during func(context.Context) error) (hypervisor.FreezeReport, error) {
	if hold <= 0 {
		return hypervisor.FreezeReport{}, primitives.Invalid("hold", "%v: expected a positive duration", hold)
	}
	unlock, err := a.freezes.Lock(ctx, keylock.Key{Name: string(id)})
	if err != nil {
		return hypervisor.FreezeReport{}, ended(ctx, "wait for another freeze")
	}
	defer unlock()
	v, err := a.look(ctx, id)
	if err == nil {
		err = checkAgent(v, "freeze")
	}
	if err != nil {
		return hypervisor.FreezeReport{}, err
	}
	var report hypervisor.FreezeReport
	start := time.Now()
	if err = a.freeze(ctx, id, hold); err == nil {
		report.Filesystems = 1
		err = holding(ctx, hold, during)
	}
	// Also after a failed freeze, which may have got through.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawLimit)
	defer cancel()
	report.ThawErr = a.thaw(limited, id)
	report.Held = max(time.Since(start), time.Nanosecond)
	return report, err
}

// holding runs during with its own deadline.
func holding(ctx context.Context, hold time.Duration, during func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	return during(ctx)
}

// Thaw undoes a freeze that a crash left behind.
func (a *Adapter) Thaw(ctx context.Context, id hypervisor.DomainID) error {
	unlock, err := a.freezes.Lock(ctx, keylock.Key{Name: string(id)})
	if err != nil {
		return ended(ctx, "wait for a freeze")
	}
	defer unlock()
	v, err := a.look(ctx, id)
	if err != nil || !v.up {
		return err // a domain that is off is not frozen
	}
	if err := checkAgent(v, "thaw"); err != nil {
		return err
	}
	return a.thaw(ctx, id)
}

// checkAgent refuses where no agent can hear.
func checkAgent(v view, what string) error {
	switch {
	case v.state != hypervisor.StateRunning:
		return notRunning(v, what)
	case !v.agent:
		return primitives.Errorf(primitives.CodeUnsupported, "%s: no guest agent answers in domain %s", what, v.name).
			Trying("install and start qemu-guest-agent in the guest")
	}
	return nil
}

// freeze has the agent freeze. One that hangs has frozen and does not say so.
func (a *Adapter) freeze(ctx context.Context, id hypervisor.DomainID, hold time.Duration) error {
	err := a.act(ctx, Call{Name: "freeze", Domain: id}, func(d *domain) error {
		if d.frozen {
			return primitives.Errorf(primitives.CodeConflict, "the guest of domain %s is frozen already", d.name)
		}
		if d.up {
			d.frozen = true
			a.host.frozenTimes++
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.agentAnswers(ctx, id, hold)
}

// thaw has the agent thaw, as soon as it answers. A domain that ended is thawed.
func (a *Adapter) thaw(ctx context.Context, id hypervisor.DomainID) error {
	err := a.await(ctx, id, func(d *domain) (bool, error) { return d == nil || !d.hung, nil })
	if err != nil {
		return err
	}
	err = a.act(ctx, Call{Name: "thaw", Domain: id}, func(d *domain) error {
		d.frozen = false
		return nil
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil
	}
	return err
}

// agentAnswers waits for an agent that hangs, for as long as agents may take.
func (a *Adapter) agentAnswers(ctx context.Context, id hypervisor.DomainID, hold time.Duration) error {
	a.host.mu.Lock()
	limit := cmp.Or(a.host.agentLimit, hold)
	a.host.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return a.await(ctx, id, func(d *domain) (bool, error) {
		if d == nil || !d.up {
			return false, primitives.Errorf(primitives.CodeUnavailable, "domain %s ended under the freeze", id)
		}
		return !d.hung, nil
	})
}
