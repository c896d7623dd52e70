// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Reasons of a paused domain.
const (
	pausedByUser    = "user"
	pausedByIOError = "ioerror"
)

// Pause stops a domain's processors.
func (a *Adapter) Pause(ctx context.Context, id hypervisor.DomainID) error {
	v, err := a.look(ctx, id)
	if err != nil {
		return err
	}
	if !v.up {
		return offNow(v, "pause")
	}
	if v.state != hypervisor.StateRunning {
		return nil
	}
	return a.act(ctx, Call{Name: "pause", Domain: id}, func(d *domain) error {
		if !d.up {
			return offNow(d.view(), "pause")
		}
		if d.state == hypervisor.StateRunning {
			d.state, d.reason = hypervisor.StatePaused, pausedByUser
		}
		return nil
	})
}

// Resume lets a domain's processors go on, and sees that they do.
func (a *Adapter) Resume(ctx context.Context, id hypervisor.DomainID) error {
	v, err := a.look(ctx, id)
	if err != nil {
		return err
	}
	if !v.up {
		return offNow(v, "resume")
	}
	if v.state == hypervisor.StateRunning {
		return nil
	}
	return a.act(ctx, Call{Name: "resume", Domain: id}, func(d *domain) error {
		if !d.up {
			return offNow(d.view(), "resume")
		}
		if d.hurt {
			d.reason = pausedByIOError // it ran, and its first request failed again
			return primitives.Errorf(primitives.CodeInUse, "domain %s pauses again at once: %s", d.name, d.reason).
				By(primitives.Blocker{Kind: "domain", Name: d.name}).Trying("see that its disks' devices work, then repeat")
		}
		d.state, d.reason = hypervisor.StateRunning, ""
		return nil
	})
}

// offNow refuses what needs a domain that is up at the moment.
func offNow(v view, what string) *primitives.Error {
	return primitives.Errorf(primitives.CodeConflict, "%s: domain %s is off", what, v.name).Trying("start the domain first")
}

// Hurt pauses a running domain for an I/O error, and again each time that it is
// resumed, until heal is called. Healing lets nothing go on by itself.
func (h *Host) Hurt(id hypervisor.DomainID) (heal func()) {
	return h.manner(id, func(d *domain, on bool) {
		d.hurt = on && d.up
		if d.hurt {
			d.state, d.reason = hypervisor.StatePaused, pausedByIOError
		}
	})
}
